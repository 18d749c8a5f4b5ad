//! The daemon's sign of life, which outlives it.
//!
//! Traffic flows on while the daemon is away, so that its absence is not noticed; but the maps don't
//! change any more. The map `heartbeat` tells since when, and can be read without the daemon.

use std::time::Duration;

use gateway_common::maps::Heartbeat;

use super::{clock, error::Error};

/// A sign of life of this process, which began at `started`; 0: now.
pub(crate) fn beat(started: u64) -> Result<Heartbeat, Error> {
    let now = clock::since_boot()?;
    Ok(Heartbeat {
        seen: now,
        started: if started == 0 { now } else { started },
        pid: std::process::id(),
        reserved: 0,
    })
}

/// How long ago that was; none if it never was.
pub(crate) fn age(heartbeat: &Heartbeat) -> Result<Option<Duration>, Error> {
    Ok(age_at(heartbeat, clock::since_boot()?))
}

fn age_at(heartbeat: &Heartbeat, now: u64) -> Option<Duration> {
    (heartbeat.seen != 0).then(|| since(now, heartbeat.seen))
}

/// For how long the daemon had been running then.
pub(crate) fn ran(heartbeat: &Heartbeat) -> Duration {
    since(heartbeat.seen, heartbeat.started)
}

fn since(now: u64, then: u64) -> Duration {
    Duration::from_nanos(now.saturating_sub(then))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_that_nobody_wrote_has_no_age() {
        assert_eq!(age(&Heartbeat::default()).unwrap(), None);
    }

    #[test]
    fn a_beat_ages_and_keeps_its_beginning() {
        let first = beat(0).unwrap();
        assert_eq!(first.started, first.seen);
        assert_eq!(first.pid, std::process::id());
        // Later, not earlier: the machine may have booted a minute ago.
        let hour = Duration::from_hours(1);
        let later = first.seen + hour.as_nanos() as u64;
        assert_eq!(age_at(&first, later), Some(hour));
        assert!(age(&first).unwrap().is_some());
        let second = beat(first.started).unwrap();
        assert_eq!(second.started, first.started);
        assert!(second.seen >= first.seen);
        assert_eq!(ran(&second), Duration::from_nanos(second.seen - first.seen));
    }
}
