//! What the maps should hold for a set of Services on this node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use gateway_common::{
    Address,
    maps::{Backend, Service, ServiceKey},
};

use super::{node::NodeFacts, to_map};
use crate::model::service::{Endpoint, Protocol, ServicePort, ServicePortName};

/// Flags of a node port.
const NODE_PORT: u32 = Service::FLAG_EXTERNAL | Service::FLAG_NODE_PORT;

/// Which external IPs are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ExternalIps {
    /// Only those that are addresses of this node. kube-proxy captures traffic to any address that
    /// a Service claims, which lets whoever may create Services take over other people's addresses
    /// (CVE-2020-8554).
    #[default]
    Owned,
    /// All, as kube-proxy does: for addresses that routers send here without the node having them.
    Any,
}

/// The wanted content of the maps, without the numbers (ids, generations) that the plan assigns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Service ports with at least one frontend.
    pub services: BTreeMap<(ServicePortName, Protocol), DesiredService>,
    /// Cluster IPs.
    pub guards: BTreeSet<Address>,
    /// Addresses on which node ports are served.
    pub node_addresses: BTreeSet<Address>,
}

/// A Service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredService {
    /// Frontends and their flags (`Service::FLAG_…`).
    pub frontends: BTreeMap<ServiceKey, u32>,
    /// Those on this node first.
    pub backends: Vec<Backend>,
}

impl DesiredService {
    /// How many of the backends are on this node.
    pub fn local(&self) -> u32 {
        let local = |backend: &&Backend| backend.flags & Backend::FLAG_LOCAL != 0;
        self.backends.iter().filter(local).count() as u32
    }
}

impl Desired {
    /// Compiles Services. Only TCP over IPv4 is translated; the rest is left to others.
    ///
    /// A frontend that two Service ports claim goes to the first by name; whoever publishes the
    /// Services has told the users by then.
    pub fn new(services: &[ServicePort], node: &NodeFacts, external_ips: ExternalIps) -> Self {
        let mut desired = Self {
            node_addresses: node
                .addresses
                .iter()
                .filter(|a| a.is_ipv4())
                .map(|a| to_map(*a))
                .collect(),
            ..Self::default()
        };
        let mut taken = BTreeSet::new();
        for service in services.iter().filter(|s| s.protocol == Protocol::Tcp) {
            let frontends: BTreeMap<_, _> = frontends(service, node, external_ips)
                .filter(|(key, _)| taken.insert(*key))
                .collect();
            desired.guards.extend(v4(&service.cluster_ips).map(to_map));
            if frontends.is_empty() {
                continue;
            }
            let backends = backends(&service.endpoints, service.protocol);
            desired.services.insert(
                (service.name.clone(), service.protocol),
                DesiredService {
                    frontends,
                    backends,
                },
            );
        }
        desired
    }
}

fn v4(addresses: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    addresses.iter().copied().filter(IpAddr::is_ipv4)
}

fn frontends(
    service: &ServicePort,
    node: &NodeFacts,
    external_ips: ExternalIps,
) -> impl Iterator<Item = (ServiceKey, u32)> {
    let protocol = service.protocol.number();
    let key = move |address| ServiceKey::address(to_map(address), service.port, protocol);
    let cluster = v4(&service.cluster_ips).map(move |address| (key(address), 0));
    let external = v4(&service.external_ips)
        .filter(move |address| match external_ips {
            ExternalIps::Any => true,
            ExternalIps::Owned => node.addresses.contains(address),
        })
        .map(move |address| (key(address), Service::FLAG_EXTERNAL));
    let node_port = service
        .node_port
        .map(|port| (ServiceKey::node_port(port, protocol), NODE_PORT));
    cluster.chain(external).chain(node_port)
}

fn backends(endpoints: &[Endpoint], protocol: Protocol) -> Vec<Backend> {
    let mut backends: Vec<_> = endpoints
        .iter()
        .filter(|endpoint| endpoint.ready && endpoint.address.is_ipv4())
        .map(|endpoint| Backend {
            address: to_map(endpoint.address),
            port: endpoint.port,
            protocol: protocol.number(),
            flags: if endpoint.local {
                Backend::FLAG_LOCAL
            } else {
                0
            },
        })
        .collect();
    backends.sort_by_key(|backend| (backend.flags & Backend::FLAG_LOCAL == 0, *backend));
    backends.dedup();
    backends
}

#[cfg(test)]
mod tests {
    use gateway_common::{TCP, mapped};

    use super::*;

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
                "fe80::1".parse().unwrap(),
            ]),
        }
    }

    #[test]
    fn frontends_of_a_gateway_service() {
        let desired = Desired::new(&[gateway()], &node(), ExternalIps::Owned);
        let service = desired.services.values().next().unwrap();
        let expected = BTreeMap::from([
            (
                ServiceKey::address(mapped([10, 96, 190, 18]), 31400, TCP),
                0,
            ),
            (
                ServiceKey::address(mapped([192, 168, 96, 50]), 31400, TCP),
                Service::FLAG_EXTERNAL,
            ),
            (ServiceKey::node_port(32432, TCP), NODE_PORT),
        ]);
        assert_eq!(service.frontends, expected);
        assert_eq!(desired.guards, BTreeSet::from([mapped([10, 96, 190, 18])]));
        assert_eq!(
            desired.node_addresses,
            BTreeSet::from([mapped([192, 168, 96, 50])])
        );
    }

    #[test]
    fn an_external_ip_of_somebody_else_is_captured_only_on_request() {
        let foreign = ServiceKey::address(mapped([203, 0, 113, 7]), 31400, TCP);
        for (policy, captured) in [(ExternalIps::Owned, false), (ExternalIps::Any, true)] {
            let desired = Desired::new(&[gateway()], &node(), policy);
            let service = desired.services.values().next().unwrap();
            assert_eq!(
                service.frontends.contains_key(&foreign),
                captured,
                "{policy:?}"
            );
        }
    }

    #[test]
    fn local_backends_come_first() {
        let desired = Desired::new(&[gateway()], &node(), ExternalIps::Owned);
        let service = desired.services.values().next().unwrap();
        let addresses: Vec<_> = service.backends.iter().map(|b| b.address).collect();
        assert_eq!(addresses, [mapped([10, 10, 1, 4]), mapped([10, 10, 2, 4])]);
        assert_eq!(service.local(), 1);
    }

    #[test]
    fn a_frontend_claimed_twice_goes_to_the_first() {
        let mut second = gateway();
        second.name.name = "later".into();
        second.cluster_ips = vec!["10.96.0.9".parse().unwrap()];
        let desired = Desired::new(&[gateway(), second], &node(), ExternalIps::Owned);
        let node_port = ServiceKey::node_port(32432, TCP);
        let owners: Vec<_> = desired
            .services
            .iter()
            .filter(|(_, service)| service.frontends.contains_key(&node_port))
            .map(|((name, _), _)| name.name.as_str())
            .collect();
        assert_eq!(owners, ["istio-ingressgateway"]);
    }
}
