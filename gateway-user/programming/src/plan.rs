//! The way from what the maps hold to what they should hold.
//!
//! Pure. The order of the steps is what makes a change atomic for packets:
//!
//! 1. frontends that nobody wants any more go;
//! 2. for each Service port whose set of backends changes: the new backends and slots are written
//!    under a new generation, which nobody looks at yet; then each frontend's element is replaced,
//!    so that a packet sees the whole old set or the whole new one;
//! 3. after all programs that may have read an old element have ended ([`Step::Barrier`]), the
//!    slots of old generations and the backends and names without users go.
//!
//! Where there is not room for all Service ports, essential ones come first, then those that are in
//! the maps already, then the others by name. One that finds no room is reported; what it has in the
//! maps is not touched, unless an essential one needs the place.
//!
//! Steps of one Service port form a [`Group`]: if one fails (a map is full), the rest of the group
//! is skipped, and its frontends keep what they had.

use std::collections::{BTreeMap, BTreeSet};

use gateway_common::{
    Address,
    maps::{Backend, MAX_BACKENDS, MAX_SERVICES, MAX_SLOTS, Service, ServiceKey, Slot, SlotKey},
};

use super::{
    address::Network,
    desired::{Desired, DesiredService},
    identity::PortKey,
    mirror::Mirror,
    step::{Group, Step},
};

/// How much the maps hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// `services`
    pub services: usize,
    /// `slots`
    pub slots: usize,
    /// `backends`
    pub backends: usize,
}

impl Capacity {
    /// The maps' own.
    pub const MAPS: Self = Self {
        services: MAX_SERVICES as usize,
        slots: MAX_SLOTS as usize,
        backends: MAX_BACKENDS as usize,
    };
}

impl Capacity {
    /// Takes more, or says which map has not enough left.
    fn add(&mut self, more: Self, limit: Self) -> Result<(), &'static str> {
        let sum = Self {
            services: self.services + more.services,
            slots: self.slots + more.slots,
            backends: self.backends + more.backends,
        };
        if sum.services > limit.services {
            Err("services")
        } else if sum.slots > limit.slots {
            Err("slots")
        } else if sum.backends > limit.backends {
            Err("backends")
        } else {
            *self = sum;
            Ok(())
        }
    }
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order. Empty if nothing is to do.
    pub groups: Vec<Group>,
    /// Service ports for which there is no room, and which map is too small.
    pub refused: Vec<(PortKey, &'static str)>,
}

/// Finds the steps.
pub fn plan(mirror: &Mirror, desired: &Desired, capacity: Capacity) -> Plan {
    let mut planner = Planner::new(mirror);
    let refused = planner.refuse(desired, capacity);
    planner.remove_frontends(desired);
    planner.node(desired);
    for (name, service) in &desired.services {
        if !planner.refused.contains(name) {
            planner.service(name, service);
        }
    }
    planner.guards(desired);
    planner.collect_garbage();
    Plan {
        groups: planner.groups,
        refused,
    }
}

struct Planner<'m> {
    mirror: &'m Mirror,
    ids: BTreeMap<&'m PortKey, u32>,
    next_id: u32,
    /// Service, address and port → id.
    backend_ids: BTreeMap<(u32, Address, u16), u32>,
    next_backend: u32,
    /// The newest generation of each Service port, and what is in it.
    newest: BTreeMap<u32, (u32, Vec<Slot>)>,
    /// One of each Service port's frontends, as it is now.
    current: BTreeMap<u32, Service>,
    live_sets: BTreeMap<u32, u32>,
    live_backends: BTreeSet<u32>,
    /// Backends that this plan writes.
    written: BTreeSet<u32>,
    live_ranges: BTreeSet<(u32, Network)>,
    refused: BTreeSet<&'m PortKey>,
    /// Ids of refused Service ports that are in the maps.
    kept: BTreeSet<u32>,
    groups: Vec<Group>,
}

impl<'m> Planner<'m> {
    /// Finds the Service ports for which there is no room.
    fn refuse(&mut self, desired: &'m Desired, capacity: Capacity) -> Vec<(PortKey, &'static str)> {
        let mut order: Vec<_> = desired.services.iter().collect();
        order.sort_by_key(|(name, service)| (!service.essential, !self.ids.contains_key(name)));
        // Cluster IPs have a guard each. A set that changes stands twice in `slots` for a moment.
        let mut used = Capacity {
            services: desired.guards.len(),
            slots: 0,
            backends: 0,
        };
        let mut refused = Vec::new();
        for (name, service) in order {
            let (cluster, local) = service.sets();
            let wanted = Capacity {
                services: service.frontends.len(),
                slots: 2 * (cluster.len() + local.len()),
                backends: service.backends.len(),
            };
            let Err(full) = used.add(wanted, capacity) else {
                continue;
            };
            self.refused.insert(name);
            refused.push((name.clone(), full));
            if let Some(id) = self.ids.get(name)
                && used.add(self.held(*id), capacity).is_ok()
            {
                self.kept.insert(*id);
            }
        }
        refused
    }

    /// What a Service port has in the maps.
    fn held(&self, id: u32) -> Capacity {
        let sets = self.mirror.slots.keys().filter(|key| key.service == id);
        Capacity {
            services: self.mirror.services.values().filter(|s| s.id == id).count(),
            slots: sets.count(),
            backends: self
                .mirror
                .backends
                .values()
                .filter(|b| b.service == id)
                .count(),
        }
    }

    fn new(mirror: &'m Mirror) -> Self {
        let backend_ids = mirror
            .backends
            .iter()
            .map(|(id, b)| ((b.service, b.address, b.port), *id))
            .collect();
        let mut newest: BTreeMap<u32, (u32, Vec<Slot>)> = BTreeMap::new();
        // Keys are sorted by service, generation, index.
        for (key, slot) in &mirror.slots {
            let (generation, set) = newest.entry(key.service).or_default();
            if *generation != key.generation {
                *generation = key.generation;
                set.clear();
            }
            set.push(*slot);
        }
        Self {
            mirror,
            ids: mirror.names.iter().map(|(id, name)| (name, *id)).collect(),
            next_id: mirror.names.keys().next_back().map_or(1, |id| id + 1),
            backend_ids,
            next_backend: mirror.backends.keys().next_back().map_or(1, |id| id + 1),
            newest,
            current: mirror
                .services
                .values()
                .map(|service| (service.id, *service))
                .collect(),
            live_sets: BTreeMap::new(),
            live_backends: BTreeSet::new(),
            written: BTreeSet::new(),
            live_ranges: BTreeSet::new(),
            refused: BTreeSet::new(),
            kept: BTreeSet::new(),
            groups: Vec::new(),
        }
    }

    fn push(&mut self, service: Option<&PortKey>, steps: Vec<Step>) {
        if !steps.is_empty() {
            self.groups.push(Group {
                service: service.cloned(),
                steps,
            });
        }
    }

    fn remove_frontends(&mut self, desired: &Desired) {
        let wanted: BTreeSet<_> = desired
            .services
            .iter()
            .filter(|(name, _)| !self.refused.contains(name))
            .map(|(_, service)| service)
            .flat_map(|service| service.frontends.keys().copied())
            .chain(
                desired
                    .guards
                    .iter()
                    .map(|address| ServiceKey::guard(*address)),
            )
            .collect();
        let steps = self
            .mirror
            .services
            .keys()
            .filter(|key| !wanted.contains(key))
            .filter(|key| !self.kept.contains(&self.mirror.services[key].id))
            .map(|key| Step::DeleteService(*key))
            .collect();
        self.push(None, steps);
    }

    fn node(&mut self, desired: &Desired) {
        let (old, new) = (&self.mirror.node_addresses, &desired.node_addresses);
        let gone = old.difference(new).map(|a| Step::DeleteNodeAddress(*a));
        let come = new.difference(old).map(|a| Step::PutNodeAddress(*a));
        let addresses = gone.chain(come).collect();
        self.push(None, addresses);
        let (old, new) = (&self.mirror.pod_networks, &desired.pod_networks);
        let come = new.difference(old).map(|n| Step::PutPodNetwork(*n));
        let gone = old.difference(new).map(|n| Step::DeletePodNetwork(*n));
        let networks = come.chain(gone).collect();
        self.push(None, networks);
    }

    fn service(&mut self, name: &PortKey, service: &DesiredService) {
        let mut steps = Vec::new();
        let id = self.ids.get(name).copied().unwrap_or_else(|| {
            let id = self.next_id;
            self.next_id += 1;
            steps.push(Step::PutName(id, name.clone()));
            id
        });
        let (cluster, local) = service.sets();
        let slots = |planner: &mut Self, set: &[Backend], steps: &mut Vec<Step>| -> Vec<Slot> {
            set.iter()
                .map(|backend| planner.backend(id, *backend, steps))
                .collect()
        };
        let mut set = slots(self, &cluster, &mut steps);
        set.extend(slots(self, &local, &mut steps));
        let generation = self.generation(id, &set, &mut steps);
        self.live_sets.insert(id, generation);
        self.live_backends
            .extend(set.iter().map(|slot| slot.backend));
        for network in &service.source_ranges {
            self.live_ranges.insert((id, *network));
            if !self.mirror.source_ranges.contains(&(id, *network)) {
                steps.push(Step::PutSourceRange(id, *network));
            }
        }
        for (key, flags) in &service.frontends {
            let element = Service {
                id,
                generation,
                cluster: cluster.len() as u32,
                local: local.len() as u32,
                affinity: service.affinity,
                flags: *flags,
            };
            if self.mirror.services.get(key) != Some(&element) {
                steps.push(Step::PutService(*key, element));
            }
        }
        self.push(Some(name), steps);
    }

    /// The slot of a backend of a Service port, new or known.
    fn backend(&mut self, service: u32, backend: Backend, steps: &mut Vec<Step>) -> Slot {
        let backend = Backend { service, ..backend };
        let key = (service, backend.address, backend.port);
        let id = *self.backend_ids.entry(key).or_insert_with(|| {
            self.next_backend += 1;
            self.next_backend - 1
        });
        // One that is in both sets comes by twice.
        let known = self.mirror.backends.get(&id) == Some(&backend);
        if !known && self.written.insert(id) {
            steps.push(Step::PutBackend(id, backend));
        }
        Slot::new(id, &backend)
    }

    /// The generation that holds the set: the newest one, if it does already.
    fn generation(&self, id: u32, set: &[Slot], steps: &mut Vec<Step>) -> u32 {
        let live = self.current.get(&id);
        let next = match self.newest.get(&id) {
            Some((generation, current)) if current == set => return *generation,
            Some((generation, _)) => generation.wrapping_add(1),
            // Without slots, the generation is where the frontends left it.
            None => live.map_or(1, |service| service.generation.wrapping_add(1)),
        };
        if set.is_empty() {
            // Nothing to write: a frontend with no backends looks at no slot.
            return live
                .filter(|service| service.cluster + service.local == 0)
                .map_or(next, |s| s.generation);
        }
        for (index, slot) in set.iter().enumerate() {
            let key = SlotKey {
                service: id,
                generation: next,
                index: index as u32,
            };
            steps.push(Step::PutSlot(key, *slot));
        }
        next
    }

    fn guards(&mut self, desired: &Desired) {
        let guard = Service {
            id: 0,
            generation: 0,
            cluster: 0,
            local: 0,
            affinity: 0,
            flags: Service::FLAG_GUARD,
        };
        let steps = desired
            .guards
            .iter()
            .map(|address| ServiceKey::guard(*address))
            .filter(|key| self.mirror.services.get(key) != Some(&guard))
            .map(|key| Step::PutService(key, guard))
            .collect();
        self.push(None, steps);
    }

    fn collect_garbage(&mut self) {
        let slots = self
            .mirror
            .slots
            .keys()
            .filter(|key| self.live_sets.get(&key.service) != Some(&key.generation))
            .filter(|key| !self.kept.contains(&key.service))
            .map(|key| Step::DeleteSlot(*key));
        let backends = self
            .mirror
            .backends
            .iter()
            .filter(|(id, _)| !self.live_backends.contains(id))
            .filter(|(_, backend)| !self.kept.contains(&backend.service))
            .map(|(id, _)| Step::DeleteBackend(*id));
        let names = self
            .mirror
            .names
            .keys()
            .filter(|id| !self.live_sets.contains_key(id) && !self.kept.contains(id))
            .map(|id| Step::DeleteName(*id));
        let ranges = self
            .mirror
            .source_ranges
            .difference(&self.live_ranges)
            .filter(|(service, _)| !self.kept.contains(service))
            .map(|(service, network)| Step::DeleteSourceRange(*service, *network));
        let mut steps: Vec<_> = slots.chain(backends).chain(ranges).chain(names).collect();
        if !steps.is_empty() {
            steps.insert(0, Step::Barrier);
        }
        self.push(None, steps);
    }
}

#[cfg(test)]
mod tests;
