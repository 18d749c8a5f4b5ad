extern crate std;

use core::cell::{Cell, RefCell};
use std::{
    collections::{HashMap, HashSet},
    vec,
    vec::Vec,
};

use super::*;
use crate::{TCP, UDP, mapped};

const CLUSTER_IP: Address = mapped([10, 96, 190, 18]);
const NODE: Address = mapped([192, 168, 170, 137]);
const OTHER_ADDRESS: Address = mapped([172, 16, 0, 1]);
const BALANCER: Address = mapped([1, 2, 3, 4]);
const LOCAL: Address = mapped([10, 10, 1, 4]);
const REMOTE: Address = mapped([10, 10, 2, 4]);
const LOCALHOST: Address = mapped([127, 0, 0, 1]);
const OUTSIDE: Address = mapped([203, 0, 113, 2]);
const BLOCKED: Address = mapped([203, 0, 113, 130]);
const POD: Address = mapped([10, 10, 1, 9]);
const OTHER_POD: Address = mapped([10, 10, 2, 9]);

struct Collections {
    settings: Settings,
    services: HashMap<ServiceKey, Service>,
    slots: HashMap<SlotKey, Slot>,
    backends: HashMap<u32, Backend>,
    node: HashMap<AddressKey, NodeAddress>,
    admitted: HashSet<Address>,
    affinity: RefCell<HashMap<(u32, Address), u32>>,
    random: Cell<u32>,
    turn: Cell<u32>,
    shares: RefCell<HashMap<u32, u32>>,
}

impl Tables for Collections {
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
        self.node.get(key)
    }
    /// 10.10.0.0/16
    fn is_pod(&self, address: &Address) -> bool {
        address[..14] == POD[..14]
    }
    fn admits(&self, _service: u32, client: &Address) -> bool {
        self.admitted.contains(client)
    }
    fn affinity(&self, key: &AffinityKey, _seconds: u32) -> Option<u32> {
        self.affinity
            .borrow()
            .get(&(key.service, key.client))
            .copied()
    }
    fn remember(&self, key: &AffinityKey, backend: u32) {
        self.affinity
            .borrow_mut()
            .insert((key.service, key.client), backend);
    }
    fn random(&self) -> u32 {
        self.random.get()
    }
    fn turn(&self, service: u32, size: u32) -> u32 {
        assert_eq!(service, 7);
        let turn = self.turn.get();
        self.turn.set(turn + 1);
        turn % size
    }
    fn count_share(&self, key: &ShareKey) {
        *self.shares.borrow_mut().entry(key.share).or_default() += 1;
    }
}

/// What the ingress gateway's Service says.
#[derive(Clone, Copy, Default)]
struct Spec<'s> {
    /// Address, and whether it is on this node.
    backends: &'s [(Address, bool)],
    external_local: bool,
    internal_local: bool,
    affinity: u32,
    source_ranges: bool,
}

/// A node with one Service: cluster IP, node port 31373, a load balancer IP.
fn node(spec: &Spec<'_>) -> Collections {
    let local: Vec<_> = spec.backends.iter().filter(|(_, local)| *local).collect();
    let mut service = Service {
        id: 7,
        generation: 3,
        cluster: spec.backends.len() as u32,
        local: local.len() as u32,
        affinity: spec.affinity,
        flags: 0,
    };
    if !spec.backends.is_empty() {
        service.flags |= Service::FLAG_HAS_ENDPOINTS;
    }
    let mut cluster_ip = service;
    if spec.internal_local {
        cluster_ip.flags |= Service::FLAG_LOCAL;
    }
    service.flags |= Service::FLAG_EXTERNAL;
    if spec.external_local {
        service.flags |= Service::FLAG_LOCAL;
    }
    let mut node_port = service;
    node_port.flags |= Service::FLAG_NODE_PORT;
    let mut balancer = service;
    if spec.source_ranges {
        balancer.flags |= Service::FLAG_SOURCE_RANGES;
    }
    let guard = Service {
        id: 0,
        generation: 0,
        cluster: 0,
        local: 0,
        affinity: 0,
        flags: Service::FLAG_GUARD,
    };
    let mut tables = Collections {
        settings: Settings {
            schema: 0,
            trace: 0,
            flags: Settings::FLAG_KNOWS_PODS
                | Settings::FLAG_LOCALHOST_NODE_PORTS
                | Settings::FLAG_MASQUERADE_AS_KUBE_PROXY,
            buckets: 1,
            host_netns: 0,
            generation: 0,
            node_v4: NODE,
            node_v6: crate::UNSPECIFIED,
            seed: 0,
        },
        services: HashMap::from([
            (ServiceKey::address(CLUSTER_IP, 80, TCP), cluster_ip),
            (ServiceKey::node_port(&NODE, 31373, TCP), node_port),
            (ServiceKey::address(BALANCER, 80, TCP), balancer),
            (ServiceKey::guard(CLUSTER_IP), guard),
        ]),
        slots: HashMap::new(),
        backends: HashMap::new(),
        node: HashMap::new(),
        admitted: HashSet::from([OUTSIDE, NODE]),
        affinity: RefCell::default(),
        random: Cell::new(0),
        turn: Cell::new(0),
        shares: RefCell::default(),
    };
    for (index, (address, is_local)) in spec.backends.iter().enumerate() {
        let mut flags = Backend::FLAG_IN_CLUSTER_SET;
        if *is_local {
            flags |= Backend::FLAG_LOCAL | Backend::FLAG_IN_LOCAL_SET;
        }
        let backend = Backend {
            address: *address,
            port: 8080,
            protocol: TCP,
            flags,
            service: 7,
        };
        tables.backends.insert(100 + index as u32, backend);
    }
    let all = spec.backends.iter();
    for (index, (address, _)) in all.chain(local).enumerate() {
        let key = SlotKey {
            service: 7,
            generation: 3,
            index: index as u32,
        };
        let id = tables
            .backends
            .iter()
            .find(|(_, backend)| backend.address == *address);
        let (id, backend) = id.expect("it was inserted");
        tables.slots.insert(key, Slot::new(*id, backend));
    }
    let flags = NodeAddress::FLAG_NODE_PORTS;
    tables
        .node
        .insert(AddressKey { address: NODE }, NodeAddress { flags });
    let other = AddressKey {
        address: OTHER_ADDRESS,
    };
    tables.node.insert(other, NodeAddress { flags: 0 });
    tables
}

fn ask(tables: &Collections, client: Address, to: (Address, u16), origin: Origin) -> Decision {
    let flow = Flow {
        client,
        destination: to.0,
        port: to.1,
        protocol: TCP,
        origin,
    };
    if origin.is_socket() {
        decide(tables, &flow)
    } else {
        decide_packet(tables, &flow)
    }
}

/// Everybody who may be sent to a Service from, and where it may be reached.
const CLUSTER: (Address, u16) = (CLUSTER_IP, 80);
const NODE_PORT: (Address, u16) = (NODE, 31373);
const BALANCED: (Address, u16) = (BALANCER, 80);

/// The last octet but one of every backend that chance may choose, and the masquerade.
fn reach(
    tables: &Collections,
    client: Address,
    to: (Address, u16),
    origin: Origin,
) -> (Vec<u8>, bool) {
    let mut hit = Vec::new();
    let mut masquerade = false;
    for step in 0..64u32 {
        tables.random.set(step << 26);
        let decision = ask(tables, client, to, origin);
        assert_eq!(decision.verdict, Verdict::Forward, "{decision:?}");
        hit.push(decision.address[14]);
        masquerade = decision.masquerade.by_kube_proxy();
    }
    hit.sort_unstable();
    hit.dedup();
    (hit, masquerade)
}

/// `TestInternalExternalMasquerade` of pkg/proxy/iptables/proxier_test.go, base configuration: from
/// where, to which frontend of which Service, over which endpoints, masqueraded or not.
#[test]
fn internal_external_masquerade() {
    let backends = [(LOCAL, true), (REMOTE, false)];
    let plain = node(&Spec {
        backends: &backends,
        ..Spec::default()
    });
    let external = node(&Spec {
        backends: &backends,
        external_local: true,
        ..Spec::default()
    });
    let internal = node(&Spec {
        backends: &backends,
        internal_local: true,
        ..Spec::default()
    });
    let pod = (POD, Origin::PodPacket);
    let host = (NODE, Origin::NodeSocket);
    let outside = (OUTSIDE, Origin::Packet);
    let all = || vec![1, 2];
    let here = || vec![1];
    for ((client, origin), tables, to, expected) in [
        (pod, &plain, CLUSTER, (all(), false)),
        (pod, &plain, NODE_PORT, (all(), true)),
        (pod, &plain, BALANCED, (all(), true)),
        (pod, &external, CLUSTER, (all(), false)),
        (pod, &external, NODE_PORT, (all(), false)),
        (pod, &external, BALANCED, (all(), false)),
        (pod, &internal, CLUSTER, (here(), false)),
        (pod, &internal, NODE_PORT, (all(), true)),
        (pod, &internal, BALANCED, (all(), true)),
        (host, &plain, CLUSTER, (all(), true)),
        (host, &plain, NODE_PORT, (all(), true)),
        (host, &plain, (LOCALHOST, 31373), (all(), true)),
        (host, &external, CLUSTER, (all(), true)),
        (host, &external, NODE_PORT, (all(), true)),
        (host, &external, BALANCED, (all(), true)),
        (host, &internal, CLUSTER, (here(), true)),
        (host, &internal, NODE_PORT, (all(), true)),
        (outside, &plain, CLUSTER, (all(), true)),
        (outside, &plain, NODE_PORT, (all(), true)),
        (outside, &plain, BALANCED, (all(), true)),
        (outside, &external, CLUSTER, (all(), true)),
        (outside, &external, NODE_PORT, (here(), false)),
        (outside, &external, BALANCED, (here(), false)),
        (outside, &internal, CLUSTER, (here(), true)),
        (outside, &internal, NODE_PORT, (all(), true)),
    ] {
        assert_eq!(
            reach(tables, client, to, origin),
            expected,
            "{client:?} {to:?} {origin:?}"
        );
    }
}

/// The same, without a way to tell pods from others, and with `--masquerade-all`.
#[test]
fn internal_external_masquerade_in_other_configurations() {
    let backends = [(LOCAL, true), (REMOTE, false)];
    let mut plain = node(&Spec {
        backends: &backends,
        ..Spec::default()
    });
    let mut external = node(&Spec {
        backends: &backends,
        external_local: true,
        ..Spec::default()
    });
    for tables in [&mut plain, &mut external] {
        tables.settings.flags &= !Settings::FLAG_KNOWS_PODS;
    }
    assert_eq!(
        reach(&plain, NODE, CLUSTER, Origin::NodeSocket),
        (vec![1, 2], false)
    );
    assert_eq!(
        reach(&plain, OUTSIDE, CLUSTER, Origin::Packet),
        (vec![1, 2], false)
    );
    assert_eq!(
        reach(&external, POD, NODE_PORT, Origin::PodPacket),
        (vec![1], false)
    );
    assert_eq!(
        reach(&external, POD, BALANCED, Origin::PodPacket),
        (vec![1], false)
    );

    plain.settings.flags |= Settings::FLAG_KNOWS_PODS | Settings::FLAG_MASQUERADE_ALL;
    assert_eq!(
        reach(&plain, POD, CLUSTER, Origin::PodPacket),
        (vec![1, 2], true)
    );
}

#[test]
fn masquerading_is_elided_where_replies_pass_here_anyway() {
    let mut tables = node(&Spec {
        backends: &[(LOCAL, true)],
        ..Spec::default()
    });
    let how =
        |tables: &Collections, client, origin| ask(tables, client, NODE_PORT, origin).masquerade;
    assert_eq!(how(&tables, OUTSIDE, Origin::Packet), Masquerade::Yes);
    tables.settings.flags &= !Settings::FLAG_MASQUERADE_AS_KUBE_PROXY;
    assert_eq!(how(&tables, OUTSIDE, Origin::Packet), Masquerade::Elided);
    assert_eq!(how(&tables, OTHER_POD, Origin::Packet), Masquerade::Yes);
    assert_eq!(how(&tables, POD, Origin::PodPacket), Masquerade::Yes);
    assert_eq!(how(&tables, NODE, Origin::NodeSocket), Masquerade::Elided);
    let remote = node(&Spec {
        backends: &[(REMOTE, false)],
        ..Spec::default()
    });
    assert_eq!(how(&remote, OUTSIDE, Origin::Packet), Masquerade::Yes);
}

#[test]
fn a_pod_that_reaches_itself_is_masqueraded() {
    let tables = node(&Spec {
        backends: &[(LOCAL, true)],
        ..Spec::default()
    });
    let hairpin = ask(&tables, LOCAL, CLUSTER, Origin::PodPacket);
    assert_eq!(hairpin.masquerade, Masquerade::Yes);
    let other = ask(&tables, POD, CLUSTER, Origin::PodPacket);
    assert_eq!(other.masquerade, Masquerade::No);
}

#[test]
fn localhost_is_the_node_only_for_the_node_and_only_if_wanted() {
    let mut tables = node(&Spec {
        backends: &[(LOCAL, true)],
        ..Spec::default()
    });
    let to = (LOCALHOST, 31373);
    let verdict = |tables: &Collections, origin| ask(tables, LOCALHOST, to, origin).verdict;
    assert_eq!(verdict(&tables, Origin::NodeSocket), Verdict::Forward);
    for origin in [Origin::PodSocket, Origin::Packet, Origin::PodPacket] {
        assert_eq!(verdict(&tables, origin), Verdict::Pass, "{origin:?}");
    }
    let mut v6 = crate::UNSPECIFIED;
    v6[15] = 1;
    let decision = ask(&tables, v6, (v6, 31373), Origin::NodeSocket);
    assert_eq!(decision.verdict, Verdict::Pass, "::1 is excluded");
    tables.settings.flags &= !Settings::FLAG_LOCALHOST_NODE_PORTS;
    assert_eq!(verdict(&tables, Origin::NodeSocket), Verdict::Pass);
}

#[test]
fn what_is_no_service_passes() {
    let tables = node(&Spec {
        backends: &[(LOCAL, true)],
        ..Spec::default()
    });
    for (to, origin) in [
        ((NODE, 22), Origin::Packet),
        ((OTHER_ADDRESS, 31373), Origin::Packet),
        ((LOCAL, 31373), Origin::PodSocket),
        ((LOCAL, 80), Origin::NodeSocket),
        ((CLUSTER_IP, 31373), Origin::Packet),
    ] {
        let decision = ask(&tables, OUTSIDE, to, origin);
        let expected = (Verdict::Pass, Reason::NoService);
        assert_eq!((decision.verdict, decision.reason), expected, "{to:?}");
    }
    let udp = Flow {
        client: OUTSIDE,
        destination: CLUSTER_IP,
        port: 80,
        protocol: UDP,
        origin: Origin::Packet,
    };
    assert_eq!(
        decide(&tables, &udp).verdict,
        Verdict::Pass,
        "protocols are apart"
    );
}

#[test]
fn a_cluster_ip_refuses_ports_that_its_service_lacks() {
    let tables = node(&Spec {
        backends: &[(LOCAL, true)],
        ..Spec::default()
    });
    let decision = ask(&tables, NODE, (CLUSTER_IP, 31373), Origin::NodeSocket);
    let expected = (Verdict::Reject, Reason::NoSuchPort);
    assert_eq!((decision.verdict, decision.reason), expected);
}

#[test]
fn nobody_anywhere_is_a_refusal_and_nobody_here_is_silence() {
    let nobody = node(&Spec {
        external_local: true,
        internal_local: true,
        ..Spec::default()
    });
    let elsewhere = node(&Spec {
        backends: &[(REMOTE, false)],
        external_local: true,
        internal_local: true,
        ..Spec::default()
    });
    for to in [CLUSTER, NODE_PORT, BALANCED] {
        let decision = ask(&nobody, OUTSIDE, to, Origin::Packet);
        let expected = (Verdict::Reject, Reason::NoEndpoints);
        assert_eq!((decision.verdict, decision.reason), expected, "{to:?}");
        let decision = ask(&elsewhere, OUTSIDE, to, Origin::Packet);
        let expected = (Verdict::Drop, Reason::NoLocalEndpoints);
        assert_eq!((decision.verdict, decision.reason), expected, "{to:?}");
    }
    // Pods short-circuit the external policy, not the internal one.
    assert_eq!(
        ask(&elsewhere, POD, NODE_PORT, Origin::PodSocket).verdict,
        Verdict::Forward
    );
    assert_eq!(
        ask(&elsewhere, POD, CLUSTER, Origin::PodSocket).verdict,
        Verdict::Drop
    );
}

/// `TestLoadBalancer` of pkg/proxy/iptables/proxier_test.go.
#[test]
fn source_ranges_guard_load_balancer_ips_only() {
    let tables = node(&Spec {
        backends: &[(LOCAL, true)],
        source_ranges: true,
        ..Spec::default()
    });
    let verdict = |client, to, origin| ask(&tables, client, to, origin).verdict;
    assert_eq!(verdict(OUTSIDE, BALANCED, Origin::Packet), Verdict::Forward);
    assert_eq!(verdict(BLOCKED, BALANCED, Origin::Packet), Verdict::Drop);
    assert_eq!(
        verdict(BLOCKED, NODE_PORT, Origin::Packet),
        Verdict::Forward
    );
    assert_eq!(verdict(POD, BALANCED, Origin::PodPacket), Verdict::Drop);
    assert_eq!(
        verdict(crate::UNSPECIFIED, BALANCED, Origin::NodeSocket),
        Verdict::Forward
    );
    let by_packet = ask(&tables, POD, BALANCED, Origin::PodSocket);
    assert_eq!(
        (by_packet.verdict, by_packet.reason),
        (Verdict::Pass, Reason::ByPacket)
    );
}

#[test]
fn affinity_keeps_a_client_with_its_backend_while_that_is_in_the_set() {
    let backends = [(LOCAL, true), (REMOTE, false)];
    let mut tables = node(&Spec {
        backends: &backends,
        affinity: 10_800,
        ..Spec::default()
    });
    let first = ask(&tables, OUTSIDE, NODE_PORT, Origin::Packet);
    assert_eq!((first.reason, first.address), (Reason::Chosen, LOCAL));
    tables.random.set(u32::MAX);
    let again = ask(&tables, OUTSIDE, CLUSTER, Origin::Packet);
    assert_eq!((again.reason, again.address), (Reason::Affinity, LOCAL));
    let other = ask(&tables, POD, CLUSTER, Origin::PodPacket);
    assert_eq!((other.reason, other.address), (Reason::Chosen, REMOTE));
    // The pod ends: its backend leaves the sets, and then the table.
    tables.backends.get_mut(&100).expect("LOCAL").flags = Backend::FLAG_LOCAL;
    let moved = ask(&tables, OUTSIDE, NODE_PORT, Origin::Packet);
    assert_eq!((moved.reason, moved.address), (Reason::Chosen, REMOTE));
}

/// Numbers of backends that went are given to new ones.
#[test]
fn affinity_does_not_lead_to_another_services_backend() {
    let backends = [(LOCAL, true), (REMOTE, false)];
    let mut tables = node(&Spec {
        backends: &backends,
        affinity: 10_800,
        ..Spec::default()
    });
    let first = ask(&tables, OUTSIDE, NODE_PORT, Origin::Packet);
    assert_eq!(first.address, LOCAL);
    tables.random.set(u32::MAX);
    tables.backends.get_mut(&100).expect("LOCAL").service = 8;
    let moved = ask(&tables, OUTSIDE, NODE_PORT, Origin::Packet);
    assert_eq!((moved.reason, moved.address), (Reason::Chosen, REMOTE));
}

#[test]
fn a_gap_in_the_tables_drops_rather_than_misdelivers() {
    let mut tables = node(&Spec {
        backends: &[(LOCAL, true)],
        ..Spec::default()
    });
    let slot = ask(&tables, OUTSIDE, NODE_PORT, Origin::Packet);
    // A slot says all that a choice needs.
    tables.backends.clear();
    let decision = ask(&tables, OUTSIDE, NODE_PORT, Origin::Packet);
    assert_eq!(decision, slot);
    tables.slots.clear();
    let decision = ask(&tables, OUTSIDE, NODE_PORT, Origin::Packet);
    let expected = (Verdict::Drop, Reason::TableGap);
    assert_eq!((decision.verdict, decision.reason), expected);
}

#[test]
fn the_main_address_needs_no_lookup_and_no_other_passes_for_it() {
    let mut tables = node(&Spec {
        backends: &[(LOCAL, true)],
        ..Spec::default()
    });
    let asked = ask(&tables, OUTSIDE, NODE_PORT, Origin::Packet);
    assert_eq!(asked.reason, Reason::Chosen);
    tables.node.clear();
    let expected = ask(&tables, OUTSIDE, NODE_PORT, Origin::Packet);
    assert_eq!(expected.reason, Reason::NoService);
    // The other family's flag says nothing about this one.
    tables.settings.flags |= Settings::FLAG_NODE_PORTS_V6;
    let expected = ask(&tables, OUTSIDE, NODE_PORT, Origin::Packet);
    assert_eq!(expected.reason, Reason::NoService);
    tables.settings.flags |= Settings::FLAG_NODE_PORTS_V4;
    for origin in [Origin::Packet, Origin::PodPacket] {
        let decision = ask(&tables, OUTSIDE, NODE_PORT, origin);
        assert_eq!(decision.address, asked.address);
        let decision = ask(&tables, OUTSIDE, (OTHER_ADDRESS, NODE_PORT.1), origin);
        assert_eq!(decision.reason, Reason::NoService);
    }
}

#[test]
fn the_main_address_is_no_frontends_own_where_that_is_known() {
    let mut tables = node(&Spec {
        backends: &[(LOCAL, true)],
        ..Spec::default()
    });
    let (address, port) = NODE_PORT;
    let own = ServiceKey::address(address, port, TCP);
    let mut service = *tables.services.values().next().expect("a frontend");
    service.flags &= !Service::FLAG_HAS_ENDPOINTS;
    tables.services.insert(own, service);
    // An address of a Service's own comes first.
    let decision = ask(&tables, OUTSIDE, NODE_PORT, Origin::Packet);
    assert_eq!(decision.reason, Reason::NoEndpoints);
    tables.settings.flags |= Settings::FLAG_ONLY_NODE_PORTS_V6;
    let decision = ask(&tables, OUTSIDE, NODE_PORT, Origin::Packet);
    assert_eq!(decision.reason, Reason::NoEndpoints);
    // Nobody asks for it where there is none, and other addresses are asked for as before.
    tables.settings.flags |= Settings::FLAG_ONLY_NODE_PORTS_V4;
    let decision = ask(&tables, OUTSIDE, NODE_PORT, Origin::Packet);
    assert_eq!(decision.reason, Reason::Chosen);
    let decision = ask(&tables, OUTSIDE, CLUSTER, Origin::Packet);
    assert_eq!(decision.reason, Reason::Chosen);
}

#[test]
fn every_backend_gets_its_share_of_the_random_numbers() {
    let backends: Vec<_> = (1..=5).map(|i| (mapped([10, 10, 1, i]), true)).collect();
    let tables = node(&Spec {
        backends: &backends,
        ..Spec::default()
    });
    let mut hits = vec![0u32; backends.len()];
    let steps = 100_000u32;
    for step in 0..steps {
        // An even walk over all of u32, ends included.
        let random = (u64::from(step) * u64::from(u32::MAX) / u64::from(steps - 1)) as u32;
        tables.random.set(random);
        let decision = ask(&tables, POD, CLUSTER, Origin::PodSocket);
        hits[(decision.backend - 100) as usize] += 1;
    }
    for hit in hits {
        assert!(hit.abs_diff(steps / 5) <= 1, "{hit}");
    }
}

/// 8 and 2 of 10 for the destinations 1 and 2, of which the first has two backends.
#[test]
fn backends_take_turns_whatever_they_are_reached_by() {
    let backends = [1, 2, 3].map(|i| (mapped([10, 10, 1, i]), true));
    let mut tables = node(&Spec {
        backends: &backends,
        ..Spec::default()
    });
    // By id; every fifth turn is the third backend's.
    let order = [100, 101, 102, 100, 101, 100, 101, 102, 100, 101];
    tables.slots.clear();
    for (index, id) in order.into_iter().enumerate() {
        let key = SlotKey {
            service: 7,
            generation: 3,
            index: index as u32,
        };
        let share = if id == 102 { 2 } else { 1 };
        let slot = Slot::new(id, &tables.backends[&id]);
        tables.slots.insert(key, Slot { share, ..slot });
    }
    for service in tables.services.values_mut() {
        service.cluster = order.len() as u32;
        service.flags |= Service::FLAG_IN_TURN;
    }
    let asks = [
        (POD, CLUSTER, Origin::PodSocket),
        (OUTSIDE, NODE_PORT, Origin::Packet),
    ];
    let asks = asks.iter().cycle().take(20);
    let taken: Vec<_> = asks
        .map(|(client, to, origin)| ask(&tables, *client, *to, *origin).backend)
        .collect();
    assert_eq!(taken, [order, order].concat());
    assert_eq!(*tables.shares.borrow(), HashMap::from([(1, 16), (2, 4)]));
}

#[test]
fn a_client_that_stays_takes_no_turn() {
    let mut tables = node(&Spec {
        backends: &[(LOCAL, true)],
        ..Spec::default()
    });
    for service in tables.services.values_mut() {
        service.flags |= Service::FLAG_IN_TURN;
        service.affinity = 60;
    }
    let reasons = [(); 3].map(|()| ask(&tables, POD, CLUSTER, Origin::PodSocket).reason);
    let [first, then] = [Reason::Chosen, Reason::Affinity];
    assert_eq!(reasons, [first, then, then]);
    assert_eq!(tables.turn.get(), 1);
}

#[test]
fn numbers_survive_the_trip() {
    for (number, reason) in Reason::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, number);
        assert_eq!(Reason::from_number(number as u8), Some(reason));
    }
    assert_eq!(Reason::from_number(Reason::COUNT as u8), None);
    for verdict in [
        Verdict::Pass,
        Verdict::Forward,
        Verdict::Reject,
        Verdict::Drop,
    ] {
        assert_eq!(Verdict::from_number(verdict as u8), Some(verdict));
    }
    for masquerade in [Masquerade::No, Masquerade::Yes, Masquerade::Elided] {
        assert_eq!(Masquerade::from_number(masquerade as u8), Some(masquerade));
    }
}
