//! What the maps hold, the kernel's own apart.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
};

use gateway_common::{
    Address,
    maps::{Backend, Service, ServiceKey, ShareKey, Slot, SlotKey},
};

use super::{address::Network, identity::PortKey, step::Step};

/// The content of the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// `services`
    pub services: BTreeMap<ServiceKey, Service>,
    /// `slots`
    pub slots: BTreeMap<SlotKey, Slot>,
    /// `backends`
    pub backends: BTreeMap<u32, Backend>,
    /// `service_names`
    pub names: BTreeMap<u32, PortKey>,
    /// `turns`: Service ids.
    pub turns: BTreeSet<u32>,
    /// `shares`: the names of destinations.
    pub shares: BTreeMap<ShareKey, String>,
    /// `source_ranges`: Service ids and networks.
    pub source_ranges: BTreeSet<(u32, Network)>,
    /// `pod_networks`
    pub pod_networks: BTreeSet<Network>,
    /// `node_addresses`
    pub node_addresses: BTreeSet<Address>,
}

/// What the maps hold, by Service port too: one changed Service port is planned without a look at the
/// others. The content can be read as [`Contents`], and changes by steps only.
#[derive(Clone, Debug, Default)]
pub struct Mirror {
    contents: Contents,
    /// The ids of Service ports. Where a Service port has two, the higher one.
    ids: BTreeMap<PortKey, u32>,
    /// By Service id. Guards of cluster IPs belong to no Service port, and are not here.
    held: BTreeMap<u32, Held>,
}

/// The keys of what a Service port has in maps whose keys don't begin with its id.
#[derive(Clone, Debug, Default)]
struct Held {
    frontends: BTreeSet<ServiceKey>,
    backends: BTreeSet<u32>,
}

impl Contents {
    /// Whether a Service has an address as its own.
    pub fn is_frontend(&self, address: &Address) -> bool {
        let first = ServiceKey::guard(*address);
        let mut from = self.services.range(first..);
        from.next().is_some_and(|(key, _)| key.address == *address)
    }
}

impl Mirror {
    /// How many elements one has that the other has not, or has otherwise.
    pub fn differences(&self, other: &Self) -> usize {
        fn of_maps<K: Ord, V: PartialEq>(one: &BTreeMap<K, V>, other: &BTreeMap<K, V>) -> usize {
            let differs = one
                .iter()
                .filter(|(key, value)| other.get(key) != Some(value));
            let more = other.keys().filter(|key| !one.contains_key(key));
            differs.count() + more.count()
        }
        let (one, other) = (&self.contents, &other.contents);
        let sets = one.source_ranges.symmetric_difference(&other.source_ranges);
        of_maps(&one.services, &other.services)
            + of_maps(&one.slots, &other.slots)
            + of_maps(&one.backends, &other.backends)
            + of_maps(&one.names, &other.names)
            + of_maps(&one.shares, &other.shares)
            + one.turns.symmetric_difference(&other.turns).count()
            + sets.count()
            + one
                .pod_networks
                .symmetric_difference(&other.pod_networks)
                .count()
            + one
                .node_addresses
                .symmetric_difference(&other.node_addresses)
                .count()
    }

    /// Takes note of a step that was carried out.
    pub fn note(&mut self, step: &Step) {
        let contents = &mut self.contents;
        match step {
            Step::PutService(key, service) => {
                let old = contents.services.insert(*key, *service);
                self.forget_frontend(key, old);
                self.index_frontend(*key, service);
            }
            Step::DeleteService(key) => {
                let old = contents.services.remove(key);
                self.forget_frontend(key, old);
            }
            Step::PutBackend(id, backend) => {
                let old = contents.backends.insert(*id, *backend);
                self.forget_backend(*id, old);
                self.index_backend(*id, backend);
            }
            Step::DeleteBackend(id) => {
                let old = contents.backends.remove(id);
                self.forget_backend(*id, old);
            }
            Step::PutName(id, name) => {
                let old = contents.names.insert(*id, name.clone());
                self.forget_name(*id, old);
                self.ids.insert(name.clone(), *id);
            }
            Step::DeleteName(id) => {
                let old = contents.names.remove(id);
                self.forget_name(*id, old);
            }
            Step::PutSlot(key, slot) => drop(contents.slots.insert(*key, *slot)),
            Step::DeleteSlot(key) => drop(contents.slots.remove(key)),
            Step::PutTurn(service) => drop(contents.turns.insert(*service)),
            Step::DeleteTurn(service) => drop(contents.turns.remove(service)),
            Step::PutShare(key, name) => drop(contents.shares.insert(*key, name.clone())),
            Step::DeleteShare(key) => drop(contents.shares.remove(key)),
            Step::PutSourceRange(service, network) => {
                contents.source_ranges.insert((*service, *network));
            }
            Step::DeleteSourceRange(service, network) => {
                contents.source_ranges.remove(&(*service, *network));
            }
            Step::PutPodNetwork(network) => drop(contents.pod_networks.insert(*network)),
            Step::DeletePodNetwork(network) => drop(contents.pod_networks.remove(network)),
            Step::PutNodeAddress(address) => drop(contents.node_addresses.insert(*address)),
            Step::DeleteNodeAddress(address) => drop(contents.node_addresses.remove(address)),
            Step::Barrier => {}
        }
    }

    /// The id of a Service port, if it has one.
    pub(crate) fn id(&self, name: &PortKey) -> Option<u32> {
        self.ids.get(name).copied()
    }

    /// All ids that anything in the maps belongs to.
    pub(crate) fn ids(&self) -> BTreeSet<u32> {
        let contents = &self.contents;
        let held = self.held.keys().chain(contents.names.keys()).copied();
        let slots = contents.slots.keys().map(|key| key.service);
        let ranges = contents.source_ranges.iter().map(|(service, _)| *service);
        let turns = contents.turns.iter().copied();
        let shares = contents.shares.keys().map(|key| key.service);
        held.chain(slots)
            .chain(ranges)
            .chain(turns)
            .chain(shares)
            .collect()
    }

    /// The frontends of a Service port, in the order of their keys.
    pub(crate) fn frontends(&self, service: u32) -> impl DoubleEndedIterator<Item = ServiceKey> {
        let held = self.held.get(&service).into_iter();
        held.flat_map(|held| held.frontends.iter().copied())
    }

    /// The backends of a Service port, in the order of their ids.
    pub(crate) fn backends_of(&self, service: u32) -> impl Iterator<Item = (u32, &Backend)> {
        let held = self.held.get(&service).into_iter();
        let ids = held.flat_map(|held| held.backends.iter().copied());
        ids.filter_map(|id| Some((id, self.contents.backends.get(&id)?)))
    }

    /// The slots of a Service port, in the order of generations and indices.
    pub(crate) fn slots_of(&self, service: u32) -> impl Iterator<Item = (&SlotKey, &Slot)> {
        let first = SlotKey {
            service,
            generation: 0,
            index: 0,
        };
        let last = SlotKey {
            service,
            generation: u32::MAX,
            index: u32::MAX,
        };
        self.contents.slots.range(first..=last)
    }

    /// The destinations that share a Service port's connections: their numbers and names.
    pub(crate) fn shares_of(&self, service: u32) -> impl Iterator<Item = (u32, &str)> {
        let [first, last] = [0, u32::MAX].map(|share| ShareKey { service, share });
        let shares = self.contents.shares.range(first..=last);
        shares.map(|(key, name)| (key.share, name.as_str()))
    }

    /// The networks that are let in to a Service port's load balancer IPs.
    pub(crate) fn ranges_of(&self, service: u32) -> impl Iterator<Item = &Network> {
        let (first, last) = (([0; 16], 0), ([u8::MAX; 16], u8::MAX));
        let ranges = self
            .contents
            .source_ranges
            .range((service, first)..=(service, last));
        ranges.map(|(_, network)| network)
    }

    fn index_frontend(&mut self, key: ServiceKey, service: &Service) {
        if service.id != 0 {
            let held = self.held.entry(service.id).or_default();
            held.frontends.insert(key);
        }
    }

    fn index_backend(&mut self, id: u32, backend: &Backend) {
        let held = self.held.entry(backend.service).or_default();
        held.backends.insert(id);
    }

    fn forget_frontend(&mut self, key: &ServiceKey, old: Option<Service>) {
        if let Some(old) = old {
            self.forget(old.id, |held| {
                held.frontends.remove(key);
            });
        }
    }

    fn forget_backend(&mut self, id: u32, old: Option<Backend>) {
        if let Some(old) = old {
            self.forget(old.service, |held| {
                held.backends.remove(&id);
            });
        }
    }

    fn forget(&mut self, service: u32, what: impl FnOnce(&mut Held)) {
        if let Some(held) = self.held.get_mut(&service) {
            what(held);
            if held.frontends.is_empty() && held.backends.is_empty() {
                self.held.remove(&service);
            }
        }
    }

    fn forget_name(&mut self, id: u32, old: Option<PortKey>) {
        if let Some(old) = old
            && self.ids.get(&old) == Some(&id)
        {
            self.ids.remove(&old);
        }
    }
}

impl From<Contents> for Mirror {
    fn from(contents: Contents) -> Self {
        let mut mirror = Self::default();
        for (key, service) in &contents.services {
            mirror.index_frontend(*key, service);
        }
        for (id, backend) in &contents.backends {
            mirror.index_backend(*id, backend);
        }
        let names = contents.names.iter();
        mirror.ids = names.map(|(id, name)| (name.clone(), *id)).collect();
        Self { contents, ..mirror }
    }
}

impl Deref for Mirror {
    type Target = Contents;

    fn deref(&self) -> &Contents {
        &self.contents
    }
}

/// The index follows from the content.
impl PartialEq for Mirror {
    fn eq(&self, other: &Self) -> bool {
        self.contents == other.contents
    }
}

impl Eq for Mirror {}

#[cfg(test)]
mod tests {
    use gateway_common::{TCP, UNSPECIFIED, mapped};

    use super::*;

    #[test]
    fn addresses_of_services_are_told_from_those_beside_them() {
        const NODE: Address = mapped([10, 0, 0, 5]);
        let service = Service {
            id: 1,
            generation: 0,
            cluster: 0,
            local: 0,
            affinity: 0,
            flags: 0,
        };
        let mut contents = Contents::default();
        let mut serve = |key| {
            contents.services.insert(key, service);
            contents.is_frontend(&NODE)
        };
        assert!(!serve(ServiceKey::node_port(&NODE, 80, TCP)));
        assert!(!serve(ServiceKey::node_port(&UNSPECIFIED, 80, TCP)));
        for beside in [4, 6] {
            let beside = mapped([10, 0, 0, beside]);
            assert!(!serve(ServiceKey::address(beside, 80, TCP)));
        }
        assert!(serve(ServiceKey::address(NODE, 65_535, 255)));
    }
}
