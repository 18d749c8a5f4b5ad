//! The clusters of a configuration, and how they differ from those of the one before.

use std::{collections::HashSet, net::SocketAddr, sync::Arc};

use nodegate_model::gateway::{Cluster, Gateway};
use nodegate_sharing::SharedMap;
use rustc_hash::FxHashMap;

use crate::{cluster::ClusterState, dns::Answers};

/// The clusters of a configuration.
#[derive(Debug, Default)]
pub(crate) struct Clusters {
    /// By name, as in the Gateway that they are of.
    all: SharedMap<String, Arc<ClusterState>>,
}

/// What has become of clusters in a new configuration. Those that are not mentioned have stayed what they
/// were.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// By name: the cluster as it is now, if there still is one.
    now: FxHashMap<String, Option<Arc<ClusterState>>>,
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
        let mut next = Next {
            all: previous.clusters.all.clone(),
            changes: Changes::default(),
        };
        for change in gateway.clusters.changes_since(&previous.gateway.clusters) {
            match change.after {
                Some(model) => next.put(change.key, &answers.resolve(model)),
                None => next.remove(change.key),
            }
        }
        if !same_answers {
            let named = gateway.clusters.iter();
            for (name, model) in named.filter(|(_, model)| !model.names.is_empty()) {
                next.put(name, &answers.resolve(model));
            }
        }
        let Next { all, changes } = next;
        (Self { all }, changes)
    }

    /// The cluster of a name.
    pub(super) fn get(&self, name: &str) -> Option<&Arc<ClusterState>> {
        self.all.get(name)
    }

    /// All clusters, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<ClusterState>> {
        self.all.values()
    }
}

/// Clusters in the making.
struct Next {
    all: SharedMap<String, Arc<ClusterState>>,
    changes: Changes,
}

impl Next {
    /// Takes a cluster in, if it is not what the one of its name is.
    fn put(&mut self, name: &str, model: &Arc<Cluster>) {
        let before = self.all.get(name);
        if before.is_some_and(|before| is_same(&before.model, model)) {
            return;
        }
        let state = Arc::new(ClusterState::new(model, before.map(|before| &**before)));
        let before = self.all.insert(name.to_owned(), Arc::clone(&state));
        self.changes.note(name, before.as_ref(), Some(&state));
    }

    fn remove(&mut self, name: &str) {
        let before = self.all.remove(name);
        self.changes.note(name, before.as_ref(), None);
    }
}

/// Whether two descriptions of a cluster say the same.
fn is_same(one: &Arc<Cluster>, other: &Arc<Cluster>) -> bool {
    Arc::ptr_eq(one, other) || **one == **other
}

impl Changes {
    fn note(
        &mut self,
        name: &str,
        before: Option<&Arc<ClusterState>>,
        after: Option<&Arc<ClusterState>>,
    ) {
        self.now.insert(name.to_owned(), after.cloned());
        let addresses = |state: &Arc<ClusterState>| state.addresses().collect::<Vec<_>>();
        self.before.extend(before.into_iter().flat_map(addresses));
        self.after.extend(after.into_iter().flat_map(addresses));
    }

    /// The names of what has changed.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.now.keys().map(String::as_str)
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
