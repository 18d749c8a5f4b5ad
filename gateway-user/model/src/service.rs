//! Services as kube-proxy sees them: frontends, policies, and the endpoints behind them.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub mod shift;

use shift::{Shift, Turns, Way};

/// An address family. kube-proxy is two proxies, one for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IpFamily {
    /// IPv4
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6
    #[serde(rename = "IPv6")]
    V6,
}

impl IpFamily {
    /// Both, IPv4 first.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The family of a network.
    pub const fn of_net(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for IpFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Transport protocol of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// `TCP`, the default.
    Tcp,
    /// `UDP`
    Udp,
    /// `SCTP`
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// IANA protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// Lower case, as in kube-proxy's rules and chain hashes.
    pub const fn lowercase(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// Reads [`Protocol::lowercase`].
impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(text: &str) -> Result<Self, UnknownProtocol> {
        let mut all = Self::ALL.into_iter();
        all.find(|protocol| protocol.lowercase() == text)
            .ok_or_else(|| UnknownProtocol(text.to_owned()))
    }
}

/// There is no such protocol, or none that Services have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no protocol (fix: one of tcp, udp, sctp)")]
pub struct UnknownProtocol(String);

/// kube-proxy's `ServicePortName` without the protocol: prints as `ns/name:port`, or `ns/name`
/// when the port has no name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServicePortName {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// Name of the port; empty when it has none.
    pub port: String,
}

impl ServicePortName {
    /// Whether a cluster is lost without it: its API and its DNS.
    pub fn is_essential(&self) -> bool {
        matches!(
            (self.namespace.as_str(), self.name.as_str()),
            ("default", "kubernetes") | ("kube-system", "kube-dns" | "coredns")
        )
    }
}

impl fmt::Display for ServicePortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        if !self.port.is_empty() {
            write!(f, ":{}", self.port)?;
        }
        Ok(())
    }
}

/// `spec.type` of a Service that is translated.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum ServiceType {
    /// `ClusterIP`, the default.
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// `NodePort`
    NodePort,
    /// `LoadBalancer`
    LoadBalancer,
}

/// `spec.externalTrafficPolicy` and `spec.internalTrafficPolicy`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum TrafficPolicy {
    /// `Cluster`, the default: to endpoints on all nodes.
    #[default]
    Cluster,
    /// `Local`: to endpoints on this node only.
    Local,
}

/// `spec.loadBalancerSourceRanges`: the clients that may use the load balancer IPs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRanges {
    v4: Option<Vec<IpNet>>,
    v6: Option<Vec<IpNet>>,
}

impl SourceRanges {
    /// Reads the ranges of a Service as kube-proxy does (`newBaseServiceInfo` of pkg/proxy): white
    /// space around them does not count, each family has its own, a family that has none is open,
    /// and so is one with `0.0.0.0/0` or `::/0` among them.
    ///
    /// Where no range at all can be read, kube-proxy leaves the Service open. The author of the ranges
    /// wanted it closed, so nodegate lets no client in.
    pub fn parse<S: AsRef<str>>(ranges: &[S]) -> Self {
        let nets: Vec<IpNet> = ranges
            .iter()
            .filter_map(|range| range.as_ref().trim().parse().ok())
            .collect();
        if nets.is_empty() && !ranges.is_empty() {
            return Self {
                v4: Some(Vec::new()),
                v6: Some(Vec::new()),
            };
        }
        let of = |family| {
            let nets: Vec<_> = nets
                .iter()
                .filter(|net| IpFamily::of_net(net) == family)
                .map(IpNet::trunc)
                .collect();
            let open = nets.is_empty() || nets.iter().any(|net| net.prefix_len() == 0);
            (!open).then_some(nets)
        };
        Self {
            v4: of(IpFamily::V4),
            v6: of(IpFamily::V6),
        }
    }

    /// Ranges that are known by family, such as those of rules.
    pub fn of_families(v4: Option<Vec<IpNet>>, v6: Option<Vec<IpNet>>) -> Self {
        Self { v4, v6 }
    }

    /// The networks that are let in, in the order of the Service; None for everybody.
    pub fn of(&self, family: IpFamily) -> Option<&[IpNet]> {
        match family {
            IpFamily::V4 => self.v4.as_deref(),
            IpFamily::V6 => self.v6.as_deref(),
        }
    }

    /// Whether a client with this address may use the load balancer IPs.
    pub fn admit(&self, client: IpAddr) -> bool {
        self.of(IpFamily::of(client))
            .is_none_or(|nets| nets.iter().any(|net| net.contains(&client)))
    }
}

/// One port of a Service: the unit of kube-proxy's chains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Namespace, Service, port name.
    pub name: ServicePortName,
    /// Transport protocol.
    pub protocol: Protocol,
    /// `spec.type`.
    pub kind: ServiceType,
    /// `spec.ports[].port`: the port on cluster, external and load balancer IPs.
    pub port: u16,
    /// `spec.ports[].nodePort`.
    pub node_port: Option<u16>,
    /// `spec.clusterIPs`; never `None` or empty strings.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip`, but for those whose `ipMode` is `Proxy`: those lead to
    /// the load balancer itself.
    pub load_balancer_ips: Vec<IpAddr>,
    /// The clients that may use the load balancer IPs.
    pub source_ranges: SourceRanges,
    /// `spec.externalTrafficPolicy`, of a Service that can be reached from outside at all.
    pub external_policy: TrafficPolicy,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `spec.sessionAffinity: ClientIP` and for how long a client stays, in seconds.
    pub affinity: Option<u32>,
    /// `spec.healthCheckNodePort`, of a LoadBalancer with external policy Local.
    pub health_check_node_port: Option<u16>,
    /// Whether it comes first where there is not room for all: gateways, the cluster's API and DNS.
    pub essential: bool,
    /// All endpoints, ready or not, in kube-proxy's order, without duplicates.
    /// [`select`](super::selection::select) says which of them take traffic.
    pub endpoints: Vec<Endpoint>,
    /// The TCP route that the gateways behind the port have for its connections; none if they are not gateways,
    /// or have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shift: Option<Shift>,
}

impl ServicePort {
    /// A ClusterIP Service's port without addresses or endpoints.
    pub fn new(name: ServicePortName, protocol: Protocol, port: u16) -> Self {
        Self {
            name,
            protocol,
            kind: ServiceType::default(),
            port,
            node_port: None,
            cluster_ips: Vec::new(),
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            source_ranges: SourceRanges::default(),
            external_policy: TrafficPolicy::default(),
            internal_policy: TrafficPolicy::default(),
            affinity: None,
            health_check_node_port: None,
            essential: false,
            endpoints: Vec::new(),
            shift: None,
        }
    }

    /// The cluster IP of a family. Without one, kube-proxy leaves the whole Service out of that
    /// family.
    pub fn cluster_ip(&self, family: IpFamily) -> Option<IpAddr> {
        of_family(&self.cluster_ips, family).next()
    }

    /// The external IPs of a family.
    pub fn external_ips(&self, family: IpFamily) -> impl Iterator<Item = IpAddr> {
        of_family(&self.external_ips, family)
    }

    /// The load balancer IPs of a family.
    pub fn load_balancer_ips(&self, family: IpFamily) -> impl Iterator<Item = IpAddr> {
        of_family(&self.load_balancer_ips, family)
    }

    /// The turns that the kernel's connections of a family take; none if they go to the endpoints.
    pub fn turns(&self, family: IpFamily) -> Option<Turns<'_>> {
        let Way::Kernel(shift) = &self.shift.as_ref()?.way else {
            return None;
        };
        let order = shift.order.get(&family)?;
        Some(Turns {
            destinations: &shift.destinations,
            order,
        })
    }

    /// Whether anything but the cluster IP leads here.
    pub fn is_external(&self, family: IpFamily) -> bool {
        self.node_port.is_some()
            || self.external_ips(family).next().is_some()
            || self.load_balancer_ips(family).next().is_some()
    }
}

fn of_family(addresses: &[IpAddr], family: IpFamily) -> impl Iterator<Item = IpAddr> {
    let addresses = addresses.iter().copied();
    addresses.filter(move |address| IpFamily::of(*address) == family)
}

/// A pod's address and port behind a Service port.
#[expect(
    clippy::struct_excessive_bools,
    reason = "the conditions are told apart by the API, and all combinations occur"
)]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// The pod's address.
    pub address: IpAddr,
    /// The target port.
    pub port: u16,
    /// Whether it is on this node.
    pub local: bool,
    /// The Node that it is on.
    pub node: Option<String>,
    /// Takes traffic (`conditions.ready`; unknown counts as yes).
    pub ready: bool,
    /// Would take traffic if it were not ending (`conditions.serving`; unknown counts as yes).
    pub serving: bool,
    /// Is ending (`conditions.terminating`; unknown counts as no).
    pub terminating: bool,
    /// The zones and nodes that should use it.
    pub hints: Hints,
}

/// `hints` of an endpoint: the zones and nodes that should use it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Hints {
    /// `forZones`
    pub zones: BTreeSet<String>,
    /// `forNodes`
    pub nodes: BTreeSet<String>,
}

impl Endpoint {
    /// A ready endpoint.
    pub fn ready(address: IpAddr, port: u16, local: bool) -> Self {
        Self {
            address,
            port,
            local,
            node: None,
            ready: true,
            serving: true,
            terminating: false,
            hints: Hints::default(),
        }
    }

    /// Address and port.
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(ranges: &[&str], client: &str) -> bool {
        SourceRanges::parse(ranges).admit(client.parse().unwrap())
    }

    #[test]
    fn source_ranges_are_per_family() {
        let v4 = &[" 172.16.0.0/12 ", "10.9.8.7/32"];
        assert!(admits(v4, "172.17.0.1"));
        assert!(admits(v4, "10.9.8.7"));
        assert!(!admits(v4, "10.9.8.8"));
        assert!(admits(v4, "fd00::1"));
        assert!(admits(&["fd00:aa::/64"], "10.9.8.8"));
        assert!(!admits(&["fd00:aa::/64"], "fd00::1"));
    }

    #[test]
    fn everybody_is_no_firewall() {
        assert_eq!(SourceRanges::parse::<&str>(&[]), SourceRanges::default());
        let all = SourceRanges::parse(&["10.0.0.0/8", "0.0.0.0/0"]);
        assert_eq!(all, SourceRanges::default());
    }

    #[test]
    fn ranges_that_cannot_be_read_let_nobody_in() {
        let ranges = SourceRanges::parse(&["10.0.0.0/40", ""]);
        assert_eq!(ranges.of(IpFamily::V4), Some(&[][..]));
        assert_eq!(ranges.of(IpFamily::V6), Some(&[][..]));
        // One that can be read says what was meant.
        assert!(!admits(&["x", "10.0.0.0/8"], "11.0.0.1"));
        assert!(admits(&["x", "10.0.0.0/8"], "10.0.0.1"));
        assert!(admits(&["x", "10.0.0.0/8"], "fd00::1"));
    }
}
