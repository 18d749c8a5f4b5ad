//! Keeps what the maps should hold from one Snapshot to the next, so that a plan costs what has changed
//! and not what there is.
//!
//! A Snapshot shares the Service ports that have not changed with the one before, so that two lists of
//! pointers tell what has. A frontend that several Service ports claim goes to the first by name; all
//! claims are kept, since the next in line gets it when the first is gone.
//!
//! All is planned anew when the node or the policy has changed, when there is not room for all Service
//! ports, and after steps that were not carried out.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use gateway_common::{Address, maps::ServiceKey};
use nodegate_model::{
    Snapshot,
    service::{IpFamily, ServicePort},
};
use smallvec::SmallVec;

use super::{
    capacity::Capacity,
    desired::{Desired, DesiredService, Policy, Surroundings},
    difference::{Difference, difference},
    identity::PortKey,
    mirror::Mirror,
    node::NodeFacts,
    plan::{Changes, Plan, plan, plan_changes},
};

/// What the maps should hold, as of the last Snapshot that was planned.
#[derive(Debug)]
pub struct Reconciler {
    policy: Policy,
    capacity: Capacity,
    node: NodeFacts,
    /// None before the first.
    snapshot: Option<Arc<Snapshot>>,
    desired: Desired,
    /// The Service ports that claim a frontend, the first by name first: it is the owner.
    claims: BTreeMap<ServiceKey, SmallVec<[Claim; 1]>>,
    /// How many Service ports a cluster IP has.
    guards: BTreeMap<Address, usize>,
    /// What `desired` takes.
    taken: Capacity,
    /// Whether the maps hold all of `desired`.
    settled: bool,
    work: Work,
}

/// How much was looked at for a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Service ports that were compiled, counted for each family that they have.
    pub compiled: usize,
    /// Service ports whose steps were looked for.
    pub planned: usize,
}

/// A Service port of a family that wants a frontend.
#[derive(Clone, Debug)]
struct Claim {
    service: Arc<ServicePort>,
    family: IpFamily,
}

impl Claim {
    fn key(&self) -> PortKey {
        (
            self.service.name.clone(),
            self.service.protocol,
            self.family,
        )
    }

    fn is_before(&self, other: &Self) -> bool {
        let key = |claim: &'_ Self| (claim.service.protocol, claim.family);
        (&self.service.name, key(self)) < (&other.service.name, key(other))
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.service, &other.service) && self.family == other.family
    }
}

/// What comes of taking Service ports out and in.
#[derive(Debug, Default)]
struct Effects {
    changes: Changes,
    /// Those whose frontends are not all theirs, or have come to be.
    contested: Vec<Claim>,
}

impl Reconciler {
    /// Knows nothing yet: the first plan is of all that there is.
    pub fn new(policy: Policy, capacity: Capacity) -> Self {
        Self {
            policy,
            capacity,
            node: NodeFacts::default(),
            snapshot: None,
            desired: Desired::default(),
            claims: BTreeMap::new(),
            guards: BTreeMap::new(),
            taken: Capacity::default(),
            settled: false,
            work: Work::default(),
        }
    }

    /// Finds the steps from what the maps hold to what the Snapshot says. [`Self::carried_out`] is to be
    /// told when all of them are done; until then the next plan is of all that there is.
    pub fn plan(&mut self, mirror: &Mirror, snapshot: &Arc<Snapshot>, node: &NodeFacts) -> Plan {
        self.work = Work::default();
        let before = self.snapshot.replace(Arc::clone(snapshot));
        let before = before.filter(|before| before.node == snapshot.node && *node == self.node);
        let is_settled = std::mem::replace(&mut self.settled, false);
        let difference = before
            .as_deref()
            .filter(|_| is_settled)
            .and_then(|before| difference(&before.services, &snapshot.services));
        if let Some(difference) = difference {
            let changes = self.change(snapshot, &difference);
            if self.taken.exceeded(self.capacity).is_none() {
                self.work.planned = changes.services.len();
                return plan_changes(mirror, &self.desired, &changes);
            }
        } else {
            self.node.clone_from(node);
            self.rebuild(snapshot);
        }
        self.work.planned = self.desired.services.len();
        plan(mirror, &self.desired, self.capacity)
    }

    /// The steps of the last plan have all been carried out, and it refused nothing.
    pub fn carried_out(&mut self) {
        self.settled = true;
    }

    /// What the maps should hold, as of the last plan.
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// How much was looked at for the last plan.
    pub fn work(&self) -> Work {
        self.work
    }

    fn rebuild(&mut self, snapshot: &Snapshot) {
        let surroundings = self.surroundings(snapshot);
        self.desired = Desired::empty(&surroundings);
        self.claims.clear();
        self.guards.clear();
        self.taken = Capacity::default();
        let mut effects = Effects::default();
        for service in &snapshot.services {
            self.put(snapshot, service, &mut effects);
        }
        self.settle_contests(snapshot, effects);
    }

    fn change(&mut self, snapshot: &Snapshot, difference: &Difference<'_>) -> Changes {
        let mut effects = Effects::default();
        for service in &difference.gone {
            self.take(snapshot, service, &mut effects);
        }
        for service in &difference.come {
            self.put(snapshot, service, &mut effects);
        }
        self.settle_contests(snapshot, effects)
    }

    /// Takes a Service port out, which was compiled in the same surroundings.
    fn take(&mut self, snapshot: &Snapshot, service: &Arc<ServicePort>, effects: &mut Effects) {
        for family in IpFamily::ALL {
            let claim = Claim {
                service: Arc::clone(service),
                family,
            };
            let Some((guard, compiled)) = self.compile(snapshot, &claim) else {
                continue;
            };
            for frontend in compiled.frontends.into_keys() {
                self.withdraw(frontend, &claim, effects);
            }
            self.release_guard(guard, effects);
            let key = claim.key();
            self.replace(&key, None);
            effects.changes.services.insert(key);
        }
    }

    /// Takes a Service port in.
    fn put(&mut self, snapshot: &Snapshot, service: &Arc<ServicePort>, effects: &mut Effects) {
        for family in IpFamily::ALL {
            let claim = Claim {
                service: Arc::clone(service),
                family,
            };
            let Some((guard, compiled)) = self.compile(snapshot, &claim) else {
                continue;
            };
            let mut is_contested = false;
            for frontend in compiled.frontends.keys() {
                is_contested |= self.claim(*frontend, &claim, effects);
            }
            self.set_guard(guard, effects);
            let key = claim.key();
            if is_contested {
                effects.contested.push(claim);
            } else {
                self.replace(&key, Some(compiled));
            }
            effects.changes.services.insert(key);
        }
    }

    /// Gives those whose frontends others claim too the ones that are theirs.
    fn settle_contests(&mut self, snapshot: &Snapshot, effects: Effects) -> Changes {
        let Effects {
            mut changes,
            contested,
        } = effects;
        for claim in contested {
            let key = claim.key();
            // It may have been taken out meanwhile.
            let Some((_, mut compiled)) = self.compile(snapshot, &claim) else {
                continue;
            };
            let is_known = compiled
                .frontends
                .keys()
                .any(|key| self.is_claimed_by(key, &claim));
            if !is_known {
                continue;
            }
            compiled.frontends.retain(|key, _| self.owns(key, &claim));
            self.replace(&key, Some(compiled));
            changes.services.insert(key);
        }
        let (claims, guards) = (&self.claims, &self.desired.guards);
        changes.unwanted.retain(|key| {
            let is_guard = *key == ServiceKey::guard(key.address);
            !(claims.contains_key(key) || is_guard && guards.contains(&key.address))
        });
        changes
    }

    fn compile(&mut self, snapshot: &Snapshot, claim: &Claim) -> Option<(Address, DesiredService)> {
        let compiled = self
            .surroundings(snapshot)
            .compile(&claim.service, claim.family)?;
        self.work.compiled += 1;
        Some(compiled)
    }

    fn surroundings<'s>(&'s self, snapshot: &'s Snapshot) -> Surroundings<'s> {
        Surroundings {
            topology: &snapshot.node,
            node: &self.node,
            policy: &self.policy,
        }
    }

    /// Notes a claim, and says whether it is not the only one.
    fn claim(&mut self, frontend: ServiceKey, claim: &Claim, effects: &mut Effects) -> bool {
        let claims = self.claims.entry(frontend).or_default();
        let at = claims.partition_point(|other| other.is_before(claim));
        if at == 0
            && let Some(owner) = claims.first()
        {
            effects.contested.push(owner.clone());
        }
        claims.insert(at, claim.clone());
        claims.len() > 1
    }

    fn withdraw(&mut self, frontend: ServiceKey, claim: &Claim, effects: &mut Effects) {
        let Entry::Occupied(mut entry) = self.claims.entry(frontend) else {
            return;
        };
        let claims = entry.get_mut();
        let Some(at) = claims.iter().position(|other| other.is(claim)) else {
            return;
        };
        claims.remove(at);
        match claims.first() {
            None => {
                entry.remove();
                effects.changes.unwanted.insert(frontend);
            }
            Some(heir) if at == 0 => effects.contested.push(heir.clone()),
            Some(_) => {}
        }
    }

    fn is_claimed_by(&self, frontend: &ServiceKey, claim: &Claim) -> bool {
        let mut claims = self.claims.get(frontend).into_iter().flatten();
        claims.any(|other| other.is(claim))
    }

    fn owns(&self, frontend: &ServiceKey, claim: &Claim) -> bool {
        let owner = self.claims.get(frontend).and_then(|claims| claims.first());
        owner.is_some_and(|owner| owner.is(claim))
    }

    fn set_guard(&mut self, address: Address, effects: &mut Effects) {
        *self.guards.entry(address).or_default() += 1;
        if self.desired.guards.insert(address) {
            self.taken.services += 1;
            effects.changes.guards.insert(address);
        }
    }

    fn release_guard(&mut self, address: Address, effects: &mut Effects) {
        let Entry::Occupied(mut ports) = self.guards.entry(address) else {
            return;
        };
        *ports.get_mut() -= 1;
        if *ports.get() == 0 {
            ports.remove();
            self.desired.guards.remove(&address);
            self.taken.services -= 1;
            effects.changes.unwanted.insert(ServiceKey::guard(address));
        }
    }

    /// What is desired of a Service port from now on; nothing of one that is gone, or has no frontend.
    fn replace(&mut self, key: &PortKey, service: Option<DesiredService>) {
        if let Some(old) = self.desired.services.remove(key) {
            self.taken = self.taken.minus(old.capacity());
        }
        if let Some(service) = service.filter(|service| !service.frontends.is_empty()) {
            self.taken = self.taken.plus(service.capacity());
            self.desired.services.insert(key.clone(), service);
        }
    }
}

#[cfg(test)]
mod tests;
