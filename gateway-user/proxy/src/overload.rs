//! What keeps the proxy serving when clients want more than it has: new work is refused before work that has been
//! accepted starves.
//!
//! Descriptors belong to the whole process, and so does what is counted here. The kernel gives the lowest number
//! that is free (open(2)): a socket with a high number says that as many are open.

pub(crate) mod memory;

use std::{
    fmt,
    os::fd::{AsFd, AsRawFd as _},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use nix::sys::resource::{Resource, getrlimit};

use crate::options::{ConnectionLimits, PortLimit};

/// Of the descriptors that the process may have, so many percent are for clients and endpoints; what is left
/// takes in new clients, to be told at once, and serves probes, files and the control side.
const FOR_ENDPOINTS: u64 = 90;
const FOR_CLIENTS: u64 = 95;

/// The log says the same once in so many seconds, however often it happens.
const QUIET: u64 = 10;

/// Why something is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A client's connection: there are as many as there may be.
    Connections,
    /// A client's connection: the process has hardly a descriptor left.
    Descriptors,
    /// A client's connection: the process takes nearly all the memory that it may.
    Memory,
    /// A request, or a connection that is passed on: there is hardly a descriptor left for its endpoint.
    EndpointDescriptors,
    /// A client's connection over HTTP/2: the client resets its requests before they are answered.
    Resets,
    /// A client's connection over HTTP/2: it sends hardly anything but what gets nobody anywhere.
    Floods,
    /// A client's connection over HTTP/2 whose many requests make no progress, while there is hardly a descriptor
    /// left for others'.
    Stalled,
    /// A mirror's copy of a request: its body is too large to be kept.
    Copies,
}

/// How often that has been, and when the log last said so.
struct Count {
    refused: AtomicU64,
    told: AtomicU64,
}

static COUNTS: [Count; Refusal::ALL.len()] = [const {
    Count {
        refused: AtomicU64::new(0),
        told: AtomicU64::new(0),
    }
}; Refusal::ALL.len()];

/// When descriptors were last scarce, in seconds since 1970.
static LAST_SCARCE: AtomicU64 = AtomicU64::new(0);

/// For so many seconds after that they count as scarce.
const LATELY: u64 = 2;

/// Connections of clients that are open.
static CLIENTS: AtomicUsize = AtomicUsize::new(0);

/// A client's connection among those that are open, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    /// How many there are to its port, where that is limited.
    of_port: Option<Arc<AtomicUsize>>,
}

// === impl Refusal ===

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Connections,
        Self::Descriptors,
        Self::Memory,
        Self::EndpointDescriptors,
        Self::Resets,
        Self::Floods,
        Self::Stalled,
        Self::Copies,
    ];

    /// The name in counters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Descriptors => "descriptors",
            Self::Memory => "memory",
            Self::EndpointDescriptors => "endpoint-descriptors",
            Self::Resets => "resets",
            Self::Floods => "floods",
            Self::Stalled => "stalled",
            Self::Copies => "copies",
        }
    }

    /// How often that has been since the process began.
    pub fn count(self) -> u64 {
        COUNTS[self as usize].refused.load(Relaxed)
    }

    /// Counts it, and says so if it hasn't been said lately.
    pub(crate) fn note(self) {
        let Count { refused, told } = &COUNTS[self as usize];
        let count = refused.fetch_add(1, Relaxed) + 1;
        let now = seconds();
        if matches!(self, Self::Descriptors | Self::EndpointDescriptors) {
            LAST_SCARCE.store(now, Relaxed);
        }
        let before = told.load(Relaxed);
        let is_due = now.saturating_sub(before) >= QUIET;
        if is_due && told.compare_exchange(before, now, Relaxed, Relaxed).is_ok() {
            tracing::warn!(count, "{self}");
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connections => {
                "clients are refused: there are as many connections as --max-connections allows"
            }
            Self::Descriptors => {
                "clients are refused: hardly a file descriptor is left (fix: raise the limit of open files)"
            }
            Self::Memory => {
                "clients are refused: hardly any memory is left (fix: allow the container or --max-memory more)"
            }
            Self::EndpointDescriptors => {
                "requests are refused: hardly a file descriptor is left for endpoints (fix: raise the limit of \
                 open files)"
            }
            Self::Resets => {
                "connections are ended on which clients reset most of their requests before they are answered"
            }
            Self::Floods => {
                "connections are ended on which clients send hardly anything but control frames, or heads that are \
                 refused"
            }
            Self::Stalled => {
                "connections are ended whose many requests make no progress, since others have no descriptors"
            }
            Self::Copies => {
                "mirrors get no copies of requests with a body over 1 MiB: it is not kept until its end"
            }
        })
    }
}

/// Whether those must go who hold much: somebody has been refused in the last seconds because descriptors are
/// scarce, or memory is.
pub(crate) fn is_pressing() -> bool {
    if memory::is_scarce() {
        return true;
    }
    let last = LAST_SCARCE.load(Relaxed);
    seconds().saturating_sub(last) <= LATELY
}

fn seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

/// Admits a client's connection to a port, or says why not.
pub(crate) fn admit(
    stream: impl AsFd,
    port: u16,
    limits: &ConnectionLimits,
) -> Result<Place, Refusal> {
    if is_scarce(stream, FOR_CLIENTS) {
        return Err(Refusal::Descriptors);
    }
    if memory::is_scarce() {
        return Err(Refusal::Memory);
    }
    let of_port = limits.of_port(port);
    let place = Place::take(of_port);
    let are_too_many = limits.all.is_some_and(|most| CLIENTS.load(Relaxed) > most);
    if are_too_many || of_port.is_some_and(PortLimit::is_exceeded) {
        return Err(Refusal::Connections);
    }
    Ok(place)
}

/// Whether a connection to an endpoint is one too many.
pub(crate) fn is_too_many(stream: impl AsFd) -> bool {
    is_scarce(stream, FOR_ENDPOINTS)
}

fn is_scarce(stream: impl AsFd, percent: u64) -> bool {
    static LIMIT: OnceLock<u64> = OnceLock::new();
    // Without a limit that can be read there is none to keep.
    let limit =
        *LIMIT.get_or_init(|| getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |it| it.0));
    let number = stream.as_fd().as_raw_fd().unsigned_abs();
    is_above(number.into(), percent, limit)
}

const fn is_above(number: u64, percent: u64, limit: u64) -> bool {
    number >= limit / 100 * percent + limit % 100 * percent / 100
}

// === impl Place ===

impl Place {
    fn take(of_port: Option<&PortLimit>) -> Self {
        CLIENTS.fetch_add(1, Relaxed);
        let of_port = of_port.map(|limit| Arc::clone(&limit.open));
        if let Some(open) = &of_port {
            open.fetch_add(1, Relaxed);
        }
        Self { of_port }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        CLIENTS.fetch_sub(1, Relaxed);
        if let Some(open) = &self.of_port {
            open.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_descriptors_is_kept() {
        for (number, limit, endpoints, clients) in [
            (0, 100, false, false),
            (89, 100, false, false),
            (90, 100, true, false),
            (95, 100, true, true),
            (233, 256, true, false),
            (u64::from(u32::MAX), u64::MAX, false, false),
        ] {
            let found = [FOR_ENDPOINTS, FOR_CLIENTS].map(|it| is_above(number, it, limit));
            assert_eq!(found, [endpoints, clients], "{number} of {limit}");
        }
    }
}
