//! What is behind a cluster, once it is known which of it comes first.

use nodegate_model::gateway::{ClusterPolicy, DnsTarget, Endpoint, Locality};

use super::{locality, members::Members};
use crate::placement::Placement;

/// A cluster's endpoints and names with their priorities, and the shares of their localities.
pub(super) struct Placed {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) names: Vec<DnsTarget>,
    pub(super) shares: Vec<(Locality, u32)>,
}

impl Placed {
    /// As a gateway that is `here` sees them.
    pub(super) fn new(
        mut members: Members<'_>,
        policy: &ClusterPolicy,
        here: &Placement<'_>,
    ) -> Self {
        let shares = match &policy.locality {
            Some(near) => locality::apply(near, here, &mut members),
            None => Vec::new(),
        };
        let endpoints = members.endpoints.into_iter();
        let mut endpoints: Vec<_> = endpoints.map(|(_, one)| one).collect();
        endpoints.sort_unstable();
        endpoints.dedup_by_key(|endpoint| endpoint.address);
        Self {
            endpoints,
            names: members.names.into_iter().map(|(_, one)| one).collect(),
            shares,
        }
    }
}
