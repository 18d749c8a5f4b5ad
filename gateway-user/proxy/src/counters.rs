//! Counts of what has become of requests and connections: for each route and each cluster, and by each
//! worker for itself, so that counting is an addition in memory that no other worker touches.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    /// A request that was answered with this status.
    Status(u16),
    /// A connection over TCP that was opened.
    Opened,
    /// A request or connection that failed without a status.
    Failed,
}

/// Counts, summed up over all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests by the class of the answer's status: 1xx to 5xx.
    pub statuses: [u64; 5],
    /// Connections over TCP that were opened.
    pub opened: u64,
    /// Requests and connections that failed without a status.
    pub failed: u64,
}

/// Counts of a route or a cluster, each worker's for itself.
///
/// Most routes of a large configuration are never asked for. There is memory for counts from the first
/// count on.
#[derive(Debug, Default)]
pub(crate) struct Counters(OnceLock<Box<[Slot]>>);

/// Which worker counts, of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkerIndex {
    pub(crate) index: usize,
    pub(crate) count: usize,
}

/// A worker's counts, on a cache line of their own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot([AtomicU64; PLACES]);

const PLACES: usize = 7;
const OPENED: usize = 5;
const FAILED: usize = 6;

impl Counters {
    /// Counts one more.
    pub(crate) fn add(&self, worker: WorkerIndex, counted: Counted) {
        let slots = self
            .0
            .get_or_init(|| (0..worker.count).map(|_| Slot::default()).collect());
        let Some(Slot(places)) = slots.get(worker.index) else {
            return;
        };
        // Only this worker writes here: a load and a store are enough, and cheaper than an atomic
        // addition.
        let place = &places[counted.place()];
        place.store(place.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// The sum over all workers.
    pub(crate) fn sum(&self) -> Counts {
        let mut counts = Counts::default();
        for Slot(places) in self.0.get().into_iter().flatten() {
            let at = |place: usize| places[place].load(Ordering::Relaxed);
            for (place, status) in counts.statuses.iter_mut().enumerate() {
                *status += at(place);
            }
            counts.opened += at(OPENED);
            counts.failed += at(FAILED);
        }
        counts
    }
}

impl Counted {
    fn place(self) -> usize {
        match self {
            Self::Status(status) => usize::from((status / 100).clamp(1, 5)) - 1,
            Self::Opened => OPENED,
            Self::Failed => FAILED,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    #[test]
    fn each_worker_counts_for_itself_and_the_sum_is_of_all() {
        let counters = Arc::new(Counters::default());
        assert_eq!(counters.sum(), Counts::default());
        let workers: Vec<_> = (0..4)
            .map(|index| {
                let counters = Arc::clone(&counters);
                thread::spawn(move || {
                    let worker = WorkerIndex { index, count: 4 };
                    for status in [200, 204, 301, 404, 503] {
                        counters.add(worker, Counted::Status(status));
                    }
                    counters.add(worker, Counted::Failed);
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        let wanted = Counts {
            statuses: [0, 8, 4, 4, 4],
            opened: 0,
            failed: 4,
        };
        assert_eq!(counters.sum(), wanted);
    }
}
