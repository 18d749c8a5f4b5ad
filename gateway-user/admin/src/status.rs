//! What `nodegate status` shows.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// The state of a running nodegate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The version of this form, see `docs/json.md`; 0 of a nodegate that has none yet.
    #[serde(default)]
    pub schema: u32,
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
    /// The API server, if objects come from there.
    #[serde(default)]
    pub kubernetes: Option<KubernetesStatus>,
    /// The directory of manifests, if there is one.
    pub directory: Option<PathBuf>,
    /// kube-proxy's rules, if Services come from there.
    pub rules: Option<RulesStatus>,
}

/// Objects from the API server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KubernetesStatus {
    /// Who we are to it: a kubeconfig, or the pod's ServiceAccount.
    pub identity: String,
    /// The server that was reached last, as host and port; none was.
    pub server: Option<String>,
    /// Whether what is in force is what it says.
    pub heard: bool,
    /// How many seconds old what is in force is, where it was read from disk and the API server has not been
    /// heard since.
    pub remembered: Option<u64>,
    /// The kinds that are watched.
    pub kinds: Vec<KindStatus>,
    /// What is wrong, one line each.
    pub troubles: Vec<String>,
}

/// A kind that is watched.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KindStatus {
    /// Its name, in plural; with the name of the object where it is one.
    pub kind: String,
    /// How many objects of it are known.
    pub objects: usize,
    /// Whether all of them have been heard of.
    pub known: bool,
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
    /// Other interfaces on which node ports have an address: packets that come by them are not redirected.
    #[serde(default)]
    pub left_out: Vec<String>,
    /// Elements in the maps.
    pub elements: BTreeMap<String, usize>,
    /// Decisions by reason since the maps were made.
    pub decisions: BTreeMap<String, u64>,
    /// What destinations of TCP routes got that the kernel follows.
    #[serde(default)]
    pub shares: Vec<ShareStatus>,
    /// How full the table of flows of packets is; none where it cannot be read.
    pub flows: Option<FlowsStatus>,
    /// Seconds since the redirector last wrote a sign of life into its maps; it does every two seconds.
    pub heartbeat_age: Option<f64>,
    /// What could not be written.
    pub failures: Vec<String>,
}

/// What a destination of a TCP route got that the kernel follows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShareStatus {
    /// The Service port whose connections are divided.
    pub service: String,
    /// Name of the destination's cluster.
    pub destination: String,
    /// Connections since it is a destination of the port.
    pub connections: u64,
}

/// How full the table of flows of packets is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowsStatus {
    /// How many flows it has room for.
    pub places: u64,
    /// How many are recorded and not over.
    pub recorded: u64,
    /// How many of those are established connections, which keep their places.
    pub established: u64,
    /// Of how many of its buckets all places are kept: new flows that belong there are refused.
    pub full_buckets: u64,
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
    /// What was refused so that what is being served goes on, by reason, since the process began.
    #[serde(default)]
    pub refused: BTreeMap<String, u64>,
}

impl Status {
    /// What is worth knowing, and no fault, one line each.
    pub fn notes(&self) -> impl Iterator<Item = &str> {
        let all = self.diagnostics.iter().map(String::as_str);
        all.filter(|line| line.starts_with("info:"))
    }

    /// Everything that is not as it should be, one line each.
    pub fn faults(&self) -> impl Iterator<Item = &str> {
        let datapath = self.datapath.iter().flat_map(|datapath| &datapath.failures);
        let proxy = self.proxy.iter().flat_map(|proxy| &proxy.failures);
        let diagnostics = self
            .diagnostics
            .iter()
            .filter(|line| !line.starts_with("info:"));
        // Before anything is in force, there are no diagnostics that would name them.
        let unheard = self.source.kubernetes.iter().filter(|_| !self.ready);
        let unheard = unheard.flat_map(|kubernetes| &kubernetes.troubles);
        let all = datapath.chain(proxy).chain(diagnostics).chain(unheard);
        all.map(String::as_str)
    }
}
