//! Keeps the maps in step with the Snapshots and the node, and hands out the kernel's reports.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use gateway_common::event::Event;
use serde::Serialize;
use tokio::sync::{broadcast, watch};
use tracing::{error, info, warn};

use super::{
    Datapath, Error, Failure,
    desired::PortKey,
    events::{Decision, Ring},
    node::NodeFacts,
};
use crate::model::{Published, Snapshot};

/// How often the node's addresses are looked at, and what failed is tried again.
const TICK: Duration = Duration::from_secs(2);
/// Decisions that a slow reader of the trace may be behind before it loses some.
const TRACE_BACKLOG: usize = 4096;

type Names = BTreeMap<u32, PortKey>;

/// How far the datapath is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Generation of the Snapshot that the maps hold; 0 before the first.
    pub applied: u64,
    /// What could not be written.
    pub failures: Vec<String>,
}

/// The datapath and what it reports.
#[expect(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Redirector {
    datapath: Mutex<Datapath>,
    names: ArcSwap<Names>,
    progress: watch::Sender<Progress>,
    decisions: broadcast::Sender<Arc<Decision>>,
    listeners: Mutex<usize>,
}

impl Redirector {
    /// Takes charge of a datapath.
    pub fn new(datapath: Datapath) -> Arc<Self> {
        Arc::new(Self {
            names: ArcSwap::from_pointee(datapath.names()),
            datapath: Mutex::new(datapath),
            progress: watch::Sender::default(),
            decisions: broadcast::Sender::new(TRACE_BACKLOG),
            listeners: Mutex::new(0),
        })
    }

    /// How far the datapath is, and a way to wait for it.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// The datapath itself, for questions that take no time.
    pub fn datapath(&self) -> MutexGuard<'_, Datapath> {
        // A panic while it was locked leaves at worst a step undone, which the next plan finds.
        self.datapath.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies every Snapshot, and the last one again when the node's addresses change or something
    /// failed. Runs until the sender of Snapshots is gone.
    pub async fn follow(self: Arc<Self>, mut published: watch::Receiver<Published>) {
        let mut tick = tokio::time::interval(TICK);
        let mut seen = NodeFacts::default();
        loop {
            let fresh = tokio::select! {
                changed = published.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return,
                },
                _ = tick.tick() => false,
            };
            let this = Arc::clone(&self);
            if let Err(error) = tokio::task::spawn_blocking(move || this.refresh()).await {
                error!(%error, "looking at the devices");
            }
            let Some(snapshot) = published.borrow_and_update().snapshot.clone() else {
                continue;
            };
            let facts = match NodeFacts::gather() {
                Ok(facts) => facts,
                Err(error) => {
                    warn!(%error, "the node's addresses are taken as they were");
                    seen.clone()
                }
            };
            let failed = !self.progress.borrow().failures.is_empty();
            if !fresh && facts == seen && !failed {
                continue;
            }
            seen = facts.clone();
            let this = Arc::clone(&self);
            let applied = tokio::task::spawn_blocking(move || this.apply(&snapshot, &facts)).await;
            if let Err(error) = applied {
                error!(%error, "applying a Snapshot");
            }
        }
    }

    /// Attaches to devices that have come.
    fn refresh(&self) {
        if let Err(error) = self.datapath().refresh_devices() {
            warn!(%error, "devices");
        }
    }

    fn apply(&self, snapshot: &Snapshot, facts: &NodeFacts) {
        let mut datapath = self.datapath();
        let failures = match datapath.apply(snapshot, facts) {
            Ok(failures) => failures.iter().map(describe).collect(),
            Err(error) => vec![error.to_string()],
        };
        self.names.store(Arc::new(datapath.names()));
        drop(datapath);
        let progress = Progress {
            applied: snapshot.generation,
            failures,
        };
        self.progress.send_if_modified(|last| {
            for failure in progress
                .failures
                .iter()
                .filter(|f| !last.failures.contains(f))
            {
                error!("datapath: {failure}");
            }
            if last.applied != progress.applied {
                info!(generation = progress.applied, "datapath applied");
            }
            let changed = *last != progress;
            *last = progress;
            changed
        });
    }

    /// Reads the kernel's reports for as long as it is polled.
    pub async fn report(self: Arc<Self>, ring: Ring) -> std::io::Result<()> {
        let handle = |event: &Event| {
            let decision = Decision::new(event, &self.names.load());
            // Nobody listening is no error.
            let _ = self.decisions.send(Arc::new(decision));
        };
        ring.read(handle).await
    }

    /// Listens to decisions from now on. The kernel reports while at least one listens.
    pub fn listen(self: &Arc<Self>) -> Result<Listener, Error> {
        let mut listeners = self
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *listeners == 0 {
            self.datapath().set_tracing(true)?;
        }
        *listeners += 1;
        Ok(Listener {
            decisions: self.decisions.subscribe(),
            redirector: Arc::clone(self),
        })
    }
}

fn describe(failure: &Failure) -> String {
    match &failure.service {
        Some((name, protocol, family)) => {
            format!(
                "Service {name} ({}, {family:?}): {}",
                protocol.lowercase(),
                failure.message
            )
        }
        None => failure.message.clone(),
    }
}

/// Somebody who traces.
#[expect(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Listener {
    decisions: broadcast::Receiver<Arc<Decision>>,
    redirector: Arc<Redirector>,
}

impl Listener {
    /// The next decision. Those that were lost because the listener was slow are passed over;
    /// `None` when the redirector ends.
    pub async fn next(&mut self) -> Option<Arc<Decision>> {
        loop {
            match self.decisions.recv().await {
                Ok(decision) => return Some(decision),
                Err(broadcast::error::RecvError::Lagged(lost)) => {
                    warn!(lost, "a trace was too slow");
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut listeners = self
            .redirector
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *listeners -= 1;
        if *listeners == 0
            && let Err(error) = self.redirector.datapath().set_tracing(false)
        {
            warn!(%error, "the kernel goes on reporting to nobody");
        }
    }
}
