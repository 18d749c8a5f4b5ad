//! What `nodegate status` shows.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// The state of a running nodegate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// nodegate's version.
    pub version: String,
    /// `all`, `redirector` or `proxy`.
    pub role: String,
    /// Name of the node.
    pub node: String,
    /// Process id.
    pub pid: u32,
    /// Whether the first Snapshot has been applied by all.
    pub ready: bool,
    /// What was read.
    pub source: SourceStatus,
    /// What it was compiled to.
    pub snapshot: SnapshotStatus,
    /// The eBPF side; absent in the proxy role.
    pub datapath: Option<DatapathStatus>,
    /// The proxy side; absent in the redirector role.
    pub proxy: Option<ProxyStatus>,
    /// What is wrong with the manifests, one line each.
    pub diagnostics: Vec<String>,
}

/// The sources.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SourceStatus {
    /// The directory of manifests, if there is one.
    pub directory: Option<PathBuf>,
    /// kube-proxy's rules, if Services come from there.
    pub rules: Option<RulesStatus>,
}

/// Services from kube-proxy's rules.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RulesStatus {
    /// The programs that print them, such as `iptables-nft-save`.
    pub programs: Vec<String>,
    /// Number of Service ports that the rules have, in scope or not.
    pub services: usize,
}

/// The last published Snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SnapshotStatus {
    /// Its generation; 0 before the first.
    pub generation: u64,
    /// Number of Service ports.
    pub services: usize,
    /// Number of the proxy's listeners.
    pub listeners: usize,
    /// Number of the proxy's clusters.
    pub clusters: usize,
}

/// The eBPF side.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DatapathStatus {
    /// Generation of the Snapshot that the maps hold.
    pub applied: u64,
    /// Where maps and links are pinned.
    pub pin_dir: PathBuf,
    /// Interfaces with packet programs.
    pub uplinks: Vec<String>,
    /// Elements in the maps.
    pub elements: BTreeMap<String, usize>,
    /// Decisions by reason since the maps were made.
    pub decisions: BTreeMap<String, u64>,
    /// Seconds since the redirector last wrote a sign of life into its maps; it does every two seconds.
    pub heartbeat_age: Option<f64>,
    /// What could not be written.
    pub failures: Vec<String>,
}

/// The proxy side.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// Generation of the Snapshot that all workers have applied.
    pub applied: u64,
    /// Ports that are listened on.
    pub listeners: Vec<u16>,
    /// Ports that could not be bound, and why.
    pub failures: Vec<String>,
}

impl Status {
    /// Everything that is not as it should be, one line each.
    pub fn faults(&self) -> impl Iterator<Item = &str> {
        let datapath = self.datapath.iter().flat_map(|datapath| &datapath.failures);
        let proxy = self.proxy.iter().flat_map(|proxy| &proxy.failures);
        let diagnostics = self
            .diagnostics
            .iter()
            .filter(|line| !line.starts_with("info:"));
        datapath.chain(proxy).chain(diagnostics).map(String::as_str)
    }
}
