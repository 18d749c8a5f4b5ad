//! A node as manifests describe it: the rules that kube-proxy would write there, and what the
//! daemon would write to the maps.

use std::{
    borrow::Borrow,
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use gateway_common::{
    Address, UNSPECIFIED,
    conntrack::BUCKETS,
    maps::{SCHEMA, Settings},
};
use ipnet::IpNet;

use nodegate_iptables::{
    config::{FamilyConfig, KubeProxyConfig, LocalDetector},
    normal,
    render::render,
    rules::Ruleset,
};
use nodegate_model::service::{IpFamily, ServicePort};
use nodegate_programming::{
    address::to_map,
    desired::{Desired, ExternalIps, Policy},
    masquerade::MasqueradeMode,
    mirror::Mirror,
    node::NodeFacts,
    tables::{MirrorTables, filled},
};

/// The interface by which packets from outside come in, in explanations.
const UPLINK: &str = "uplink";

/// The interface of a pod, in explanations.
const POD_DEVICE: &str = "veth";

/// How nodegate is configured, beside what it has in common with kube-proxy.
#[derive(Clone, Debug, Default)]
pub struct Choices {
    /// Which external IPs are served.
    pub external_ips: ExternalIps,
    /// For which connections the source becomes this node's.
    pub masquerade: MasqueradeMode,
    /// The networks that pods have addresses from.
    pub pod_networks: Vec<IpNet>,
    /// Pods are told from others; see `knows_pods` of the datapath's options.
    pub knows_pods: bool,
}

/// What the maps of a running nodegate hold.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// For the whole node.
    pub settings: Settings,
    /// All other maps that decide.
    pub mirror: Mirror,
    /// What they were made of.
    pub services: Vec<Arc<ServicePort>>,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    config: KubeProxyConfig,
    rules: [Ruleset; 2],
    mirror: Mirror,
    settings: Settings,
    refused: Vec<String>,
}

// === impl Node ===

impl Node {
    /// A node where kube-proxy, configured so, has the Services `by_kube_proxy`, and nodegate the
    /// Services `services`.
    pub fn new<S: Borrow<ServicePort>>(
        by_kube_proxy: &[ServicePort],
        services: &[S],
        config: KubeProxyConfig,
        choices: &Choices,
    ) -> Self {
        let facts = NodeFacts {
            addresses: config.addresses.iter().copied().collect(),
        };
        let policy = Policy {
            external_ips: choices.external_ips,
            node_port_networks: node_port_networks(&config),
            pod_networks: choices.pod_networks.clone(),
        };
        let desired = Desired::new(services, &config.node, &facts, &policy);
        let (mirror, plan) = filled(&desired);
        let refused = plan.refused.iter();
        let refused = refused
            .map(|((name, ..), map)| format!("{name}: there is no room in the map {map}"))
            .collect();
        let settings = settings(&config, choices);
        Self {
            refused,
            ..Self::with_maps(by_kube_proxy, config, settings, mirror)
        }
    }

    /// A node where kube-proxy, configured so, has the Services `by_kube_proxy`, and the maps are those of
    /// a running nodegate.
    pub fn running(by_kube_proxy: &[ServicePort], config: KubeProxyConfig, loaded: Loaded) -> Self {
        Self::with_maps(by_kube_proxy, config, loaded.settings, loaded.mirror)
    }

    fn with_maps(
        by_kube_proxy: &[ServicePort],
        config: KubeProxyConfig,
        settings: Settings,
        mirror: Mirror,
    ) -> Self {
        let rules =
            IpFamily::ALL.map(|family| normal::dump(&render(by_kube_proxy, family, &config)));
        Self {
            config,
            rules,
            mirror,
            settings,
            refused: Vec::new(),
        }
    }

    /// kube-proxy's rules, as `iptables-save` prints them.
    pub fn rules(&self, family: IpFamily) -> &Ruleset {
        match family {
            IpFamily::V4 => &self.rules[0],
            IpFamily::V6 => &self.rules[1],
        }
    }

    /// What the maps hold.
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// What the maps decide.
    pub fn tables(&self) -> MirrorTables<'_> {
        MirrorTables::new(&self.mirror, self.settings)
    }

    /// What the maps have no room for.
    pub fn refused(&self) -> &[String] {
        &self.refused
    }

    /// The addresses of the node, but for loopback.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.config.addresses
    }

    /// The address that the node's own processes send from.
    pub fn source(&self, destination: IpAddr) -> IpAddr {
        if destination.is_loopback() || self.addresses().contains(&destination) {
            return destination;
        }
        let family = IpFamily::of(destination);
        let unspecified: IpAddr = match family {
            IpFamily::V4 => Ipv4Addr::UNSPECIFIED.into(),
            IpFamily::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        self.config.family(family).node_ip.unwrap_or(unspecified)
    }

    /// By which interface packets of a pod on this node come in, or those from outside.
    pub(super) fn interface(&self, family: IpFamily, of_pod: bool) -> String {
        match &self.config.family(family).local {
            _ if !of_pod => UPLINK.to_owned(),
            Some(LocalDetector::Interface(name)) => name.replace('+', "0"),
            _ => POD_DEVICE.to_owned(),
        }
    }

    /// Whether nodegate knows pods from others.
    pub fn knows_pods(&self) -> bool {
        self.settings.flags & Settings::FLAG_KNOWS_PODS != 0
    }

    /// Whether kube-proxy knows the node's pods from others.
    pub fn detects_local(&self, family: IpFamily) -> bool {
        self.config.family(family).local.is_some()
    }
}

fn settings(config: &KubeProxyConfig, choices: &Choices) -> Settings {
    let flag = |condition, flag| if condition { flag } else { 0 };
    let own = |family: &FamilyConfig| -> Address { family.node_ip.map_or(UNSPECIFIED, to_map) };
    Settings {
        schema: SCHEMA,
        trace: 0,
        flags: choices.masquerade.flags()
            | flag(choices.knows_pods, Settings::FLAG_KNOWS_PODS)
            | flag(
                config.v4.localhost_node_ports,
                Settings::FLAG_LOCALHOST_NODE_PORTS,
            ),
        buckets: BUCKETS,
        host_netns: 0,
        generation: 1,
        node_v4: own(&config.v4),
        node_v6: own(&config.v6),
        seed: 0,
    }
}

/// `--nodeport-addresses` in nodegate's form: one list for both families; empty for all addresses.
fn node_port_networks(config: &KubeProxyConfig) -> Vec<IpNet> {
    let families = IpFamily::ALL.map(|family| (family, &config.family(family).node_port_addresses));
    if families.iter().all(|(_, addresses)| addresses.is_none()) {
        return Vec::new();
    }
    let mut networks = BTreeSet::new();
    for (family, addresses) in families {
        match addresses {
            Some(addresses) => networks.extend(addresses.iter().copied().map(IpNet::from)),
            None => _ = networks.insert(everything(family)),
        }
    }
    // A list that no address is in.
    networks.insert(IpAddr::from(Ipv4Addr::BROADCAST).into());
    networks.into_iter().collect()
}

fn everything(family: IpFamily) -> IpNet {
    match family {
        IpFamily::V4 => ipnet::Ipv4Net::default().into(),
        IpFamily::V6 => ipnet::Ipv6Net::default().into(),
    }
}
