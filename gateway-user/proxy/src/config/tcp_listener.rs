//! Where connections lead that are passed on byte by byte.

use std::sync::Arc;

use nodegate_model::gateway::TcpRoute;

use super::{
    clusters::{Changes, Clusters},
    history::{History, RouteName},
    target::Target,
};
use crate::counters::Counters;

/// Where a TCP listener leads.
#[derive(Debug)]
pub(crate) struct TcpListener {
    pub(crate) route: TcpRoute,
    pub(crate) target: Target,
    pub(crate) counters: Arc<Counters>,
}

impl TcpListener {
    pub(super) fn new<'a>(
        route: &'a TcpRoute,
        history: &mut History<'a>,
        clusters: &Clusters,
    ) -> Self {
        let name = RouteName::of_tcp(route);
        let position = history.position(name, &route.destinations);
        Self {
            route: route.clone(),
            target: Target::new(&route.destinations, position, clusters),
            counters: history.counters(name),
        }
    }

    /// The same with clusters as they are now; none if it leads to no changed cluster.
    pub(super) fn with(&self, changes: &Changes) -> Option<Self> {
        self.target.is_concerned(changes).then(|| Self {
            route: self.route.clone(),
            target: self.target.with(changes),
            counters: Arc::clone(&self.counters),
        })
    }

    /// Says what its route has counted.
    pub(super) fn tell<'a>(&'a self, history: &mut History<'a>) {
        let name = RouteName::of_tcp(&self.route);
        let position = self.target.position();
        history.note(name, &self.route.destinations, position, &self.counters);
    }
}
