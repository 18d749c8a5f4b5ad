//! A worker's deadlines. Hardly any of them is ever reached: nearly every request ends long before its
//! deadline. So they are not kept in order: setting a deadline and taking it back is cheap, and all of
//! them are looked through when the earliest may have been reached.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use slab::Slab;
use tokio::{sync::Notify, time};

/// All deadlines are looked through at most so often, and less often if there are many.
const SHORTEST: Duration = Duration::from_millis(1);
/// For each deadline they are looked through so much less often.
const EACH: Duration = Duration::from_micros(1);

/// All deadlines of a worker.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    all: RefCell<Slab<Entry>>,
    /// No deadline is earlier than this. None: no deadline is waited for.
    next: Cell<Option<Instant>>,
    changed: Notify,
}

/// A deadline. Dropped, it is taken back.
#[derive(Debug)]
pub(crate) struct Deadline {
    all: Rc<Deadlines>,
    key: usize,
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    reached: bool,
    waker: Option<Waker>,
}

impl Deadlines {
    /// Sets a deadline, so much from now on.
    pub(crate) fn set(self: &Rc<Self>, after: Duration) -> Deadline {
        let now = Instant::now();
        // A time that is too large for the clock is never reached.
        let at = now
            .checked_add(after)
            .unwrap_or_else(|| now + Duration::from_hours(24 * 365));
        let key = self.all.borrow_mut().insert(Entry {
            at,
            reached: false,
            waker: None,
        });
        if self.next.get().is_none_or(|next| at < next) {
            self.next.set(Some(at));
            self.changed.notify_one();
        }
        Deadline {
            all: Rc::clone(self),
            key,
        }
    }

    /// Wakes the tasks whose deadlines are reached. Never ends.
    pub(crate) async fn watch(&self) {
        loop {
            let Some(next) = self.next.get() else {
                self.changed.notified().await;
                continue;
            };
            tokio::select! {
                () = time::sleep_until(next.into()) => {}
                () = self.changed.notified() => continue,
            }
            let pause = self.look(Instant::now());
            time::sleep(pause).await;
        }
    }

    /// Looks through all deadlines, and says how long to wait before the next look.
    fn look(&self, now: Instant) -> Duration {
        let mut all = self.all.borrow_mut();
        let mut next: Option<Instant> = None;
        for (_, entry) in all.iter_mut().filter(|(_, entry)| !entry.reached) {
            if entry.at <= now {
                entry.reached = true;
                if let Some(waker) = entry.waker.take() {
                    waker.wake();
                }
            } else {
                next = Some(next.map_or(entry.at, |next| next.min(entry.at)));
            }
        }
        self.next.set(next);
        SHORTEST + EACH * u32::try_from(all.len()).unwrap_or(u32::MAX)
    }
}

impl Deadline {
    /// Waits until the deadline is reached.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        let mut all = self.all.all.borrow_mut();
        let entry = &mut all[self.key];
        if entry.reached {
            return Poll::Ready(());
        }
        match &mut entry.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            None => entry.waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.all.all.borrow_mut().remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use patience::Stopwatch;
    use tokio::task::{self, LocalSet};

    use super::*;

    /// Fails unless it takes so long.
    async fn waits(all: &Rc<Deadlines>, milliseconds: u64) {
        let watch = Stopwatch::of_process();
        let after = Duration::from_millis(milliseconds);
        let deadline = all.set(after);
        poll_fn(|cx| deadline.poll(cx)).await;
        let latest = after + Duration::from_millis(500);
        watch.lap().within(after..latest).unwrap();
    }

    #[tokio::test]
    async fn each_is_reached_in_its_time() {
        let set = LocalSet::new();
        set.run_until(async {
            let all = Rc::new(Deadlines::default());
            let watched = Rc::clone(&all);
            task::spawn_local(async move { watched.watch().await });
            let waiting: Vec<_> = [60, 20, 40, 0]
                .map(|milliseconds| {
                    let all = Rc::clone(&all);
                    task::spawn_local(async move { waits(&all, milliseconds).await })
                })
                .into();
            for wait in waiting {
                wait.await.unwrap();
            }
            assert!(all.all.borrow().is_empty());
            // And again after there was none.
            waits(&all, 10).await;
        })
        .await;
    }

    #[test]
    fn those_that_are_taken_back_wake_nobody() {
        let all = Rc::new(Deadlines::default());
        let kept = all.set(Duration::from_secs(2));
        drop(all.set(Duration::from_secs(1)));
        all.look(Instant::now() + Duration::from_millis(1500));
        assert_eq!(all.next.get(), Some(all.all.borrow()[kept.key].at));
        assert!(kept.poll(&Context::from_waker(Waker::noop())).is_pending());
        all.look(Instant::now() + Duration::from_secs(3));
        assert!(kept.poll(&Context::from_waker(Waker::noop())).is_ready());
        assert_eq!(all.next.get(), None);
    }
}
