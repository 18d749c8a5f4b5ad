//! What programs notice of being redirected, and clients that are special: a pod that is its own
//! client, localhost.

use std::net::SocketAddr;

use super::{POD1, SETTING, both_protocols, cluster_ip, cluster_ips, node, one, server, service};
use crate::{Case, Setting, probe::Task, same, scene::Scene};

pub(super) const CASES: &[Case] = &[
    (
        "services_hairpin_a_pod_reaches_itself_through_its_service",
        SETTING,
        hairpin,
    ),
    (
        "services_hairpin_a_pod_reaches_itself_through_its_service_by_packet",
        BY_PACKET,
        hairpin_by_packet,
    ),
    (
        "services_pods_whose_sockets_are_not_seen_are_served_by_packet",
        BY_PACKET,
        by_packet,
    ),
    (
        "services_node_ports_are_served_on_localhost",
        SETTING,
        localhost,
    ),
    ("services_sockets_show_the_services_address", SETTING, shown),
    (MULTIPATH, SETTING, multipath),
    (
        "services_one_port_of_a_client_reaches_one_pod_through_two_node_ports",
        SETTING,
        one_port,
    ),
];

/// Needs a kernel with Multipath TCP.
pub(crate) const MULTIPATH: &str = "services_sockets_that_the_kernel_makes_are_served";

/// nodegate looks at the pods' devices, too.
const BY_PACKET: Setting = Setting {
    manifests: "services-by-packet",
    namespace: None,
    nodes: 2,
};

fn web() -> String {
    service(
        "web",
        &format!(
            "type: NodePort, {}, selector: {{app: server}}, {}",
            cluster_ips(1),
            both_protocols(30080)
        ),
    )
}

/// Cluster IP and node ports, in both families.
fn ways() -> impl Iterator<Item = String> {
    [false, true].into_iter().flat_map(|v6| {
        [
            format!("{}:80", cluster_ip(1, v6)),
            format!("{}:30080", node(1, v6)),
            format!("{}:30080", node(2, v6)),
        ]
    })
}

fn hairpin(scene: &Scene) -> anyhow::Result<()> {
    scene.apply(&(web() + &server("server-1", 1)))?;
    for to in ways() {
        scene.leads_to("pod/default/server-1", &to, &["server-1"])?;
        scene.leads_datagrams_to("pod/default/server-1", &to, &["server-1"])?;
    }
    Ok(())
}

/// On the way back to the pod the packets have the node's address: a host drops what comes from
/// itself.
fn hairpin_by_packet(scene: &Scene) -> anyhow::Result<()> {
    scene.apply(&(web() + &server("server-1", 1)))?;
    let host = "pod/default/server-1";
    for to in ways() {
        let to: SocketAddr = to.parse()?;
        for task in [Task::tcp(to), Task::udp(to)] {
            let reply = one(scene.probe_by_packet(host, task)?)?;
            same!(
                reply.pod.as_deref(),
                Some("server-1"),
                "{task:?}: {reply:?}"
            );
            same!(reply.peer, Some(to), "{task:?}");
        }
        let reply = one(scene.probe_by_packet(host, Task::tcp(to))?)?;
        let pod = scene.pod("default", "server-1")?.1;
        let seen = reply.seen.map(|seen| seen.ip());
        anyhow::ensure!(
            seen.is_some_and(|seen| !pod.addresses.contains(&seen)),
            "the pod sees itself: {reply:?}"
        );
    }
    Ok(())
}

fn by_packet(scene: &Scene) -> anyhow::Result<()> {
    scene.refuses_freely()?;
    let both = ["server-1", "server-2"];
    scene.apply(&(web() + &server("server-1", 1) + &server("server-2", 2)))?;
    for to in ways() {
        let to: SocketAddr = to.parse()?;
        for task in [Task::tcp(to), Task::udp(to)] {
            let replies = scene.probe_by_packet(POD1, task.times(24))?;
            super::are_from(&replies, &both).map_err(|error| error.context(format!("{task:?}")))?;
            same!(replies[0].peer, Some(to), "{task:?}");
        }
    }
    // Refusals reach pods as well.
    for pod in both {
        scene.delete_pod(pod)?;
    }
    for to in ways() {
        let to: SocketAddr = to.parse()?;
        for task in [Task::tcp(to), Task::udp(to).connected()] {
            let reply = one(scene.probe_by_packet(POD1, task)?)?;
            anyhow::ensure!(reply.is_refused(), "{task:?}: {reply:?}");
        }
    }
    Ok(())
}

fn localhost(scene: &Scene) -> anyhow::Result<()> {
    scene.apply(&(web() + &server("server-1", 2)))?;
    for to in ["127.0.0.1:30080", "127.0.0.2:30080"] {
        scene.leads_to("node1", to, &["server-1"])?;
        scene.leads_datagrams_to("node1", to, &["server-1"])?;
    }
    // A pod's localhost is the pod's; and IPv6 never had it (`! -d ::1/128`).
    scene.is_refused(POD1, Task::tcp("127.0.0.1:30080".parse()?))?;
    scene.is_refused("node1", Task::tcp("[::1]:30080".parse()?))
}

fn shown(scene: &Scene) -> anyhow::Result<()> {
    scene.apply(&(web() + &server("server-1", 2)))?;
    let mut all: Vec<String> = ways().collect();
    all.push("127.0.0.1:30080".into());
    for host in [POD1, "node1", "client"] {
        for to in &all {
            let reachable = match host {
                "client" => to.ends_with(":30080") && !to.starts_with("127"),
                "node1" => true,
                _ => !to.starts_with("127"),
            };
            if !reachable {
                continue;
            }
            let to: SocketAddr = to.parse()?;
            for task in [Task::tcp(to), Task::udp(to), Task::udp(to).connected()] {
                for reply in scene.probe(host, task.times(2))? {
                    same!(reply.peer, Some(to), "{task:?} on {host}: {reply:?}");
                }
            }
        }
    }
    Ok(())
}

/// As those of NFS and SMB mounts: they pass the hooks where the kernel connects them, and a Service without
/// endpoints refuses them.
fn multipath(scene: &Scene) -> anyhow::Result<()> {
    let none = service(
        "none",
        &format!(
            "type: NodePort, {}, selector: {{app: nobody}}, {}",
            cluster_ips(2),
            both_protocols(30081)
        ),
    );
    scene.apply(&(web() + &none + &server("server-1", 2)))?;
    for host in [POD1, "node1"] {
        for v6 in [false, true] {
            for to in [
                format!("{}:80", cluster_ip(1, v6)),
                format!("{}:30080", node(1, v6)),
            ] {
                let to: SocketAddr = to.parse()?;
                scene.leads_to(host, &to.to_string(), &["server-1"])?;
                for reply in scene.probe(host, Task::Multipath { to })? {
                    same!(
                        reply.pod.as_deref(),
                        Some("server-1"),
                        "{host}, {to}: {reply:?}"
                    );
                }
            }
            let to = format!("{}:80", cluster_ip(2, v6)).parse()?;
            for reply in scene.probe(host, Task::Multipath { to })? {
                anyhow::ensure!(reply.is_refused(), "{host}, {to}: {reply:?}");
            }
        }
    }
    Ok(())
}

/// The pod sees two ports: it could not tell the connections apart otherwise. On the client's node and
/// on another, where netfilter masquerades.
fn one_port(scene: &Scene) -> anyhow::Result<()> {
    let other = service(
        "other",
        &format!(
            "type: NodePort, {}, selector: {{app: server}}, {}",
            cluster_ips(2),
            both_protocols(30081)
        ),
    );
    scene.apply(&(web() + &other + &server("server-1", 1)))?;
    for number in [1, 2] {
        for v6 in [false, true] {
            let to = |port: u16| format!("{}:{port}", node(number, v6)).parse::<SocketAddr>();
            let (first, second) = (to(30080)?, to(30081)?);
            for (host, to) in [("client", first), ("client", second)] {
                scene.leads_to(host, &to.to_string(), &["server-1"])?;
            }
            let to = [first, second];
            let replies = scene.probe("client", Task::SamePort { to })?;
            same!(replies.len(), 4, "{replies:?}");
            for reply in replies {
                same!(reply.pod.as_deref(), Some("server-1"), "{reply:?}");
            }
        }
    }
    Ok(())
}
