//! What the maps' content depends on of the node.

use std::{collections::BTreeSet, net::IpAddr};

/// Facts about the node that may change while nodegate runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Addresses of the node, without loopback: what `--dst-type LOCAL` matches in iptables.
    pub addresses: BTreeSet<IpAddr>,
}
