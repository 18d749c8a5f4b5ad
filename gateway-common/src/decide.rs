//! The decision core: what happens to a flow.
//!
//! One pure function, generic over where the tables are. The kernel programs give it the BPF maps,
//! tests and explanations give it ordinary collections. It models what kube-proxy's chains do with
//! the first packet of a flow: KUBE-SERVICES (cluster IP, external IP), its last rule
//! KUBE-NODEPORTS (`--dst-type LOCAL`), then KUBE-SVC (one of the endpoints, each as likely as the
//! others) and KUBE-SEP (DNAT).

use crate::{
    Address, is_loopback,
    maps::{AddressKey, Backend, NodeAddress, Service, ServiceKey, Slot, SlotKey},
};

/// Where the core looks things up.
pub trait Tables {
    /// The frontend, if a Service has it.
    fn service(&self, key: &ServiceKey) -> Option<&Service>;
    /// The backend id in a slot.
    fn slot(&self, key: &SlotKey) -> Option<&Slot>;
    /// A backend by id.
    fn backend(&self, id: u32) -> Option<&Backend>;
    /// What an address of this node is good for; none if it is not this node's.
    fn node_address(&self, key: &AddressKey) -> Option<&NodeAddress>;
    /// A uniformly distributed number.
    fn random(&self) -> u32;
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A socket in the node's own network namespace: there, 127.0.0.1 is the node.
    NodeSocket,
    /// A socket in a pod's network namespace.
    PodSocket,
    /// A packet that came in from the network.
    Packet,
}

/// The first packet of a flow, or the `connect()` before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Where it is going.
    pub destination: Address,
    /// Host byte order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Who asks.
    pub origin: Origin,
}

/// What becomes of a flow.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not ours: leave it as it is.
    Pass = 0,
    /// Send it to the backend.
    Forward = 1,
    /// Refuse it, so that the client knows at once.
    Reject = 2,
    /// Throw it away.
    Drop = 3,
}

impl Verdict {
    /// The verdict with this number, if there is one.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Pass),
            1 => Some(Self::Forward),
            2 => Some(Self::Reject),
            3 => Some(Self::Drop),
            _ => None,
        }
    }

    /// The word that traces show.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Forward => "forward",
            Self::Reject => "reject",
            Self::Drop => "drop",
        }
    }
}

/// Why. Also the index of the counter in `counters`.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No Service has this address and port.
    NoService = 0,
    /// A backend was chosen.
    Chosen = 1,
    /// The Service has no endpoints (kube-proxy: `REJECT`, "has no endpoints").
    NoEndpoints = 2,
    /// The address is a cluster IP, but its Service has no such port.
    NoSuchPort = 3,
    /// A slot or backend that must exist does not: a fault of the daemon.
    TableGap = 4,
    /// The headers cannot be parsed or are not translated here (fragments, IP options).
    Unparsed = 5,
    /// The flow could not be recorded, so it was not translated.
    TableFull = 6,
    /// Another connection of the same client, through another frontend, occupies the same addresses
    /// and ports between client and backend: replies could not be told apart.
    Clash = 7,
}

impl Reason {
    /// How many reasons there are: the size of `counters`.
    pub const COUNT: u32 = 8;

    /// All of them, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT as usize] = [
        Self::NoService,
        Self::Chosen,
        Self::NoEndpoints,
        Self::NoSuchPort,
        Self::TableGap,
        Self::Unparsed,
        Self::TableFull,
        Self::Clash,
    ];

    /// The reason with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The name in counters and in `-o json`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoService => "no-service",
            Self::Chosen => "chosen",
            Self::NoEndpoints => "no-endpoints",
            Self::NoSuchPort => "no-such-port",
            Self::TableGap => "table-gap",
            Self::Unparsed => "unparsed",
            Self::TableFull => "table-full",
            Self::Clash => "clash",
        }
    }

    /// What to tell a person.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NoService => "no Service has this address and port",
            Self::Chosen => "backend chosen",
            Self::NoEndpoints => "the Service has no endpoints",
            Self::NoSuchPort => "a cluster IP, but its Service has no such port",
            Self::TableGap => "the tables are inconsistent",
            Self::Unparsed => "headers not understood",
            Self::TableFull => "the flow table is full",
            Self::Clash => "the client uses this source port for the same backend already",
        }
    }
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of the flow.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The source must become this node's (KUBE-MARK-MASQ): the backend is on another node, and
    /// its replies have to come back through this one.
    pub masquerade: bool,
    /// The Service; 0 if none was found.
    pub service: u32,
    /// The frontend's flags (`Service::FLAG_…`); 0 if none was found.
    pub flags: u32,
    /// The chosen backend's id; 0 if none was chosen.
    pub backend: u32,
    /// The chosen backend's address; all zeroes if none was chosen.
    pub address: Address,
    /// The chosen backend's port, host byte order.
    pub port: u16,
}

impl Decision {
    const NOT_OURS: Self = Self {
        verdict: Verdict::Pass,
        reason: Reason::NoService,
        masquerade: false,
        service: 0,
        flags: 0,
        backend: 0,
        address: crate::UNSPECIFIED,
        port: 0,
    };

    #[inline(always)]
    const fn without_backend(verdict: Verdict, reason: Reason, service: &Service) -> Self {
        Self {
            verdict,
            reason,
            masquerade: false,
            service: service.id,
            flags: service.flags,
            backend: 0,
            address: crate::UNSPECIFIED,
            port: 0,
        }
    }
}

/// Decides a new flow.
///
/// Inlined into each kernel program: BPF passes at most five arguments and no struct by value
/// between functions.
#[inline(always)]
pub fn decide<T: Tables>(tables: &T, flow: &Flow) -> Decision {
    let Some(service) = frontend(tables, flow) else {
        return Decision::NOT_OURS;
    };
    if service.flags & Service::FLAG_GUARD != 0 {
        return Decision::without_backend(Verdict::Reject, Reason::NoSuchPort, service);
    }
    if service.backends == 0 {
        return Decision::without_backend(Verdict::Reject, Reason::NoEndpoints, service);
    }
    let slot = SlotKey {
        service: service.id,
        generation: service.generation,
        index: scale(tables.random(), service.backends),
    };
    let Some(slot) = tables.slot(&slot) else {
        return Decision::without_backend(Verdict::Drop, Reason::TableGap, service);
    };
    let id = slot.backend;
    let Some(backend) = tables.backend(id) else {
        return Decision::without_backend(Verdict::Drop, Reason::TableGap, service);
    };
    Decision {
        verdict: Verdict::Forward,
        reason: Reason::Chosen,
        masquerade: matches!(flow.origin, Origin::Packet)
            && backend.flags & Backend::FLAG_LOCAL == 0,
        service: service.id,
        flags: service.flags,
        backend: id,
        address: backend.address,
        port: backend.port,
    }
}

/// Finds the frontend that a flow is for: an address of a Service first (KUBE-SERVICES), a node
/// port last ("NOTE: this must be the last rule in this chain").
#[inline(always)]
fn frontend<'t, T: Tables>(tables: &'t T, flow: &Flow) -> Option<&'t Service> {
    let key = ServiceKey::address(flow.destination, flow.port, flow.protocol);
    if let Some(service) = tables.service(&key) {
        return Some(service);
    }
    if serves_node_ports(tables, flow) {
        return tables.service(&ServiceKey::node_port(flow.port, flow.protocol));
    }
    // Only a socket can be told "refused" from here; packets to unknown ports of a cluster IP
    // are left to the routing, as kube-proxy leaves them.
    match flow.origin {
        Origin::Packet => None,
        Origin::NodeSocket | Origin::PodSocket => {
            tables.service(&ServiceKey::guard(flow.destination))
        }
    }
}

/// `-m addrtype --dst-type LOCAL`: whether the destination is this node. 127.0.0.1 is, but only for
/// the node's own processes: in a pod it is the pod.
#[inline(always)]
fn serves_node_ports<T: Tables>(tables: &T, flow: &Flow) -> bool {
    if is_loopback(&flow.destination) {
        return matches!(flow.origin, Origin::NodeSocket);
    }
    let key = AddressKey {
        address: flow.destination,
    };
    match tables.node_address(&key) {
        Some(address) => address.flags & NodeAddress::FLAG_NODE_PORTS != 0,
        None => false,
    }
}

/// Maps a uniform 32-bit number onto `0..n` without a division; off from uniform by less than
/// n / 2^32.
#[inline(always)]
const fn scale(random: u32, n: u32) -> u32 {
    ((random as u64 * n as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::cell::Cell;
    use std::{collections::HashMap, vec, vec::Vec};

    use super::*;
    use crate::{TCP, mapped};

    const CLUSTER_IP: Address = mapped([10, 96, 190, 18]);
    const NODE: Address = mapped([192, 168, 170, 137]);
    const GATEWAY: Address = mapped([10, 10, 1, 4]);
    const REMOTE: Address = mapped([10, 10, 2, 4]);
    const LOCALHOST: Address = mapped([127, 0, 0, 1]);

    #[derive(Default)]
    struct Collections {
        services: HashMap<ServiceKey, Service>,
        slots: HashMap<SlotKey, Slot>,
        backends: HashMap<u32, Backend>,
        node: HashMap<AddressKey, NodeAddress>,
        random: Cell<u32>,
    }

    impl Tables for Collections {
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
        fn random(&self) -> u32 {
            self.random.get()
        }
    }

    /// The ingress gateway of a one-node cluster: cluster IP, node port, and these backends.
    fn gateway(backends: &[(Address, u8)]) -> Collections {
        let mut tables = Collections::default();
        let service = Service {
            id: 7,
            generation: 3,
            backends: backends.len() as u32,
            local: 0,
            flags: 0,
        };
        for key in [
            ServiceKey::address(CLUSTER_IP, 80, TCP),
            ServiceKey::node_port(31373, TCP),
        ] {
            tables.services.insert(key, service);
        }
        let guard = Service {
            id: 0,
            generation: 0,
            backends: 0,
            local: 0,
            flags: Service::FLAG_GUARD,
        };
        tables.services.insert(ServiceKey::guard(CLUSTER_IP), guard);
        for (index, &(address, flags)) in backends.iter().enumerate() {
            let id = 100 + index as u32;
            let key = SlotKey {
                service: 7,
                generation: 3,
                index: index as u32,
            };
            tables.slots.insert(key, Slot { backend: id });
            let backend = Backend {
                address,
                port: 8080,
                protocol: TCP,
                flags,
            };
            tables.backends.insert(id, backend);
        }
        let node = NodeAddress {
            flags: NodeAddress::FLAG_NODE_PORTS,
        };
        tables.node.insert(AddressKey { address: NODE }, node);
        tables
    }

    fn ask(tables: &Collections, destination: Address, port: u16, origin: Origin) -> Decision {
        let flow = Flow {
            destination,
            port,
            protocol: TCP,
            origin,
        };
        decide(tables, &flow)
    }

    #[test]
    fn cluster_ip_and_node_port_lead_to_the_same_backend() {
        let tables = gateway(&[(GATEWAY, Backend::FLAG_LOCAL)]);
        for (destination, port, origin) in [
            (CLUSTER_IP, 80, Origin::NodeSocket),
            (CLUSTER_IP, 80, Origin::PodSocket),
            (CLUSTER_IP, 80, Origin::Packet),
            (NODE, 31373, Origin::NodeSocket),
            (NODE, 31373, Origin::PodSocket),
            (NODE, 31373, Origin::Packet),
            (LOCALHOST, 31373, Origin::NodeSocket),
        ] {
            let decision = ask(&tables, destination, port, origin);
            assert_eq!(
                decision.verdict,
                Verdict::Forward,
                "{destination:?} {origin:?}"
            );
            assert_eq!((decision.address, decision.port), (GATEWAY, 8080));
            assert_eq!((decision.service, decision.backend), (7, 100));
            assert!(!decision.masquerade);
        }
    }

    #[test]
    fn localhost_is_the_node_only_for_the_node() {
        let tables = gateway(&[(GATEWAY, Backend::FLAG_LOCAL)]);
        for origin in [Origin::PodSocket, Origin::Packet] {
            let decision = ask(&tables, LOCALHOST, 31373, origin);
            assert_eq!(decision.verdict, Verdict::Pass, "{origin:?}");
        }
    }

    #[test]
    fn what_is_no_service_passes() {
        let tables = gateway(&[(GATEWAY, Backend::FLAG_LOCAL)]);
        for (destination, port, origin) in [
            (NODE, 22, Origin::Packet),
            (GATEWAY, 31373, Origin::PodSocket),
            (GATEWAY, 80, Origin::NodeSocket),
            (CLUSTER_IP, 31373, Origin::Packet),
        ] {
            let decision = ask(&tables, destination, port, origin);
            let expected = (Verdict::Pass, Reason::NoService);
            assert_eq!((decision.verdict, decision.reason), expected);
        }
    }

    #[test]
    fn a_cluster_ip_refuses_ports_that_its_service_lacks() {
        let tables = gateway(&[(GATEWAY, Backend::FLAG_LOCAL)]);
        let decision = ask(&tables, CLUSTER_IP, 31373, Origin::NodeSocket);
        let expected = (Verdict::Reject, Reason::NoSuchPort);
        assert_eq!((decision.verdict, decision.reason), expected);
    }

    #[test]
    fn no_endpoints_is_a_refusal() {
        let tables = gateway(&[]);
        let decision = ask(&tables, NODE, 31373, Origin::Packet);
        let expected = (Verdict::Reject, Reason::NoEndpoints);
        assert_eq!((decision.verdict, decision.reason), expected);
        assert_eq!(decision.service, 7);
    }

    #[test]
    fn only_packets_to_other_nodes_are_masqueraded() {
        let tables = gateway(&[(REMOTE, 0)]);
        assert!(ask(&tables, NODE, 31373, Origin::Packet).masquerade);
        assert!(!ask(&tables, NODE, 31373, Origin::NodeSocket).masquerade);
        assert!(!ask(&tables, CLUSTER_IP, 80, Origin::PodSocket).masquerade);
    }

    #[test]
    fn a_gap_in_the_tables_drops_rather_than_misdelivers() {
        let mut tables = gateway(&[(GATEWAY, Backend::FLAG_LOCAL)]);
        tables.backends.clear();
        let decision = ask(&tables, NODE, 31373, Origin::Packet);
        let expected = (Verdict::Drop, Reason::TableGap);
        assert_eq!((decision.verdict, decision.reason), expected);
        tables.slots.clear();
        let decision = ask(&tables, NODE, 31373, Origin::Packet);
        assert_eq!((decision.verdict, decision.reason), expected);
    }

    #[test]
    fn every_backend_gets_its_share_of_the_random_numbers() {
        let backends: Vec<_> = (1..=5)
            .map(|i| (mapped([10, 10, 1, i]), Backend::FLAG_LOCAL))
            .collect();
        let tables = gateway(&backends);
        let mut hits = vec![0u32; backends.len()];
        let steps = 100_000u32;
        for step in 0..steps {
            // An even walk over all of u32, ends included.
            let random = (u64::from(step) * u64::from(u32::MAX) / u64::from(steps - 1)) as u32;
            tables.random.set(random);
            let decision = ask(&tables, CLUSTER_IP, 80, Origin::PodSocket);
            hits[(decision.backend - 100) as usize] += 1;
        }
        for hit in hits {
            assert!(hit.abs_diff(steps / 5) <= 1, "{hit}");
        }
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
    }
}
