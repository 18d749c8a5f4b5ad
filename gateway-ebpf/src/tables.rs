//! The maps as the decision core's tables.

use aya_ebpf::{btf_maps::lpm_trie::Key, helpers::bpf_get_prandom_u32};
use gateway_common::{
    Address,
    atomic::fetch_add,
    decide::{Tables, scale},
    maps::{
        AddressKey, Affinity, AffinityKey, Backend, NodeAddress, Service, ServiceKey, Settings,
        ShareKey, Slot, SlotKey, SourceRange,
    },
};

use crate::maps::{
    AFFINITY, BACKENDS, NODE_ADDRESSES, POD_NETWORKS, SERVICES, SHARES, SLOTS, SOURCE_RANGES,
    TURNS, now, settings,
};

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

    #[inline(always)]
    fn turn(&self, service: u32, size: u32) -> u32 {
        let Some(next) = TURNS.get_ptr_mut(&service) else {
            // The daemon makes it before it says that there are turns.
            return scale(self.random(), size);
        };
        // SAFETY: as above, and all CPUs add to it in this way. It has 64 bits, and is aligned so.
        let turn = unsafe { fetch_add(next, 1) };
        (turn % u64::from(size)) as u32
    }

    #[inline(always)]
    fn count_share(&self, key: &ShareKey) {
        if let Some(share) = SHARES.get_ptr_mut(key) {
            // SAFETY: as above; the count is the first field, and the daemon writes it once, before the
            // element can be found.
            unsafe { fetch_add(&raw mut (*share).connections, 1) };
        }
    }
}
