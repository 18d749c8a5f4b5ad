//! What a cluster has from the start: its nodes' networks, and a Service for its DNS.

use std::io::Write as _;

use anyhow::{Context as _, ensure};
use nodegate_programs::Program;
use serde_json::{Value, json};

use super::{
    pki::DNS,
    plan::{CONTROL, Plan},
    site::{Running, Site, control_plane},
};
use crate::process;

/// Applies YAML or JSON.
pub(super) fn apply(site: &Site, text: &str) -> anyhow::Result<()> {
    feed(site, &["apply", "-f", "-"], text)
}

/// What kubectl says.
pub(super) fn kubectl(site: &Site, arguments: &[&str]) -> anyhow::Result<String> {
    let mut kubectl = site.enter(&control_plane(), site.parts.command(Program::Kubectl))?;
    kubectl.args(arguments);
    process::run(kubectl)
}

/// Gives kubectl something to read; an error with its complaint when it fails.
pub(super) fn feed(site: &Site, arguments: &[&str], text: &str) -> anyhow::Result<()> {
    let mut kubectl = site.enter(&control_plane(), site.parts.command(Program::Kubectl))?;
    kubectl.args(arguments);
    let mut child = kubectl
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .context("starting kubectl")?;
    // Dropped at once: that is the end. Why it ends early it says itself.
    let written = child
        .stdin
        .take()
        .map(|mut stdin| stdin.write_all(text.as_bytes()));
    let what = arguments.first().copied().unwrap_or_default();
    let status = process::wait(&mut child)?.with_context(|| format!("kubectl {what} hangs"))?;
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        std::io::Read::read_to_string(&mut stderr, &mut said)?;
    }
    ensure!(status.success(), "kubectl {what}: {}", said.trim());
    written.context("kubectl's input")??;
    Ok(())
}

/// Makes objects that need no controller.
pub(super) fn create(site: &Site, server: &Running) -> anyhow::Result<()> {
    server.until("there is no namespace kube-system", || {
        site.get("/api/v1/namespaces/kube-system")
    })?;
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects()});
    apply(site, &list.to_string())
}

fn objects() -> [Value; 4] {
    let name = "system:coredns";
    let dns = json!({"name": "kube-dns", "namespace": "kube-system"});
    [
        // What CoreDNS' own manifests grant it.
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": name},
            "rules": [
                {
                    "apiGroups": [""],
                    "resources": ["endpoints", "services", "pods", "namespaces"],
                    "verbs": ["list", "watch"],
                },
                {
                    "apiGroups": ["discovery.k8s.io"],
                    "resources": ["endpointslices"],
                    "verbs": ["list", "watch"],
                },
            ],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": DNS}],
        }),
        // Pods ask the server itself, so that names are there without rules for Services, too.
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": dns,
            "spec": {
                "clusterIP": Plan::dns_service(),
                "ports": [
                    {"name": "dns", "port": 53, "protocol": "UDP"},
                    {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
                ],
            },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kube-dns-ipv4",
                "namespace": "kube-system",
                "labels": {"kubernetes.io/service-name": "kube-dns"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [CONTROL], "conditions": {"ready": true}}],
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            ],
        }),
    ]
}

/// Waits until all nodes are ready and have their networks, and pods can be made.
pub(super) fn await_nodes(site: &Site, agents: &[Running]) -> anyhow::Result<()> {
    for (index, node) in site.plan.nodes().enumerate() {
        let path = format!("/api/v1/nodes/{}", node.name);
        until(agents, "has not registered", &node.name, || site.get(&path))?;
        let networks = site.plan.pod_networks(index);
        let patch = json!({"spec": {"podCIDR": networks[0], "podCIDRs": networks}});
        kubectl(
            site,
            &["patch", "node", &node.name, "--patch", &patch.to_string()],
        )?;
        until(agents, "is not ready", &node.name, || {
            Ok(site.get(&path)?.filter(is_ready))
        })?;
    }
    // The controllers make it; until then no pod may be made there.
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    until(agents, "has no service account", "default", || {
        site.get(account)
    })?;
    Ok(())
}

/// Waits for something, while all of these run.
fn until<T>(
    agents: &[Running],
    what: &str,
    who: &str,
    mut ask: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let [first, others @ ..] = agents else {
        anyhow::bail!("{who} has nobody to wait for");
    };
    first.until(&format!("{who} {what}"), || {
        for other in others {
            other.check()?;
        }
        ask()
    })
}

fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}
