//! The decision core over the planned tables, in memory: what must happen to a flow.
//!
//! Not by way of [`nodegate_programming::tables::MirrorTables`], which looks the same things up: `explain` goes
//! by that, and is held to what comes out here. A mistake in how an address is found in a network, or in how
//! the possible backends are enumerated, would be in both otherwise.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use gateway_common::{
    Address,
    decide::{self, Flow, Masquerade, Origin, Reason, Verdict},
    maps::{
        AddressKey, AffinityKey, Backend, NodeAddress, Service, ServiceKey, Settings, ShareKey,
        Slot, SlotKey,
    },
};
use nodegate_programming::{
    address::{Network, from_map},
    mirror::Mirror,
};

/// What the maps hold.
#[derive(Clone)]
pub(crate) struct Tables {
    pub(crate) settings: Settings,
    services: BTreeMap<ServiceKey, Service>,
    slots: BTreeMap<SlotKey, Slot>,
    backends: BTreeMap<u32, Backend>,
    node_addresses: BTreeMap<AddressKey, NodeAddress>,
    source_ranges: BTreeSet<(u32, Network)>,
    pod_networks: BTreeSet<Network>,
    random: Cell<u32>,
}

/// What must happen.
#[derive(Clone, Debug)]
pub(crate) struct Prediction {
    pub(crate) verdict: Verdict,
    pub(crate) reason: Reason,
    /// Whether a socket is told, or its packets are dealt with.
    pub(crate) by_socket: bool,
    pub(crate) masquerade: BTreeMap<SocketAddr, Masquerade>,
}

impl Tables {
    pub(crate) fn new(settings: &Settings, mirror: &Mirror) -> Self {
        let serving = NodeAddress {
            flags: NodeAddress::FLAG_NODE_PORTS,
        };
        let own = |address: &Address| (AddressKey { address: *address }, serving);
        Self {
            settings: *settings,
            services: mirror.services.clone(),
            slots: mirror.slots.clone(),
            backends: mirror.backends.clone(),
            node_addresses: mirror.node_addresses.iter().map(own).collect(),
            source_ranges: mirror.source_ranges.clone(),
            pod_networks: mirror.pod_networks.clone(),
            random: Cell::new(0),
        }
    }

    /// Everything that chance may make of a flow. As many numbers as the sets have slots, as far apart
    /// as can be, meet each slot.
    pub(crate) fn predict(&self, flow: &Flow) -> Prediction {
        self.random.set(0);
        let is_socket = matches!(flow.origin, Origin::NodeSocket | Origin::PodSocket);
        let first = decide::decide(self, flow);
        if first.reason == Reason::ByPacket {
            // The hook on the pod's device has the last word.
            let origin = Origin::PodPacket;
            return self.predict(&Flow { origin, ..*flow });
        }
        let mut prediction = Prediction {
            verdict: first.verdict,
            reason: first.reason,
            by_socket: is_socket,
            masquerade: BTreeMap::new(),
        };
        if first.verdict != Verdict::Forward {
            return prediction;
        }
        let sizes = self.services.values();
        let sizes = sizes.filter(|service| service.id == first.service);
        let most = sizes
            .map(|service| service.cluster.max(service.local))
            .max();
        let samples = u64::from(most.unwrap_or(1)) + 1;
        for sample in 0..samples {
            self.random.set(((sample << 32) / samples) as u32);
            let decision = decide::decide(self, flow);
            let to = SocketAddr::new(from_map(decision.address), decision.port);
            prediction.masquerade.insert(to, decision.masquerade);
        }
        prediction
    }

    /// What would be decided with other settings.
    pub(crate) fn with_flags(&self, flags: u32) -> Self {
        Self {
            settings: Settings {
                flags,
                ..self.settings
            },
            ..self.clone()
        }
    }
}

fn contains((network, length): &Network, address: &Address) -> bool {
    let length = u32::from(*length);
    let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
    (u128::from_be_bytes(*network) ^ u128::from_be_bytes(*address)) & mask == 0
}

impl decide::Tables for Tables {
    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }
    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.services.get(key)
    }
    fn slot(&self, key: &SlotKey) -> Option<&Slot> {
        self.slots.get(key)
    }
    fn backend(&self, id: u32) -> Option<&Backend> {
        self.backends.get(&id)
    }
    fn node_address(&self, key: &AddressKey) -> Option<&NodeAddress> {
        self.node_addresses.get(key)
    }
    fn is_pod(&self, address: &Address) -> bool {
        self.pod_networks
            .iter()
            .any(|network| contains(network, address))
    }
    fn admits(&self, service: u32, client: &Address) -> bool {
        let mut ranges = self.source_ranges.iter();
        ranges.any(|(of, network)| *of == service && contains(network, client))
    }
    fn affinity(&self, _key: &AffinityKey, _seconds: u32) -> Option<u32> {
        None
    }
    fn remember(&self, _key: &AffinityKey, _backend: u32) {}
    fn random(&self) -> u32 {
        self.random.get()
    }

    /// No gateway has a route here.
    fn turn(&self, service: u32, _size: u32) -> u32 {
        unreachable!("backends of Service port {service} don't take turns")
    }

    fn count_share(&self, key: &ShareKey) {
        unreachable!("no slot is a destination's, but {key:?}")
    }
}
