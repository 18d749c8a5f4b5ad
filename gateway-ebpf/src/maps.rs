//! The maps, and the decision core's view of them. Layouts: `gateway_common::maps`.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, lpm_trie::Key},
    helpers::{bpf_get_prandom_u32, generated::bpf_ktime_get_coarse_ns},
    macros::btf_map,
};
use gateway_common::{
    Address,
    conntrack::{Ends, Found, Place, Shared},
    decide::{Flow, Reason, Tables},
    event::{Event, TraceFilter},
    maps::{
        AddressKey, Affinity, AffinityKey, BUCKETS, Backend, Bucket, EVENT_RING_BYTES, FragmentKey,
        Heartbeat, MAX_AFFINITIES, MAX_BACKENDS, MAX_FRAGMENTS, MAX_NODE_ADDRESSES,
        MAX_POD_NETWORKS, MAX_SERVICES, MAX_SLOTS, MAX_SOCKETS, MAX_SOURCE_RANGES,
        MAX_TRACE_SERVICES, NodeAddress, Ports, Record, Service, ServiceKey, ServiceName, Settings,
        Slot, SlotKey, SocketKey, SocketPeer, SourceRange,
    },
};

use crate::{icmp::Quoted, packet::Packet, trace::Client};

/// Tables that are mostly empty take memory as they fill.
const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map(name = "settings")]
pub(crate) static SETTINGS: Array<Settings, 1> = Array::new();

#[btf_map(name = "services")]
pub(crate) static SERVICES: HashMap<ServiceKey, Service, { MAX_SERVICES as usize }, ON_DEMAND> =
    HashMap::new();

#[btf_map(name = "slots")]
pub(crate) static SLOTS: HashMap<SlotKey, Slot, { MAX_SLOTS as usize }, ON_DEMAND> = HashMap::new();

#[btf_map(name = "backends")]
pub(crate) static BACKENDS: HashMap<u32, Backend, { MAX_BACKENDS as usize }, ON_DEMAND> =
    HashMap::new();

#[btf_map(name = "source_ranges")]
pub(crate) static SOURCE_RANGES: LpmTrie<SourceRange, u32, { MAX_SOURCE_RANGES as usize }> =
    LpmTrie::new();

#[btf_map(name = "pod_networks")]
pub(crate) static POD_NETWORKS: LpmTrie<AddressKey, u32, { MAX_POD_NETWORKS as usize }> =
    LpmTrie::new();

#[btf_map(name = "node_addresses")]
pub(crate) static NODE_ADDRESSES: HashMap<
    AddressKey,
    NodeAddress,
    { MAX_NODE_ADDRESSES as usize },
    ON_DEMAND,
> = HashMap::new();

/// Only people read it.
#[btf_map(name = "service_names")]
pub(crate) static SERVICE_NAMES: HashMap<u32, ServiceName, { MAX_SERVICES as usize }, ON_DEMAND> =
    HashMap::new();

/// Only the daemon writes it, and only people read it.
#[btf_map(name = "heartbeat")]
pub(crate) static HEARTBEAT: Array<Heartbeat, 1> = Array::new();

#[btf_map(name = "affinity")]
pub(crate) static AFFINITY: LruHashMap<AffinityKey, Affinity, { MAX_AFFINITIES as usize }> =
    LruHashMap::new();

#[btf_map(name = "conntrack")]
static CONNTRACK: Array<Bucket, { BUCKETS as usize }> = Array::new();

#[btf_map(name = "fragments")]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, Ports, { MAX_FRAGMENTS as usize }> =
    LruHashMap::new();

#[btf_map(name = "sockets")]
pub(crate) static SOCKETS: LruHashMap<SocketKey, SocketPeer, { MAX_SOCKETS as usize }> =
    LruHashMap::new();

#[btf_map(name = "counters")]
pub(crate) static COUNTERS: PerCpuArray<u64, { Reason::COUNT as usize }> = PerCpuArray::new();

#[btf_map(name = "events")]
pub(crate) static EVENTS: RingBuf<Event, { EVENT_RING_BYTES as usize }> = RingBuf::new();

#[btf_map(name = "trace_filter")]
pub(crate) static TRACE_FILTER: Array<TraceFilter, 1> = Array::new();

#[btf_map(name = "trace_services")]
pub(crate) static TRACE_SERVICES: HashMap<u32, u32, { MAX_TRACE_SERVICES as usize }, ON_DEMAND> =
    HashMap::new();

/// What a packet program works on. The stack is 512 bytes, and addresses are 16.
#[repr(C)]
pub(crate) struct Scratch {
    pub(crate) packet: Packet,
    /// The packet that an ICMP error quotes.
    pub(crate) quoted: Quoted,
    pub(crate) ends: Ends,
    pub(crate) record: Record,
    pub(crate) found: Found,
    pub(crate) flow: Flow,
    pub(crate) client: Client,
}

/// One for each direction and CPU. Neither is entered twice on one CPU: both run with softirqs off,
/// or within one.
#[btf_map(name = "scratch")]
static SCRATCH: PerCpuArray<Scratch, 2> = PerCpuArray::new();

/// Which scratch.
#[derive(Clone, Copy)]
pub(crate) enum Direction {
    Forward = 0,
    Reverse = 1,
}

/// This CPU's scratch; `None` cannot happen.
#[inline(always)]
pub(crate) fn scratch(direction: Direction) -> Option<&'static mut Scratch> {
    // SAFETY: nothing else on this CPU holds a reference to it, see `SCRATCH`. The fields are
    // integers, or enums and bools of which 0 is a value; what is read of them was written before
    // by the same run.
    SCRATCH
        .get_ptr_mut(direction as u32)
        .map(|scratch| unsafe { &mut *scratch })
}

/// Counts a decision.
#[inline(always)]
pub(crate) fn count(reason: Reason) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason as u32) {
        // SAFETY: the pointer is to this CPU's element, and nothing else runs here on this CPU
        // that would write it at the same time, but for an interrupting program: a lost count.
        unsafe { *counter += 1 };
    }
}

/// The settings; `None` cannot happen, since the array has element 0.
#[inline(always)]
pub(crate) fn settings() -> Option<&'static Settings> {
    SETTINGS.get(0)
}

/// `CLOCK_MONOTONIC` in nanoseconds, as of the last tick: some milliseconds old, and for a tenth of
/// the price of the exact one. Linux 5.11.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: the helper only reads the clock.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Where the flow of these ends is.
#[inline(always)]
pub(crate) fn place(ends: &Ends) -> Option<Place> {
    settings().map(|settings| ends.place(settings.seed))
}

/// A bucket of `conntrack`; `None` cannot happen.
#[inline(always)]
pub(crate) fn bucket(place: &Place) -> Option<Shared> {
    let bucket = CONNTRACK.get_ptr_mut(place.bucket)?;
    // SAFETY: elements of an array stay, and all programs use them by this function.
    Some(unsafe { Shared::new(bucket) })
}

/// The BPF maps as the decision core's tables.
pub(crate) struct KernelTables;

// SAFETY (all lookups below): elements of a hash map stay readable until the program ends (RCU).
// The daemon replaces elements whole and never changes one in place, and the kernel does not reuse
// a freed element before the grace period ends; so a reference sees one state. Elements of an LRU
// map may be reused for another key at any time; what is read of them is checked or harmless.
impl Tables for KernelTables {
    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        settings()
    }

    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        // SAFETY: as above.
        unsafe { SERVICES.get(key) }
    }

    #[inline(always)]
    fn slot(&self, key: &SlotKey) -> Option<&Slot> {
        // SAFETY: as above.
        unsafe { SLOTS.get(key) }
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<&Backend> {
        // SAFETY: as above.
        unsafe { BACKENDS.get(id) }
    }

    #[inline(always)]
    fn node_address(&self, key: &AddressKey) -> Option<&NodeAddress> {
        // SAFETY: as above.
        unsafe { NODE_ADDRESSES.get(key) }
    }

    #[inline(always)]
    fn is_pod(&self, address: &Address) -> bool {
        let key = Key::new(128, AddressKey { address: *address });
        POD_NETWORKS.get(&key).is_some()
    }

    #[inline(always)]
    fn admits(&self, service: u32, client: &Address) -> bool {
        let range = SourceRange {
            service,
            address: *client,
        };
        SOURCE_RANGES.get(&Key::new(32 + 128, range)).is_some()
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey, seconds: u32) -> Option<u32> {
        // SAFETY: as above.
        let known = unsafe { AFFINITY.get(key) }?;
        let age = now().wrapping_sub(known.last_seen);
        (age < u64::from(seconds) * 1_000_000_000).then_some(known.backend)
    }

    #[inline(always)]
    fn remember(&self, key: &AffinityKey, backend: u32) {
        let value = Affinity {
            backend,
            reserved: 0,
            last_seen: now(),
        };
        // A full LRU map makes room; a client that is forgotten is only sent elsewhere.
        let _ = AFFINITY.insert(key, &value, 0);
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper takes nothing and touches nothing of ours.
        unsafe { bpf_get_prandom_u32() }
    }
}
