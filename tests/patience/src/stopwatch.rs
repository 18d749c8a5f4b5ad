//! How long something takes, and how much of that the machine has taken.

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    delays::{self, Delays},
    factor,
};

/// How long the watcher sleeps at a time.
const NAP: Duration = Duration::from_millis(5);
/// How late a timer is on a machine that does nothing.
const USUAL: Duration = Duration::from_millis(1);

/// Measures on this thread. Who takes part in what is measured is named, and asked for again at the end; who
/// has other work to do meanwhile would excuse too much.
pub struct Stopwatch<'p> {
    processes: Box<dyn Fn() -> Vec<u32> + 'p>,
    begun: Instant,
    theirs: Delays,
    mine: Duration,
    watcher: Watcher,
}

/// What a stopwatch shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lap {
    pub took: Duration,
    /// For how long at most that was because threads waited for a CPU, or all CPUs stood still.
    pub held_up: Duration,
}

/// Something took too long or not long enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untimely {
    lap: Lap,
    expected: Range<Duration>,
}

impl<'p> Stopwatch<'p> {
    /// For what this thread and its children do alone.
    pub fn start() -> Self {
        Self::with(Vec::new)
    }

    /// For what all threads of this process do.
    pub fn of_process() -> Self {
        Self::with(|| vec![std::process::id()])
    }

    /// For what these processes take part in.
    pub fn with(processes: impl Fn() -> Vec<u32> + 'p) -> Self {
        let theirs = delays::of(processes());
        Self {
            processes: Box::new(processes),
            theirs,
            mine: delays::mine(),
            watcher: Watcher::start(),
            begun: Instant::now(),
        }
    }

    /// What it shows now.
    pub fn lap(&self) -> Lap {
        let took = self.begun.elapsed();
        let theirs = delays::since(&self.theirs, &delays::of((self.processes)()));
        let mine = delays::mine().saturating_sub(self.mine);
        let held_up = theirs + mine + self.watcher.stolen();
        Lap { took, held_up }
    }
}

impl fmt::Debug for Stopwatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("Stopwatch");
        fields.field("lap", &self.lap()).finish_non_exhaustive()
    }
}

impl Lap {
    /// Fails unless it took as long as expected: never less, and more only by what the machine took.
    ///
    /// # Errors
    ///
    /// If it did not; the message has what it took and what the machine took.
    pub fn within(&self, expected: Range<Duration>) -> Result<Self, Untimely> {
        let room = expected.end.saturating_sub(expected.start) * factor();
        let most = expected.start + room + self.held_up;
        if (expected.start..most).contains(&self.took) {
            return Ok(*self);
        }
        Err(Untimely {
            lap: *self,
            expected,
        })
    }

    /// Fails if it took longer, except by what the machine took.
    ///
    /// # Errors
    ///
    /// If it took longer; the message has both durations.
    pub fn below(&self, most: Duration) -> Result<Self, Untimely> {
        self.within(Duration::ZERO..most)
    }
}

impl fmt::Display for Untimely {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lap, expected } = self;
        let Lap { took, held_up } = lap;
        write!(
            f,
            "it took {took:?}, of which a busy machine explains {held_up:?}; expected {expected:?}"
        )
    }
}

impl std::error::Error for Untimely {}

/// A thread that finds out for how long nobody ran at all: the hypervisor had other things to do.
struct Watcher {
    stolen: Arc<Stolen>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Stolen {
    over: AtomicBool,
    nanoseconds: std::sync::atomic::AtomicU64,
}

impl Watcher {
    fn start() -> Self {
        let stolen = Arc::new(Stolen::default());
        let shared = Arc::clone(&stolen);
        let thread = thread::spawn(move || watch(&shared));
        Self {
            stolen,
            thread: Some(thread),
        }
    }

    fn stolen(&self) -> Duration {
        Duration::from_nanos(self.stolen.nanoseconds.load(Ordering::Relaxed))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stolen.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It doesn't panic.
            let _ = thread.join();
        }
    }
}

/// What its naps are too long, and not because it waited for a CPU, which each thread counts itself.
fn watch(stolen: &Stolen) {
    let mut waited = delays::own();
    while !stolen.over.load(Ordering::Relaxed) {
        let asleep = Instant::now();
        thread::sleep(NAP);
        let late = asleep.elapsed().saturating_sub(NAP);
        let now = delays::own();
        let unexplained = late.saturating_sub(now.saturating_sub(waited));
        waited = now;
        if unexplained > USUAL {
            let nanoseconds = unexplained.as_nanos() as u64;
            stolen.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn lap(took: u32, held_up: u32) -> Lap {
        Lap {
            took: took * MS,
            held_up: held_up * MS,
        }
    }

    #[test]
    fn too_early_is_never_the_machines_fault() {
        let expected = 2000 * MS..2200 * MS;
        assert!(lap(1999, 5000).within(expected.clone()).is_err());
        assert!(lap(2000, 0).within(expected).is_ok());
    }

    #[test]
    fn too_late_is_only_what_the_machine_does_not_explain() {
        let expected = 2000 * MS..2200 * MS;
        assert!(lap(2300, 200).within(expected.clone()).is_ok());
        let late = lap(2300 + 200 * factor(), 50).within(expected).unwrap_err();
        assert!(late.to_string().contains("explains 50ms"), "{late}");
    }

    #[test]
    fn a_sleep_takes_what_it_takes() {
        let watch = Stopwatch::start();
        thread::sleep(50 * MS);
        watch.lap().within(50 * MS..100 * MS).unwrap();
    }
}
