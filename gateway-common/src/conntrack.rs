//! The table of translated flows: one record for each, found by the packets of both directions.
//!
//! What a client's packets and the backend's answers have in common are the client's address and port.
//! They say in which [`Bucket`] of the array `conntrack` a flow is; its other end, which of the bucket's
//! ways has it. So a new flow costs one write, and whatever else the client has from the same port is
//! next to it: flows whose replies could not be told apart are seen at once.
//!
//! An array of buckets and not an LRU hash map, whose insertions cost 150 to 300 ns each, and two of
//! which would be needed. Nothing has to be collected either: a record that is over is one wherever it
//! is looked at. In a full bucket a new flow takes the place of one that is over, then of one that was
//! never established; so a flood of openings displaces only itself.
//!
//! - [`state`]: what a record knows of its flow, and what a packet changes in that;
//! - [`shared`]: a bucket that other CPUs use at the same time.

use crate::{Address, halves};

pub mod shared;
pub mod state;

pub use shared::{Collides, Found, Opened, Search, Sender, Shared};
pub use state::{Answered, Heard, Kind, Said, Side, State, ticks};

/// Flows that one bucket holds.
pub const WAYS: usize = 8;

/// Capacity of `conntrack` where nothing else is said: buckets, of [`WAYS`] flows each. A power of two.
pub const BUCKETS: u32 = 1 << 15;

/// The bits of a client's port that say which bucket its flows are in. Those above are free to give a
/// flow another port (see [`Shared::open`]).
const PORT_BITS: u16 = 0x3fff;

/// A translated flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Who opened it.
    pub client: Address,
    /// Where the client sends.
    pub frontend: Address,
    /// Where that goes.
    pub backend: Address,
    /// Host byte order.
    pub client_port: u16,
    /// Host byte order.
    pub frontend_port: u16,
    /// Host byte order.
    pub backend_port: u16,
    /// The client's port as the backend sees it: another one than `client_port` where that one has
    /// a flow to the same backend already.
    pub source_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// A set of the `FLAG_…` bits.
    pub flags: u8,
    /// What the client has said: a set of the bits from [`Record::CLOSED`] on, and in the upper half
    /// one more than the window scale that it has offered (RFC 7323 §2.2), or 0.
    pub client_state: u8,
    /// What the backend has said; in the upper half its window scale likewise, and before it has answered
    /// the ports that were tried in vain, a bit for each value of their upper two bits.
    pub backend_state: u8,
    /// [`Service::id`](crate::maps::Service::id) of the Service that made it; 0 for none.
    pub service: u32,
    /// Key of the backend in `backends`; 0 for none.
    pub backend_id: u32,
    /// What the flow was opened with: the client's initial sequence number (TCP), its initiate tag
    /// (SCTP).
    pub opening: u32,
    /// The number of a later opening from the same port, which the backend has been asked about.
    pub question: u32,
    /// When it was asked: see [`state::ticks`]; 0: never.
    pub asked: u32,
    /// The client's numbers.
    pub ahead: Side,
    /// The backend's numbers.
    pub back: Side,
}

/// Records whose client ports lead to the same place.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Odd while somebody changes the rest; counts the changes twice.
    pub version: u64,
    /// What each way holds: a part of its place's hash, or 0 for nothing.
    pub tags: [u8; WAYS],
    /// The flows.
    pub records: [Record; WAYS],
}

/// The ends of a packet of a flow, by role.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client's address.
    pub client: Address,
    /// The frontend's or the backend's.
    pub peer: Address,
    /// Host byte order.
    pub client_port: u16,
    /// Host byte order.
    pub peer_port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

/// Where to look for a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index in `conntrack`.
    pub bucket: u32,
    /// Which ways are worth a closer look; never 0.
    pub tag: u8,
}

impl Ends {
    /// Where the flow is, from either direction, in a table of so many buckets (a power of two).
    #[inline(always)]
    pub const fn place(&self, seed: u64, buckets: u32) -> Place {
        place(seed, &self.client, self.client_port, self.protocol, buckets)
    }
}

/// Multiplies and shifts (as MurmurHash3's finalizer); the seed keeps strangers from filling a bucket
/// of their choice.
#[inline(always)]
const fn place(seed: u64, client: &Address, port: u16, protocol: u8, buckets: u32) -> Place {
    let (head, tail) = halves(client);
    let rest = (port & PORT_BITS) as u64 | (protocol as u64) << 16;
    let mut hash = (seed ^ head).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 32) ^ tail).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash = (hash ^ (hash >> 32) ^ rest).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^= hash >> 29;
    Place {
        bucket: hash as u32 & buckets.wrapping_sub(1),
        tag: (hash >> 56) as u8 | 1,
    }
}

#[inline(always)]
const fn same(one: &Address, other: &Address) -> bool {
    difference(one, other) == 0
}

/// 0 if there is none.
#[inline(always)]
const fn difference(one: &Address, other: &Address) -> u64 {
    let (one, other) = (halves(one), halves(other));
    (one.0 ^ other.0) | (one.1 ^ other.1)
}

impl Record {
    /// Netfilter is asked to masquerade the flow.
    pub const FLAG_MASQUERADE: u8 = 1;
    /// The flow is for no Service: its client goes to an endpoint itself, from a port that it uses for
    /// a flow through a Service to the same endpoint, too. Only its port is another one.
    pub const FLAG_DIRECT: u8 = 2;
    /// The flow began on this node, and its other end answers from outside: nothing is translated.
    pub const FLAG_OURS: u8 = 4;

    /// In a side's state: its FIN went by, and fitted.
    pub const CLOSED: u8 = 1;
    /// In a side's state: its RST went by, and fitted. The connection is over.
    pub const RESET: u8 = 2;
    /// In a side's state: it has answered. The backend: the client's opening; the client: the backend.
    pub const SPOKE: u8 = 4;
    /// In the client's state: it has opened again where there is a connection, and again.
    pub const INSISTS: u8 = 8;
    /// In the backend's state: it has a connection of the client's from the same port, and takes the
    /// packets of this flow for that one's.
    pub const OCCUPIED: u8 = 8;

    /// No flow.
    pub const EMPTY: Self = Self {
        client: [0; 16],
        frontend: [0; 16],
        backend: [0; 16],
        client_port: 0,
        frontend_port: 0,
        backend_port: 0,
        source_port: 0,
        protocol: 0,
        flags: 0,
        client_state: 0,
        backend_state: 0,
        service: 0,
        backend_id: 0,
        opening: 0,
        question: 0,
        asked: 0,
        ahead: Side::SILENT,
        back: Side::SILENT,
    };

    /// Whether its frontend is a Service's: what becomes of it depends on that one's backends.
    #[inline(always)]
    pub const fn is_of_service(&self) -> bool {
        self.flags & (Self::FLAG_DIRECT | Self::FLAG_OURS) == 0
    }

    #[inline(always)]
    const fn is_from(&self, ends: &Ends) -> bool {
        self.client_port == ends.client_port
            && self.frontend_port == ends.peer_port
            && self.protocol == ends.protocol
            && same(&self.client, &ends.client)
            && same(&self.frontend, &ends.peer)
    }

    #[inline(always)]
    const fn is_answered_by(&self, ends: &Ends) -> bool {
        self.source_port == ends.client_port
            && self.backend_port == ends.peer_port
            && self.protocol == ends.protocol
            && same(&self.client, &ends.client)
            && same(&self.backend, &ends.peer)
    }
}

impl Bucket {
    /// The records that the bucket holds.
    pub fn flows(&self) -> impl Iterator<Item = &Record> {
        let held = self.tags.iter().zip(&self.records);
        held.filter(|(tag, _)| **tag != 0).map(|(_, record)| record)
    }
}

#[cfg(test)]
mod tests;
