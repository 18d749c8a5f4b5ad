//! What the resources mean: compiled to one immutable [`Snapshot`] per change.

use std::sync::Arc;

use nodegate_values::diagnostic::Diagnostics;

pub mod gateway;
pub mod selection;
pub mod service;

use gateway::Gateway;
use selection::NodeTopology;
use service::ServicePort;

/// Everything that this node serves, at one moment. Published whole, as an [`Arc`].
#[derive(Debug)]
pub struct Snapshot {
    /// Rises by one with every published Snapshot of this process; the first is 1.
    pub generation: u64,
    /// This node, as far as it decides which endpoints are used.
    pub node: NodeTopology,
    /// The Services that the datapath translates, sorted by name and protocol. Those that have not changed
    /// are shared with the Snapshot before.
    pub services: Vec<Arc<ServicePort>>,
    /// What the proxy serves; empty for a process that is no gateway.
    pub gateway: Arc<Gateway>,
    /// What is wrong with the resources that this was made from.
    pub diagnostics: Diagnostics,
}

/// The last Snapshot, and which state of the resources it was made from.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// The version of what the sources held; 0 before the first.
    pub version: u64,
    /// None before the first.
    pub snapshot: Option<Arc<Snapshot>>,
}
