//! Random Services: everything that a Service can be, in small numbers, always the same for a seed.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use fastrand::Rng;
use nodegate_iptables::config::{FamilyConfig, KubeProxyConfig, LocalDetector};
use nodegate_model::{
    selection::NodeTopology,
    service::{
        Endpoint, Hints, IpFamily, Protocol, ServicePort, ServicePortName, ServiceType,
        SourceRanges, TrafficPolicy,
    },
};

/// An address of each family.
pub(crate) type Pair = [&'static str; 2];

/// The node's own.
pub(crate) const NODE: Pair = ["192.168.96.10", "fd00:c0::10"];
/// Another one of the node.
pub(crate) const ALTERNATIVE: Pair = ["172.16.9.10", "fd00:a0::10"];
/// A pod of the node.
pub(crate) const POD: Pair = ["10.10.0.2", "fd00:10::2"];

/// Picks the address of a family.
pub(crate) fn address(pair: Pair, family: IpFamily) -> IpAddr {
    let text = match family {
        IpFamily::V4 => pair[0],
        IpFamily::V6 => pair[1],
    };
    text.parse().expect("a constant")
}

/// The node's own addresses, which masquerading may choose from.
pub(crate) fn is_nodes(address: IpAddr) -> bool {
    [NODE, ALTERNATIVE]
        .into_iter()
        .flatten()
        .any(|own| own.parse() == Ok(address))
}

/// How kube-proxy is run for generated Services.
pub(crate) fn config(knows_pods: bool, masquerade_all: bool) -> KubeProxyConfig {
    let family = |family| FamilyConfig {
        node_ip: Some(address(NODE, family)),
        local: knows_pods.then(|| {
            LocalDetector::Cidr(match family {
                IpFamily::V4 => "10.0.0.0/8".parse().expect("a constant"),
                IpFamily::V6 => "fd00:10::/32".parse().expect("a constant"),
            })
        }),
        node_port_addresses: None,
        localhost_node_ports: family == IpFamily::V4,
    };
    KubeProxyConfig {
        node: NodeTopology {
            name: "node-a".into(),
            zone: Some("zone-a".into()),
        },
        addresses: IpFamily::ALL.map(|family| address(NODE, family)).into(),
        masquerade_mark: 1 << 14,
        masquerade_all,
        conntrack_liberal: false,
        nfacct: false,
        random_fully: true,
        v4: family(IpFamily::V4),
        v6: family(IpFamily::V6),
    }
}

/// A source of Services. No two of its Services share an address or a node port for a long while.
pub(crate) struct Generator {
    pub(crate) random: Rng,
    services: u32,
    node_ports: u16,
}

/// Ports that endpoints have.
const TARGETS: [u16; 3] = [8080, 8081, 9090];

impl Generator {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: Rng::with_seed(seed),
            services: 0,
            node_ports: 0,
        }
    }

    /// How kube-proxy is run, every now and then with other flags.
    pub(crate) fn config(&mut self) -> KubeProxyConfig {
        let mut config = config(!self.chance(8), self.chance(6));
        if self.chance(4) {
            config.v4.localhost_node_ports = false;
        }
        if self.chance(5) {
            for (family, of) in [
                (&mut config.v4, IpFamily::V4),
                (&mut config.v6, IpFamily::V6),
            ] {
                family.node_port_addresses = Some(vec![address(NODE, of)]);
                family.localhost_node_ports = false;
            }
        }
        config
    }

    fn chance(&mut self, one_in: u8) -> bool {
        self.random.u8(..one_in) == 0
    }

    /// One to three Services, of one to three ports each.
    pub(crate) fn set(&mut self) -> Vec<ServicePort> {
        (0..self.random.usize(1..=3))
            .flat_map(|_| self.service())
            .collect()
    }

    fn service(&mut self) -> Vec<ServicePort> {
        self.services += 1;
        let number = self.services;
        let families = match self.random.u8(..5) {
            0 => vec![IpFamily::V6],
            1 | 2 => vec![IpFamily::V4],
            _ => IpFamily::ALL.to_vec(),
        };
        let kind = *self
            .random
            .choice(&[
                ServiceType::ClusterIp,
                ServiceType::NodePort,
                ServiceType::LoadBalancer,
            ])
            .expect("not empty");
        let of = |net: u8| move |family: &IpFamily| numbered(*family, net, number);
        let mut external_ips: Vec<IpAddr> = Vec::new();
        if self.chance(3) {
            external_ips.extend(families.iter().map(of(3)));
        }
        if self.chance(8) {
            // One that the node has.
            external_ips.extend(families.iter().map(|family| address(ALTERNATIVE, *family)));
        }
        let balanced = kind == ServiceType::LoadBalancer && !self.chance(6);
        let reachable = kind != ServiceType::ClusterIp || !external_ips.is_empty();
        let policy = |local| {
            if local {
                TrafficPolicy::Local
            } else {
                TrafficPolicy::Cluster
            }
        };
        let template = ServicePort {
            kind,
            cluster_ips: families.iter().map(of(1)).collect(),
            external_ips,
            load_balancer_ips: if balanced {
                families.iter().map(of(2)).collect()
            } else {
                Vec::new()
            },
            source_ranges: self.source_ranges(),
            external_policy: policy(reachable && self.chance(2)),
            internal_policy: policy(self.chance(4)),
            affinity: self.chance(5).then_some(10_800),
            ..ServicePort::new(
                ServicePortName {
                    namespace: "random".into(),
                    name: format!("service-{number}"),
                    port: String::new(),
                },
                Protocol::Tcp,
                80,
            )
        };
        let hints = self.random.u8(..8);
        let endpoints = self.endpoints(hints);
        let ports = self.random.usize(1..=3);
        (0..ports)
            .map(|index| self.port(&template, index, ports, &endpoints))
            .collect()
    }

    fn port(
        &mut self,
        template: &ServicePort,
        index: usize,
        of: usize,
        endpoints: &[Endpoint],
    ) -> ServicePort {
        let protocol = if self.chance(3) {
            Protocol::Udp
        } else {
            Protocol::Tcp
        };
        let name = if of == 1 && self.chance(2) {
            String::new()
        } else {
            format!("p{index}")
        };
        let node_port = template.kind != ServiceType::ClusterIp && !self.chance(10);
        let node_port = node_port.then(|| {
            self.node_ports = (self.node_ports + 1) % 2768;
            30_000 + self.node_ports
        });
        // On an address that the node has, Services could get into each other's way.
        let own = template.external_ips.iter().any(|ip| is_nodes(*ip));
        let port = if own {
            10_000 + (self.services * 4) as u16 % 20_000 + index as u16
        } else {
            [80, 443, 53][index]
        };
        let target = TARGETS[index];
        ServicePort {
            name: ServicePortName {
                port: name,
                ..template.name.clone()
            },
            protocol,
            port,
            node_port,
            endpoints: endpoints
                .iter()
                .map(|endpoint| Endpoint {
                    port: target,
                    ..endpoint.clone()
                })
                .collect(),
            ..template.clone()
        }
    }

    fn source_ranges(&mut self) -> SourceRanges {
        match self.random.u8(..6) {
            0 => SourceRanges::parse(&[" 203.0.113.0/25", "2001:db8::/48"]),
            1 => SourceRanges::parse(&["203.0.113.0/25"]),
            // The node and its pods are in.
            2 => SourceRanges::parse(&["192.168.96.0/24", "10.10.0.0/24 ", "fd00::/16"]),
            3 => SourceRanges::parse(&["203.0.113.0/25", "0.0.0.0/0", "::/0"]),
            _ => SourceRanges::default(),
        }
    }

    /// Up to six, of both families, in all conditions.
    fn endpoints(&mut self, hints: u8) -> Vec<Endpoint> {
        let count = self.random.usize(..=6);
        let unready = self.random.u8(..4);
        let mut all = Vec::new();
        let mut taken = BTreeSet::new();
        for family in IpFamily::ALL {
            for _ in 0..count {
                let (ip, local) = self.endpoint_address(family);
                if !taken.insert(ip) {
                    continue;
                }
                let mut endpoint = Endpoint::ready(ip, 0, local);
                endpoint.node = Some(if local { "node-a" } else { "node-b" }.into());
                if unready == 0 || (unready == 1 && self.chance(2)) {
                    endpoint.ready = false;
                    endpoint.serving = self.chance(2);
                    endpoint.terminating = !self.chance(3);
                }
                endpoint.hints = self.hints(hints);
                all.push(endpoint);
            }
        }
        // As kube-proxy sorts them.
        all.sort_by_cached_key(|endpoint| format!("{}:", endpoint.address));
        all
    }

    fn endpoint_address(&mut self, family: IpFamily) -> (IpAddr, bool) {
        match self.random.u8(..8) {
            0 => (address(POD, family), true),
            1..=3 => (pod(family, 0, 10 + self.random.u8(..12)), true),
            _ => (pod(family, 1, 10 + self.random.u8(..12)), false),
        }
    }

    fn hints(&mut self, kind: u8) -> Hints {
        let some = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let zones = *self
            .random
            .choice(&[&["zone-a"][..], &["zone-b"], &["zone-a", "zone-b"]])
            .expect("not empty");
        let node = *self
            .random
            .choice(&["node-a", "node-b"])
            .expect("not empty");
        match kind {
            0 => Hints {
                zones: some(zones),
                ..Hints::default()
            },
            1 => Hints {
                zones: some(zones),
                nodes: some(&[node]),
            },
            // Some have none: all are used.
            2 if self.chance(2) => Hints {
                zones: some(zones),
                ..Hints::default()
            },
            _ => Hints::default(),
        }
    }
}

/// An address of a pod of the node, or of another.
pub(crate) fn pod(family: IpFamily, node: u8, host: u8) -> IpAddr {
    match family {
        IpFamily::V4 => Ipv4Addr::new(10, 10, node, host).into(),
        IpFamily::V6 => Ipv6Addr::new(0xfd00, 0x10, 0, node.into(), 0, 0, 0, host.into()).into(),
    }
}

/// An address that only one Service has: 1 for cluster IPs, 2 for load balancers, 3 for external IPs.
pub(crate) fn numbered(family: IpFamily, net: u8, number: u32) -> IpAddr {
    let [_, _, high, low] = number.to_be_bytes();
    match family {
        IpFamily::V4 => Ipv4Addr::new(172, 28 + net, high, low).into(),
        IpFamily::V6 => {
            let net = 0x100 + u16::from(net);
            Ipv6Addr::new(0xfd00, net, 0, 0, 0, 0, 0, number as u16).into()
        }
    }
}
