//! What is behind a cluster, before it is known which of it comes first.

use nodegate_model::gateway::{DnsTarget, Endpoint, Locality};

use crate::placement::Placement;

/// Where a cluster's endpoints are.
#[derive(Default)]
pub(super) struct Members<'r> {
    pub(super) endpoints: Vec<(Placement<'r>, Endpoint)>,
    pub(super) names: Vec<(Placement<'r>, DnsTarget)>,
    pub(super) http2: bool,
}

// === impl Members ===

impl Members<'_> {
    /// The priorities of all, and where each is.
    pub(super) fn priorities(&mut self) -> impl Iterator<Item = (&Placement<'_>, &mut u32)> {
        let endpoints = self.endpoints.iter_mut();
        let endpoints = endpoints.map(|(place, endpoint)| (&*place, &mut endpoint.priority));
        let names = self.names.iter_mut();
        endpoints.chain(names.map(|(place, name)| (&*place, &mut name.priority)))
    }

    /// What they weigh, and where.
    pub(super) fn weights(&self) -> impl Iterator<Item = (&Locality, u32)> {
        let endpoints = self.endpoints.iter();
        let endpoints = endpoints.map(|(place, endpoint)| (&place.locality, endpoint.weight));
        let names = self.names.iter();
        endpoints.chain(names.map(|(place, name)| (&place.locality, name.weight)))
    }

    /// Leaves out those that are elsewhere.
    pub(super) fn keep(&mut self, is_meant: impl Fn(&Locality) -> bool) {
        self.endpoints
            .retain(|(place, _)| is_meant(&place.locality));
        self.names.retain(|(place, _)| is_meant(&place.locality));
    }
}
