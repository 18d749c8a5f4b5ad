//! What the maps hold, the kernel's own apart.

use std::collections::{BTreeMap, BTreeSet};

use gateway_common::{
    Address,
    maps::{Backend, Service, ServiceKey, Slot, SlotKey},
};

use super::{address::Network, identity::PortKey, step::Step};

/// What the maps hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mirror {
    /// `services`
    pub services: BTreeMap<ServiceKey, Service>,
    /// `slots`
    pub slots: BTreeMap<SlotKey, Slot>,
    /// `backends`
    pub backends: BTreeMap<u32, Backend>,
    /// `service_names`
    pub names: BTreeMap<u32, PortKey>,
    /// `source_ranges`: Service ids and networks.
    pub source_ranges: BTreeSet<(u32, Network)>,
    /// `pod_networks`
    pub pod_networks: BTreeSet<Network>,
    /// `node_addresses`
    pub node_addresses: BTreeSet<Address>,
}

impl Mirror {
    /// Takes note of a step that was carried out.
    pub fn note(&mut self, step: &Step) {
        match step {
            Step::PutService(key, service) => drop(self.services.insert(*key, *service)),
            Step::DeleteService(key) => drop(self.services.remove(key)),
            Step::PutSlot(key, slot) => drop(self.slots.insert(*key, *slot)),
            Step::DeleteSlot(key) => drop(self.slots.remove(key)),
            Step::PutBackend(id, backend) => drop(self.backends.insert(*id, *backend)),
            Step::DeleteBackend(id) => drop(self.backends.remove(id)),
            Step::PutName(id, name) => drop(self.names.insert(*id, name.clone())),
            Step::DeleteName(id) => drop(self.names.remove(id)),
            Step::PutSourceRange(service, network) => {
                self.source_ranges.insert((*service, *network));
            }
            Step::DeleteSourceRange(service, network) => {
                self.source_ranges.remove(&(*service, *network));
            }
            Step::PutPodNetwork(network) => drop(self.pod_networks.insert(*network)),
            Step::DeletePodNetwork(network) => drop(self.pod_networks.remove(network)),
            Step::PutNodeAddress(address) => drop(self.node_addresses.insert(*address)),
            Step::DeleteNodeAddress(address) => drop(self.node_addresses.remove(address)),
            Step::Barrier => {}
        }
    }
}
