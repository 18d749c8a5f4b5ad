//! The maps, and the decision core's view of them. Layouts: `gateway_common::maps`.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
    helpers::bpf_get_prandom_u32,
    macros::btf_map,
};
use gateway_common::{
    decide::{Reason, Tables},
    event::Event,
    maps::{
        AddressKey, Backend, EVENT_RING_BYTES, FlowKey, MAX_BACKENDS, MAX_FLOWS,
        MAX_NODE_ADDRESSES, MAX_SERVICES, MAX_SLOTS, MAX_SOCKETS, NodeAddress, Service, ServiceKey,
        ServiceName, Settings, Slot, SlotKey, SocketKey, SocketOrigin, Translation,
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

#[btf_map(name = "conntrack")]
pub(crate) static CONNTRACK: LruHashMap<FlowKey, Translation, { MAX_FLOWS as usize }> =
    LruHashMap::new();

#[btf_map(name = "sockets")]
pub(crate) static SOCKETS: LruHashMap<SocketKey, SocketOrigin, { MAX_SOCKETS as usize }> =
    LruHashMap::new();

#[btf_map(name = "counters")]
pub(crate) static COUNTERS: PerCpuArray<u64, { Reason::COUNT as usize }> = PerCpuArray::new();

#[btf_map(name = "events")]
pub(crate) static EVENTS: RingBuf<Event, { EVENT_RING_BYTES as usize }> = RingBuf::new();

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

/// The BPF maps as the decision core's tables.
pub(crate) struct KernelTables;

// SAFETY (all lookups below): elements of a hash map stay readable until the program ends (RCU).
// The daemon replaces elements whole and never changes one in place, and the kernel does not reuse
// a freed element before the grace period ends; so a reference sees one state.
impl Tables for KernelTables {
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
    fn random(&self) -> u32 {
        // SAFETY: the helper takes nothing and touches nothing of ours.
        unsafe { bpf_get_prandom_u32() }
    }
}
