//! Time as a worker counts it: coarse, and free to read on the request path.

use std::{
    cell::Cell,
    io::Write as _,
    time::{Duration, SystemTime},
};

use httpdate::HttpDate;

/// How long a tick is.
pub(crate) const TICK: Duration = Duration::from_secs(1);

/// A number of ticks, or the time since the worker's start in ticks. It wraps around.
pub(crate) type Tick = u32;

/// A worker's clock. It goes on when the worker says so.
#[derive(Debug)]
pub(crate) struct Clock {
    now: Cell<Tick>,
    /// The value of the header `date`.
    date: Cell<[u8; 29]>,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            now: Cell::new(0),
            date: Cell::new(date()),
        }
    }
}

impl Clock {
    /// The current tick.
    pub(crate) fn now(&self) -> Tick {
        self.now.get()
    }

    /// The time, to the second, as the header `date` says it (RFC 9110, section 5.6.7).
    pub(crate) fn date(&self) -> [u8; 29] {
        self.date.get()
    }

    /// Begins the next tick, and says which it is.
    pub(crate) fn advance(&self) -> Tick {
        let now = self.now.get().wrapping_add(1);
        self.now.set(now);
        self.date.set(date());
        now
    }
}

/// So many ticks make up a time: at least one.
pub(crate) fn ticks(time: Duration) -> Tick {
    let ticks = time.as_secs() / TICK.as_secs();
    Tick::try_from(ticks).unwrap_or(Tick::MAX).max(1)
}

/// The current time as the header `date` says it.
fn date() -> [u8; 29] {
    let mut text = [b' '; 29];
    // The text always has this length, so that writing it doesn't fail.
    let _ = write!(&mut text[..], "{}", HttpDate::from(SystemTime::now()));
    text
}
