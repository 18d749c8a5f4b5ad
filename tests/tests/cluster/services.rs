//! A Service of a Deployment: from a pod, by name, and from outside.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::{Context as _, ensure};
use nodegate_programs::Program;
use nodegate_testbed::cluster::{Cluster, KubeProxy, Options, parts::Parts};

/// The program that makes namespaces a node.
const NODE: &str = env!("CARGO_BIN_EXE_testbed-node");
/// What the nodes' port is for everybody.
pub(crate) const NODE_PORT: u16 = 30080;

pub(crate) fn options(name: &str, parts: &Parts) -> Options {
    Options::new(name, parts.clone(), NODE.into())
}

pub(crate) fn with_iptables(name: &str, parts: &Parts) -> anyhow::Result<()> {
    let cluster = Cluster::up(&options(name, parts))?;
    served(&cluster, 2)?;
    pods_are_reached_from_all_nodes(&cluster)?;
    // What kube-proxy has written is in the nodes' own tables.
    let rules = cluster.exec("node1", Program::IptablesSave, ["-t", "nat"])?;
    let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
    ensure!(rules.contains("default/web"), "{rules}");
    cluster.down()
}

pub(crate) fn side_by_side(name: &str, parts: &Parts) -> anyhow::Result<()> {
    let one = |name: &str, kube_proxy| {
        Cluster::up(&Options {
            nodes: 1,
            kube_proxy,
            ..options(name, parts)
        })
    };
    let first = one(name, Some(KubeProxy::Nftables))?;
    // The name of one is the other's beginning: it must not take the other's things away.
    let second = one(&format!("{name}-b"), None)?;
    ensure!(first.hosts() == second.hosts(), "{:?}", first.hosts());
    let address = served(&first, 1)?;
    first.down()?;

    // Without anybody who does Services there are names, and no answers.
    web(&second, 1)?;
    let name = in_pod(&second, Program::Dig, &["+short", "+search", "web"])?;
    let name: IpAddr = name.trim().parse().with_context(|| name.clone())?;
    let known = second.ask(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])?;
    ensure!(name.to_string() == known, "{name} is not {known}");
    let silence = patience::silence().as_secs_f64().to_string();
    let url = format!("http://{name}/hostname");
    let answer = in_pod(&second, Program::Curl, &["-sSm", &silence, &url]);
    ensure!(
        answer.is_err(),
        "{answer:?}, and {address} of the other one"
    );
    second.down()
}

/// Whether a Service is served as it should be; gives its cluster IP.
fn served(cluster: &Cluster, nodes: usize) -> anyhow::Result<IpAddr> {
    let pods = web(cluster, nodes)?;
    let field = |path: &str| cluster.ask(&["get", "service", "web", "-o", path]);
    let address: IpAddr = field("jsonpath={.spec.clusterIP}")?.parse()?;
    let limit = patience::limit().as_secs().to_string();
    let curl = ["-sSfm", &limit];

    // The rules come with some delay: until then a connection is refused, or lost.
    let from_pod = |host: &str| {
        let url = format!("http://{host}/hostname");
        patience::until(|| in_pod(cluster, Program::Curl, &[&curl[..], &[&url]].concat()).ok())
    };
    for host in [
        address.to_string(),
        "web".into(),
        "web.default.svc.cluster.local".into(),
    ] {
        let answer = from_pod(&host).with_context(|| format!("{host}, from a pod"))?;
        ensure!(pods.contains(&answer), "{host}: {answer}: {pods:?}");
    }
    for (host, addresses) in cluster.hosts() {
        if !host.starts_with("node") {
            continue;
        }
        let url = format!("http://{}:{NODE_PORT}/hostname", addresses[0]);
        let answer = patience::try_until(|| -> anyhow::Result<_> {
            let output = cluster.exec("client", Program::Curl, [&curl[..], &[&url]].concat())?;
            Ok(output.status.success().then_some(output.stdout))
        });
        let answer = answer.with_context(|| format!("{url}, from outside"))?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        ensure!(pods.contains(&answer), "{url}: {answer}: {pods:?}");
    }
    Ok(address)
}

/// Whether the nodes forward to pods, in both families.
fn pods_are_reached_from_all_nodes(cluster: &Cluster) -> anyhow::Result<()> {
    let addresses = "jsonpath={.items[*].status.podIPs[*].ip}";
    let addresses = cluster.ask(&["get", "pods", "-l", "app=web", "-o", addresses])?;
    let addresses: Vec<IpAddr> = addresses
        .split(' ')
        .map(|address| address.parse().with_context(|| address.to_owned()))
        .collect::<anyhow::Result<_>>()?;
    ensure!(addresses.iter().any(IpAddr::is_ipv6), "{addresses:?}");
    let limit = patience::limit().as_secs().to_string();
    for (host, _) in cluster.hosts() {
        if !host.starts_with("node") {
            continue;
        }
        for address in &addresses {
            let address = std::net::SocketAddr::new(*address, 8080);
            let url = format!("http://{address}/hostname");
            let answer = cluster.exec(&host, Program::Curl, ["-gsSfm", &limit, &url])?;
            ensure!(
                answer.status.success(),
                "{url}, from {host}: {}",
                String::from_utf8_lossy(&answer.stderr)
            );
        }
    }
    Ok(())
}

/// A Deployment with a Service, one pod for each node, and a pod to ask from; gives the Deployment's pods.
pub(crate) fn web(cluster: &Cluster, replicas: usize) -> anyhow::Result<BTreeSet<String>> {
    let image = cluster.agnhost()?;
    cluster.apply(&format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 0
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: DoNotSchedule
        labelSelector: {{matchLabels: {{app: web}}}}
      containers:
      - name: web
        image: {image}
        args: [netexec, --http-port=8080]
        readinessProbe: {{httpGet: {{path: /hostname, port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  type: NodePort
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: 8080, nodePort: {NODE_PORT}}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: ask}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{{name: ask, image: '{image}'}}]
"
    ))?;
    let limit = format!("--timeout={}s", patience::limit().as_secs());
    cluster.ask(&["rollout", "status", "deployment/web", &limit])?;
    cluster.ask(&["wait", "--for=condition=Ready", "pod/ask", &limit])?;
    let names = "jsonpath={.items[*].metadata.name}";
    let pods = cluster.ask(&["get", "pods", "-l", "app=web", "-o", names])?;
    let pods: BTreeSet<_> = pods.split(' ').map(String::from).collect();
    ensure!(pods.len() == replicas, "{pods:?}");
    Ok(pods)
}

/// What a program says in the pod to ask from.
pub(crate) fn in_pod(
    cluster: &Cluster,
    program: Program,
    arguments: &[&str],
) -> anyhow::Result<String> {
    let before = ["exec", "ask", "--", program.name()];
    cluster.ask(&[&before, arguments].concat())
}
