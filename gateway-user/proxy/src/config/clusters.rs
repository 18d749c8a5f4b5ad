//! The clusters of a configuration, and how they differ from those of the one before.

use std::{collections::HashSet, net::SocketAddr, sync::Arc};

use nodegate_model::gateway::{Cluster, Gateway};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::{cluster::ClusterState, dns::Answers};

/// The clusters of a configuration.
#[derive(Debug, Default)]
pub(super) struct Clusters {
    /// Sorted by name, as in the Gateway that they are of.
    all: Vec<Arc<ClusterState>>,
}

/// What has become of clusters in a new configuration. Those that are not mentioned have stayed what they
/// were.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// By name: the cluster as it is now, if there still is one.
    now: FxHashMap<String, Option<Arc<ClusterState>>>,
    /// Clusters that are not what they were. They are known by their addresses in memory, which costs less
    /// than a look at their names; the previous configuration keeps them alive.
    outdated: FxHashSet<usize>,
    /// Endpoints that changed clusters had, and endpoints that they have now.
    before: Vec<SocketAddr>,
    after: Vec<SocketAddr>,
}

/// How many clusters each endpoint is in.
#[derive(Debug, Default)]
pub(crate) struct Endpoints(FxHashMap<SocketAddr, u32>);

/// The clusters of a configuration, and what they were made from.
#[derive(Clone, Copy)]
pub(super) struct Previous<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) answers: &'a Answers,
    pub(super) clusters: &'a Clusters,
}

impl Clusters {
    /// The clusters of a Gateway, with the addresses of names. A cluster that is what it was before is
    /// shared; one that isn't goes on with what the one of its name has counted.
    pub(super) fn new(
        gateway: &Gateway,
        answers: &Answers,
        previous: Previous<'_>,
    ) -> (Self, Changes) {
        let same_answers = std::ptr::eq(answers, previous.answers) || *answers == *previous.answers;
        let models = previous.gateway.clusters.values();
        let mut old = models.zip(&previous.clusters.all).peekable();
        let mut changes = Changes::default();
        let mut all = Vec::with_capacity(gateway.clusters.len());
        for (name, model) in &gateway.clusters {
            // One look at pointers is enough for most.
            let same = |(was, _): &(&Arc<Cluster>, _)| {
                Arc::ptr_eq(was, model) && (same_answers || model.names.is_empty())
            };
            if let Some((_, state)) = old.next_if(same) {
                all.push(Arc::clone(state));
                continue;
            }
            while let Some((_, gone)) = old.next_if(|(_, state)| state.model.name < *name) {
                changes.note(Some(gone), None);
            }
            let before = old.next_if(|(_, state)| state.model.name == *name);
            let before = before.map(|(_, state)| state);
            let model = answers.resolve(model);
            let state = match before {
                Some(state) if is_same(&state.model, &model) => Arc::clone(state),
                _ => {
                    let state = Arc::new(ClusterState::new(&model, before.map(|before| &**before)));
                    changes.note(before, Some(&state));
                    state
                }
            };
            all.push(state);
        }
        for (_, gone) in old {
            changes.note(Some(gone), None);
        }
        (Self { all }, changes)
    }

    /// The cluster of a name.
    pub(super) fn get(&self, name: &str) -> Option<&Arc<ClusterState>> {
        let found = self
            .all
            .binary_search_by(|cluster| cluster.model.name.as_str().cmp(name));
        self.all.get(found.ok()?)
    }

    /// All clusters, by name.
    pub(super) fn all(&self) -> &[Arc<ClusterState>] {
        &self.all
    }
}

/// Whether two descriptions of a cluster say the same.
fn is_same(one: &Arc<Cluster>, other: &Arc<Cluster>) -> bool {
    Arc::ptr_eq(one, other) || **one == **other
}

/// Where a cluster is in memory.
fn address(cluster: &Arc<ClusterState>) -> usize {
    Arc::as_ptr(cluster).addr()
}

impl Changes {
    fn note(&mut self, before: Option<&Arc<ClusterState>>, after: Option<&Arc<ClusterState>>) {
        let Some(named) = after.or(before) else {
            return;
        };
        self.now.insert(named.model.name.clone(), after.cloned());
        self.outdated.extend(before.map(address));
        let addresses = |state: &Arc<ClusterState>| state.addresses().collect::<Vec<_>>();
        self.before.extend(before.into_iter().flat_map(addresses));
        self.after.extend(after.into_iter().flat_map(addresses));
    }

    /// Whether what a name leads to, which may be no cluster, has changed.
    pub(super) fn concern(&self, name: &str, before: Option<&Arc<ClusterState>>) -> bool {
        match before {
            Some(cluster) => self.outdated.contains(&address(cluster)),
            None => self.now.contains_key(name),
        }
    }

    /// What has become of a cluster, if it has changed.
    pub(super) fn of(&self, name: &str) -> Option<&Option<Arc<ClusterState>>> {
        self.now.get(name)
    }
}

impl Endpoints {
    /// Takes changes in, and says which endpoints are in no cluster any more.
    pub(crate) fn update(&mut self, changes: &Changes) -> HashSet<SocketAddr> {
        for address in &changes.after {
            *self.0.entry(*address).or_default() += 1;
        }
        let mut gone = HashSet::new();
        for address in &changes.before {
            let Some(count) = self.0.get_mut(address) else {
                continue;
            };
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.0.remove(address);
                gone.insert(*address);
            }
        }
        gone
    }
}
