//! The table of translated flows: one record for each, found by the packets of both directions.
//!
//! What a client's packets and the backend's answers have in common are the client's address and port.
//! They say in which [`Bucket`] of the array `conntrack` a flow is; its other end, which of the bucket's
//! ways has it. So a new flow costs one write, and whatever else the client has from the same port is
//! next to it: flows whose replies could not be told apart are seen at once.
//!
//! An array of buckets and not an LRU hash map, whose insertions cost 150 to 300 ns each, and two of
//! which would be needed. Nothing has to be collected either: a record that is over is one wherever it
//! is looked at. A full bucket forgets first what has ended or was never answered, then what was
//! silent for longest; so a flood of connections that nobody answers displaces only itself.
//!
//! Packets of known flows take no lock: a bucket has a version, which is odd while somebody changes it
//! and another one afterwards, so that whoever has read it knows whether it was one state. Whoever
//! changes it owns it meanwhile. `bpf_spin_lock` for both costs 40 ns each time, most of it for
//! turning interrupts off, which classifiers don't need: they run with softirqs off and are not
//! interrupted by each other.

use crate::{Address, UDP, atomic, halves};

/// Flows that one bucket holds.
pub const WAYS: usize = 8;

/// Capacity of `conntrack`: buckets, of [`WAYS`] flows each. A power of two.
pub const BUCKETS: u32 = 1 << 15;

/// The bits of a client's port that say which bucket its flows are in. Those above are free to give a
/// flow another port (see [`Shared::open`]).
const PORT_BITS: u16 = 0x3fff;

/// Ports below are never given: programs take a client with such a port for a privileged one.
const FIRST_FREE_PORT: u16 = 1024;

const SECOND: u64 = 1_000_000_000;

/// After a FIN or RST, and for an opening that nobody answers
/// (net.netfilter.nf_conntrack_tcp_timeout_fin_wait, …_time_wait and …_syn_sent).
const CLOSING: u64 = 120 * SECOND;
/// TCP and SCTP associations (net.netfilter.nf_conntrack_tcp_timeout_established).
const ESTABLISHED: u64 = 432_000 * SECOND;
/// Datagrams (net.netfilter.nf_conntrack_udp_timeout_stream; a little more, so that netfilter's entry
/// goes first).
const DATAGRAMS: u64 = 180 * SECOND;
/// A flow of datagrams that pauses for so long may make way for another one with the same replies.
const DATAGRAM_PAUSE: u64 = SECOND;
/// After a FIN of each side: the last ACK is under way.
const LAST_ACK: u64 = SECOND;
/// After a FIN of one side, or a RST: the other may have more to say.
const HALF_CLOSED: u64 = 5 * SECOND;
/// Datagrams, of which nobody says that they are the last.
const LAST_DATAGRAM: u64 = 10 * SECOND;

/// How often is tried what its owner is in the way of. That one needs 100 ns.
const PATIENCE: u32 = 4;

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
    /// a flow to the same backend already, through another frontend.
    pub source_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// A set of the `FLAG_…` bits.
    pub flags: u8,
    /// What the client has said: a set of the `CLOSED` and `RESET` bits.
    pub client_state: u8,
    /// What the backend has said.
    pub backend_state: u8,
    /// [`Service::id`](crate::maps::Service::id) of the Service that made it.
    pub service: u32,
    /// Key of the backend in `backends`.
    pub backend_id: u32,
    /// Zero.
    pub reserved: u32,
    /// When the client last sent something: `CLOCK_MONOTONIC`, nanoseconds.
    pub client_seen: u64,
    /// When the backend last did; 0: never.
    pub backend_seen: u64,
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

/// What is known of a packet's flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing, and nothing of its client's port.
    Nothing,
    /// Other flows of the client's port, or of ones that share its bucket.
    Others,
    /// A record of an earlier flow.
    Stale,
    /// A record.
    Known,
    /// Others were changing the bucket all the time.
    Busy,
}

/// What a look into a bucket has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// Nothing of the client's port.
    Nothing,
    /// Other flows.
    Others,
    /// The flow, in this way.
    Way(usize),
    /// Others were changing the bucket all the time.
    Busy,
}

/// What became of a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It is recorded.
    Recorded,
    /// It is recorded, in place of a flow that was alive.
    Displaced,
    /// Its replies could not be told from those of others, whatever port it is given.
    Clash,
    /// Others were changing the bucket all the time.
    Busy,
}

impl Ends {
    /// Where the flow is, from either direction.
    #[inline(always)]
    pub const fn place(&self, seed: u64) -> Place {
        place(seed, &self.client, self.client_port, self.protocol)
    }
}

/// Multiplies and shifts (as MurmurHash3's finalizer); the seed keeps strangers from filling a bucket
/// of their choice.
#[inline(always)]
const fn place(seed: u64, client: &Address, port: u16, protocol: u8) -> Place {
    let (head, tail) = halves(client);
    let rest = (port & PORT_BITS) as u64 | (protocol as u64) << 16;
    let mut hash = (seed ^ head).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 32) ^ tail).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash = (hash ^ (hash >> 32) ^ rest).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^= hash >> 29;
    Place {
        bucket: hash as u32 & (BUCKETS - 1),
        tag: (hash >> 56) as u8 | 1,
    }
}

#[inline(always)]
const fn same(one: &Address, other: &Address) -> bool {
    let (one, other) = (halves(one), halves(other));
    one.0 == other.0 && one.1 == other.1
}

impl Record {
    /// Netfilter is asked to masquerade the flow.
    pub const FLAG_MASQUERADE: u8 = 1;

    /// In a side's state: its FIN or RST went by. After the client's, its next SYN from the same port
    /// is a new connection.
    pub const CLOSED: u8 = 1;
    /// In a side's state: its RST went by. The connection is over, and the other side will not say so.
    pub const RESET: u8 = 2;

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

    /// When somebody last sent something.
    #[inline(always)]
    const fn last_seen(&self) -> u64 {
        if self.client_seen > self.backend_seen {
            self.client_seen
        } else {
            self.backend_seen
        }
    }

    /// For how long nobody has; the clocks of two CPUs may differ a little.
    #[inline(always)]
    const fn silent(&self, now: u64) -> u64 {
        now.saturating_sub(self.last_seen())
    }

    /// Whether a packet that may open a flow belongs to this one (a retransmission, or the next
    /// datagram) rather than to a new one from the same port.
    #[inline(always)]
    const fn lasts(&self, now: u64) -> bool {
        self.client_state & Self::CLOSED == 0
            && (self.protocol != UDP || self.silent(now) <= DATAGRAMS)
    }

    /// Whether the flow is over at `now` (`CLOCK_MONOTONIC`, nanoseconds).
    #[inline(always)]
    pub const fn is_over(&self, now: u64) -> bool {
        let patience = if self.protocol == UDP {
            DATAGRAMS
        } else if self.is_established() {
            ESTABLISHED
        } else {
            CLOSING
        };
        self.silent(now) > patience
    }

    /// Whether nothing more can come of it: its replies may be another flow's from now on.
    #[inline(always)]
    const fn makes_way(&self, now: u64) -> bool {
        (self.client_state | self.backend_state) & Self::RESET != 0
            || self.client_state & self.backend_state & Self::CLOSED != 0
            || self.is_over(now)
    }

    /// Whether both ends have spoken and neither has said that it is done.
    #[inline(always)]
    const fn is_established(&self) -> bool {
        self.backend_seen != 0 && self.client_state == 0 && self.backend_state == 0
    }

    /// Whether the flow seems to have ended at `now`: sooner than [`Self::is_over`], for who waits
    /// for it.
    pub const fn has_ended(&self, now: u64) -> bool {
        let silent = self.silent(now);
        if self.protocol == UDP {
            return silent > LAST_DATAGRAM;
        }
        match (self.client_state, self.backend_state) {
            (0, 0) => self.is_over(now),
            (0, _) | (_, 0) => silent > HALF_CLOSED,
            _ => silent > LAST_ACK,
        }
    }
}

impl Bucket {
    /// The records that the bucket holds.
    pub fn flows(&self) -> impl Iterator<Item = &Record> {
        let held = self.tags.iter().zip(&self.records);
        held.filter(|(tag, _)| **tag != 0).map(|(_, record)| record)
    }
}

/// Which end of a flow a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Its other end is the frontend.
    Client,
    /// Seen before its translation.
    Backend,
}

/// A bucket that other CPUs use at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Shared(*mut Bucket);

impl Shared {
    /// # Safety
    /// The bucket must stay, and be used through `Shared` only.
    #[inline(always)]
    pub const unsafe fn new(bucket: *mut Bucket) -> Self {
        Self(bucket)
    }

    /// The tags as one number, the first way's lowest.
    #[expect(
        clippy::cast_ptr_alignment,
        reason = "they come after a number of 8 bytes"
    )]
    #[inline(always)]
    fn tags(self) -> u64 {
        // SAFETY: within the bucket, and aligned; see `new`.
        let tags = unsafe { (&raw const (*self.0).tags).cast::<u64>().read_volatile() };
        u64::from_le(tags)
    }

    #[inline(always)]
    fn set_tag(self, way: usize, tag: u8) {
        // SAFETY: within the bucket: a way is less than `WAYS`; see `new`.
        unsafe {
            (&raw mut (*self.0).tags)
                .cast::<u8>()
                .add(way & (WAYS - 1))
                .write_volatile(tag);
        }
    }

    #[inline(always)]
    fn record(self, way: usize) -> *mut Record {
        // SAFETY: within the bucket, see `new`.
        unsafe {
            (&raw mut (*self.0).records)
                .cast::<Record>()
                .add(way & (WAYS - 1))
        }
    }

    /// Adds to the version, and gives it as it was before. Nothing passes this.
    #[inline(always)]
    fn version(self, addend: u64) -> u64 {
        // SAFETY: within the bucket, see `new`.
        unsafe { atomic::fetch_add(&raw mut (*self.0).version, addend) }
    }

    /// Finds the record of a packet's flow and copies it. Notes nothing.
    #[inline(always)]
    pub fn peek(self, tag: u8, ends: &Ends, sender: Sender, copy: &mut Record) -> Search {
        if bytes_that_are(self.tags(), tag) == 0 {
            return Search::Nothing;
        }
        for _ in 0..PATIENCE {
            let before = self.version(0);
            if before & 1 != 0 {
                continue;
            }
            let way = self.search(tag, ends, sender, copy);
            if self.version(0) == before {
                return way.map_or(Search::Others, Search::Way);
            }
        }
        Search::Busy
    }

    #[inline(always)]
    fn search(self, tag: u8, ends: &Ends, sender: Sender, copy: &mut Record) -> Option<usize> {
        let mut candidates = bytes_that_are(self.tags(), tag);
        for _ in 0..WAYS {
            if candidates == 0 {
                break;
            }
            let way = lowest(candidates);
            // SAFETY: of a record in the bucket; what is read while another CPU writes is thrown away.
            unsafe { transfer(self.record(way), copy) };
            if copy.is_of(ends, sender) {
                return Some(way);
            }
            candidates &= candidates - 1;
        }
        None
    }

    /// Follows a packet: notes it and gives its flow's record as it was before. `opens` says that the
    /// packet may be a flow's first one; `state` what its client has said with it.
    #[inline(always)]
    pub fn follow(
        self,
        tag: u8,
        ends: &Ends,
        (opens, state): (bool, u8),
        now: u64,
        copy: &mut Record,
    ) -> Found {
        let record = match self.peek(tag, ends, Sender::Client, copy) {
            Search::Way(way) => self.record(way),
            Search::Others => return Found::Others,
            Search::Nothing => return Found::Nothing,
            Search::Busy => return Found::Busy,
        };
        if opens && !copy.lasts(now) {
            return Found::Stale;
        }
        // SAFETY: of a record in the bucket, see `new`. Should another CPU give it to another flow
        // meanwhile, that one is taken for younger, or for closed by its client.
        unsafe {
            (&raw mut (*record).client_seen).write_volatile(now);
            if state != 0 {
                (&raw mut (*record).client_state).write_volatile(copy.client_state | state);
            }
        }
        Found::Known
    }

    /// The same for a packet of the backend's.
    #[inline(always)]
    pub fn answer(self, tag: u8, ends: &Ends, state: u8, now: u64, copy: &mut Record) -> Found {
        let record = match self.peek(tag, ends, Sender::Backend, copy) {
            Search::Way(way) => self.record(way),
            Search::Others => return Found::Others,
            Search::Nothing => return Found::Nothing,
            Search::Busy => return Found::Busy,
        };
        // SAFETY: as in `follow`.
        unsafe {
            (&raw mut (*record).backend_seen).write_volatile(now);
            if state != 0 {
                (&raw mut (*record).backend_state).write_volatile(copy.backend_state | state);
            }
        }
        Found::Known
    }

    /// Changes the bucket, alone. `None` if others do all the time.
    #[inline(always)]
    fn alone<R>(self, change: impl FnOnce() -> R) -> Option<R> {
        for _ in 0..PATIENCE {
            // SAFETY: within the bucket, see `new`.
            if unsafe { atomic::make_odd(&raw mut (*self.0).version) } {
                let result = change();
                self.version(1);
                return Some(result);
            }
        }
        None
    }

    /// Forgets a client's flow: should nobody here take the new one from the same port, its other
    /// packets must not find the old one. The stack or another translator has it then.
    #[inline(always)]
    pub fn forget(self, tag: u8, ends: &Ends, copy: &mut Record) {
        self.alone(|| {
            if let Some(way) = self.search(tag, ends, Sender::Client, copy) {
                self.set_tag(way, 0);
            }
        });
    }

    /// Records a new flow, and gives it a `source_port`: the client's, or one that shares its bucket
    /// where the client's port has a flow to the same backend. Netfilter's source NAT does the same
    /// for a clash (`nf_nat_used_tuple` in net/netfilter/nf_nat_core.c).
    ///
    /// A record of the same flow is replaced: its backend is gone, or its client began anew. What an
    /// earlier backend answers late does not reach the client as the new one's.
    #[inline(always)]
    pub fn open(self, tag: u8, new: &mut Record, now: u64) -> Opened {
        self.alone(|| self.place(tag, new, now))
            .unwrap_or(Opened::Busy)
    }

    #[inline(always)]
    fn place(self, tag: u8, new: &mut Record, now: u64) -> Opened {
        let mut taken = new.forgotten(0);
        let mut candidates = bytes_that_are(self.tags(), tag);
        for _ in 0..WAYS {
            if candidates == 0 {
                break;
            }
            let way = lowest(candidates);
            // SAFETY: of a record in the bucket, which nobody else writes now, but for what is noted
            // of packets.
            let held = unsafe { &*self.record(way) };
            match held.stands_to(new, now) {
                Standing::Apart => {}
                Standing::Over => self.set_tag(way, 0),
                Standing::Takes(port) => taken |= 1 << port,
            }
            candidates &= candidates - 1;
        }
        let Some(port) = free_port(new.client_port, taken) else {
            return Opened::Clash;
        };
        new.source_port = port;
        let free = bytes_that_are(self.tags(), 0);
        let (way, alive) = if free == 0 {
            let (way, alive) = self.victim(now);
            (new.forgotten(way as u32) as usize, alive)
        } else {
            (lowest(free), false)
        };
        // SAFETY: of a record in the bucket, which nobody else writes now.
        unsafe { transfer(new, self.record(way)) };
        self.set_tag(way, tag);
        if alive {
            Opened::Displaced
        } else {
            Opened::Recorded
        }
    }

    /// Which record makes way in a full bucket, and whether its flow is alive.
    #[inline(always)]
    fn victim(self, now: u64) -> (usize, bool) {
        let mut victim = 0;
        let mut least = u64::MAX;
        for way in 0..WAYS {
            // SAFETY: as in `place`.
            let record = unsafe { &*self.record(way) };
            let alive = record.is_established() && !record.is_over(now);
            let rank = u64::from(alive) << 63 | record.last_seen();
            if rank < least {
                least = rank;
                victim = way;
            }
        }
        (victim, least >> 63 != 0)
    }

    /// Makes way for a flow that goes to an endpoint directly, from the same port as one did through
    /// a Service: its replies look like the other one's, and must not be translated as those were.
    /// Netfilter finds such a clash when it confirms a flow (`__nf_conntrack_confirm`).
    ///
    /// False if that is not possible: the port was given to another flow of the client's.
    #[inline(always)]
    pub fn supersede(self, tag: u8, ends: &Ends, now: u64, copy: &mut Record) -> bool {
        let result = self.alone(|| {
            // There is one such record at most.
            let Some(way) = self.search(tag, ends, Sender::Backend, copy) else {
                return true;
            };
            let over = copy.makes_way(now);
            if copy.source_port != copy.client_port && !over {
                return false;
            }
            // Of datagrams nobody says which is the last. While a flow's are under way, one from the
            // same port to the same endpoint may well be a stray.
            if over || copy.protocol != UDP || copy.silent(now) > DATAGRAM_PAUSE {
                self.set_tag(way, 0);
            }
            true
        });
        result.unwrap_or(true)
    }
}

/// Copies a record word by word, at once and only once: another CPU may look on, or write.
///
/// # Safety
/// Both must be records.
#[inline(always)]
unsafe fn transfer(from: *const Record, to: *mut Record) {
    for word in 0..size_of::<Record>() / size_of::<u64>() {
        // SAFETY: within the records, which are made of whole words and aligned as such.
        unsafe {
            let value = from.cast::<u64>().add(word).read_volatile();
            to.cast::<u64>().add(word).write_volatile(value);
        }
    }
}

/// What a record means for a new flow from the same place.
enum Standing {
    /// Nothing.
    Apart,
    /// It goes.
    Over,
    /// It keeps one of the client's ports from the new flow, by its number (see `free_port`).
    Takes(u16),
}

impl Record {
    /// The number, of which the verifier knows nothing after it has been in memory: it would follow
    /// all that comes for each value that it may have.
    #[inline(always)]
    fn forgotten(&mut self, number: u32) -> u32 {
        let memory = &raw mut self.reserved;
        // SAFETY: a field of the record.
        unsafe {
            memory.write_volatile(number);
            let number = memory.read_volatile();
            memory.write_volatile(0);
            number
        }
    }

    #[inline(always)]
    fn stands_to(&self, new: &Self, now: u64) -> Standing {
        if self.protocol != new.protocol || !same(&self.client, &new.client) {
            return Standing::Apart;
        }
        if self.client_port == new.client_port
            && self.frontend_port == new.frontend_port
            && same(&self.frontend, &new.frontend)
        {
            return Standing::Over;
        }
        let differ = self.source_port ^ new.client_port;
        if differ & PORT_BITS != 0
            || self.backend_port != new.backend_port
            || !same(&self.backend, &new.backend)
        {
            return Standing::Apart;
        }
        if self.makes_way(now) {
            Standing::Over
        } else {
            Standing::Takes(differ >> 14)
        }
    }

    #[inline(always)]
    const fn is_of(&self, ends: &Ends, sender: Sender) -> bool {
        match sender {
            Sender::Client => self.is_from(ends),
            Sender::Backend => self.is_answered_by(ends),
        }
    }
}

/// Which bytes of a number have a value, as the high bits of those bytes. There may be more above a
/// byte that has (Hacker's Delight, "find the first 0-byte"); the records tell.
#[inline(always)]
const fn bytes_that_are(bytes: u64, value: u8) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let zeroes = bytes ^ (ONES * value as u64);
    zeroes.wrapping_sub(ONES) & !zeroes & (ONES << 7)
}

/// Which is the lowest byte whose high bit is set; other bits are not.
///
/// By multiplying the bit so that its byte's number comes to stand in the uppermost three: the kernel's
/// verifier sees from that that there are no others than 0 to 7, as it does not from a table.
#[inline(always)]
const fn lowest(bytes: u64) -> usize {
    const NUMBERS: u64 = 1 << 53 | 2 << 45 | 3 << 37 | 4 << 29 | 5 << 21 | 6 << 13 | 7 << 5;
    let bit = (bytes & bytes.wrapping_neg()) >> 7;
    (bit.wrapping_mul(NUMBERS) >> 61) as usize
}

/// The first port that is not taken (bit n: the port with n in its upper bits' place).
#[inline(always)]
const fn free_port(port: u16, taken: u32) -> Option<u16> {
    let mut way = 0;
    while way < 4 {
        let candidate = port ^ (way << 14);
        if taken & (1 << way) == 0 && (way == 0 || candidate >= FIRST_FREE_PORT) {
            return Some(candidate);
        }
        way += 1;
    }
    None
}

#[cfg(test)]
mod tests;
