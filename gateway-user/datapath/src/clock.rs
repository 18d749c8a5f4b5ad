//! The kernel's clocks, in nanoseconds.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::error::Error;

/// The clock that the kernel programs stamp elements with.
///
/// # Errors
/// Fails if the system does not tell the time.
pub fn monotonic() -> Result<u64, Error> {
    read(ClockId::CLOCK_MONOTONIC)
}

/// A clock that goes on while the machine sleeps, and ends with the maps: when it boots.
pub(crate) fn since_boot() -> Result<u64, Error> {
    read(ClockId::CLOCK_BOOTTIME)
}

fn read(clock: ClockId) -> Result<u64, Error> {
    clock_gettime(clock)
        .map(|time| Duration::from(time).as_nanos() as u64)
        .map_err(|error| Error::Node {
            what: "reading the clock",
            source: error.into(),
        })
}
