//! What things are called: hosts, namespaces, interfaces, cgroups, files.

use std::{fmt, path::PathBuf, str::FromStr};

use anyhow::{bail, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::environment;

/// Where the kernel looks up named network namespaces (ip-netns(8)).
pub const NETNS_ROOT: &str = "/run/netns";

/// Whose names they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of a testbed, which plays Kubernetes.
    Testbed,
    /// Of a cluster, which is Kubernetes.
    Cluster,
}

impl Kind {
    /// As users name it: also the `cargo xtask` command's name.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Testbed => "testbed",
            Self::Cluster => "cluster",
        }
    }

    /// Where all of the kind keep their state. A cluster's has images and containers in it, which would
    /// fill the memory that `/run` often is.
    pub const fn state_root(self) -> &'static str {
        match self {
            Self::Testbed => "/run/nodegate-testbed",
            Self::Cluster => "/var/lib/nodegate-cluster",
        }
    }

    /// The directory of all of the kind below the cgroup2 mount.
    const fn cgroup_root(self) -> &'static str {
        match self {
            Self::Testbed => "nodegate-testbed",
            Self::Cluster => "nodegate-cluster",
        }
    }

    const fn netns_root(self) -> &'static str {
        match self {
            Self::Testbed => "ngt",
            Self::Cluster => "ngc",
        }
    }
}

/// A machine of the testbed, as users name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Host {
    /// Outside the cluster.
    Client,
    /// A node, by name.
    Node(String),
    /// A pod.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl Host {
    /// A pod's host.
    pub fn pod(namespace: &str, name: &str) -> Self {
        Self::Pod {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The part of file and namespace names that says which host it is. A dot cannot occur in a
    /// Kubernetes namespace's name, so pods never collide.
    pub(crate) fn slug(&self) -> String {
        match self {
            Self::Client => "client".into(),
            Self::Node(name) => name.clone(),
            Self::Pod { namespace, name } => bounded(&format!("{namespace}.{name}"), 160),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client => f.write_str("client"),
            Self::Node(name) => f.write_str(name),
            Self::Pod { namespace, name } => write!(f, "pod/{namespace}/{name}"),
        }
    }
}

impl FromStr for Host {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts[..] {
            ["client"] => Ok(Self::Client),
            ["pod", namespace, name] if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self::pod(namespace, name))
            }
            [name] if !name.is_empty() => Ok(Self::Node(name.into())),
            _ => bail!("`{text}` is not a host: write client, a node's name or pod/NAMESPACE/NAME"),
        }
    }
}

/// The names and places of one testbed or cluster.
#[derive(Clone, Debug)]
pub struct Names {
    kind: Kind,
    testbed: String,
    cgroup2: PathBuf,
}

impl Names {
    /// Checks the name and finds the cgroup mount.
    pub fn new(kind: Kind, name: &str) -> anyhow::Result<Self> {
        ensure!(
            is_label(name) && name.len() <= 32,
            "`{name}` is not a {}'s name: at most 32 of a-z, 0-9 and -, not - at an end",
            kind.word()
        );
        let cgroup2 = environment::cgroup2()?;
        Ok(Self {
            kind,
            testbed: name.into(),
            cgroup2,
        })
    }

    /// Whose they are.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The testbed's own name.
    pub fn testbed(&self) -> &str {
        &self.testbed
    }

    /// What every namespace of this testbed begins with.
    pub(crate) fn netns_prefix(&self) -> String {
        format!("{}-{}-", self.kind.netns_root(), self.testbed)
    }

    /// The namespace of a host.
    pub fn netns(&self, host: &Host) -> String {
        self.netns_prefix() + &host.slug()
    }

    /// The namespace with the bridge. No node can be called so (see `config`).
    pub(crate) fn switch(&self) -> String {
        self.netns_prefix() + SWITCH
    }

    /// The cgroup that holds the testbed.
    pub(crate) fn cgroup(&self) -> PathBuf {
        let all = self.cgroup2.join(self.kind.cgroup_root());
        all.join(&self.testbed)
    }

    /// The cgroup of the commands that we run to change the testbed: when we are killed, `down` finds
    /// those that go on.
    pub(crate) fn helpers_cgroup(&self) -> PathBuf {
        self.cgroup().join(SWITCH)
    }

    /// The cgroup of a node and everything on it.
    pub fn node_cgroup(&self, node: &str) -> PathBuf {
        self.cgroup().join(node)
    }

    /// The cgroup that a host's processes run in; a pod's is below its node's.
    pub(crate) fn process_cgroup(&self, host: &Host, node: &str) -> PathBuf {
        match host {
            Host::Client => self.cgroup().join("client"),
            Host::Node(name) => self.node_cgroup(name).join("node"),
            Host::Pod { .. } => self.node_cgroup(node).join(format!("pod-{}", host.slug())),
        }
    }

    /// Where the testbed keeps its state.
    pub fn state(&self) -> PathBuf {
        PathBuf::from(self.kind.state_root()).join(&self.testbed)
    }

    /// What is locked while a command changes the testbed. Beside the state, which comes and goes.
    pub(crate) fn lock(&self) -> PathBuf {
        PathBuf::from(self.kind.state_root()).join(format!("{}.lock", self.testbed))
    }

    /// The directory that nodegate watches.
    pub fn manifests(&self) -> PathBuf {
        self.state().join("manifests")
    }

    /// A host's log: nodegate's on nodes and in gateway pods, the server's in other pods.
    pub fn log(&self, host: &Host) -> PathBuf {
        self.state()
            .join("logs")
            .join(format!("{}.log", host.slug()))
    }

    /// The file that says which process is a host's nodegate; it is there while one is to run.
    pub(crate) fn pid(&self, host: &Host) -> PathBuf {
        self.state().join("pids").join(host.slug())
    }

    /// The admin socket of a nodegate process. Hashed when long: a socket's path has 108 bytes
    /// (unix(7)).
    pub fn admin_socket(&self, host: &Host) -> PathBuf {
        let slug = match host {
            Host::Pod { name, .. } => bounded(name, 40),
            other => bounded(&other.slug(), 40),
        };
        self.state().join("admin").join(slug + ".sock")
    }

    /// Where all nodes' maps are pinned.
    pub(crate) fn pins(&self) -> PathBuf {
        PathBuf::from(environment::BPFFS)
            .join("nodegate")
            .join(&self.testbed)
    }

    /// Where a node's maps are pinned.
    pub fn pin_dir(&self, node: &str) -> PathBuf {
        self.pins().join(node)
    }
}

/// The switch's part of its namespace's and cgroup's name.
pub(crate) const SWITCH: &str = "switch";

/// Whether the text is a DNS label (RFC 1123 §2.1), which names of testbeds and nodes must be.
pub(crate) fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// The text, or as much of it as fits with a hash of the whole.
pub(crate) fn bounded(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.into();
    }
    let head: String = text.chars().take(most.saturating_sub(9)).collect();
    format!("{head}-{}", hash(text, 8))
}

/// An interface's name, which has at most 15 bytes (`IFNAMSIZ` less the final zero): readable
/// start, unique end.
pub(crate) fn interface(text: &str, salt: &str) -> String {
    let head: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(8)
        .collect();
    format!("{}-{}", head.trim_end_matches('-'), hash(salt, 6))
}

/// Letters that Kubernetes makes random suffixes of: without vowels and look-alikes
/// (`k8s.io/apimachinery/pkg/util/rand`).
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// `length` letters that depend on the text alone.
pub(crate) fn hash(text: &str, length: usize) -> String {
    Sha256::digest(text.as_bytes())
        .iter()
        .take(length)
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_written_as_they_are_read() {
        for text in ["client", "node1", "pod/simple/nginx-1"] {
            assert_eq!(text.parse::<Host>().unwrap().to_string(), text);
        }
        for text in ["", "pod/x", "pod//x", "pod/a/b/c", "a/b"] {
            assert!(text.parse::<Host>().is_err(), "{text}");
        }
    }

    #[test]
    fn interface_names_fit_and_differ() {
        let one = interface(
            "tcp-echo-v1-7dd5c5dcfb-l886c",
            "ns/tcp-echo-v1-7dd5c5dcfb-l886c",
        );
        let two = interface(
            "tcp-echo-v1-7dd5c5dcfb-l886c",
            "ns/tcp-echo-v1-7dd5c5dcfb-x886c",
        );
        assert!(one.starts_with("tcp-echo-") && one.len() <= 15, "{one}");
        assert_ne!(one, two);
    }

    #[test]
    fn long_names_are_cut_to_distinct_ones() {
        let (a, b) = ("x".repeat(300), "x".repeat(299));
        assert_eq!(bounded(&a, 160).len(), 160);
        assert_ne!(bounded(&a, 160), bounded(&b, 160));
        assert_eq!(bounded("short", 160), "short");
    }
}
