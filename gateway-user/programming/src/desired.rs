//! What the maps should hold for a set of Services on this node.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use gateway_common::{
    Address,
    maps::{Backend, Service, ServiceKey},
};
use ipnet::IpNet;
use nodegate_model::{
    selection::{NodeTopology, Selection, select},
    service::{Endpoint, IpFamily, Protocol, ServicePort, TrafficPolicy, shift::Turns},
};

use super::{
    address::{Network, network, to_map},
    capacity::Capacity,
    identity::{PortKey, cut},
    node::NodeFacts,
};

/// Flags of a node port.
const NODE_PORT: u32 = Service::FLAG_EXTERNAL | Service::FLAG_NODE_PORT;

/// Which external IPs are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExternalIps {
    /// Only those that are addresses of this node. kube-proxy captures traffic to any address that
    /// a Service claims, which lets whoever may create Services take over other people's addresses
    /// (CVE-2020-8554).
    #[default]
    Owned,
    /// All, as kube-proxy does: for addresses that routers send here without the node having them.
    Any,
}

/// What the maps' content depends on besides Services and the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Which external IPs are served.
    pub external_ips: ExternalIps,
    /// The networks in which the node's addresses serve node ports (`--nodeport-addresses`); all
    /// addresses of a family that has none do.
    pub node_port_networks: Vec<IpNet>,
    /// The networks that pods have addresses from (`--cluster-cidr`).
    pub pod_networks: Vec<IpNet>,
}

/// The wanted content of the maps, without the numbers (ids, generations) that the plan assigns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Service ports with at least one frontend.
    pub services: BTreeMap<PortKey, DesiredService>,
    /// Cluster IPs.
    pub guards: BTreeSet<Address>,
    /// Addresses on which node ports are served.
    pub node_addresses: BTreeSet<Address>,
    /// Networks that pods have addresses from.
    pub pod_networks: BTreeSet<Network>,
}

/// A Service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredService {
    /// Whether it comes first where there is not room for all.
    pub essential: bool,
    /// Frontends and their flags (`Service::FLAG_…`).
    pub frontends: BTreeMap<ServiceKey, u32>,
    /// For how long clients stay, in seconds; 0: they don't.
    pub affinity: u32,
    /// Every backend once, with its flags; its Service is 0, since that has no id yet.
    pub backends: Vec<Backend>,
    /// Whose turn it is, if backends take turns.
    pub shares: Option<Shares>,
    /// The networks whose clients may use the load balancer IPs, for frontends with `FLAG_SOURCE_RANGES`.
    pub source_ranges: BTreeSet<Network>,
}

/// Destinations that share the connections of a Service port by turns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// Names of the destinations; each once, and as long as the map has room for.
    pub destinations: Vec<String>,
    /// Of each turn the backend and the destination, as places among those of the Service port.
    pub turns: Vec<(usize, usize)>,
}

/// What the maps' content depends on besides Services.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings<'s> {
    pub(super) topology: &'s NodeTopology,
    pub(super) node: &'s NodeFacts,
    pub(super) policy: &'s Policy,
}

impl DesiredService {
    /// The backends of the set for traffic policy Cluster, then those of the set for policy Local. Where they
    /// take turns, the first has one for each turn.
    pub fn sets(&self) -> (Vec<Backend>, Vec<Backend>) {
        let cluster = match &self.shares {
            None => self.set(Backend::FLAG_IN_CLUSTER_SET).copied().collect(),
            Some(shares) => {
                let turns = shares.turns.iter();
                turns.map(|(backend, _)| self.backends[*backend]).collect()
            }
        };
        let local = self.set(Backend::FLAG_IN_LOCAL_SET).copied().collect();
        (cluster, local)
    }

    fn set(&self, flag: u8) -> impl Iterator<Item = &Backend> {
        let backends = self.backends.iter();
        backends.filter(move |backend| backend.flags & flag != 0)
    }

    /// What it takes of the maps. A set that changes stands twice in `slots` for a moment.
    pub(super) fn capacity(&self) -> Capacity {
        let cluster = match &self.shares {
            None => self.set(Backend::FLAG_IN_CLUSTER_SET).count(),
            Some(shares) => shares.turns.len(),
        };
        let local = self.set(Backend::FLAG_IN_LOCAL_SET).count();
        Capacity {
            services: self.frontends.len(),
            slots: 2 * (cluster + local),
            backends: self.backends.len(),
        }
    }
}

impl Desired {
    /// Compiles Services for a node.
    ///
    /// A frontend that two Service ports claim goes to the first of them, which is the first by name. The
    /// compiler has reported the conflict to the manifests' authors by then.
    pub fn new<S: Borrow<ServicePort>>(
        services: &[S],
        topology: &NodeTopology,
        node: &NodeFacts,
        policy: &Policy,
    ) -> Self {
        let surroundings = Surroundings {
            topology,
            node,
            policy,
        };
        let mut desired = Self::empty(&surroundings);
        let mut taken = BTreeSet::new();
        let services = services.iter().map(Borrow::borrow);
        let families = services.flat_map(|service| IpFamily::ALL.map(|family| (service, family)));
        for (service, family) in families {
            let Some((cluster_ip, mut compiled)) = surroundings.compile(service, family) else {
                continue;
            };
            desired.guards.insert(cluster_ip);
            compiled.frontends.retain(|key, _| taken.insert(*key));
            if !compiled.frontends.is_empty() {
                let key = (service.name.clone(), service.protocol, family);
                desired.services.insert(key, compiled);
            }
        }
        desired
    }

    /// What there is of the node, without a Service.
    pub(super) fn empty(Surroundings { node, policy, .. }: &Surroundings<'_>) -> Self {
        Self {
            node_addresses: node_port_addresses(node, policy),
            pod_networks: policy.pod_networks.iter().map(network).collect(),
            ..Self::default()
        }
    }

    /// What cluster IPs take of the maps: a guard each.
    pub(super) fn guards_capacity(&self) -> Capacity {
        Capacity {
            services: self.guards.len(),
            ..Capacity::default()
        }
    }
}

impl Surroundings<'_> {
    /// The cluster IP of a Service port of a family, and what the maps should hold for it if no other
    /// Service port claims its frontends. None if it has no cluster IP: kube-proxy leaves the whole Service out of that
    /// family.
    pub(super) fn compile(
        &self,
        service: &ServicePort,
        family: IpFamily,
    ) -> Option<(Address, DesiredService)> {
        let cluster_ip = service.cluster_ip(family)?;
        let selection = select(service, family, self.topology);
        let turns = service.turns(family);
        let ends = match turns {
            Some(_) => Service::FLAG_HAS_ENDPOINTS | Service::FLAG_IN_TURN,
            None if selection.has_endpoints => Service::FLAG_HAS_ENDPOINTS,
            None => 0,
        };
        let mut claimed = BTreeMap::new();
        for (key, flags) in self.frontends(service, family, cluster_ip, ends) {
            claimed.entry(key).or_insert(flags);
        }
        let (backends, shares) = match turns {
            Some(turns) => {
                let (backends, shares) = in_turn(turns, service.protocol);
                (backends, Some(shares))
            }
            None => (backends(&selection, service.protocol), None),
        };
        let source_ranges = service.source_ranges.of(family).unwrap_or_default();
        let compiled = DesiredService {
            essential: service.essential,
            frontends: claimed,
            affinity: service.affinity.unwrap_or(0),
            backends,
            shares,
            source_ranges: source_ranges.iter().map(network).collect(),
        };
        Some((to_map(cluster_ip), compiled))
    }

    /// The frontends that a Service port wants, and their flags, among them those that say how it is with its
    /// `ends`.
    fn frontends(
        &self,
        service: &ServicePort,
        family: IpFamily,
        cluster_ip: IpAddr,
        ends: u32,
    ) -> impl Iterator<Item = (ServiceKey, u32)> {
        let Self { node, policy, .. } = *self;
        let protocol = service.protocol.number();
        let local = |policy| match policy {
            TrafficPolicy::Cluster => 0,
            TrafficPolicy::Local => Service::FLAG_LOCAL,
        };
        let internal = ends | local(service.internal_policy);
        let outside = ends | local(service.external_policy);
        let guarded = match service.source_ranges.of(family) {
            Some(_) => Service::FLAG_SOURCE_RANGES,
            None => 0,
        };
        let key = move |address| ServiceKey::address(to_map(address), service.port, protocol);
        let external = service
            .external_ips(family)
            .filter(move |address| match policy.external_ips {
                ExternalIps::Any => true,
                ExternalIps::Owned => node.addresses.contains(address),
            })
            .map(move |address| (key(address), outside | Service::FLAG_EXTERNAL));
        let balanced = service.load_balancer_ips(family).map(move |address| {
            let flags = outside | guarded | Service::FLAG_EXTERNAL | Service::FLAG_LOAD_BALANCER;
            (key(address), flags)
        });
        let node_port = service.node_port.map(move |port| {
            let key = ServiceKey::node_port(&to_map(cluster_ip), port, protocol);
            (key, outside | NODE_PORT)
        });
        std::iter::once((key(cluster_ip), internal))
            .chain(external)
            .chain(balanced)
            .chain(node_port)
    }
}

/// Any address serves node ports unless networks of its family are given, as with kube-proxy
/// (`NewNodePortAddresses` in pkg/proxy/util/nodeport_addresses.go); loopback is the core's business.
fn node_port_addresses(node: &NodeFacts, policy: &Policy) -> BTreeSet<Address> {
    let serves = |address: &&IpAddr| {
        let family = IpFamily::of(**address);
        let networks = policy.node_port_networks.iter();
        let mut networks = networks.filter(|network| IpFamily::of_net(network) == family);
        match networks.next() {
            None => true,
            Some(first) => {
                first.contains(*address) || networks.any(|network| network.contains(*address))
            }
        }
    };
    node.addresses
        .iter()
        .filter(serves)
        .map(|address| to_map(*address))
        .collect()
}

/// Every endpoint that takes traffic, with the sets that it is in.
fn backends(selection: &Selection<'_>, protocol: Protocol) -> Vec<Backend> {
    fn pointers(set: &[&Endpoint]) -> BTreeSet<*const Endpoint> {
        set.iter()
            .map(|endpoint| std::ptr::from_ref(*endpoint))
            .collect()
    }
    let (cluster, local) = (pointers(&selection.cluster), pointers(&selection.local));
    let flag = |condition, flag| if condition { flag } else { 0 };
    selection
        .reachable
        .iter()
        .map(|endpoint| Backend {
            address: to_map(endpoint.address),
            port: endpoint.port,
            protocol: protocol.number(),
            flags: flag(endpoint.local, Backend::FLAG_LOCAL)
                | flag(
                    cluster.contains(&std::ptr::from_ref(*endpoint)),
                    Backend::FLAG_IN_CLUSTER_SET,
                )
                | flag(
                    local.contains(&std::ptr::from_ref(*endpoint)),
                    Backend::FLAG_IN_LOCAL_SET,
                ),
            service: 0,
        })
        .collect()
}

/// The endpoints of destinations that take turns, and whose turn it is.
fn in_turn(turns: Turns<'_>, protocol: Protocol) -> (Vec<Backend>, Shares) {
    let mut backends = Vec::new();
    let mut places = BTreeMap::new();
    let order = turns.iter().map(|(destination, endpoint)| {
        let place = *places.entry(endpoint.socket()).or_insert_with(|| {
            let local = if endpoint.local {
                Backend::FLAG_LOCAL
            } else {
                0
            };
            backends.push(Backend {
                address: to_map(endpoint.address),
                port: endpoint.port,
                protocol: protocol.number(),
                flags: local | Backend::FLAG_IN_CLUSTER_SET,
                service: 0,
            });
            backends.len() - 1
        });
        (place, destination)
    });
    let order = order.collect();
    let names = turns.destinations.iter();
    let shares = Shares {
        destinations: names.map(|one| cut(&one.cluster).to_owned()).collect(),
        turns: order,
    };
    (backends, shares)
}

#[cfg(test)]
mod tests {
    use gateway_common::{TCP, mapped};
    use nodegate_model::service::ServicePortName;

    use super::*;

    const ENDPOINTS: u32 = Service::FLAG_HAS_ENDPOINTS;

    fn gateway() -> ServicePort {
        let name = ServicePortName {
            namespace: "istio-system".into(),
            name: "istio-ingressgateway".into(),
            port: "tcp".into(),
        };
        ServicePort {
            node_port: Some(32432),
            cluster_ips: vec!["10.96.190.18".parse().unwrap()],
            external_ips: vec![
                "192.168.96.50".parse().unwrap(),
                "203.0.113.7".parse().unwrap(),
            ],
            endpoints: vec![
                Endpoint::ready("10.10.2.4".parse().unwrap(), 31400, false),
                Endpoint::ready("10.10.1.4".parse().unwrap(), 31400, true),
            ],
            ..ServicePort::new(name, Protocol::Tcp, 31400)
        }
    }

    fn node() -> NodeFacts {
        NodeFacts {
            addresses: BTreeSet::from([
                "192.168.96.50".parse().unwrap(),
                "fd00::1".parse().unwrap(),
            ]),
        }
    }

    fn compile(services: &[ServicePort], policy: &Policy) -> Desired {
        Desired::new(services, &NodeTopology::default(), &node(), policy)
    }

    fn only(desired: &Desired) -> &DesiredService {
        assert_eq!(desired.services.len(), 1);
        desired.services.values().next().unwrap()
    }

    fn node_port() -> ServiceKey {
        ServiceKey::node_port(&mapped([0; 4]), 32432, TCP)
    }

    #[test]
    fn frontends_of_a_gateway_service() {
        let desired = compile(&[gateway()], &Policy::default());
        let external = ENDPOINTS | Service::FLAG_EXTERNAL;
        let expected = BTreeMap::from([
            (
                ServiceKey::address(mapped([10, 96, 190, 18]), 31400, TCP),
                ENDPOINTS,
            ),
            (
                ServiceKey::address(mapped([192, 168, 96, 50]), 31400, TCP),
                external,
            ),
            (node_port(), ENDPOINTS | NODE_PORT),
        ]);
        assert_eq!(only(&desired).frontends, expected);
        assert_eq!(desired.guards, BTreeSet::from([mapped([10, 96, 190, 18])]));
        let addresses = ["192.168.96.50", "fd00::1"].map(|a| to_map(a.parse().unwrap()));
        assert_eq!(desired.node_addresses, BTreeSet::from(addresses));
    }

    #[test]
    fn an_external_ip_of_somebody_else_is_captured_only_on_request() {
        let foreign = ServiceKey::address(mapped([203, 0, 113, 7]), 31400, TCP);
        for (external_ips, captured) in [(ExternalIps::Owned, false), (ExternalIps::Any, true)] {
            let policy = Policy {
                external_ips,
                ..Policy::default()
            };
            let desired = compile(&[gateway()], &policy);
            let frontends = &only(&desired).frontends;
            assert_eq!(
                frontends.contains_key(&foreign),
                captured,
                "{external_ips:?}"
            );
        }
    }

    #[test]
    fn backends_know_their_sets() {
        let service = ServicePort {
            external_policy: TrafficPolicy::Local,
            ..gateway()
        };
        let desired = compile(&[service], &Policy::default());
        let (cluster, local) = only(&desired).sets();
        assert_eq!((cluster.len(), local.len()), (2, 1));
        assert_eq!(local[0].address, mapped([10, 10, 1, 4]));
        assert_eq!(local[0].flags & Backend::FLAG_LOCAL, Backend::FLAG_LOCAL);
        let frontends = &only(&desired).frontends;
        assert_eq!(
            frontends[&node_port()] & Service::FLAG_LOCAL,
            Service::FLAG_LOCAL
        );
        let cluster_ip = ServiceKey::address(mapped([10, 96, 190, 18]), 31400, TCP);
        assert_eq!(frontends[&cluster_ip] & Service::FLAG_LOCAL, 0);
    }

    #[test]
    fn families_are_apart() {
        let mut service = gateway();
        service.cluster_ips.push("fd00:96::12".parse().unwrap());
        service
            .endpoints
            .push(Endpoint::ready("fd00:10::4".parse().unwrap(), 31400, true));
        let desired = compile(&[service], &Policy::default());
        let sizes: Vec<_> = desired
            .services
            .iter()
            .map(|((_, _, family), service)| (*family, service.backends.len()))
            .collect();
        assert_eq!(sizes, [(IpFamily::V4, 2), (IpFamily::V6, 1)]);
        let keys: BTreeSet<_> = desired
            .services
            .values()
            .flat_map(|s| s.frontends.keys().copied())
            .collect();
        assert!(keys.contains(&node_port()));
        assert!(keys.contains(&ServiceKey::node_port(
            &gateway_common::UNSPECIFIED,
            32432,
            TCP
        )));
    }

    #[test]
    fn source_ranges_are_for_load_balancer_ips() {
        use nodegate_model::service::SourceRanges;
        let service = ServicePort {
            load_balancer_ips: vec!["1.2.3.4".parse().unwrap()],
            source_ranges: SourceRanges::parse(&["203.0.113.0/25"]),
            ..gateway()
        };
        let desired = compile(&[service], &Policy::default());
        let service = only(&desired);
        let balanced = ServiceKey::address(mapped([1, 2, 3, 4]), 31400, TCP);
        let flag = Service::FLAG_SOURCE_RANGES;
        assert_eq!(service.frontends[&balanced] & flag, flag);
        assert_eq!(service.frontends[&node_port()] & flag, 0);
        let expected = (mapped([203, 0, 113, 0]), 96 + 25);
        assert_eq!(service.source_ranges, BTreeSet::from([expected]));
    }

    #[test]
    fn node_ports_only_on_the_addresses_that_are_asked_for() {
        let policy = Policy {
            node_port_networks: vec!["192.168.0.0/16".parse().unwrap()],
            ..Policy::default()
        };
        let desired = compile(&[gateway()], &policy);
        assert_eq!(
            desired.node_addresses,
            BTreeSet::from([
                mapped([192, 168, 96, 50]),
                to_map("fd00::1".parse().unwrap())
            ])
        );
        let policy = Policy {
            node_port_networks: vec![
                "10.0.0.0/8".parse().unwrap(),
                "fd01::/64".parse().unwrap(),
                "fd00::/64".parse().unwrap(),
            ],
            ..Policy::default()
        };
        let desired = compile(&[gateway()], &policy);
        assert_eq!(
            desired.node_addresses,
            BTreeSet::from([to_map("fd00::1".parse().unwrap())])
        );
    }

    #[test]
    fn a_frontend_claimed_twice_goes_to_the_first() {
        let mut second = gateway();
        second.name.name = "later".into();
        second.cluster_ips = vec!["10.96.0.9".parse().unwrap()];
        let desired = compile(&[gateway(), second], &Policy::default());
        let owners: Vec<_> = desired
            .services
            .iter()
            .filter(|(_, service)| service.frontends.contains_key(&node_port()))
            .map(|((name, ..), _)| name.name.as_str())
            .collect();
        assert_eq!(owners, ["istio-ingressgateway"]);
    }
}
