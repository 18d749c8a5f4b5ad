//! Keeps the maps in step with the Snapshots and the node, and hands out the kernel's reports.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use gateway_common::event::{Event, TraceFilter};
use nodegate_model::{Published, Snapshot};
use nodegate_programming::{filter::Filter, identity::PortKey, node::NodeFacts};
use serde::Serialize;
use tokio::sync::{broadcast, watch};
use tracing::{error, info, warn};

use super::{
    datapath::Datapath,
    error::{Error, Failure},
    events::Ring,
    node,
    report::Report,
};

/// How often the node's addresses are looked at, what failed is tried again, and a sign of life is given.
const TICK: Duration = Duration::from_secs(2);
/// Decisions that a slow reader of the trace may be behind before it loses some.
const TRACE_BACKLOG: usize = 4096;

type Names = BTreeMap<u32, PortKey>;
/// The filters of the traces. Locked before the datapath, where both are.
type Traces = BTreeMap<u64, Filter>;

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
    reports: broadcast::Sender<Told>,
    traces: Mutex<Traces>,
}

impl Redirector {
    /// Takes charge of a datapath.
    pub fn new(datapath: Datapath) -> Arc<Self> {
        Arc::new(Self {
            names: ArcSwap::new(datapath.names()),
            datapath: Mutex::new(datapath),
            progress: watch::Sender::default(),
            reports: broadcast::Sender::new(TRACE_BACKLOG),
            traces: Mutex::default(),
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
            tokio::select! {
                changed = published.changed() => if changed.is_err() {
                    return;
                },
                _ = tick.tick() => {}
            }
            let this = Arc::clone(&self);
            let altered = match tokio::task::spawn_blocking(move || this.refresh()).await {
                Ok(altered) => altered,
                Err(error) => {
                    error!(%error, "looking at the devices");
                    false
                }
            };
            let Some(snapshot) = published.borrow_and_update().snapshot.clone() else {
                continue;
            };
            let facts = match node::facts() {
                Ok(facts) => facts,
                Err(error) => {
                    warn!(%error, "the node's addresses are taken as they were");
                    seen.clone()
                }
            };
            // By its number, and not by what has woken us: it may have come since.
            let settled = {
                let progress = self.progress.borrow();
                progress.applied == snapshot.generation && progress.failures.is_empty()
            };
            if settled && facts == seen && !altered {
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

    /// Attaches to devices that have come, says that the daemon is alive, and looks after what is pinned.
    /// Says whether the Snapshot has to be applied again.
    fn refresh(&self) -> bool {
        let mut datapath = self.datapath();
        if let Err(error) = datapath.refresh_devices() {
            warn!(%error, "devices");
        }
        if let Err(error) = datapath.beat() {
            warn!(%error, "no sign of life");
        }
        datapath.tell_pressure();
        datapath.look_after().unwrap_or_else(|error| {
            warn!(%error, "what is pinned cannot be looked after");
            false
        })
    }

    fn apply(&self, snapshot: &Arc<Snapshot>, facts: &NodeFacts) {
        let mut failures = {
            let mut datapath = self.datapath();
            let programmed = datapath.program(snapshot, facts);
            self.names.store(datapath.names());
            match programmed {
                Ok(failures) => failures.iter().map(describe).collect(),
                Err(error) => vec![error.to_string()],
            }
        };
        self.renew_filters();
        // What is left to do takes longer than all this has. Packets go by the Snapshot from now on; only
        // sockets that are connected to a backend that is gone have to wait for the rest.
        if !self.datapath().has_stale_sockets() {
            self.tell(snapshot.generation, &failures);
        }
        let garbage = {
            let mut datapath = self.datapath();
            let garbage = datapath.settle(snapshot);
            self.names.store(datapath.names());
            garbage
        };
        failures.extend(garbage.as_ref().map(describe));
        self.tell(snapshot.generation, &failures);
    }

    fn tell(&self, applied: u64, failures: &[String]) {
        let progress = Progress {
            applied,
            failures: failures.to_vec(),
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
    ///
    /// # Errors
    /// Fails if the ring cannot be waited on.
    pub async fn report(self: Arc<Self>, ring: Ring) -> std::io::Result<()> {
        let mut lost = self.datapath().lost_events();
        let handle = |event: &Event| {
            let report = Report::new(*event, &self.names.load());
            // Nobody listening is no error.
            let _ = self.reports.send(Told::Report(Arc::new(report)));
        };
        let emptied = || {
            let now = self.datapath().lost_events();
            if now > lost {
                let _ = self.reports.send(Told::Lost(now - lost));
            }
            lost = now;
        };
        ring.read(handle, emptied).await
    }

    /// Listens to decisions from now on. The kernel reports while at least one listens, and what
    /// somebody who does wants to see.
    ///
    /// # Errors
    /// Fails if the kernel cannot be told what is wanted.
    pub fn listen(self: &Arc<Self>, filter: Filter) -> Result<Listener, Error> {
        let reports = self.reports.subscribe();
        let mut traces = self.traces();
        let number = traces.last_key_value().map_or(0, |(last, _)| last + 1);
        let mut datapath = self.datapath();
        datapath.set_tracing(traces.values().chain([&filter]))?;
        traces.insert(number, filter.clone());
        Ok(Listener {
            reports,
            redirector: Arc::clone(self),
            number,
            compiled: filter.compile(datapath.host_netns()),
            filter,
        })
    }

    fn traces(&self) -> MutexGuard<'_, Traces> {
        self.traces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the kernel the numbers that Services have now.
    fn renew_filters(&self) {
        let traces = self.traces();
        if traces.values().all(|filter| filter.service.is_none()) {
            return;
        }
        if let Err(error) = self.datapath().set_tracing(traces.values()) {
            warn!(%error, "traces go by Services as they were");
        }
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

/// What a listener hears.
#[derive(Clone, Debug)]
pub enum Heard {
    /// Of a decision.
    Report(Arc<Report>),
    /// So many reports were lost, wanted or not: the kernel's ring, or the listener's backlog, was full.
    Lost(u64),
}

/// What all listeners are told.
#[derive(Clone, Debug)]
enum Told {
    Report(Arc<Report>),
    /// By the kernel, whose ring was full.
    Lost(u64),
}

/// A client of the trace.
#[expect(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Listener {
    reports: broadcast::Receiver<Told>,
    redirector: Arc<Redirector>,
    number: u64,
    filter: Filter,
    compiled: TraceFilter,
}

impl Listener {
    /// The next report that is wanted, or how many reports were lost before it; `None` when the
    /// redirector ends.
    pub async fn next(&mut self) -> Option<Heard> {
        loop {
            match self.reports.recv().await {
                Ok(Told::Report(report)) => {
                    // It may be for another listener.
                    if self.wants(&report) {
                        return Some(Heard::Report(report));
                    }
                }
                Ok(Told::Lost(lost)) | Err(broadcast::error::RecvError::Lagged(lost)) => {
                    return Some(Heard::Lost(lost));
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }

    fn wants(&self, report: &Report) -> bool {
        let Report { event, decision } = report;
        self.filter.matches(&self.compiled, event, decision)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut traces = self.redirector.traces();
        traces.remove(&self.number);
        let changed = self.redirector.datapath().set_tracing(traces.values());
        if let Err(error) = changed {
            warn!(%error, "the kernel goes on reporting to nobody");
        }
    }
}
