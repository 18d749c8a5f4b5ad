//! What `deploy/` applies, from nothing to ready, through upgrades, and to nothing again.

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use nodegate_programs::Program;
use nodegate_testbed::{
    cluster::{Cluster, parts::Parts},
    product,
};
use serde_json::{Value, json};

use crate::{
    admission,
    load::{Load, Task},
    services::options,
};

/// A side of nodegate's: its namespace, its DaemonSet and the container in it.
struct Side {
    namespace: &'static str,
    daemon_set: &'static str,
    container: &'static str,
    labels: &'static str,
}

const REDIRECTOR: Side = Side {
    namespace: "nodegate-system",
    daemon_set: "daemonset/nodegate-redirector",
    container: "redirector",
    labels: "app=nodegate-redirector",
};
const GATEWAY: Side = Side {
    namespace: "istio-system",
    daemon_set: "daemonset/nodegate-gateway",
    container: "proxy",
    labels: "nodegate.io/role=gateway",
};

const NODES: [&str; 2] = ["node1", "node2"];
/// Whom clients ask for.
const HOST: &str = "simple.baihl.io";
/// A path that is rewritten to one that the server answers with its name.
const PATH: &str = "/simple/httpserver";

/// The directory of this repository.
pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// What a command says; an error with its complaint when it fails.
pub(crate) fn output(mut command: Command) -> anyhow::Result<String> {
    let output = command.output();
    let output = output.with_context(|| format!("starting {command:?}"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {told}");
    Ok(String::from_utf8(output.stdout)?)
}

pub(crate) fn from_nothing_to_nothing(name: &str, parts: &Parts) -> anyhow::Result<()> {
    let cluster = Cluster::up(&options(name, parts))?;
    let files = tempfile::tempdir()?;
    let archive = files.path().join("nodegate.tar");
    cluster.load(&product::image(&crate::nodegate()?, &archive)?)?;
    install(&cluster)?;
    let ports = routes_are_served(&cluster)?;
    kubectl_shows(&cluster)?;
    privileges_are_bounded(&cluster)?;
    capabilities_are_needed(&cluster)?;
    admission::objects_are_checked(&cluster)?;

    let nodes = cluster.hosts();
    let nodes = nodes.iter().filter(|(name, _)| NODES.contains(&&**name));
    let task = Task {
        to: nodes
            .flat_map(|(_, addresses)| addresses.map(|address| SocketAddr::new(address, ports)))
            .collect(),
        host: HOST.into(),
        path: PATH.into(),
    };
    let load = Load::start(&cluster, &task)?;
    new_versions_come_and_go(&cluster)?;
    a_killed_redirector_comes_back(&cluster)?;
    clean_up(&cluster)?;
    load.end_flawless()
        .context("upgrade, rollback, kill and clean-up")?;
    // kube-proxy's are the Services now.
    answers(&cluster, "client", &url(&cluster, "node1", ports)?)?;
    kubectl_on(&cluster, &["delete", "--ignore-not-found", "-k"], "")?;
    cluster.down()
}

/// As docs/deploy.md says.
pub(crate) fn install(cluster: &Cluster) -> anyhow::Result<()> {
    kubectl_on(cluster, &["apply", "-k"], "crds")?;
    kubectl_on(cluster, &["apply", "-k"], "")?;
    for side in [REDIRECTOR, GATEWAY] {
        rolled_out(cluster, side.namespace, side.daemon_set)?;
    }
    Ok(())
}

/// kubectl with a kustomization of `deploy/`.
fn kubectl_on(cluster: &Cluster, words: &[&str], below: &str) -> anyhow::Result<()> {
    let directory = directory().join(below);
    let mut kubectl = cluster.kubectl()?;
    kubectl.args(words).arg(directory);
    output(kubectl).map(drop)
}

pub(crate) fn rolled_out(cluster: &Cluster, namespace: &str, what: &str) -> anyhow::Result<()> {
    let limit = format!("--timeout={}s", patience::outer_limit().as_secs());
    let rolled_out = cluster.ask(&["rollout", "status", "-n", namespace, what, &limit]);
    rolled_out.map(drop).or_else(|error| {
        let pods = cluster.ask(&["describe", "pods", "-n", namespace])?;
        Err(error.context(pods))
    })
}

/// One host with two paths, asked for from where people ask; gives the node port.
fn routes_are_served(cluster: &Cluster) -> anyhow::Result<u16> {
    let image = cluster.agnhost()?;
    cluster.apply(&ROUTES.replace("AGNHOST", &image))?;
    rolled_out(cluster, "simple", "deployment/simple")?;
    let field = |path: &str| {
        let service = ["get", "service", "istio-ingressgateway", "-n"];
        cluster.ask(&[&service[..], &[GATEWAY.namespace, "-o", path]].concat())
    };
    let port = field("jsonpath={.spec.ports[?(@.name==\"http2\")].nodePort}")?.parse()?;
    let address = field("jsonpath={.spec.clusterIP}")?;
    for node in NODES {
        answers(cluster, "client", &url(cluster, node, port)?)?;
        answers(cluster, node, &format!("http://{address}{PATH}"))?;
    }
    // The rewritten path, and the header with the one before.
    let path = "/simple/nginx?key=X-Envoy-Original-Path";
    let url = url(cluster, "node1", port)?.replace(PATH, path);
    let told = answers(cluster, "client", &url)?;
    ensure!(told == path, "{told}");
    // A cluster IP is nothing outside.
    let silence = patience::silence().as_secs_f64().to_string();
    let url = format!("http://{address}{PATH}");
    let outside = cluster.exec("client", Program::Curl, ["-sSm", &silence, &url])?;
    ensure!(!outside.status.success(), "{outside:?}");
    Ok(port)
}

fn url(cluster: &Cluster, node: &str, port: u16) -> anyhow::Result<String> {
    let hosts = cluster.hosts();
    let known = hosts.iter().find(|(name, _)| name == node);
    let [address, _] = known.with_context(|| node.to_owned())?.1;
    Ok(format!("http://{address}:{port}{PATH}"))
}

/// The body of a good answer, as soon as there is one.
fn answers(cluster: &Cluster, host: &str, url: &str) -> anyhow::Result<String> {
    let limit = patience::limit().as_secs().to_string();
    let header = format!("Host: {HOST}");
    let mut last = String::new();
    let answer = patience::try_until(|| -> anyhow::Result<_> {
        let words = ["-sSfm", &limit, "-H", &header, url];
        let output = cluster.exec(host, Program::Curl, words)?;
        last = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(output.status.success().then_some(output.stdout))
    });
    let answer = answer.with_context(|| format!("{url} from {host}: {last}"))?;
    Ok(String::from_utf8(answer)?)
}

/// What people look at.
fn kubectl_shows(cluster: &Cluster) -> anyhow::Result<()> {
    let shown = cluster.ask(&["get", "gw,vs,dr", "-n", "simple"])?;
    let row = |words: &[&str]| {
        let mut lines = shown.lines().map(str::split_whitespace);
        lines.any(|mut line| words.iter().all(|word| line.next() == Some(word)))
    };
    let host = format!("[\"{HOST}\"]");
    for words in [
        &["NAME", "GATEWAYS", "HOSTS", "AGE"][..],
        &["NAME", "HOST", "AGE"],
        &["gateway.networking.istio.io/simple-gateway"],
        &[
            "virtualservice.networking.istio.io/simple",
            "[\"simple-gateway\"]",
            &host,
        ],
        &["destinationrule.networking.istio.io/simple", "simple"],
    ] {
        ensure!(row(words), "no {words:?}:\n{shown}");
    }
    for side in [REDIRECTOR, GATEWAY] {
        for node in NODES {
            let pod = pod(cluster, &side, node)?;
            let status = ["exec", "-n", side.namespace, &pod, "--", "nodegate"];
            // It fails where something is wrong.
            let status = cluster.ask(&[&status[..], &["status"]].concat())?;
            ensure!(
                status.contains("ready") && status.contains(node),
                "{status}"
            );
        }
    }
    Ok(())
}

/// The pod of a side on a node.
fn pod(cluster: &Cluster, side: &Side, node: &str) -> anyhow::Result<String> {
    let on_node = format!("--field-selector=spec.nodeName={node}");
    let pods = ["get", "pods", "-n", side.namespace, "-l", side.labels];
    let pods = cluster.ask(&[&pods[..], &[&on_node, "-o", "name"]].concat())?;
    ensure!(pods.lines().count() == 1, "{}: {pods:?}", side.daemon_set);
    Ok(pods.trim().to_owned())
}

/// The gateway's namespace takes no privileged pod, and the gateway would be taken where nothing is that is not
/// of the restricted profile.
fn privileges_are_bounded(cluster: &Cluster) -> anyhow::Result<()> {
    let run = ["run", "root", "--image=nodegate:0.1.0", "--privileged"];
    let tried = ["--dry-run=server", "-n", GATEWAY.namespace];
    let error = cluster.ask(&[&run[..], &tried].concat());
    let error = error.expect_err("a privileged pod").to_string();
    ensure!(error.contains("violates PodSecurity \"baseline"), "{error}");
    // The API server looks at the pods that are there already, and warns.
    let mut label = cluster.kubectl()?;
    let namespace = ["label", "namespace", GATEWAY.namespace, "--overwrite"];
    label.args(namespace).arg("--dry-run=server");
    label.arg("pod-security.kubernetes.io/enforce=restricted");
    let output = label.output()?;
    let warned = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && warned.is_empty(), "{warned}");
    Ok(())
}

/// Without any one of the redirector's capabilities nodegate itself says that something is missing.
fn capabilities_are_needed(cluster: &Cluster) -> anyhow::Result<()> {
    let set = ["get", "-n", REDIRECTOR.namespace, REDIRECTOR.daemon_set];
    let set = cluster.ask(&[&set[..], &["-o", "json"]].concat())?;
    let set: Value = serde_json::from_str(&set)?;
    let template = &set["spec"]["template"]["spec"];
    let list = template.pointer("/containers/0/securityContext/capabilities/add");
    let list: Vec<String> = serde_json::from_value(list.context("capabilities")?.clone())?;
    let mut pods = vec![("with-all".to_owned(), preflight(template, &list))];
    for capability in &list {
        let others: Vec<_> = list.iter().filter(|one| *one != capability).collect();
        let name = capability.to_lowercase().replace('_', "-");
        pods.push((format!("without-{name}"), preflight(template, &others)));
    }
    for (name, pod) in &mut pods {
        pod["metadata"] = json!({"name": name, "namespace": REDIRECTOR.namespace});
        cluster.apply(&pod.to_string())?;
    }
    let told = |name: &str| -> anyhow::Result<Vec<String>> {
        let of_pod = ["-n", REDIRECTOR.namespace, name];
        let phase = [
            &["get", "pod"],
            &of_pod[..],
            &["-o", "jsonpath={.status.phase}"],
        ]
        .concat();
        patience::try_until(|| -> anyhow::Result<_> {
            let phase = cluster.ask(&phase)?;
            Ok(["Succeeded", "Failed"].contains(&&*phase).then_some(()))
        })
        .with_context(|| format!("the end of {name}"))?;
        let log = cluster.ask(&[&["logs"], &of_pod[..]].concat())?;
        let complaints = log.lines().filter(|line| !line.starts_with("ok "));
        Ok(complaints.map(ToOwned::to_owned).collect())
    };
    // What this machine lacks, they all lack.
    let always = told(&pods[0].0)?;
    for (name, _) in &pods[1..] {
        let told = told(name)?;
        let new = told.iter().find(|line| !always.contains(line));
        let new = new.with_context(|| format!("{name} nothing is missing: {told:?}"))?;
        ensure!(new.contains("CAP_"), "{name}: {new}");
    }
    let all = ["delete", "pod", "--wait=false", "-n", REDIRECTOR.namespace];
    let names = pods.iter().map(|(name, _)| name.as_str());
    cluster.ask(&all.into_iter().chain(names).collect::<Vec<_>>())?;
    Ok(())
}

/// A pod that looks at what it can do, as a redirector's with other capabilities.
fn preflight<S: serde::Serialize>(template: &Value, capabilities: &[S]) -> Value {
    let mut spec = template.clone();
    spec["restartPolicy"] = "Never".into();
    spec["nodeName"] = NODES[0].into();
    let container = &mut spec["containers"][0];
    container["args"] = json!(["preflight"]);
    container["securityContext"]["capabilities"]["add"] = json!(capabilities);
    if let Some(container) = container.as_object_mut() {
        // The redirector's own pod has the port.
        container.retain(|field, _| !["ports", "readinessProbe"].contains(&field.as_str()));
    }
    json!({"apiVersion": "v1", "kind": "Pod", "spec": spec})
}

/// Upgrade and rollback, one side after the other.
fn new_versions_come_and_go(cluster: &Cluster) -> anyhow::Result<()> {
    let (old, new) = (product::name(), "docker.io/library/nodegate:next");
    for node in NODES {
        let tagged = cluster.exec(node, Program::Ctr, ["images", "tag", &old, new])?;
        ensure!(tagged.status.success(), "{tagged:?}");
    }
    for side in [REDIRECTOR, GATEWAY] {
        let image = format!("{}={new}", side.container);
        let of_side = ["-n", side.namespace, side.daemon_set];
        for (words, is_new) in [
            ([&["set", "image"], &of_side[..], &[&image]].concat(), true),
            ([&["rollout", "undo"], &of_side[..]].concat(), false),
        ] {
            cluster.ask(&words)?;
            rolled_out(cluster, side.namespace, side.daemon_set)
                .with_context(|| words.join(" "))?;
            let images = "jsonpath={.items[*].spec.containers[0].image}";
            let pods = ["get", "pods", "-n", side.namespace, "-l", side.labels];
            let images = cluster.ask(&[&pods[..], &["-o", images]].concat())?;
            let mut images = images.split(' ');
            ensure!(images.all(|image| (image == new) == is_new), "{images:?}");
        }
    }
    Ok(())
}

fn a_killed_redirector_comes_back(cluster: &Cluster) -> anyhow::Result<()> {
    let node = NODES[0];
    let pod = pod(cluster, &REDIRECTOR, node)?;
    let of_pod = ["-n", REDIRECTOR.namespace, &pod];
    let status = [&["exec"], &of_pod[..], &["--", "nodegate", "status"]].concat();
    let json = cluster.ask(&[&status[..], &["-o", "json"]].concat())?;
    let json: Value = serde_json::from_str(&json)?;
    // The pod has the node's processes, so the number is the node's.
    let kill = format!("kill -9 {}", json["pid"]);
    let killed = cluster.exec(node, Program::Sh, ["-c", &kill])?;
    ensure!(killed.status.success(), "{killed:?}");
    let path = "jsonpath={.status.containerStatuses[0]['restartCount','ready']}";
    let get = [&["get"], &of_pod[..], &["-o", path]].concat();
    let mut last = String::new();
    patience::try_until(|| -> anyhow::Result<_> {
        last = cluster.ask(&get)?;
        Ok((last == "1 true").then_some(()))
    })
    .with_context(|| format!("the killed one: {last}"))?;
    cluster.ask(&status).map(drop)
}

/// As docs/deploy.md says.
pub(crate) fn clean_up(cluster: &Cluster) -> anyhow::Result<()> {
    let of_side = ["-n", REDIRECTOR.namespace, REDIRECTOR.daemon_set];
    cluster.ask(&[&["delete"], &of_side[..]].concat())?;
    kubectl_on(cluster, &["apply", "-k"], "cleanup")?;
    rolled_out(cluster, REDIRECTOR.namespace, "daemonset/nodegate-cleanup")?;
    kubectl_on(cluster, &["delete", "-k"], "cleanup")?;
    for node in NODES {
        let gone = ["-c", "test ! -e /sys/fs/bpf/nodegate"];
        let gone = cluster.exec(node, Program::Sh, gone)?;
        ensure!(gone.status.success(), "pins are left on {node}");
        for program in [Program::IptablesSave, Program::Ip6tablesSave] {
            let rules = cluster.exec(node, program, [""; 0])?;
            let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
            ensure!(rules.contains("KUBE-SERVICES"), "{node}: {rules}");
            ensure!(!rules.contains("NODEGATE"), "left on {node}: {rules}");
        }
    }
    Ok(())
}

/// A server with a route for an exact path and one for a prefix, both rewritten.
const ROUTES: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: simple}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: simple, namespace: simple}
spec:
  replicas: 2
  selector: {matchLabels: {app: simple}}
  template:
    metadata: {labels: {app: simple}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: AGNHOST
        args: [netexec, --http-port=8080]
        readinessProbe: {httpGet: {path: /hostname, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: simple, namespace: simple}
spec:
  selector: {app: simple}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: simple-gateway, namespace: simple}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: [simple.baihl.io]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: simple, namespace: simple}
spec:
  host: simple
  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: simple, namespace: simple}
spec:
  hosts: [simple.baihl.io]
  gateways: [simple-gateway]
  http:
  - match: [{uri: {exact: /simple/httpserver}}]
    rewrite: {uri: /hostname}
    route: [{destination: {host: simple}}]
  - match: [{uri: {prefix: /simple/nginx}}]
    rewrite: {uri: /header}
    route: [{destination: {host: simple}}]
";
