//! The maps that the programs and the daemon share. Layouts: `gateway_common::maps`.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf},
    helpers::generated::bpf_ktime_get_coarse_ns,
    macros::btf_map,
};
use gateway_common::{
    conntrack::{Ends, Place, Shared, ticks},
    decide::Reason,
    event::{Event, TraceFilter},
    maps::{
        AddressKey, Affinity, AffinityKey, BUCKETS, Backend, Bucket, EVENT_RING_BYTES, FragmentKey,
        Heartbeat, MAX_AFFINITIES, MAX_BACKENDS, MAX_FRAGMENTS, MAX_NODE_ADDRESSES,
        MAX_POD_NETWORKS, MAX_SERVICES, MAX_SHARES, MAX_SLOTS, MAX_SOCKETS, MAX_SOURCE_RANGES,
        MAX_TRACE_SERVICES, MAX_TURNS, NodeAddress, Ports, Service, ServiceKey, ServiceName,
        Settings, Share, ShareKey, Slot, SlotKey, SocketKey, SocketPeer, SourceRange,
    },
};

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

#[btf_map(name = "turns")]
pub(crate) static TURNS: HashMap<u32, u64, { MAX_TURNS as usize }, ON_DEMAND> = HashMap::new();

#[btf_map(name = "shares")]
pub(crate) static SHARES: HashMap<ShareKey, Share, { MAX_SHARES as usize }, ON_DEMAND> =
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

/// How many events found no room in `events`.
#[btf_map(name = "events_lost")]
static EVENTS_LOST: PerCpuArray<u64, 1> = PerCpuArray::new();

#[btf_map(name = "trace_filter")]
pub(crate) static TRACE_FILTER: Array<TraceFilter, 1> = Array::new();

#[btf_map(name = "trace_services")]
pub(crate) static TRACE_SERVICES: HashMap<u32, u32, { MAX_TRACE_SERVICES as usize }, ON_DEMAND> =
    HashMap::new();

/// Counts a decision.
#[inline(always)]
pub(crate) fn count(reason: Reason) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason as u32) {
        // SAFETY: the pointer is to this CPU's element, and nothing else runs here on this CPU
        // that would write it at the same time, but for an interrupting program: a lost count.
        unsafe { *counter += 1 };
    }
}

/// Counts an event that is lost.
#[inline(always)]
pub(crate) fn lose_event() {
    if let Some(counter) = EVENTS_LOST.get_ptr_mut(0) {
        // SAFETY: as in `count`.
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

/// Now, as records have it.
#[inline(always)]
pub(crate) fn tick() -> u32 {
    ticks(now())
}

/// Where the flow of these ends is.
#[inline(always)]
pub(crate) fn place(ends: &Ends) -> Option<Place> {
    settings().map(|settings| ends.place(settings.seed, settings.buckets))
}

/// A bucket of `conntrack`; `None` cannot happen.
#[inline(always)]
pub(crate) fn bucket(place: &Place) -> Option<Shared> {
    let bucket = CONNTRACK.get_ptr_mut(place.bucket)?;
    // SAFETY: elements of an array stay, and all programs use them by this function.
    Some(unsafe { Shared::new(bucket) })
}
