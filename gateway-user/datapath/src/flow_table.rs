//! How large the table of flows is, and how full.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use gateway_common::{
    conntrack::{Record, WAYS, ticks},
    maps::Bucket,
};
use tracing::warn;

use super::{clock, error::Error, sys};

/// One flow for so many bytes of memory. A record takes 114: so at most 0.2 %.
const MEMORY_OF_A_FLOW: u64 = 64 << 10;
/// However little memory there is, and however much.
const FEWEST: u64 = 1 << 15;
const MOST: u64 = 1 << 20;
/// What an option may ask for: 1.9 GB.
const LIMIT: u64 = 1 << 24;

/// Buckets that are read at once.
const BATCH: u32 = 1 << 10;
/// How often is told at most that there was no room.
const PAUSE: Duration = Duration::from_mins(1);

/// How full the table of flows is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flows {
    /// How many it has room for.
    pub places: u64,
    /// How many are recorded and not over.
    pub recorded: u64,
    /// How many of those are established, and keep their place.
    pub established: u64,
    /// Buckets of which all places are kept: new flows that belong there are refused.
    pub full: u64,
}

/// How many buckets a table for so many flows has; without a number, for this machine's memory.
pub(crate) fn buckets(flows: Option<u32>) -> u32 {
    let flows = flows.map_or_else(|| of_memory(memory()), |flows| u64::from(flows).min(LIMIT));
    let buckets = flows.div_ceil(WAYS as u64).max(1).next_power_of_two();
    u32::try_from(buckets).unwrap_or(u32::MAX)
}

/// The greatest power of two that memory allows.
fn of_memory(bytes: u64) -> u64 {
    let flows = (bytes / MEMORY_OF_A_FLOW).clamp(FEWEST, MOST);
    1 << flows.ilog2()
}

/// 0 where it is not known.
fn memory() -> u64 {
    // SAFETY: the kernel fills the structure, of which all zeroes are a value.
    unsafe {
        let mut info: libc::sysinfo = std::mem::zeroed();
        if libc::sysinfo(&raw mut info) != 0 {
            return 0;
        }
        info.totalram.saturating_mul(info.mem_unit.into())
    }
}

/// Reads the pinned table.
///
/// # Errors
/// Fails if the map is not pinned or cannot be read.
pub(crate) fn read(pin_dir: &Path, buckets: u32) -> Result<Flows, Error> {
    let pin = pin_dir.join("conntrack");
    let failed = |source| Error::Link {
        path: pin.clone(),
        source: Box::new(source),
    };
    let map = sys::open(&pin).map_err(failed)?;
    let now = ticks(clock::monotonic()?);
    let mut flows = Flows {
        places: u64::from(buckets) * WAYS as u64,
        ..Flows::default()
    };
    let mut next = None;
    loop {
        let (read, last) = sys::elements::<Bucket>(&map, next, BATCH).map_err(failed)?;
        for bucket in &read {
            flows.count(bucket, now);
        }
        match last {
            Some(last) => next = Some(last),
            None => return Ok(flows),
        }
    }
}

impl Flows {
    fn count(&mut self, bucket: &Bucket, now: u32) {
        let kept = |flow: &&Record| flow.rank(now) >= Record::KEPT;
        let alive = bucket.flows().filter(|flow| !flow.is_over(now)).count();
        let established = bucket.flows().filter(kept).count();
        self.recorded += alive as u64;
        self.established += established as u64;
        self.full += u64::from(established == WAYS);
    }
}

/// Tells when flows have found no room.
#[derive(Debug, Default)]
pub(crate) struct Pressure {
    /// How many have not, as far as is known.
    known: Option<u64>,
    told: Option<Instant>,
}

impl Pressure {
    /// Takes note of how many flows have found no room up to now. Those of before the daemon are not told.
    pub(crate) fn note(&mut self, full: u64) {
        let known = *self.known.get_or_insert(full);
        if full <= known || self.told.is_some_and(|told| told.elapsed() < PAUSE) {
            return;
        }
        warn!(
            flows = full - known,
            "the flow table is full where these flows belong: new ones are refused, or datagrams decided \
             anew (fix: --flow-table, after `nodegate cleanup`; `nodegate status` tells how full it is)"
        );
        self.known = Some(full);
        self.told = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_makes_places() {
        const GB: u64 = 1 << 30;
        for (memory, flows) in [
            (0, 1 << 15),
            (GB, 1 << 15),
            (8 * GB, 1 << 17),
            (16 * GB, 1 << 18),
            (24 * GB, 1 << 18),
            (64 * GB, 1 << 20),
            (1024 * GB, 1 << 20),
        ] {
            assert_eq!(of_memory(memory), flows, "{memory}");
        }
    }

    #[test]
    fn an_option_is_rounded_up() {
        for (flows, expected) in [
            (1, 1),
            (8, 1),
            (9, 2),
            (100_000, 16_384),
            (u32::MAX, 1 << 21),
        ] {
            assert_eq!(buckets(Some(flows)), expected, "{flows}");
        }
        assert!(buckets(None).is_power_of_two());
    }
}
