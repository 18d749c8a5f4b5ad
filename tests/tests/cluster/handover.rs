//! From kube-proxy to nodegate and back, with the API server away in between: no connection fails.

use std::{fs, net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, ensure};
use nodegate_programs::{Program, own};
use nodegate_testbed::{
    cluster::{Cluster, KubeProxy, parts::Parts},
    conformance, product,
};
use serde_json::Value;

use crate::{
    deploy::{self, clean_up},
    load::{Load, Task},
    services::{NODE_PORT, options, web},
    source::cut,
};

const NODES: [&str; 2] = ["node1", "node2"];
/// The node port of a Service that comes while the API server is away.
const SECOND_PORT: u16 = 30081;

pub(crate) fn there_and_back(name: &str, parts: &Parts) -> anyhow::Result<()> {
    let cluster = Cluster::up(&options(name, parts))?;
    web(&cluster, 2)?;
    for node in NODES {
        reached(&cluster, address(&cluster, node, NODE_PORT)?)?;
    }
    let nodes = NODES.iter().map(|node| address(&cluster, node, NODE_PORT));
    let load = Load::start(
        &cluster,
        &Task {
            to: nodes.collect::<anyhow::Result<_>>()?,
            host: "web".into(),
            path: "/hostname".into(),
        },
    )?;
    let files = tempfile::tempdir()?;
    let image = product::image(&crate::nodegate()?, &files.path().join("nodegate.tar"))?;
    conformance::install(&cluster, &image, &deploy::directory())?;
    kube_proxy_goes(&cluster)?;
    new_pods_are_reached(&cluster)?;
    the_api_server_is_away(&cluster)?;
    kube_proxy_comes_back(&cluster)?;
    clean_up(&cluster)?;
    load.end_flawless()
        .context("from kube-proxy to nodegate and back")?;
    for node in NODES {
        reached(&cluster, address(&cluster, node, SECOND_PORT)?)?;
    }
    cluster.down()
}

fn address(cluster: &Cluster, node: &str, port: u16) -> anyhow::Result<SocketAddr> {
    let hosts = cluster.hosts();
    let known = hosts.iter().find(|(name, _)| name == node);
    let [address, _] = known.with_context(|| node.to_owned())?.1;
    Ok(SocketAddr::new(address, port))
}

/// Waits for an answer from outside; gives it.
fn reached(cluster: &Cluster, address: SocketAddr) -> anyhow::Result<String> {
    let limit = patience::limit().as_secs().to_string();
    let url = format!("http://{address}/hostname");
    let mut last = String::new();
    let answer = patience::try_until(|| -> anyhow::Result<_> {
        let output = cluster.exec("client", Program::Curl, ["-sSfm", &limit, &url])?;
        last = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(output.status.success().then_some(output.stdout))
    });
    let answer = answer.with_context(|| format!("{url}: {last}"))?;
    Ok(String::from_utf8(answer)?)
}

/// What a shell says on a host.
fn shell(cluster: &Cluster, host: &str, line: &str) -> anyhow::Result<String> {
    let output = cluster.exec(host, Program::Sh, ["-c", line])?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{line} on {host}: {told}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a node has kube-proxy's rules for the Service.
fn has_rules(cluster: &Cluster, node: &str) -> anyhow::Result<bool> {
    let rules = cluster.exec(node, Program::IptablesSave, ["-t", "nat"])?;
    Ok(String::from_utf8_lossy(&rules.stdout).contains("default/web"))
}

/// It ends, and its rules with it.
fn kube_proxy_goes(cluster: &Cluster) -> anyhow::Result<()> {
    // By its number, among the node's own processes.
    let end = "for p in /proc/[0-9]*; do read -r name < $p/comm && [ $name = kube-proxy ] && kill ${p#/proc/}; done; true";
    for node in NODES {
        shell(cluster, node, end)?;
        let gone = cluster.exec(node, Program::KubeProxy, ["--cleanup"])?;
        ensure!(gone.status.success(), "{gone:?}");
        ensure!(!has_rules(cluster, node)?, "kube-proxy's rules on {node}");
    }
    Ok(())
}

fn new_pods_are_reached(cluster: &Cluster) -> anyhow::Result<()> {
    let before = web_pods(cluster)?;
    cluster.ask(&["scale", "deployment/web", "--replicas=4"])?;
    deploy::rolled_out(cluster, "default", "deployment/web")?;
    let address = address(cluster, "node1", NODE_PORT)?;
    patience::try_until(|| -> anyhow::Result<_> {
        let pod = reached(cluster, address)?;
        Ok((!before.contains(&pod)).then_some(()))
    })
    .context("an answer of a new pod")
}

fn web_pods(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let names = "jsonpath={.items[*].metadata.name}";
    let pods = cluster.ask(&["get", "pods", "-l", "app=web", "-o", names])?;
    Ok(pods.split(' ').map(ToOwned::to_owned).collect())
}

/// A redirector is killed meanwhile, and what has changed comes afterwards.
fn the_api_server_is_away(cluster: &Cluster) -> anyhow::Result<()> {
    for node in NODES {
        cut(cluster, node, "--insert")?;
    }
    let redirector = Redirector::on(cluster, NODES[0])?;
    let before = redirector.until("the outage is seen", |status| !heard(status))?;
    cluster.apply(&format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: second}}
spec:
  type: NodePort
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: 8080, nodePort: {SECOND_PORT}}}]
"
    ))?;
    shell(cluster, NODES[0], &format!("kill -9 {}", before["pid"]))?;
    redirector.until("ready by what was heard last", |status| {
        status["pid"] != before["pid"] && status["ready"] == true && !heard(status)
    })?;
    for node in NODES {
        cut(cluster, node, "--delete")?;
    }
    redirector.until("the API server is heard again", heard)?;
    for node in NODES {
        reached(cluster, address(cluster, node, SECOND_PORT)?)?;
    }
    Ok(())
}

fn heard(status: &Value) -> bool {
    status["source"]["kubernetes"]["heard"] == true
}

/// A node's redirector, asked on the node: kubelet lets nobody into a pod without the API server.
struct Redirector<'c> {
    cluster: &'c Cluster,
    node: &'static str,
    program: PathBuf,
}

impl<'c> Redirector<'c> {
    fn on(cluster: &'c Cluster, node: &'static str) -> anyhow::Result<Self> {
        // Nodes have the cluster's own directory, and nothing else of this machine's.
        let program = cluster.names().state().join("nodegate-to-ask");
        fs::copy(crate::nodegate()?, &program).context("copying nodegate")?;
        Ok(Self {
            cluster,
            node,
            program,
        })
    }

    /// Waits for a status of which something holds.
    fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let mut last = String::new();
        let found = patience::try_until(|| -> anyhow::Result<_> {
            let mut status = own(&self.program);
            status.args(["status", "-o", "json"]);
            // It fails where something is wrong, and says it all the same.
            let output = self.cluster.enter(self.node, status)?.output()?;
            last = String::from_utf8_lossy(&output.stdout).into_owned();
            last.push_str(&String::from_utf8_lossy(&output.stderr));
            let status = serde_json::from_slice::<Value>(&output.stdout);
            Ok(status.ok().filter(&holds))
        });
        found.with_context(|| format!("{what}: {last}"))
    }
}

fn kube_proxy_comes_back(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.start_kube_proxy(KubeProxy::Iptables)?;
    for node in NODES {
        patience::try_until(|| -> anyhow::Result<_> {
            Ok(has_rules(cluster, node)?.then_some(()))
        })
        .with_context(|| format!("kube-proxy's rules on {node}"))?;
    }
    Ok(())
}
