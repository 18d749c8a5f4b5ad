//! What a cluster may have left.

use std::{collections::BTreeSet, fs, path::Path};

use nodegate_programs::Program;
use nodegate_testbed::{environment, names::Kind};

/// Where the programs of a cluster would put things on a machine of their own.
const THEIRS: [&str; 12] = [
    "/etc/cni",
    "/opt/cni",
    "/opt/containerd",
    "/run/containerd",
    "/run/kubernetes",
    "/run/runc",
    "/usr/libexec/kubernetes",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
];

/// Which of them are there.
pub(crate) fn on_the_machine() -> BTreeSet<&'static str> {
    let theirs = THEIRS.into_iter();
    theirs.filter(|path| Path::new(path).exists()).collect()
}

/// An error that says what is left of a cluster.
pub(crate) fn nothing_of(name: &str, before: &BTreeSet<&'static str>) -> anyhow::Result<()> {
    let mut left: Vec<String> = on_the_machine()
        .difference(before)
        .map(ToString::to_string)
        .collect();
    let prefix = format!("ngc-{name}-");
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let namespace = entry.file_name().to_string_lossy().into_owned();
        if namespace.starts_with(&prefix) {
            left.push(namespace);
        }
    }
    let root = Path::new(Kind::Cluster.state_root());
    let cgroups = environment::cgroup2()?.join("nodegate-cluster");
    for path in [
        root.join(name),
        root.join(format!("{name}.lock")),
        cgroups.join(name),
    ] {
        if path.exists() {
            left.push(path.display().to_string());
        }
    }
    let state = format!("{}/", root.join(name).display());
    for process in fs::read_dir("/proc")?.flatten() {
        // A process's own mounts are those of its node; who is left has the cluster's in either.
        for file in ["cmdline", "mounts"] {
            let text = fs::read(process.path().join(file)).unwrap_or_default();
            if String::from_utf8_lossy(&text).contains(&state) {
                left.push(format!("{} ({file})", process.path().display()));
            }
        }
    }
    let links = Program::Ip.command().args(["-br", "link"]).output()?;
    let links = String::from_utf8_lossy(&links.stdout).into_owned();
    let links = links.lines().filter(|link| link.contains("veth"));
    left.extend(links.map(String::from));
    anyhow::ensure!(
        left.is_empty(),
        "left of cluster {name}: {}",
        left.join(", ")
    );
    Ok(())
}
