//! The decision core's view of a [`Mirror`]: what the kernel would decide, without a kernel.
//!
//! A decision draws at most one random number. [`MirrorTables::outcomes`] finds every decision that
//! some number leads to, and how many numbers do.

use std::cell::Cell;

use gateway_common::{
    Address,
    decide::{Decision, Flow, Tables, decide, scale},
    maps::{
        AddressKey, AffinityKey, Backend, NodeAddress, Service, ServiceKey, Settings, ShareKey,
        Slot, SlotKey,
    },
};

use super::{
    address::contains,
    capacity::Capacity,
    desired::Desired,
    mirror::Mirror,
    plan::{Plan, plan},
};

/// Every address in `node_addresses` is one.
static SERVES_NODE_PORTS: NodeAddress = NodeAddress {
    flags: NodeAddress::FLAG_NODE_PORTS,
};

/// Maps that were empty, and have been filled for `desired`; and the plan by which that was done,
/// which says what there was no room for.
pub fn filled(desired: &Desired) -> (Mirror, Plan) {
    let mut mirror = Mirror::default();
    let plan = plan(&mirror, desired, Capacity::MAPS);
    for step in plan.steps() {
        mirror.note(step);
    }
    (mirror, plan)
}

/// The maps' content as [`Tables`].
#[derive(Debug)]
pub struct MirrorTables<'m> {
    mirror: &'m Mirror,
    settings: Settings,
    /// The backend that every client was sent to before.
    known: Option<u32>,
    random: Cell<u32>,
    drawn: Cell<bool>,
}

/// One of the ways in which a decision can end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PossibleDecision {
    /// The decision.
    pub decision: Decision,
    /// How likely it is: of all random numbers, the part that leads to it.
    pub probability: f64,
}

// === impl MirrorTables ===

impl<'m> MirrorTables<'m> {
    /// The tables of a node with these settings, which has seen no client before.
    pub fn new(mirror: &'m Mirror, settings: Settings) -> Self {
        Self {
            mirror,
            settings,
            known: None,
            random: Cell::new(0),
            drawn: Cell::new(false),
        }
    }

    /// Says that clients were sent to `backend` lately, for Services with affinity.
    #[must_use]
    pub fn with_affinity(self, backend: u32) -> Self {
        Self {
            known: Some(backend),
            ..self
        }
    }

    /// All decisions that are possible for a flow, each once, in the order of the slots.
    pub fn outcomes(&self, flow: &Flow) -> Vec<PossibleDecision> {
        let mut outcomes: Vec<PossibleDecision> = Vec::new();
        let mut first = 0;
        loop {
            let decision = self.decide(flow, first);
            if !self.drawn.get() {
                let probability = 1.0;
                return vec![PossibleDecision {
                    decision,
                    probability,
                }];
            }
            let last = self.last_like(flow, first, &decision);
            let numbers = u64::from(last - first) + 1;
            let probability = numbers as f64 / 2f64.powi(32);
            // Where backends take turns, one may have several.
            let known = outcomes.iter_mut().find(|it| it.decision == decision);
            match known {
                Some(known) => known.probability += probability,
                None => outcomes.push(PossibleDecision {
                    decision,
                    probability,
                }),
            }
            let Some(next) = last.checked_add(1) else {
                return outcomes;
            };
            first = next;
        }
    }

    fn decide(&self, flow: &Flow, random: u32) -> Decision {
        self.random.set(random);
        self.drawn.set(false);
        decide(self, flow)
    }

    /// The largest number that leads to the same decision as `first`. Numbers that lead to the same
    /// one are neighbours.
    fn last_like(&self, flow: &Flow, first: u32, decision: &Decision) -> u32 {
        let (mut same, mut end) = (first, u32::MAX);
        while same < end {
            let middle = same + (end - same).div_ceil(2);
            if self.decide(flow, middle) == *decision {
                same = middle;
            } else {
                end = middle - 1;
            }
        }
        same
    }
}

impl Tables for MirrorTables<'_> {
    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }

    fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.mirror.services.get(key)
    }

    fn slot(&self, key: &SlotKey) -> Option<&Slot> {
        self.mirror.slots.get(key)
    }

    fn backend(&self, id: u32) -> Option<&Backend> {
        self.mirror.backends.get(&id)
    }

    fn node_address(&self, key: &AddressKey) -> Option<&NodeAddress> {
        let ours = self.mirror.node_addresses.contains(&key.address);
        ours.then_some(&SERVES_NODE_PORTS)
    }

    fn is_pod(&self, address: &Address) -> bool {
        let mut networks = self.mirror.pod_networks.iter();
        networks.any(|network| contains(network, address))
    }

    fn admits(&self, service: u32, client: &Address) -> bool {
        let mut ranges = self.mirror.source_ranges.iter();
        ranges.any(|(of, network)| *of == service && contains(network, client))
    }

    fn affinity(&self, _key: &AffinityKey, _seconds: u32) -> Option<u32> {
        self.known
    }

    fn remember(&self, _key: &AffinityKey, _backend: u32) {}

    fn random(&self) -> u32 {
        self.drawn.set(true);
        self.random.get()
    }

    /// Which turn it is nobody knows in advance: any.
    fn turn(&self, _service: u32, size: u32) -> u32 {
        scale(self.random(), size)
    }

    fn count_share(&self, _key: &ShareKey) {}
}

#[cfg(test)]
mod tests {
    use gateway_common::{
        TCP, UNSPECIFIED,
        conntrack::BUCKETS,
        decide::{Origin, Reason, Verdict},
        mapped,
    };
    use nodegate_model::{
        selection::NodeTopology,
        service::{Endpoint, Protocol, ServicePort, ServicePortName},
    };

    use super::*;
    use crate::{desired::Policy, node::NodeFacts};

    const CLUSTER_IP: Address = mapped([10, 96, 0, 1]);

    fn mirror(endpoints: u8, affinity: Option<u32>) -> Mirror {
        let name = ServicePortName {
            namespace: "ns".into(),
            name: "web".into(),
            port: String::new(),
        };
        let endpoint = |number| Endpoint::ready([10, 0, 0, number].into(), 8080, true);
        let service = ServicePort {
            cluster_ips: vec!["10.96.0.1".parse().unwrap()],
            affinity,
            endpoints: (1..=endpoints).map(endpoint).collect(),
            ..ServicePort::new(name, Protocol::Tcp, 80)
        };
        let (node, facts) = (NodeTopology::default(), NodeFacts::default());
        let policy = Policy {
            pod_networks: vec!["10.0.0.0/8".parse().unwrap()],
            ..Policy::default()
        };
        filled(&Desired::new(&[service], &node, &facts, &policy)).0
    }

    fn settings() -> Settings {
        Settings {
            schema: 0,
            trace: 0,
            flags: 0,
            buckets: BUCKETS,
            host_netns: 0,
            generation: 1,
            node_v4: mapped([192, 168, 0, 1]),
            node_v6: UNSPECIFIED,
            seed: 0,
        }
    }

    fn flow(destination: Address) -> Flow {
        Flow {
            client: mapped([192, 0, 2, 1]),
            destination,
            port: 80,
            protocol: TCP,
            origin: Origin::Packet,
        }
    }

    #[test]
    fn every_backend_is_an_outcome_and_none_is_likelier() {
        for count in [1, 2, 3, 7, 100] {
            let mirror = mirror(count, None);
            let tables = MirrorTables::new(&mirror, settings());
            let outcomes = tables.outcomes(&flow(CLUSTER_IP));
            assert_eq!(outcomes.len(), usize::from(count));
            let ports = outcomes.iter().zip(1..);
            for (outcome, number) in ports {
                assert_eq!(outcome.decision.address, mapped([10, 0, 0, number]));
                assert!((outcome.probability - 1.0 / f64::from(count)).abs() < 1e-8);
            }
            let sum: f64 = outcomes.iter().map(|outcome| outcome.probability).sum();
            assert!((sum - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn what_needs_no_chance_has_one_outcome() {
        let empty = mirror(0, None);
        let tables = MirrorTables::new(&empty, settings());
        for (destination, verdict, reason) in [
            (CLUSTER_IP, Verdict::Reject, Reason::NoEndpoints),
            (mapped([10, 96, 0, 2]), Verdict::Pass, Reason::NoService),
        ] {
            let outcomes = tables.outcomes(&flow(destination));
            assert_eq!(outcomes.len(), 1);
            let PossibleDecision { decision, .. } = outcomes[0];
            assert_eq!((decision.verdict, decision.reason), (verdict, reason));
        }
    }

    #[test]
    fn a_known_client_has_one_outcome() {
        let mirror = mirror(3, Some(10));
        let known = *mirror.backends.keys().nth(1).unwrap();
        let tables = MirrorTables::new(&mirror, settings()).with_affinity(known);
        let outcomes = tables.outcomes(&flow(CLUSTER_IP));
        assert_eq!(outcomes.len(), 1);
        assert_eq!(outcomes[0].decision.backend, known);
        assert_eq!(outcomes[0].decision.reason, Reason::Affinity);
    }
}
