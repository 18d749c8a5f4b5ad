//! Where a running nodegate has its Services and all else from.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::watch;

use crate::{
    admin::status::{RulesStatus, SourceStatus},
    model::Published,
    resources::Resources,
    source::{
        SourceError, Watcher,
        iptables::{Rules, RulesWatcher},
    },
};

/// What to read.
#[derive(Clone, Debug)]
pub struct SourceOptions {
    /// The directory of manifests, if there is one.
    pub manifests: Option<PathBuf>,
    /// Take Services from this node's iptables rules; manifests are for the proxy then.
    pub rules: bool,
}

/// What is read.
pub(super) struct Sources {
    manifests: Option<(PathBuf, Watcher)>,
    rules: Option<RulesWatcher>,
}

/// What there is to compile.
pub(super) struct Inputs {
    resources: Option<watch::Receiver<Arc<Resources>>>,
    rules: Option<watch::Receiver<Arc<Rules>>>,
}

/// A state of all sources.
pub(super) struct Versions {
    resources: u64,
    rules: u64,
}

// === impl Sources ===

impl Sources {
    pub(super) fn start(options: SourceOptions, node: &str) -> Result<Self, SourceError> {
        let manifests = match options.manifests {
            Some(path) => {
                let watcher = Watcher::start(vec![path.clone()])?;
                Some((path, watcher))
            }
            None => None,
        };
        let rules = if options.rules {
            Some(RulesWatcher::start(node)?)
        } else {
            None
        };
        Ok(Self { manifests, rules })
    }

    pub(super) fn inputs(&self) -> Inputs {
        let manifests = self.manifests.as_ref();
        Inputs {
            resources: manifests.map(|(_, watcher)| watcher.subscribe()),
            rules: self.rules.as_ref().map(RulesWatcher::subscribe),
        }
    }

    /// The rules, if Services come from there.
    pub(super) fn rules(&self) -> Option<Arc<Rules>> {
        self.rules.as_ref().map(RulesWatcher::current)
    }

    /// Reads all changes that were made before this call.
    pub(super) async fn reload(&self) -> Result<Versions, SourceError> {
        let mut versions = Versions {
            resources: 0,
            rules: 0,
        };
        if let Some((_, watcher)) = &self.manifests {
            versions.resources = watcher.reload().await?.version;
        }
        if let Some(watcher) = &self.rules {
            versions.rules = watcher.reload().await?.version;
        }
        Ok(versions)
    }

    pub(super) fn status(&self) -> SourceStatus {
        let manifests = self.manifests.as_ref();
        SourceStatus {
            directory: manifests.map(|(path, _)| path.clone()),
            rules: self.rules().map(|rules| RulesStatus {
                programs: rules
                    .programs
                    .iter()
                    .map(|name| (*name).to_owned())
                    .collect(),
                services: rules.services.len(),
            }),
        }
    }
}

// === impl Inputs ===

impl Inputs {
    /// What is there now.
    pub(super) fn take(&mut self) -> (Arc<Resources>, Option<Arc<Rules>>) {
        let resources = self.resources.as_mut();
        let rules = self.rules.as_mut();
        (
            resources.map_or_else(Arc::default, |resources| {
                resources.borrow_and_update().clone()
            }),
            rules.map(|rules| rules.borrow_and_update().clone()),
        )
    }

    /// Waits for a change; fails when a source is gone.
    pub(super) async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        tokio::select! {
            changed = next(&mut self.resources) => changed,
            changed = next(&mut self.rules) => changed,
        }
    }
}

/// What is not there does not change.
async fn next<T>(source: &mut Option<watch::Receiver<T>>) -> Result<(), watch::error::RecvError> {
    match source {
        Some(source) => source.changed().await,
        None => std::future::pending().await,
    }
}

// === impl Versions ===

impl Versions {
    /// Whether what is published was made of this state, or of a later one.
    pub(super) fn are_in(&self, published: &Published) -> bool {
        published.version >= self.resources && published.rules >= self.rules
    }
}
