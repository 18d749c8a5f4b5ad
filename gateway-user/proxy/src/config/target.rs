//! Where a route leads: its destinations, and which of them is next.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use nodegate_model::gateway::Destination;
use nodegate_values::split::Split;

use super::clusters::{Changes, Clusters};
use crate::cluster::ClusterState;

/// Destinations of a route, and which of them is next.
#[derive(Debug)]
pub(crate) struct Target {
    split: Split,
    position: Arc<AtomicU64>,
    /// In the order of the weights.
    destinations: Vec<ClusterRef>,
}

/// A cluster by its name.
#[derive(Clone, Debug)]
pub(super) struct ClusterRef {
    pub(super) name: String,
    /// None: a route names a cluster that doesn't exist.
    pub(super) cluster: Option<Arc<ClusterState>>,
}

/// The destination whose turn it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chosen<'a> {
    /// Its place among the route's destinations.
    pub(crate) index: usize,
    /// Name of the cluster.
    pub(crate) name: &'a str,
    /// The cluster, if it exists.
    pub(crate) cluster: Option<&'a Arc<ClusterState>>,
}

impl Target {
    /// Goes on with the turns from a position.
    pub(super) fn new(
        destinations: &[Destination],
        position: Arc<AtomicU64>,
        clusters: &Clusters,
    ) -> Self {
        let weights: Vec<u32> = destinations.iter().map(|one| one.weight).collect();
        let destinations = destinations.iter();
        Self {
            split: Split::new(&weights),
            position,
            destinations: destinations
                .map(|destination| ClusterRef::new(&destination.cluster, clusters))
                .collect(),
        }
    }

    /// Whether it leads to a cluster that has changed.
    pub(super) fn is_concerned(&self, changes: &Changes) -> bool {
        let mut destinations = self.destinations.iter();
        destinations.any(|destination| changes.of(&destination.name).is_some())
    }

    /// The same with clusters as they are now.
    pub(super) fn with(&self, changes: &Changes) -> Self {
        let destinations = self.destinations.iter();
        Self {
            split: self.split.clone(),
            position: Arc::clone(&self.position),
            destinations: destinations
                .map(|destination| destination.with(changes))
                .collect(),
        }
    }

    /// The turns that have been taken, for another target to go on from.
    pub(super) fn position(&self) -> &Arc<AtomicU64> {
        &self.position
    }

    /// Takes the next turn.
    pub(crate) fn choose(&self) -> Chosen<'_> {
        let index = if self.split.is_single() {
            0
        } else {
            self.split
                .pick(self.position.fetch_add(1, Ordering::Relaxed))
        };
        self.chosen(index)
    }

    /// The destination at a place that was chosen before.
    pub(crate) fn chosen(&self, index: usize) -> Chosen<'_> {
        match self.destinations.get(index) {
            Some(ClusterRef { name, cluster }) => Chosen {
                index,
                name,
                cluster: cluster.as_ref(),
            },
            // A route without destinations leads to no cluster.
            None => Chosen {
                index,
                name: "",
                cluster: None,
            },
        }
    }
}

impl ClusterRef {
    pub(super) fn new(name: &str, clusters: &Clusters) -> Self {
        Self {
            name: name.to_owned(),
            cluster: clusters.get(name).cloned(),
        }
    }

    /// The cluster as it is now.
    pub(super) fn with(&self, changes: &Changes) -> Self {
        let now = changes.of(&self.name);
        Self {
            name: self.name.clone(),
            cluster: now.unwrap_or(&self.cluster).clone(),
        }
    }
}
