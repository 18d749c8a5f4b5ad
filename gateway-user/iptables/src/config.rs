//! How kube-proxy is configured, and what it learns from the node: both decide what it writes.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use nodegate_compile::{NodeIdentity, topology};
use nodegate_model::{selection::NodeTopology, service::IpFamily};
use nodegate_resources::Resources;
use serde::{Deserialize, Serialize};

/// kube-proxy's own flags, by their names, and what it would ask the node.
#[expect(
    clippy::struct_excessive_bools,
    reason = "as many flags as kube-proxy has"
)]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubeProxyArgs {
    /// Name of the node's Node object
    pub hostname_override: String,
    /// Networks of the pods, one for each family
    pub cluster_cidr: Vec<IpNet>,
    /// How traffic of the node's own pods is known
    pub detect_local_mode: DetectLocalMode,
    /// The bridge of the pods, for BridgeInterface
    pub pod_bridge_interface: String,
    /// How the names of the pods' interfaces begin, for InterfaceNamePrefix
    pub pod_interface_name_prefix: String,
    /// Masquerade all traffic to cluster IPs
    pub masquerade_all: bool,
    /// Where node ports are served: networks, or `primary`
    pub nodeport_addresses: Vec<NodePortAddresses>,
    /// Serve node ports on 127.0.0.1
    pub iptables_localhost_nodeports: bool,
    /// The bit of the packet mark that asks for masquerading
    pub iptables_masquerade_bit: u8,
    /// The node's addresses [default: those of the Node object]
    pub node_addresses: Vec<IpAddr>,
    /// The node has nf_conntrack_tcp_be_liberal=1
    pub conntrack_tcp_be_liberal: bool,
    /// The node's kernel has nfacct
    pub nfacct: bool,
    /// The node's iptables has MASQUERADE --random-fully
    pub random_fully: bool,
}

impl Default for KubeProxyArgs {
    /// kube-proxy's own, for a node without a name.
    fn default() -> Self {
        Self {
            hostname_override: String::new(),
            cluster_cidr: Vec::new(),
            detect_local_mode: DetectLocalMode::default(),
            pod_bridge_interface: String::new(),
            pod_interface_name_prefix: String::new(),
            masquerade_all: false,
            nodeport_addresses: Vec::new(),
            iptables_localhost_nodeports: true,
            iptables_masquerade_bit: 14,
            node_addresses: Vec::new(),
            conntrack_tcp_be_liberal: false,
            nfacct: true,
            random_fully: true,
        }
    }
}

impl KubeProxyArgs {
    /// The same for a node, where not more is known of it: without `--cluster-cidr`, the Node's own
    /// networks are the best that is known of pods' addresses.
    #[must_use]
    pub fn on(&self, resources: &Resources, node: &str) -> Self {
        let spec = resources.node(node).and_then(|node| node.spec.as_ref());
        let has_networks = spec.is_some_and(|spec| {
            spec.pod_cidr.is_some() || spec.pod_cidrs.as_ref().is_some_and(|nets| !nets.is_empty())
        });
        let asked = self.detect_local_mode;
        let unknown = self.cluster_cidr.is_empty() && asked == DetectLocalMode::ClusterCidr;
        Self {
            hostname_override: node.to_owned(),
            detect_local_mode: if unknown && has_networks {
                DetectLocalMode::NodeCidr
            } else {
                asked
            },
            ..self.clone()
        }
    }

    /// The same, with what is not given taken from `own`.
    #[must_use]
    pub fn or(self, own: &Self) -> Self {
        Self {
            hostname_override: if self.hostname_override.is_empty() {
                own.hostname_override.clone()
            } else {
                self.hostname_override
            },
            cluster_cidr: or(self.cluster_cidr, &own.cluster_cidr),
            node_addresses: or(self.node_addresses, &own.node_addresses),
            nodeport_addresses: or(self.nodeport_addresses, &own.nodeport_addresses),
            masquerade_all: self.masquerade_all || own.masquerade_all,
            iptables_localhost_nodeports: self.iptables_localhost_nodeports
                && own.iptables_localhost_nodeports,
            ..self
        }
    }
}

fn or<T: Clone>(given: Vec<T>, own: &[T]) -> Vec<T> {
    if given.is_empty() {
        own.to_vec()
    } else {
        given
    }
}

/// `--detect-local-mode`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DetectLocalMode {
    /// By `--cluster-cidr`
    #[default]
    ClusterCidr,
    /// By the Node's spec.podCIDRs
    NodeCidr,
    /// By `--pod-bridge-interface`
    BridgeInterface,
    /// By `--pod-interface-name-prefix`
    InterfaceNamePrefix,
}

impl DetectLocalMode {
    /// Every mode.
    pub const ALL: [Self; 4] = [
        Self::ClusterCidr,
        Self::NodeCidr,
        Self::BridgeInterface,
        Self::InterfaceNamePrefix,
    ];

    /// As kube-proxy writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClusterCidr => "ClusterCIDR",
            Self::NodeCidr => "NodeCIDR",
            Self::BridgeInterface => "BridgeInterface",
            Self::InterfaceNamePrefix => "InterfaceNamePrefix",
        }
    }
}

/// One of `--nodeport-addresses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodePortAddresses {
    /// `primary`: the node's own address of each family.
    Primary,
    /// The node's addresses in a network.
    In(IpNet),
}

/// A text that is no [`NodePortAddresses`].
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is neither a network such as 192.168.0.0/16 nor `primary`")]
pub struct NodePortAddressesError(String);

impl std::str::FromStr for NodePortAddresses {
    type Err = NodePortAddressesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "primary" {
            return Ok(Self::Primary);
        }
        let net = text.parse().map(Self::In);
        net.map_err(|_| NodePortAddressesError(text.to_owned()))
    }
}

impl fmt::Display for NodePortAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary => f.write_str("primary"),
            Self::In(net) => write!(f, "{net}"),
        }
    }
}

/// What kube-proxy would not start with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Nothing says which node.
    #[error("kube-proxy writes each node's rules for that node (fix: --hostname-override NODE)")]
    NoName,
    /// Nothing says what the node's addresses are.
    #[error(
        "no Node {0} among the manifests: its addresses, pod networks and zone decide what kube-proxy writes (fix: add the Node object, or correct --hostname-override)"
    )]
    NoNode(String),
    /// A mode lacks what it goes by.
    #[error("--detect-local-mode={mode} needs {needs}")]
    Detector {
        /// As it is written.
        mode: &'static str,
        /// What is missing.
        needs: &'static str,
    },
}

/// All that decides, beside the Services, what kube-proxy writes.
#[expect(
    clippy::struct_excessive_bools,
    reason = "as many flags as kube-proxy has"
)]
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct KubeProxyConfig {
    /// This node.
    pub node: NodeTopology,
    /// The addresses of its interfaces.
    pub addresses: Vec<IpAddr>,
    /// `--iptables-masquerade-bit` as a mark.
    pub masquerade_mark: u32,
    /// `--masquerade-all`
    pub masquerade_all: bool,
    /// What is only for packets that conntrack cannot follow: nothing, when
    /// nf_conntrack_tcp_be_liberal is set.
    pub conntrack_liberal: bool,
    /// Whether the kernel has nfacct.
    pub nfacct: bool,
    /// Whether MASQUERADE has `--random-fully`.
    pub random_fully: bool,
    /// What differs between the families.
    pub v4: FamilyConfig,
    /// Likewise.
    pub v6: FamilyConfig,
}

/// The part of a [`KubeProxyConfig`] that is for one family.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FamilyConfig {
    /// The node's own address.
    pub node_ip: Option<IpAddr>,
    /// How traffic of the node's pods is known; none if that is not known.
    pub local: Option<LocalDetector>,
    /// Where node ports are served; none for all local addresses.
    pub node_port_addresses: Option<Vec<IpAddr>>,
    /// Whether node ports are served on 127.0.0.1.
    pub localhost_node_ports: bool,
}

/// How traffic of the node's own pods is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LocalDetector {
    /// Its source is in the network.
    Cidr(IpNet),
    /// It comes in by the interface, or, with a `+` at the end, by one whose name begins so.
    Interface(String),
}

// === impl KubeProxyConfig ===

impl KubeProxyConfig {
    /// What follows from the flags and the Node object.
    ///
    /// # Errors
    ///
    /// If kube-proxy would not start with them: without a node's name, without its addresses, or without
    /// what its way of knowing local traffic goes by.
    pub fn new(args: &KubeProxyArgs, resources: &Resources) -> Result<Self, ConfigError> {
        let identity = NodeIdentity::named(&args.hostname_override);
        let node = resources.node(&identity.name);
        if identity.name.is_empty() {
            return Err(ConfigError::NoName);
        }
        if node.is_none() && args.node_addresses.is_empty() {
            return Err(ConfigError::NoNode(identity.name));
        }
        let mut addresses = args.node_addresses.clone();
        if addresses.is_empty() {
            addresses = node.map(node_addresses).unwrap_or_default();
        }
        let pod_cidrs = node.map(pod_cidrs).unwrap_or_default();
        let family = |family| FamilyConfig::new(args, family, &addresses, &pod_cidrs);
        let (v4, v6) = (family(IpFamily::V4)?, family(IpFamily::V6)?);
        Ok(Self {
            node: topology(resources, &identity),
            masquerade_mark: 1 << args.iptables_masquerade_bit,
            masquerade_all: args.masquerade_all,
            conntrack_liberal: args.conntrack_tcp_be_liberal,
            nfacct: args.nfacct,
            random_fully: args.random_fully,
            addresses,
            v4,
            v6,
        })
    }

    /// The part for one family.
    pub fn family(&self, family: IpFamily) -> &FamilyConfig {
        match family {
            IpFamily::V4 => &self.v4,
            IpFamily::V6 => &self.v6,
        }
    }
}

/// The first of them is the node's own; kube-proxy prefers the internal ones (`GetNodeHostIPs`).
fn node_addresses(node: &Node) -> Vec<IpAddr> {
    let all = || {
        let status = node.status.as_ref();
        status
            .and_then(|status| status.addresses.as_ref())
            .into_iter()
            .flatten()
    };
    let of_type = |kind: &'static str| {
        all()
            .filter(move |address| address.type_ == kind)
            .filter_map(|address| address.address.parse().ok())
    };
    of_type("InternalIP").chain(of_type("ExternalIP")).collect()
}

fn pod_cidrs(node: &Node) -> Vec<IpNet> {
    let spec = node.spec.as_ref();
    let several = spec.and_then(|spec| spec.pod_cidrs.as_ref());
    let one = spec.and_then(|spec| spec.pod_cidr.as_ref());
    let texts = several.into_iter().flatten().chain(one);
    texts.filter_map(|text| text.parse().ok()).collect()
}

// === impl FamilyConfig ===

impl FamilyConfig {
    /// The destinations for which node ports are looked up; none for all local addresses.
    pub fn node_port_destinations(&self) -> Option<Vec<IpAddr>> {
        let addresses = self.node_port_addresses.as_ref()?.iter();
        let served = addresses.filter(|ip| !ip.is_loopback() || self.localhost_node_ports);
        Some(served.copied().collect())
    }

    /// Whether node ports are served at all.
    pub fn serves_node_ports(&self) -> bool {
        self.node_port_destinations()
            .is_none_or(|addresses| !addresses.is_empty())
    }

    fn new(
        args: &KubeProxyArgs,
        family: IpFamily,
        addresses: &[IpAddr],
        pod_cidrs: &[IpNet],
    ) -> Result<Self, ConfigError> {
        let is_ours = |address: &&IpAddr| IpFamily::of(**address) == family;
        let node_ip = addresses.iter().find(is_ours).copied();
        let nets = node_port_nets(args, family, node_ip);
        let node_port_addresses = (!matches_all(&nets)).then(|| {
            let loopback: IpAddr = match family {
                IpFamily::V4 => std::net::Ipv4Addr::LOCALHOST.into(),
                IpFamily::V6 => std::net::Ipv6Addr::LOCALHOST.into(),
            };
            let own: Vec<_> = [&loopback].into_iter().chain(addresses).copied().collect();
            in_nets(&own, &nets)
        });
        // `ContainsIPv4Loopback` of pkg/proxy/util/nodeport_addresses.go.
        let on_loopback = node_port_addresses
            .as_ref()
            .is_none_or(|addresses| addresses.iter().any(IpAddr::is_loopback));
        Ok(Self {
            node_ip,
            local: detector(args, family, pod_cidrs)?,
            localhost_node_ports: family == IpFamily::V4
                && args.iptables_localhost_nodeports
                && on_loopback,
            node_port_addresses,
        })
    }
}

/// A family that none of `--nodeport-addresses` is about is served everywhere.
fn node_port_nets(args: &KubeProxyArgs, family: IpFamily, node_ip: Option<IpAddr>) -> Vec<IpNet> {
    let nets = args
        .nodeport_addresses
        .iter()
        .filter_map(|addresses| match addresses {
            NodePortAddresses::Primary => node_ip.map(IpNet::from),
            NodePortAddresses::In(net) => Some(*net),
        });
    nets.filter(|net| IpFamily::of_net(net) == family).collect()
}

fn matches_all(nets: &[IpNet]) -> bool {
    nets.is_empty() || nets.iter().any(|net| net.prefix_len() == 0)
}

/// In the order of the networks, each once.
fn in_nets(addresses: &[IpAddr], nets: &[IpNet]) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for net in nets {
        for address in addresses.iter().filter(|address| net.contains(*address)) {
            if !found.contains(address) {
                found.push(*address);
            }
        }
    }
    found
}

fn detector(
    args: &KubeProxyArgs,
    family: IpFamily,
    pod_cidrs: &[IpNet],
) -> Result<Option<LocalDetector>, ConfigError> {
    let first = |nets: &[IpNet]| {
        let net = nets.iter().find(|net| IpFamily::of_net(net) == family);
        net.map(|net| LocalDetector::Cidr(net.trunc()))
    };
    let interface = |name: &str, mode, needs| {
        if name.is_empty() {
            return Err(ConfigError::Detector { mode, needs });
        }
        Ok(Some(LocalDetector::Interface(name.to_owned())))
    };
    match args.detect_local_mode {
        DetectLocalMode::ClusterCidr => Ok(first(&args.cluster_cidr)),
        DetectLocalMode::NodeCidr if pod_cidrs.is_empty() => Err(ConfigError::Detector {
            mode: "NodeCIDR",
            needs: "a Node object with spec.podCIDRs",
        }),
        DetectLocalMode::NodeCidr => Ok(first(pod_cidrs)),
        DetectLocalMode::BridgeInterface => interface(
            &args.pod_bridge_interface,
            "BridgeInterface",
            "--pod-bridge-interface",
        ),
        DetectLocalMode::InterfaceNamePrefix => {
            let found = interface(
                &args.pod_interface_name_prefix,
                "InterfaceNamePrefix",
                "--pod-interface-name-prefix",
            )?;
            Ok(found.map(|detector| match detector {
                LocalDetector::Interface(prefix) => LocalDetector::Interface(prefix + "+"),
                cidr @ LocalDetector::Cidr(_) => cidr,
            }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nodegate_resources::{admission::Store, manifest::Manifest};

    const NODE: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: n, labels: {topology.kubernetes.io/zone: z}}\nspec: {podCIDRs: [10.1.0.0/24]}\nstatus: {addresses: [{type: ExternalIP, address: 192.0.2.1}, {type: Hostname, address: n}, {type: InternalIP, address: 192.168.0.1}]}\n";

    fn config(args: KubeProxyArgs) -> Result<KubeProxyConfig, ConfigError> {
        let manifest = Manifest::parse("node.yaml".into(), NODE);
        let resources = Store::default().admit([&manifest], Vec::new());
        let args = KubeProxyArgs {
            hostname_override: "n".into(),
            ..args
        };
        KubeProxyConfig::new(&args, &resources)
    }

    fn by(detect_local_mode: DetectLocalMode) -> KubeProxyArgs {
        KubeProxyArgs {
            detect_local_mode,
            ..KubeProxyArgs::default()
        }
    }

    #[test]
    fn the_node_object_says_where_the_node_is() {
        let config = config(KubeProxyArgs::default()).unwrap();
        assert_eq!(config.node.zone.as_deref(), Some("z"));
        let first = "192.168.0.1".parse().unwrap();
        assert_eq!(config.v4.node_ip, Some(first));
        assert_eq!(config.v6.node_ip, None);
        assert_eq!(config.addresses.len(), 2);
        assert_eq!(config.masquerade_mark, 0x4000);
        assert!(config.v4.localhost_node_ports && !config.v6.localhost_node_ports);
    }

    #[test]
    fn local_traffic_is_known_in_four_ways() {
        let local = |args: KubeProxyArgs| {
            let config = config(args).unwrap();
            (config.v4.local, config.v6.local)
        };
        let cidr = |text: &str| text.parse().ok().map(LocalDetector::Cidr);
        let interface = |name: &str| Some(LocalDetector::Interface(name.into()));
        assert_eq!(local(KubeProxyArgs::default()), (None, None));
        assert_eq!(
            local(KubeProxyArgs {
                cluster_cidr: vec!["10.0.0.1/8".parse().unwrap(), "fd00::/32".parse().unwrap()],
                ..KubeProxyArgs::default()
            }),
            (cidr("10.0.0.0/8"), cidr("fd00::/32"))
        );
        assert_eq!(
            local(by(DetectLocalMode::NodeCidr)),
            (cidr("10.1.0.0/24"), None)
        );
        assert_eq!(
            local(KubeProxyArgs {
                pod_bridge_interface: "cni0".into(),
                ..by(DetectLocalMode::BridgeInterface)
            }),
            (interface("cni0"), interface("cni0"))
        );
        let prefix = KubeProxyArgs {
            pod_interface_name_prefix: "veth".into(),
            ..by(DetectLocalMode::InterfaceNamePrefix)
        };
        assert_eq!(local(prefix), (interface("veth+"), interface("veth+")));
        assert!(config(by(DetectLocalMode::InterfaceNamePrefix)).is_err());
    }

    #[test]
    fn node_ports_are_served_where_the_flags_say() {
        let at = |list: &str| KubeProxyArgs {
            nodeport_addresses: list.split(',').map(|one| one.parse().unwrap()).collect(),
            ..KubeProxyArgs::default()
        };
        let served = |list: &str| {
            let config = config(at(list)).unwrap();
            (
                config.v4.node_port_destinations().map(|ips| ips.len()),
                config.v4.localhost_node_ports,
                config.v6.serves_node_ports(),
            )
        };
        assert_eq!(served("0.0.0.0/0"), (None, true, true));
        assert_eq!(served("192.168.0.0/16"), (Some(1), false, true));
        assert_eq!(served("primary"), (Some(1), false, true));
        assert_eq!(served("127.0.0.0/8,192.0.2.0/24"), (Some(2), true, true));
        assert_eq!(served("10.0.0.0/8,::1/128"), (Some(0), false, false));
        let without = KubeProxyArgs {
            iptables_localhost_nodeports: false,
            ..at("127.0.0.0/8")
        };
        assert!(!config(without).unwrap().v4.serves_node_ports());
    }
}
