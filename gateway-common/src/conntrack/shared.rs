//! A bucket that other CPUs use at the same time.
//!
//! Packets of known flows take no lock: a bucket has a version, which is odd while somebody changes it
//! and another one afterwards, so that whoever has read it knows whether it was one state. Whoever
//! changes it owns it meanwhile. `bpf_spin_lock` for both costs 40 ns each time, most of it for
//! turning interrupts off, which classifiers don't need: they run with softirqs off and are not
//! interrupted by each other.
//!
//! What is noted of a packet is written without that: each side's packets write that side's numbers
//! only, a word at a time. Should another CPU give the record to another flow meanwhile, that one knows
//! something wrong of its client until its backend's next packet.

use super::{Answered, Bucket, Ends, Heard, Kind, PORT_BITS, Record, Said, Side, WAYS, difference};
use crate::atomic;

/// Ports below are never given: programs take a client with such a port for a privileged one.
const FIRST_FREE_PORT: u16 = 1024;

/// How often is tried what its owner is in the way of. That one needs 100 ns.
const PATIENCE: u32 = 4;

/// What is known of a packet's flow.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing, and nothing of its client's port.
    Nothing = 0,
    /// Other flows of the client's port, or of ones that share its bucket.
    Others = 1,
    /// A record of an earlier flow from the same port to the same frontend.
    Stale = 2,
    /// A record.
    Known = 3,
    /// A record of a connection which the packet asks its backend about: it would open it again.
    Asks = 4,
    /// Others were changing the bucket all the time.
    Busy = 5,
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
    /// It is recorded, in place of datagrams that were answered lately.
    Displaced,
    /// It is not: all places have established connections.
    Full,
    /// Its replies could not be told from those of others, whatever port it is given.
    Clash,
    /// Others were changing the bucket all the time.
    Busy,
}

/// Whether a flow that goes to an endpoint itself has replies that look like a known flow's, or could come
/// to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collides {
    /// No.
    No,
    /// Yes: it must be recorded, so that each gets a port of its own.
    Yes,
    /// Others were changing the bucket all the time.
    Busy,
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

    /// Follows a client's packet: gives its flow's record, and notes what the packet changes. Only a
    /// packet that opens may be the first one of another flow.
    #[inline(always)]
    pub fn follow(self, tag: u8, ends: &Ends, said: &Said, now: u32, copy: &mut Record) -> Found {
        let record = match self.peek(tag, ends, Sender::Client, copy) {
            Search::Way(way) => self.record(way),
            Search::Others => return Found::Others,
            Search::Nothing => return Found::Nothing,
            Search::Busy => return Found::Busy,
        };
        let state = copy.client_state;
        let found = match copy.hear(said, now) {
            Heard::Same => return Found::Known,
            Heard::Moved => Found::Known,
            Heard::Asks => Found::Asks,
            Heard::Anew => return Found::Stale,
            Heard::Over if matches!(said.kind, Kind::Opens) => return Found::Stale,
            Heard::Over | Heard::Foreign => return Found::Others,
        };
        // SAFETY: of a record in the bucket, see `new`.
        unsafe {
            if copy.client_state != state {
                // Only then: a packet that is not the client's last one may come by on another CPU.
                (&raw mut (*record).client_state).write_volatile(copy.client_state);
            }
            if found == Found::Asks {
                (&raw mut (*record).question).write_volatile(copy.question);
                (&raw mut (*record).asked).write_volatile(copy.asked);
            } else {
                write_side(&raw mut (*record).ahead, &copy.ahead);
            }
        }
        found
    }

    /// The same for a packet of the backend's.
    #[inline(always)]
    pub fn answer(self, tag: u8, ends: &Ends, said: &Said, now: u32, copy: &mut Record) -> Found {
        let record = match self.peek(tag, ends, Sender::Backend, copy) {
            Search::Way(way) => self.record(way),
            Search::Others => return Found::Others,
            Search::Nothing => return Found::Nothing,
            Search::Busy => return Found::Busy,
        };
        let learns = copy.back.window == 0;
        let (state, opening) = (copy.backend_state, copy.opening);
        let found = match copy.answer(said, now) {
            Answered::Same => return Found::Known,
            Answered::Over => return Found::Others,
            Answered::Moved => Found::Known,
            Answered::Foreign => Found::Others,
        };
        // SAFETY: of a record in the bucket, see `new`.
        unsafe {
            if copy.backend_state != state {
                (&raw mut (*record).backend_state).write_volatile(copy.backend_state);
            }
            if copy.opening != opening {
                // Another connection takes the record's place.
                (&raw mut (*record).client_state).write_volatile(copy.client_state);
                (&raw mut (*record).opening).write_volatile(copy.opening);
                (&raw mut (*record).asked).write_volatile(copy.asked);
            }
            if found == Found::Known {
                write_side(&raw mut (*record).back, &copy.back);
                if learns || matches!(said.kind, Kind::Accepts) {
                    write_numbers(&raw mut (*record).ahead, &copy.ahead);
                }
            }
        }
        found
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
    /// A record from the same port to the same frontend is replaced. What its backend answers late does
    /// not reach the client as the new one's.
    #[inline(always)]
    pub fn open(self, tag: u8, new: &mut Record, now: u32) -> Opened {
        self.alone(|| self.place(tag, new, now))
            .unwrap_or(Opened::Busy)
    }

    #[inline(always)]
    fn place(self, tag: u8, new: &mut Record, now: u32) -> Opened {
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
            let standing = held.stands_to(new, now);
            let standing = new.forgotten(standing);
            if standing & GOES != 0 {
                self.set_tag(way, 0);
            }
            taken = new.forgotten(taken | standing);
            candidates &= candidates - 1;
        }
        let untried = free_port(new.client_port, taken | taken >> TRIED);
        // After all of them, any but the last.
        let port = untried.or_else(|| free_port(new.client_port, taken | taken >> LAST));
        let Some(port) = port else {
            return Opened::Clash;
        };
        new.source_port = port;
        new.backend_state |= (taken & ALL << TRIED) as u8;
        if port == new.client_port {
            new.back.acknowledged = (taken >> 32) as u32;
        }
        let free = bytes_that_are(self.tags(), 0);
        let (way, rank) = if free == 0 {
            let rank = self.victim(new, now);
            ((rank & 0xff) as usize, rank)
        } else {
            (lowest(free), 0)
        };
        if rank >= Record::KEPT {
            return Opened::Full;
        }
        // SAFETY: of a record in the bucket, which nobody else writes now.
        unsafe { transfer(new, self.record(way)) };
        self.set_tag(way, tag);
        if rank >= Record::ALIVE {
            Opened::Displaced
        } else {
            Opened::Recorded
        }
    }

    /// The rank of the record that makes way in a full bucket, and in its lowest bits its way.
    #[inline(always)]
    fn victim(self, new: &mut Record, now: u32) -> u64 {
        let mut least = u64::MAX;
        for way in 0..WAYS {
            // SAFETY: as in `place`.
            let rank = unsafe { &*self.record(way) }.rank(now);
            let rank = new.forgotten(rank | way as u64);
            least = new.forgotten(if rank < least { rank } else { least });
        }
        least
    }

    /// Looks whether a flow to an endpoint itself has replies that look like those of a flow through a
    /// Service, or whether such a flow may yet be given its port: that one's replies must be told from
    /// its own. A flow that is over goes. Netfilter finds such a clash when it confirms a flow
    /// (`__nf_conntrack_confirm`).
    #[inline(always)]
    pub fn collides(self, tag: u8, ends: &Ends, now: u32, copy: &mut Record) -> Collides {
        self.alone(|| self.neighbours(tag, ends, now, copy))
            .unwrap_or(Collides::Busy)
    }

    #[inline(always)]
    fn neighbours(self, tag: u8, ends: &Ends, now: u32, copy: &mut Record) -> Collides {
        let mut collides = Collides::No;
        let mut candidates = bytes_that_are(self.tags(), tag);
        for _ in 0..WAYS {
            if candidates == 0 {
                break;
            }
            let way = lowest(candidates);
            // SAFETY: as in `place`.
            unsafe { transfer(self.record(way), copy) };
            if copy.is_beside(ends) && !copy.is_from(ends) {
                if !copy.makes_way(now) {
                    collides = Collides::Yes;
                } else if copy.source_port == ends.client_port {
                    self.set_tag(way, 0);
                }
            }
            candidates &= candidates - 1;
        }
        collides
    }
}

/// Writes a side in two words, each at once.
///
/// # Safety
/// The side must be one of a record.
#[inline(always)]
unsafe fn write_side(to: *mut Side, from: &Side) {
    // SAFETY: two words, aligned as such.
    unsafe {
        let words = (&raw const *from).cast::<u64>();
        to.cast::<u64>().write_volatile(words.read());
        to.cast::<u64>().add(1).write_volatile(words.add(1).read());
    }
}

/// Writes a side's numbers at once.
///
/// # Safety
/// The side must be one of a record.
#[inline(always)]
unsafe fn write_numbers(to: *mut Side, from: &Side) {
    // SAFETY: a word, aligned as such.
    unsafe {
        let words = (&raw const *from).cast::<u64>();
        to.cast::<u64>().write_volatile(words.read());
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

/// What a record means for a new flow from the same place: it goes.
const GOES: u64 = 1 << 31;
/// It keeps all of the client's ports from that; a bit for each value of their upper two bits.
const ALL: u64 = 0b1111;
/// From which bit on are those that have been tried for the same opening, as in
/// [`Record::backend_state`].
const TRIED: u32 = 4;
/// The one of them that was tried last.
const LAST: u32 = 8;

impl Record {
    /// The number, of which the verifier knows nothing after it has been in memory: it would follow
    /// all that comes for each value that it may have.
    #[inline(always)]
    #[expect(
        clippy::cast_ptr_alignment,
        reason = "two numbers of 4 bytes, after a multiple of 8"
    )]
    fn forgotten(&mut self, number: u64) -> u64 {
        // Nobody has asked about a new flow: both are 0.
        let memory = (&raw mut self.question).cast::<u64>();
        // SAFETY: `question` and `asked`, which stand side by side.
        unsafe {
            memory.write_volatile(number);
            let number = memory.read_volatile();
            memory.write_volatile(0);
            number
        }
    }

    /// What it means for a new flow: [`GOES`]; the client's ports that it keeps from that, a bit for each
    /// (see [`free_port`]); those that were [`TRIED`], and the [`LAST`] of them; and in the upper half
    /// what the backend has acknowledged of an earlier connection from the client's port.
    #[inline(always)]
    fn stands_to(&self, new: &Self, now: u32) -> u64 {
        let differ = self.source_port ^ new.client_port;
        let stranger =
            difference(&self.client, &new.client) | u64::from(self.protocol ^ new.protocol);
        let far = difference(&self.backend, &new.backend)
            | u64::from(self.backend_port ^ new.backend_port)
            | u64::from(differ & PORT_BITS);
        let another = difference(&self.frontend, &new.frontend)
            | u64::from(self.frontend_port ^ new.frontend_port)
            | u64::from(self.client_port ^ new.client_port);
        let near = far == 0;
        let replaced = another == 0;
        if stranger != 0 {
            return 0;
        }
        if !near && !replaced {
            return 0;
        }
        let goes = if near && differ == 0 {
            GOES | u64::from(self.back.acknowledged) << 32
        } else {
            GOES
        };
        if self.makes_way(now) {
            return goes;
        }
        if replaced && new.flags & Self::FLAG_OURS != 0 {
            // A client has a flow there, which goes on.
            return ALL;
        }
        let at = 1 << (self.source_port >> 14);
        let tried = self.tried();
        if !replaced {
            at | tried
        } else if self.is_occupied() {
            goes | (at | tried) << TRIED | at << LAST
        } else {
            goes | tried << TRIED
        }
    }

    /// The ports from which its opening was sent in vain, a bit for each value of their upper two bits:
    /// something may still be answered there.
    #[inline(always)]
    const fn tried(&self) -> u64 {
        if self.backend_state & Self::SPOKE != 0 {
            return 0;
        }
        self.backend_state as u64 >> 4
    }

    /// Whether its backend has a connection, which the opening does not come through to.
    #[inline(always)]
    const fn is_occupied(&self) -> bool {
        self.backend_state & (Self::SPOKE | Self::OCCUPIED) == Self::OCCUPIED
    }

    /// Whether its backend is the peer, and sees it come from the client's port, or from one that may be
    /// given in place of that.
    #[inline(always)]
    const fn is_beside(&self, ends: &Ends) -> bool {
        (self.source_port ^ ends.client_port) & PORT_BITS == 0
            && self.backend_port == ends.peer_port
            && self.protocol == ends.protocol
            && 0 == difference(&self.client, &ends.client)
            && 0 == difference(&self.backend, &ends.peer)
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
pub(super) const fn bytes_that_are(bytes: u64, value: u8) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let zeroes = bytes ^ (ONES * value as u64);
    zeroes.wrapping_sub(ONES) & !zeroes & (ONES << 7)
}

/// Which is the lowest byte whose high bit is set; other bits are not.
///
/// By multiplying the bit so that its byte's number comes to stand in the uppermost three: the kernel's
/// verifier sees from that that there are no others than 0 to 7, as it does not from a table.
#[inline(always)]
pub(super) const fn lowest(bytes: u64) -> usize {
    const NUMBERS: u64 = 1 << 53 | 2 << 45 | 3 << 37 | 4 << 29 | 5 << 21 | 6 << 13 | 7 << 5;
    let bit = (bytes & bytes.wrapping_neg()) >> 7;
    (bit.wrapping_mul(NUMBERS) >> 61) as usize
}

/// The first port that is not taken (bit n: the one whose upper two bits are n).
#[inline(always)]
pub(super) const fn free_port(port: u16, taken: u64) -> Option<u16> {
    let mut way = 0;
    while way < 4 {
        let candidate = port ^ (way << 14);
        if taken & (1 << (candidate >> 14)) == 0 && (way == 0 || candidate >= FIRST_FREE_PORT) {
            return Some(candidate);
        }
        way += 1;
    }
    None
}
