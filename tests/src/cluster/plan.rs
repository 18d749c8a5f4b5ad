//! What a cluster looks like: its hosts, and whose which addresses are.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::ensure;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::{
    config::{Config, Layout, Node},
    names::Host,
    workload,
};

/// The host that runs the control plane.
pub const CONTROL_PLANE: &str = "control-plane";
/// The host that runs Istio's gateway, where there is one.
pub const GATEWAY: &str = "gateway";
/// The names of a cluster's Services end so.
pub(super) const DOMAIN: &str = "cluster.local";
/// The control plane's address, before those that the testbed gives.
pub(super) const CONTROL: Ipv4Addr = Ipv4Addr::new(192, 168, 170, 2);
pub(super) const CONTROL_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xc0, 0, 0, 0, 0, 0, 2);
/// The address of Istio's gateway.
pub(super) const GATEWAY_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 170, 3);
const GATEWAY_ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xc0, 0, 0, 0, 0, 0, 3);
/// Cluster IPs, as in the testbed.
const SERVICES: (Ipv4Net, Ipv6Net) = (
    Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 12),
    Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0), 112),
);
/// More want more memory than a machine for tests has.
const MOST_NODES: usize = 9;

/// Hosts and addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The nodes, and after them the hosts that run no pods: the control plane's, and that of Istio's gateway.
    pub(super) layout: Layout,
}

impl Plan {
    /// A cluster with so many nodes, and maybe a host for Istio's gateway.
    pub(super) fn new(nodes: usize, gateway: bool) -> anyhow::Result<Self> {
        ensure!(
            nodes <= MOST_NODES,
            "a cluster has at most {MOST_NODES} nodes, and not {nodes}"
        );
        let mut layout = Config::default().layout(Some(nodes.max(1)), &[].into())?;
        layout.nodes.truncate(nodes);
        let mut host = |name: &str, address, address_v6| {
            layout.nodes.push(Node {
                name: name.into(),
                address,
                address_v6,
                labels: [].into(),
                nodegate: None,
            });
        };
        host(CONTROL_PLANE, CONTROL, CONTROL_V6);
        if gateway {
            host(GATEWAY, GATEWAY_ADDRESS, GATEWAY_ADDRESS_V6);
        }
        Ok(Self { layout })
    }

    /// The nodes, which run pods.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        let all = self.layout.nodes.iter();
        all.filter(|node| runs_pods(&node.name))
    }

    /// A node's part of the pods' networks, IPv4 first.
    pub(super) fn pod_networks(&self, index: usize) -> [IpNet; 2] {
        [
            workload::node_cidr(&self.layout, index).into(),
            workload::node_cidr_v6(&self.layout, index).into(),
        ]
    }

    /// All pods' networks, as programs of Kubernetes' take them.
    pub(super) fn pods(&self) -> String {
        format!("{},{}", self.layout.pod_cidr, self.layout.pod_cidr_v6)
    }

    /// The networks of cluster IPs.
    pub(super) fn services() -> String {
        format!("{},{}", SERVICES.0, SERVICES.1)
    }

    /// The cluster IP of the API server: the first one.
    pub(super) fn api_service() -> Ipv4Addr {
        first(SERVICES.0, 1)
    }

    /// The cluster IP of the DNS server, where everybody has it.
    pub(super) fn dns_service() -> Ipv4Addr {
        first(SERVICES.0, 10)
    }

    /// The API server's address, for whoever has no rules for Services.
    pub(super) fn server() -> String {
        format!("https://{}", Self::server_address())
    }

    /// Host and port of the API server.
    pub(super) fn server_address() -> String {
        format!("{CONTROL}:6443")
    }

    /// Routes that a host needs beside those to its neighbours: to pods, and for all else to where it
    /// ends.
    pub(super) fn routes(&self, host: &Host) -> Vec<String> {
        let Host::Node(name) = host else {
            // The client reaches nodes and nothing else.
            return Vec::new();
        };
        let mut lines = Vec::new();
        for (index, node) in self.nodes().enumerate() {
            if node.name == *name {
                continue;
            }
            for (network, via) in self.pod_networks(index).into_iter().zip(node.addresses()) {
                lines.push(format!("route add {network} via {via} dev eth0"));
            }
        }
        if runs_pods(name) {
            // Without one, packets to a cluster IP are refused before a rule sees them.
            lines.push(format!("route add default via {CONTROL} dev eth0"));
            lines.push(format!("route add ::/0 via {CONTROL_V6} dev eth0"));
        }
        lines
    }
}

/// Whether a host is a node, with machine and kubelet of its own.
pub(super) fn runs_pods(host: &str) -> bool {
    ![CONTROL_PLANE, GATEWAY].contains(&host)
}

fn first(network: Ipv4Net, offset: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(network.network()) + offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_routes_to_the_pods_of_other_nodes() {
        let plan = Plan::new(2, true).unwrap();
        let routes = |name: &str| plan.routes(&Host::Node(name.into())).join("\n");
        assert_eq!(
            routes("node2"),
            "route add 10.10.1.0/24 via 192.168.170.11 dev eth0\n\
             route add fd00:10:0:1::/64 via fd00:c0::11 dev eth0\n\
             route add default via 192.168.170.2 dev eth0\n\
             route add ::/0 via fd00:c0::2 dev eth0"
        );
        for host in [CONTROL_PLANE, GATEWAY] {
            assert_eq!(routes(host).lines().count(), 4);
            assert!(!routes(host).contains("default"));
        }
        assert!(plan.routes(&Host::Client).is_empty());
    }

    #[test]
    fn an_api_server_may_stand_alone() {
        let plan = Plan::new(0, false).unwrap();
        assert_eq!(plan.nodes().count(), 0);
        assert_eq!(plan.layout.nodes.len(), 1);
        assert!(Plan::new(MOST_NODES + 1, false).is_err());
    }

    #[test]
    fn well_known_services_have_the_addresses_that_everybody_expects() {
        assert_eq!(Plan::api_service().to_string(), "10.96.0.1");
        assert_eq!(Plan::dns_service().to_string(), "10.96.0.10");
    }
}
