use std::{collections::BTreeSet, net::IpAddr};

use gateway_common::maps::MAX_BACKENDS;
use nodegate_model::{
    gateway::Gateway,
    selection::NodeTopology,
    service::{Endpoint, Protocol, ServicePortName, TrafficPolicy},
};

use super::*;
use crate::desired::ExternalIps;

/// What is different between two plans of a history.
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn policy() -> Policy {
    Policy {
        external_ips: ExternalIps::Any,
        pod_networks: vec!["10.10.0.0/16".parse().unwrap()],
        ..Policy::default()
    }
}

fn node(last: u8) -> NodeFacts {
    NodeFacts {
        addresses: BTreeSet::from([IpAddr::from([192, 168, 170, last])]),
    }
}

fn name(name: &str) -> ServicePortName {
    ServicePortName {
        namespace: "default".into(),
        name: name.into(),
        port: String::new(),
    }
}

fn snapshot(services: Vec<Arc<ServicePort>>, topology: NodeTopology) -> Arc<Snapshot> {
    Arc::new(Snapshot {
        generation: 1,
        node: topology,
        services,
        gateway: Arc::new(Gateway::default()),
        diagnostics: Vec::new().into(),
    })
}

/// A Service port of few addresses, so that several claim the same one.
fn any_service(random: &mut fastrand::Rng, of: &str, protocol: Protocol) -> ServicePort {
    let policy = |random: &mut fastrand::Rng| {
        if random.bool() {
            TrafficPolicy::Cluster
        } else {
            TrafficPolicy::Local
        }
    };
    let mut some = |from: &[&str]| -> Vec<IpAddr> {
        let chosen = from.iter().filter(|_| random.u8(..4) == 0);
        chosen.map(|address| address.parse().unwrap()).collect()
    };
    let cluster_ips = some(&["10.96.0.1", "fd00:96::1"]);
    let more = some(&["10.96.0.2", "10.96.0.3", "10.96.0.4", "fd00:96::2"]);
    let external_ips = some(&["192.168.170.1", "203.0.113.1", "10.96.0.1"]);
    let load_balancer_ips = some(&["192.0.2.1", "203.0.113.1", "fd00:1::1"]);
    let mut endpoints: Vec<_> = (1..6)
        .filter(|_| random.bool())
        .map(|last| Endpoint::ready([10, 10, 1, last].into(), 8080, last % 2 == 0))
        .collect();
    if random.bool() {
        endpoints.push(Endpoint::ready("fd00:10::1".parse().unwrap(), 8080, true));
    }
    ServicePort {
        node_port: random.bool().then(|| 30_000 + u16::from(random.u8(..3))),
        cluster_ips: [more, cluster_ips].concat(),
        external_ips,
        load_balancer_ips,
        external_policy: policy(random),
        internal_policy: policy(random),
        affinity: random.bool().then_some(10),
        essential: random.u8(..5) == 0,
        endpoints,
        ..ServicePort::new(name(of), protocol, 80)
    }
}

/// Takes some Services out, changes some, and shares the others.
fn change(random: &mut fastrand::Rng, services: &[Arc<ServicePort>]) -> Vec<Arc<ServicePort>> {
    let mut changed: BTreeMap<_, _> = services
        .iter()
        .map(|service| {
            (
                (service.name.clone(), service.protocol),
                Arc::clone(service),
            )
        })
        .collect();
    for _ in 0..random.usize(0..4) {
        let of = random.choice(NAMES).unwrap();
        let protocol = *random.choice(&[Protocol::Tcp, Protocol::Udp]).unwrap();
        let key = (name(of), protocol);
        if random.u8(..4) == 0 {
            changed.remove(&key);
        } else {
            changed.insert(key, Arc::new(any_service(random, of, protocol)));
        }
    }
    changed.into_values().collect()
}

/// Whatever has happened before: the plan is the one that would be made of all that there is.
#[test]
fn a_plan_of_changes_is_the_plan_of_all() {
    let mut random = fastrand::Rng::with_seed(23);
    let (mut of_changes, mut of_all) = (0, 0);
    for history in 0..300 {
        let capacity = match history % 3 {
            0 => Capacity {
                services: 16,
                slots: 40,
                backends: 20,
            },
            _ => Capacity::MAPS,
        };
        let mut mirror = Mirror::default();
        let mut reconciler = Reconciler::new(policy(), capacity);
        let mut services = Vec::new();
        let (mut facts, mut topology) = (node(1), NodeTopology::default());
        for _ in 0..20 {
            services = change(&mut random, &services);
            if random.u8(..8) == 0 {
                facts = node(random.u8(1..3));
            }
            if random.u8(..8) == 0 {
                topology.name = format!("node{}", random.u8(..2));
            }
            let snapshot = snapshot(services.clone(), topology.clone());
            let desired = Desired::new(&services, &topology, &facts, &policy());
            let expected = plan(&mirror, &desired, capacity);
            let found = reconciler.plan(&mirror, &snapshot, &facts);
            assert_eq!(*reconciler.desired(), desired);
            assert_eq!(found, expected, "history {history}");
            if reconciler.work().planned < desired.services.len() {
                of_changes += 1;
            } else {
                of_all += 1;
            }
            // Now and then a step fails.
            let count = found.steps().count();
            let done = if random.u8(..6) == 0 {
                random.usize(..=count)
            } else {
                count
            };
            found.steps().take(done).for_each(|step| mirror.note(step));
            assert_eq!(mirror, Mirror::from((*mirror).clone()));
            if done == count && found.refused.is_empty() {
                reconciler.carried_out();
            }
        }
    }
    assert!(of_changes > 1000 && of_all > 1000, "{of_changes} {of_all}");
}

/// A node of a large cluster: what one endpoint costs does not go by how many Services there are.
#[test]
fn one_endpoint_costs_the_same_among_thirty_thousand_services() {
    let service = |number: u32, endpoints: u8| {
        let [_, a, b, c] = number.to_be_bytes();
        let endpoint = |last| Endpoint::ready([10, b, c, last].into(), 8080, last == 1);
        Arc::new(ServicePort {
            cluster_ips: vec![[11, a, b, c].into()],
            endpoints: (1..=endpoints).map(endpoint).collect(),
            ..ServicePort::new(name(&format!("s{number:05}")), Protocol::Tcp, 80)
        })
    };
    let mut costs = Vec::new();
    for count in [3, 30_000] {
        let mut mirror = Mirror::default();
        let mut reconciler = Reconciler::new(policy(), Capacity::MAPS);
        let mut services: Vec<_> = (0..count).map(|number| service(number, 3)).collect();
        assert!(services.len() * 3 < MAX_BACKENDS as usize);
        let mut apply = |services: &[Arc<ServicePort>]| {
            let snapshot = snapshot(services.to_vec(), NodeTopology::default());
            let plan = reconciler.plan(&mirror, &snapshot, &node(1));
            plan.steps().for_each(|step| mirror.note(step));
            reconciler.carried_out();
            (reconciler.work(), plan.steps().count())
        };
        let (first, _) = apply(&services);
        assert_eq!(first.planned, services.len());
        services[1] = service(1, 4);
        let (work, steps) = apply(&services);
        // The old one and the new one.
        assert_eq!((work.compiled, work.planned), (2, 1));
        // A backend, four slots, a frontend; then the old slots, once no program reads them any more.
        assert_eq!(steps, 1 + 4 + 1 + 1 + 3);
        costs.push((work, steps));
        assert_eq!(apply(&services), (Work::default(), 0));
    }
    assert_eq!(costs[0], costs[1]);
}
