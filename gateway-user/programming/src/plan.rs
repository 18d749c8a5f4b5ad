//! The way from what the maps hold to what they should hold.
//!
//! Pure. The order of the steps is what makes a change atomic for packets:
//!
//! 1. frontends that no Service port has any more go;
//! 2. for each Service port whose set of backends changes: the new backends and slots are written
//!    under a new generation, which no frontend refers to yet; then each frontend's element is replaced,
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
    maps::{Backend, Service, ServiceKey, ShareKey, Slot, SlotKey},
};

use super::{
    address::Network,
    capacity::Capacity,
    desired::{Desired, DesiredService, Shares},
    identity::PortKey,
    mirror::Mirror,
    step::{Group, Step},
};

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order. Empty if nothing is to do.
    pub groups: Vec<Group>,
    /// Service ports for which there is no room, and which map is too small.
    pub refused: Vec<(PortKey, &'static str)>,
}

impl Plan {
    /// Takes out the steps that no packet waits for: what is in force without them is what is wanted.
    pub fn take_garbage(&mut self) -> Option<Group> {
        let is_garbage = |group: &mut Group| group.steps.first() == Some(&Step::Barrier);
        self.groups.pop_if(is_garbage)
    }

    /// Every step, in its order.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.groups.iter().flat_map(|group| &group.steps)
    }
}

/// Finds the steps.
pub fn plan(mirror: &Mirror, desired: &Desired, capacity: Capacity) -> Plan {
    let mut planner = Planner::new(mirror);
    let refused = planner.refuse(desired, capacity);
    planner.remove_unwanted_frontends(desired);
    planner.node(desired);
    for (name, service) in &desired.services {
        if !planner.refused.contains(name) {
            planner.service(name, service);
        }
    }
    planner.guards(&desired.guards);
    planner.close_ranges(&mirror.ids());
    planner.collect_garbage(&mirror.ids());
    Plan {
        groups: planner.groups,
        refused,
    }
}

/// What is different from what the maps hold.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Service ports that are new, changed or gone.
    pub(super) services: BTreeSet<PortKey>,
    /// Cluster IPs that are new.
    pub(super) guards: BTreeSet<Address>,
    /// Frontends that no Service port has any more.
    pub(super) unwanted: BTreeSet<ServiceKey>,
}

/// As [`plan`], where the maps hold all of `desired` but for the changes, and there is room for all.
/// Looks at nothing else.
pub(super) fn plan_changes(mirror: &Mirror, desired: &Desired, changes: &Changes) -> Plan {
    let mut planner = Planner::new(mirror);
    planner.remove_frontends(changes.unwanted.iter().copied());
    let mut ids = BTreeSet::new();
    for name in &changes.services {
        ids.extend(mirror.id(name));
        if let Some(service) = desired.services.get(name) {
            planner.service(name, service);
        }
    }
    planner.guards(&changes.guards);
    planner.close_ranges(&ids);
    planner.collect_garbage(&ids);
    Plan {
        groups: planner.groups,
        refused: Vec::new(),
    }
}

struct Planner<'m> {
    mirror: &'m Mirror,
    next_id: u32,
    next_backend: u32,
    /// By Service id, the generation that its frontends look at from now on.
    live_sets: BTreeMap<u32, u32>,
    live_backends: BTreeSet<u32>,
    /// Service ids whose backends take turns.
    live_turns: BTreeSet<u32>,
    live_shares: BTreeSet<ShareKey>,
    live_ranges: BTreeSet<(u32, Network)>,
    refused: BTreeSet<&'m PortKey>,
    /// Ids of refused Service ports that are in the maps.
    kept: BTreeSet<u32>,
    groups: Vec<Group>,
}

impl<'m> Planner<'m> {
    fn new(mirror: &'m Mirror) -> Self {
        Self {
            mirror,
            next_id: mirror.names.keys().next_back().map_or(1, |id| id + 1),
            next_backend: mirror.backends.keys().next_back().map_or(1, |id| id + 1),
            live_sets: BTreeMap::new(),
            live_backends: BTreeSet::new(),
            live_turns: BTreeSet::new(),
            live_shares: BTreeSet::new(),
            live_ranges: BTreeSet::new(),
            refused: BTreeSet::new(),
            kept: BTreeSet::new(),
            groups: Vec::new(),
        }
    }

    /// Finds the Service ports for which there is no room.
    fn refuse(&mut self, desired: &'m Desired, capacity: Capacity) -> Vec<(PortKey, &'static str)> {
        let mut used = desired.guards_capacity();
        let mut refused = Vec::new();
        let mut order: Vec<_> = desired.services.iter().collect();
        order.sort_by_key(|(name, service)| (!service.essential, self.mirror.id(name).is_none()));
        for (name, service) in order {
            let Err(full) = used.take(service.capacity(), capacity) else {
                continue;
            };
            self.refused.insert(name);
            refused.push((name.clone(), full));
            if let Some(id) = self.mirror.id(name)
                && used.take(self.held(id), capacity).is_ok()
            {
                self.kept.insert(id);
            }
        }
        refused
    }

    /// What a Service port has in the maps.
    fn held(&self, id: u32) -> Capacity {
        Capacity {
            services: self.mirror.frontends(id).count(),
            slots: self.mirror.slots_of(id).count(),
            backends: self.mirror.backends_of(id).count(),
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

    fn remove_unwanted_frontends(&mut self, desired: &Desired) {
        let services = desired.services.iter();
        let placed = services.filter(|(name, _)| !self.refused.contains(name));
        let frontends = placed.flat_map(|(_, service)| service.frontends.keys().copied());
        let guards = desired
            .guards
            .iter()
            .map(|address| ServiceKey::guard(*address));
        let wanted: BTreeSet<_> = frontends.chain(guards).collect();
        let mirrored = self.mirror.services.iter();
        let unwanted = mirrored
            .filter(|(key, service)| !wanted.contains(key) && !self.kept.contains(&service.id))
            .map(|(key, _)| *key)
            .collect::<Vec<_>>();
        self.remove_frontends(unwanted.into_iter());
    }

    fn remove_frontends(&mut self, unwanted: impl Iterator<Item = ServiceKey>) {
        let steps = unwanted.map(Step::DeleteService).collect();
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
        let id = self.mirror.id(name).unwrap_or_else(|| {
            let id = self.next_id;
            self.next_id += 1;
            steps.push(Step::PutName(id, name.clone()));
            id
        });
        let (cluster, local) = service.sets();
        let mut set = self.slots(id, cluster.iter().chain(&local), &mut steps);
        if let Some(shares) = &service.shares {
            self.take_turns(id, shares, &mut set, &mut steps);
        }
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

    /// The slots of a Service port's backends, new or known.
    fn slots<'b>(
        &mut self,
        service: u32,
        set: impl Iterator<Item = &'b Backend>,
        steps: &mut Vec<Step>,
    ) -> Vec<Slot> {
        let known = self.mirror.backends_of(service);
        let mut ids: BTreeMap<(Address, u16), u32> = known
            .map(|(id, backend)| ((backend.address, backend.port), id))
            .collect();
        let mut written = BTreeSet::new();
        set.map(|backend| {
            let backend = Backend {
                service,
                ..*backend
            };
            let key = (backend.address, backend.port);
            let id = *ids.entry(key).or_insert_with(|| {
                self.next_backend += 1;
                self.next_backend - 1
            });
            // One that is in both sets comes by twice.
            let is_known = self.mirror.backends.get(&id) == Some(&backend);
            if !is_known && written.insert(id) {
                steps.push(Step::PutBackend(id, backend));
            }
            Slot::new(id, &backend)
        })
        .collect()
    }

    /// Gives each slot the number of the destination whose turn it is.
    fn take_turns(&mut self, id: u32, shares: &Shares, set: &mut [Slot], steps: &mut Vec<Step>) {
        self.live_turns.insert(id);
        if !self.mirror.turns.contains(&id) {
            steps.push(Step::PutTurn(id));
        }
        let known: Vec<(u32, &str)> = self.mirror.shares_of(id).collect();
        // The numbers of those that go are in use until the old slots are gone.
        let mut free = (1..).filter(|number| !known.iter().any(|(taken, _)| taken == number));
        let numbers: Vec<u32> = shares
            .destinations
            .iter()
            .filter_map(|name| {
                let its = known.iter().find(|(_, its)| its == name);
                let share = its.map(|(number, _)| *number).or_else(|| free.next())?;
                let key = ShareKey { service: id, share };
                self.live_shares.insert(key);
                if its.is_none() {
                    steps.push(Step::PutShare(key, name.clone()));
                }
                Some(share)
            })
            .collect();
        for (slot, (_, destination)) in set.iter_mut().zip(&shares.turns) {
            // A number that has no room in a slot is not counted.
            slot.share = u8::try_from(numbers[*destination]).unwrap_or(0);
        }
    }

    /// The generation that holds the set: the newest one, if it does already.
    fn generation(&self, id: u32, set: &[Slot], steps: &mut Vec<Step>) -> u32 {
        let mut frontends = self.mirror.frontends(id);
        let live = frontends.next_back().map(|key| self.mirror.services[&key]);
        let next = match self.newest(id) {
            Some((generation, current)) if current == set => return generation,
            Some((generation, _)) => generation.wrapping_add(1),
            // Without slots, the generation is where the frontends left it.
            None => live.map_or(1, |service| service.generation.wrapping_add(1)),
        };
        if set.is_empty() {
            // Nothing to write: a frontend with no backends looks at no slot.
            return live
                .filter(|service| service.cluster + service.local == 0)
                .map_or(next, |service| service.generation);
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

    /// The newest generation of a Service port's slots, and what is in it.
    fn newest(&self, id: u32) -> Option<(u32, Vec<Slot>)> {
        let mut newest: Option<(u32, Vec<Slot>)> = None;
        for (key, slot) in self.mirror.slots_of(id) {
            match &mut newest {
                Some((generation, set)) if *generation == key.generation => set.push(*slot),
                _ => newest = Some((key.generation, vec![*slot])),
            }
        }
        newest
    }

    fn guards(&mut self, addresses: &BTreeSet<Address>) {
        let guard = Service {
            id: 0,
            generation: 0,
            cluster: 0,
            local: 0,
            affinity: 0,
            flags: Service::FLAG_GUARD,
        };
        let steps = addresses
            .iter()
            .map(|address| ServiceKey::guard(*address))
            .filter(|key| self.mirror.services.get(key) != Some(&guard))
            .map(|key| Step::PutService(key, guard))
            .collect();
        self.push(None, steps);
    }

    /// Shuts out clients of networks that are allowed no longer, before the plan counts as in force.
    fn close_ranges(&mut self, ids: &BTreeSet<u32>) {
        let restricted = self.restricted();
        let steps = ids
            .difference(&self.kept)
            .filter(|id| restricted.contains(id))
            .flat_map(|id| self.dead_ranges(*id))
            .map(|(service, network)| Step::DeleteSourceRange(service, network))
            .collect();
        self.push(None, steps);
    }

    /// Service ports that let only some networks in.
    fn restricted(&self) -> BTreeSet<u32> {
        self.live_ranges.iter().map(|(id, _)| *id).collect()
    }

    /// Ranges that a Service port has in the maps and wants no more.
    fn dead_ranges(&self, id: u32) -> impl Iterator<Item = (u32, Network)> {
        let ranges = self.mirror.ranges_of(id).map(move |network| (id, *network));
        ranges.filter(|range| !self.live_ranges.contains(range))
    }

    /// Removes what these Service ports have in the maps and use no more.
    fn collect_garbage(&mut self, ids: &BTreeSet<u32>) {
        let mirror = self.mirror;
        let ids: Vec<u32> = ids.difference(&self.kept).copied().collect();
        let slots = ids.iter().flat_map(|id| {
            let live = self.live_sets.get(id);
            let slots = mirror.slots_of(*id).map(|(key, _)| key);
            slots.filter(move |key| live != Some(&key.generation))
        });
        let backends: BTreeSet<u32> = ids
            .iter()
            .flat_map(|id| mirror.backends_of(*id).map(|(backend, _)| backend))
            .filter(|backend| !self.live_backends.contains(backend))
            .collect();
        // One that lets all in now has no use for its ranges; the others' are closed already.
        let restricted = self.restricted();
        let open = ids.iter().filter(|id| !restricted.contains(id));
        let ranges = open.flat_map(|id| self.dead_ranges(*id));
        let names = ids
            .iter()
            .filter(|id| mirror.names.contains_key(id) && !self.live_sets.contains_key(id));
        let turns = ids
            .iter()
            .filter(|id| mirror.turns.contains(id) && !self.live_turns.contains(id));
        let shares = ids.iter().flat_map(|id| {
            let shares = mirror.shares_of(*id);
            shares.map(|(share, _)| ShareKey {
                service: *id,
                share,
            })
        });
        let shares = shares.filter(|key| !self.live_shares.contains(key));
        let mut steps = vec![Step::Barrier];
        steps.extend(turns.map(|id| Step::DeleteTurn(*id)));
        steps.extend(shares.map(Step::DeleteShare));
        steps.extend(slots.map(|key| Step::DeleteSlot(*key)));
        steps.extend(backends.into_iter().map(Step::DeleteBackend));
        steps.extend(ranges.map(|(service, network)| Step::DeleteSourceRange(service, network)));
        steps.extend(names.map(|id| Step::DeleteName(*id)));
        if steps.len() > 1 {
            self.push(None, steps);
        }
    }
}

#[cfg(test)]
mod tests;
