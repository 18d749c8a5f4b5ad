//! Services as their users know them: what the conformance tests of Kubernetes' sig-network ask of
//! kube-proxy (test/e2e/network/service.go), and what else its users rely on.
//!
//! Two nodes, both families, a pod for clients on each node. Tests have the names of those that they
//! are like.

mod affinity;
mod basic;
mod flows;
mod latency;
mod policies;
mod refusals;
mod sockets;
mod types;
mod udp;

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, ensure};
use nodegate_programs::{Program, itself};
use nodegate_testbed::enter_network;

use crate::{
    Case, Setting,
    probe::{Reply, Running, Task},
    scene::Scene,
};

pub(crate) use sockets::MULTIPATH;

pub(crate) const CASES: &[&[Case]] = &[
    basic::CASES,
    types::CASES,
    affinity::CASES,
    latency::CASES,
    refusals::CASES,
    policies::CASES,
    udp::CASES,
    sockets::CASES,
    flows::CASES,
];

pub(crate) const SETTING: Setting = Setting {
    manifests: "services",
    namespace: None,
    nodes: 2,
};

/// The pods that clients run in, on node1 and node2.
pub(crate) const POD1: &str = "pod/default/client1";
pub(crate) const POD2: &str = "pod/default/client2";

/// A node's address of a family.
pub(crate) fn node(number: u8, v6: bool) -> String {
    if v6 {
        format!("[fd00:c0::1{number}]")
    } else {
        format!("192.168.170.1{number}")
    }
}

/// A Service's cluster IP of a family: the same number in both, see [`cluster_ips`].
pub(crate) fn cluster_ip(number: u8, v6: bool) -> String {
    if v6 {
        format!("[fd00:96::{number}]")
    } else {
        format!("10.96.0.{number}")
    }
}

/// The fields of a dual-stack Service's spec with these cluster IPs.
pub(crate) fn cluster_ips(number: u8) -> String {
    format!(
        "ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4, IPv6], \
         clusterIP: 10.96.0.{number}, clusterIPs: [10.96.0.{number}, 'fd00:96::{number}']"
    )
}

/// A manifest of a Service; `spec` is the inside of a flow mapping.
pub(crate) fn service(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n---\n")
}

/// A manifest of a pod with the label `app: server` that answers on port 80 of TCP and UDP.
pub(crate) fn server(name: &str, node: u8) -> String {
    server_with(name, node, "")
}

/// The same with more annotations; each begins with a comma.
pub(crate) fn server_with(name: &str, node: u8, annotations: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: {name}
  labels: {{app: server}}
  annotations: {{testbed.nodegate.io/node: node{node}{annotations}}}
spec:
  containers:
  - image: whoami
    ports: [{{containerPort: 80}}, {{containerPort: 80, protocol: UDP}}]
---
"
    )
}

/// Both protocols, on port 80 of the cluster IPs and this node port.
pub(crate) fn both_protocols(node_port: u16) -> String {
    format!(
        "ports: [{{name: tcp, port: 80, nodePort: {node_port}}}, \
         {{name: udp, port: 80, nodePort: {node_port}, protocol: UDP}}]"
    )
}

/// The Service `web`, number 1, on node port 30080, with a server on each node.
pub(crate) fn web_on_both_nodes() -> String {
    service(
        "web",
        &format!(
            "type: NodePort, {}, selector: {{app: server}}, {}",
            cluster_ips(1),
            both_protocols(30080)
        ),
    ) + &server("server-1", 1)
        + &server("server-2", 2)
}

impl Scene {
    /// Applies manifests; all of them must be taken.
    pub(crate) fn apply(&self, yaml: &str) -> anyhow::Result<()> {
        let report = self.testbed.apply_text(yaml)?;
        ensure!(!report.has_errors(), "{report:?}");
        Ok(())
    }

    /// Deletes a pod.
    pub(crate) fn delete_pod(&self, name: &str) -> anyhow::Result<()> {
        self.testbed.delete_object("Pod", "default", name)
    }

    /// Lets a client on a host do something, and gives what became of it.
    pub(crate) fn probe(&self, host: &str, task: Task) -> anyhow::Result<Vec<Reply>> {
        let command = self.testbed.enter(host, itself()?)?;
        replies(task.prepare(command)?).with_context(|| format!("{task:?} on {host}"))
    }

    /// The same for a client whose sockets nodegate does not see, as those of a virtual machine:
    /// it is in the host's network, and not in its cgroup.
    pub(crate) fn probe_by_packet(&self, host: &str, task: Task) -> anyhow::Result<Vec<Reply>> {
        let host = self.testbed.host(host)?;
        let mut command = itself()?;
        enter_network(&mut command, &self.testbed.names().netns(&host))?;
        replies(task.prepare(command)?).with_context(|| format!("{task:?} on {host}, by packet"))
    }

    /// Starts a client that goes on by itself.
    pub(crate) fn start_probe(&self, host: &str, task: Task) -> anyhow::Result<Running> {
        let command = self.testbed.enter(host, itself()?)?;
        Running::start(task.prepare(command)?)
    }

    /// Fails unless this address leads from a host to these pods, and each time to one of them.
    pub(crate) fn leads_to(&self, host: &str, to: &str, pods: &[&str]) -> anyhow::Result<()> {
        let to = to.parse()?;
        self.answers(host, Task::tcp(to), pods)
    }

    /// As [`Self::leads_to`], with datagrams.
    pub(crate) fn leads_datagrams_to(
        &self,
        host: &str,
        to: &str,
        pods: &[&str],
    ) -> anyhow::Result<()> {
        let to = to.parse()?;
        self.answers(host, Task::udp(to), pods)
    }

    /// Fails unless exactly these pods answer.
    pub(crate) fn answers(&self, host: &str, task: Task, pods: &[&str]) -> anyhow::Result<()> {
        // Of two pods, one is missed by chance once in 2^23 times.
        let times = if pods.len() == 1 { 3 } else { 12 * pods.len() };
        let replies = self.probe(host, task.times(times))?;
        are_from(&replies, pods).with_context(|| format!("{task:?} on {host}"))
    }

    /// Fails unless a connection is refused, at once.
    pub(crate) fn is_refused(&self, host: &str, task: Task) -> anyhow::Result<()> {
        let reply = one(self.probe(host, task)?)?;
        ensure!(reply.is_refused(), "{task:?} on {host}: {reply:?}");
        // A refusal by ICMP comes back over veth pairs before connect() has let go of the socket, and
        // TCP passes over it then (`tcp_v6_err`, LockDroppedIcmps): the next SYN is refused as well.
        let limit = match task {
            Task::Tcp { to, .. } if to.is_ipv6() => Duration::from_millis(1500),
            _ => Duration::from_millis(500),
        };
        let lap = reply.lap().below(limit);
        lap.with_context(|| format!("{task:?} on {host} was refused late: {reply:?}"))?;
        Ok(())
    }

    /// Lets the nodes refuse as often as they are asked, and refuse for addresses that are nobody's:
    /// the kernel limits ICMP errors (icmp(7)), and without any route to an address it says so
    /// before netfilter sees the packet.
    pub(crate) fn refuses_freely(&self) -> anyhow::Result<()> {
        let client = [
            self.testbed.client()?.to_string(),
            self.testbed.client_v6()?.to_string(),
        ];
        for node in ["node1", "node2"] {
            for limit in ["ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"] {
                self.set(node, limit, "0")?;
            }
            for via in &client {
                let family = if via.contains(':') { "-6" } else { "-4" };
                self.run(
                    node,
                    Program::Ip,
                    &[family, "route", "add", "default", "via", via],
                )?;
            }
        }
        Ok(())
    }

    /// Fails if a pod answers, however it fails.
    pub(crate) fn leads_nowhere(&self, host: &str, task: Task) -> anyhow::Result<()> {
        let reply = one(self.probe(host, task.expecting_silence())?)?;
        ensure!(reply.pod.is_none(), "{task:?} on {host}: {reply:?}");
        Ok(())
    }

    /// Fails unless there is no answer at all.
    pub(crate) fn is_dropped(&self, host: &str, task: Task) -> anyhow::Result<()> {
        let reply = one(self.probe(host, task.expecting_silence())?)?;
        ensure!(reply.is_silence(), "{task:?} on {host}: {reply:?}");
        Ok(())
    }
}

/// Fails unless exactly these pods have answered.
pub(crate) fn are_from(replies: &[Reply], pods: &[&str]) -> anyhow::Result<()> {
    let failed = replies.iter().find(|reply| reply.pod.is_none());
    ensure!(failed.is_none(), "no answer: {failed:?}");
    let seen: BTreeSet<&str> = replies
        .iter()
        .filter_map(|reply| reply.pod.as_deref())
        .collect();
    ensure!(
        seen == pods.iter().copied().collect(),
        "{seen:?} have answered, expected {pods:?}"
    );
    Ok(())
}

/// The only reply.
pub(crate) fn one(replies: Vec<Reply>) -> anyhow::Result<Reply> {
    replies.into_iter().next().context("no reply")
}

/// Runs a command that does a task, and reads what it says.
pub(crate) fn replies(mut command: std::process::Command) -> anyhow::Result<Vec<Reply>> {
    let output = command.output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)?
        .lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}
