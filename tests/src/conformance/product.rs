//! nodegate in a cluster without kube-proxy, deployed from the manifests of `deploy/`.

use std::{
    fs,
    path::{Component, Path, PathBuf},
};

use anyhow::Context as _;

use crate::cluster::Cluster;

/// Its two halves: namespace and DaemonSet.
const HALVES: [(&str, &str); 2] = [
    ("nodegate-system", "nodegate-redirector"),
    ("istio-system", "nodegate-gateway"),
];

/// How many zones the nodes are spread over: what tests of traffic distribution want.
const ZONES: usize = 3;

/// Spreads the nodes over zones, labelled as clouds do it: without zones nobody prefers one.
///
/// # Errors
/// If the API server does not take it.
pub fn spread(cluster: &Cluster) -> anyhow::Result<()> {
    let nodes = cluster.ask(&["get", "nodes", "-o", "name"])?;
    for (index, node) in nodes.lines().enumerate() {
        let label = format!("topology.kubernetes.io/zone=zone-{}", index % ZONES + 1);
        cluster.ask(&["label", "--overwrite", node, &label])?;
    }
    Ok(())
}

/// Brings nodegate's image to all nodes, applies the manifests below a directory, and waits until all of it
/// is ready.
///
/// # Errors
/// If something of it is not accepted, or is not ready in time.
pub fn install(cluster: &Cluster, image: &Path, deploy: &Path) -> anyhow::Result<()> {
    cluster.load(image)?;
    let kinds = deploy.join("crds");
    cluster.ask(&["apply".as_ref(), "-k".as_ref(), kinds.as_os_str()])?;
    let established = ["wait", "--for=condition=Established", "crd", "--all"];
    let limit = format!("--timeout={}s", patience::limit().as_secs());
    cluster.ask(&[&established[..], &[&limit]].concat())?;

    // The cluster's own, and goes with it.
    let directory = cluster.names().state().join("nodegate");
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    let overlay = relative(&directory, &deploy.join("overlays/instead-of-kube-proxy"))?;
    let file = directory.join("kustomization.yaml");
    fs::write(&file, kustomization(&overlay, &cluster.api_server()))
        .with_context(|| format!("writing {}", file.display()))?;
    cluster.ask(&["apply".as_ref(), "-k".as_ref(), directory.as_os_str()])?;
    for (namespace, name) in HALVES {
        let name = format!("daemonset/{name}");
        let rollout = ["rollout", "status", &name, "-n", namespace, &limit];
        let pods = || {
            let pods = cluster.ask(&["get", "pods", "-n", namespace, "-o", "wide"]);
            format!("{name} is not ready:\n{}", pods.unwrap_or_default())
        };
        cluster.ask(&rollout).with_context(pods)?;
    }
    Ok(())
}

/// Saves what nodegate says on each node, for when the cluster is gone.
///
/// # Errors
/// If a file can't be written, or nobody answers.
pub fn save_logs(cluster: &Cluster, directory: &Path) -> anyhow::Result<()> {
    for (namespace, name) in HALVES {
        let pods = "jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName}{\"\\n\"}{end}";
        let pods = cluster.ask(&["get", "pods", "-n", namespace, "-o", pods])?;
        for (pod, node) in pods.lines().filter_map(|line| line.split_once(' ')) {
            let log = cluster.ask(&["logs", "-n", namespace, pod])?;
            let file = directory.join(format!("{node}.{name}.log"));
            fs::write(&file, log).with_context(|| format!("writing {}", file.display()))?;
        }
    }
    Ok(())
}

/// The overlay as it is, with the API server's address filled in.
fn kustomization(overlay: &Path, server: &str) -> String {
    format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\n\
         kind: Kustomization\n\
         resources:\n\
         - {}\n\
         configMapGenerator:\n\
         - name: nodegate-api-server\n\
         \x20 namespace: nodegate-system\n\
         \x20 behavior: merge\n\
         \x20 literals:\n\
         \x20 - NODEGATE_API_SERVER={server}\n",
        overlay.display()
    )
}

/// The way from a directory to another one: kustomize takes no absolute paths.
fn relative(from: &Path, to: &Path) -> anyhow::Result<PathBuf> {
    let absolute = |path: &Path| {
        path.canonicalize()
            .with_context(|| path.display().to_string())
    };
    let (from, to) = (absolute(from)?, absolute(to)?);
    let is_name = |part: &Component<'_>| matches!(part, Component::Normal(_));
    let up = from
        .components()
        .filter(is_name)
        .map(|_| Component::ParentDir);
    Ok(up.chain(to.components().filter(is_name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_leads_to_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("a/b"), directory.path().join("c"));
        for path in [&from, &to] {
            fs::create_dir_all(path).unwrap();
        }
        let way = relative(&from, &to).unwrap();
        assert!(way.is_relative());
        let reached = from.join(way).canonicalize().unwrap();
        assert_eq!(reached, to.canonicalize().unwrap());
    }
}
