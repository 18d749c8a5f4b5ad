//! Who connects where.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use gateway_common::{
    UNSPECIFIED,
    decide::{self, Origin},
};
use nodegate_model::service::{IpFamily, Protocol, ServicePort};
use nodegate_programming::address::to_map;

use crate::{
    agent::{Probe, Via},
    core::Prediction,
    sides::Hooks,
    world::{
        ALTERNATIVE, CLIENT, LAN, NODE, OTHER_NODE, POD, REMOTE_POD, STRANGER, Space, address,
    },
};

/// Of more backends than this, only so many are met.
pub(crate) const ENOUGH: usize = 64;

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Source {
    /// A pod of this node, whose sockets the hooks see.
    Pod,
    /// The same pod, seen only by its packets.
    PodPackets,
    /// A process of the node.
    Node,
    /// The same, from a socket that is bound to the node's other address.
    NodeBound,
    /// A pod of another node.
    RemotePod,
    /// Another node.
    OtherNode,
    /// Somebody outside whom the source ranges let in.
    Client,
    /// Somebody outside whom they don't.
    Stranger,
    /// The same, behind another card.
    Lan,
}

impl Source {
    pub(crate) const ALL: [Self; 9] = [
        Self::Pod,
        Self::PodPackets,
        Self::Node,
        Self::NodeBound,
        Self::RemotePod,
        Self::OtherNode,
        Self::Client,
        Self::Stranger,
        Self::Lan,
    ];

    pub(crate) fn hooks(self) -> Hooks {
        match self {
            Self::Pod | Self::Node | Self::NodeBound => Hooks::Sockets,
            _ => Hooks::Packets,
        }
    }

    fn space(self) -> Space {
        match self {
            Self::Pod | Self::PodPackets => Space::Pod,
            Self::Node | Self::NodeBound => Space::Node,
            Self::Lan => Space::Lan,
            _ => Space::Outside,
        }
    }

    /// The address; none for the node, which has several.
    pub(crate) fn address(self, family: IpFamily) -> Option<IpAddr> {
        let pair = match self {
            Self::Node | Self::NodeBound => return None,
            Self::Pod | Self::PodPackets => POD,
            Self::RemotePod => REMOTE_POD,
            Self::OtherNode => OTHER_NODE,
            Self::Client => CLIENT,
            Self::Stranger => STRANGER,
            Self::Lan => LAN,
        };
        Some(address(pair, family))
    }

    /// So many attempts.
    pub(crate) fn probe(self, to: SocketAddr, via: Via, attempts: usize) -> Probe {
        let family = IpFamily::of(to.ip());
        let source = match self {
            Self::Pod | Self::PodPackets | Self::Node => None,
            Self::NodeBound => Some(address(ALTERNATIVE, family)),
            _ => self.address(family),
        };
        Probe {
            space: self.space(),
            source,
            port: None,
            to,
            via,
            wanted: usize::MAX,
            at_least: attempts,
            at_most: attempts,
        }
    }

    /// Whether it is a process of the node.
    pub(crate) fn is_node(self) -> bool {
        matches!(self, Self::Node | Self::NodeBound)
    }

    fn origin(self) -> Origin {
        match self {
            Self::Pod => Origin::PodSocket,
            Self::PodPackets => Origin::PodPacket,
            Self::Node | Self::NodeBound => Origin::NodeSocket,
            _ => Origin::Packet,
        }
    }
}

/// Somebody connects somewhere.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    /// What is connected to, in words.
    pub(crate) what: String,
    pub(crate) source: Source,
    pub(crate) to: SocketAddr,
    pub(crate) via: Via,
    /// Clients stay with their backends.
    pub(crate) affinity: bool,
    /// Which Services' flows must not mix: one after the other.
    pub(crate) lane: usize,
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            source,
            to,
            via,
            ..
        } = self;
        write!(f, "{source:?} to {what} ({to}, {via:?})")
    }
}

impl Flow {
    pub(crate) fn family(&self) -> IpFamily {
        IpFamily::of(self.to.ip())
    }

    /// Whether the Service has what is connected to.
    pub(crate) fn is_for(&self, service: &ServicePort) -> bool {
        let (ip, port) = (self.to.ip(), self.to.port());
        let family = self.family();
        let tcp = self.via == Via::Tcp;
        let addressed = service
            .cluster_ip(family)
            .into_iter()
            .chain(service.external_ips(family))
            .chain(service.load_balancer_ips(family))
            .any(|own| own == ip);
        (service.protocol == Protocol::Tcp) == tcp
            && ((addressed && service.port == port) || service.node_port == Some(port))
    }

    /// As the core knows it. Nothing depends on the client of a socket but affinity.
    pub(crate) fn for_core(&self) -> decide::Flow {
        let protocol = match self.via {
            Via::Tcp => Protocol::Tcp,
            _ => Protocol::Udp,
        };
        let client = self.source.address(self.family());
        decide::Flow {
            client: client.map_or(UNSPECIFIED, to_map),
            destination: to_map(self.to.ip()),
            port: self.to.port(),
            protocol: protocol.number(),
            origin: self.source.origin(),
        }
    }

    /// Enough attempts to meet every backend: with 40 times as many as there are, one of n is missed
    /// with probability n e^-40.
    pub(crate) fn probe(&self, prediction: &Prediction) -> Probe {
        let backends = prediction.masquerade.len();
        let (wanted, at_least, at_most) = match backends {
            0 => (1, 2, 2),
            _ if self.affinity => (1, 4, 4),
            n if n <= ENOUGH => (n, n + 3, 40 * n),
            _ => (ENOUGH, ENOUGH, 10 * ENOUGH),
        };
        Probe {
            wanted,
            at_least,
            ..self.source.probe(self.to, self.via, at_most)
        }
    }
}

/// Where a Service port can be reached, and where it looks as if it could.
pub(crate) fn destinations(service: &ServicePort, family: IpFamily) -> Vec<(String, SocketAddr)> {
    let mut all = Vec::new();
    let name = &service.name;
    let mut push = |what: &str, ip: IpAddr, port: u16| {
        all.push((format!("{name} {what}"), SocketAddr::new(ip, port)));
    };
    let Some(cluster_ip) = service.cluster_ip(family) else {
        return all;
    };
    push("cluster IP", cluster_ip, service.port);
    push(
        "cluster IP, another port",
        cluster_ip,
        service.port ^ 0x4000,
    );
    for ip in service.external_ips(family) {
        push("external IP", ip, service.port);
        push("external IP, another port", ip, service.port ^ 0x4000);
    }
    for ip in service.load_balancer_ips(family) {
        push("load balancer IP", ip, service.port);
    }
    let loopback: IpAddr = match family {
        IpFamily::V4 => Ipv4Addr::LOCALHOST.into(),
        IpFamily::V6 => Ipv6Addr::LOCALHOST.into(),
    };
    if let Some(port) = service.node_port {
        push("node port", address(NODE, family), port);
        push("node port", address(ALTERNATIVE, family), port);
        push("node port", loopback, port);
        push("node port on the cluster IP", cluster_ip, port);
    }
    push("port on the node", address(NODE, family), service.port);
    all
}

/// Every source to every destination of a Service port.
pub(crate) fn flows(service: &ServicePort, lane: usize) -> Vec<Flow> {
    let vias: &[Via] = match service.protocol {
        Protocol::Tcp => &[Via::Tcp],
        Protocol::Udp => &[Via::Connected, Via::Unconnected],
        // There are no sockets for it.
        Protocol::Sctp => &[],
    };
    let mut flows = Vec::new();
    for family in IpFamily::ALL {
        for (what, to) in destinations(service, family) {
            for source in Source::ALL {
                // What leaves nobody's namespace is nobody's business.
                if to.ip().is_loopback() && source != Source::Node {
                    continue;
                }
                // The two have one address: their connections at the same time would race for where
                // kube-proxy sends it from then on.
                let other = [Source::Pod, Source::PodPackets][lane % 2];
                if service.affinity.is_some() && source == other {
                    continue;
                }
                for &via in vias {
                    flows.push(Flow {
                        what: what.clone(),
                        source,
                        to,
                        via,
                        affinity: service.affinity.is_some(),
                        lane,
                    });
                }
            }
        }
    }
    flows
}

/// The flows in lanes: those of a Service with affinity one after the other, all others by
/// themselves.
pub(crate) fn lanes(flows: &[Flow], predictions: &[Prediction]) -> Vec<Vec<usize>> {
    let mut shared: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut lanes = Vec::new();
    for (index, flow) in flows.iter().enumerate() {
        if flow.affinity && !predictions[index].masquerade.is_empty() {
            shared.entry(flow.lane).or_default().push(index);
        } else {
            lanes.push(vec![index]);
        }
    }
    lanes.extend(shared.into_values());
    lanes
}
