//! Rules → Service ports as the compiler makes them of objects: for a node whose rules are the only
//! source.
//!
//! Rules tell where a connection goes, not what the objects are. Which endpoint is ready, ending or hinted
//! for another zone has been resolved in them already; what comes out here gives the same sets of
//! endpoints. Where nothing depends on it, what rules do not say is left open: no names of nodes and
//! pods, and every endpoint that no rule for policy Local names counts as one of another node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnet::IpNet;
use nodegate_model::service::{
    Endpoint, Hints, IpFamily, ServicePort, ServiceType, SourceRanges, TrafficPolicy,
};

use super::{
    render::{NODE_PORTS, SERVICES},
    rules::{Not, Part, Rule, Ruleset, Table},
    services::{Fate, Frontend, PortRules, ServicePortKey, about, of_rules},
};

/// What rules say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// Sorted by name and protocol.
    pub services: Vec<ServicePort>,
    /// Service ports whose rules contradict each other or lead nowhere, and in what way.
    pub broken: BTreeMap<ServicePortKey, &'static str>,
    /// How kube-proxy was configured when it wrote them.
    pub facts: KubeProxyFacts,
}

/// What rules tell of kube-proxy's flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubeProxyFacts {
    /// The networks of pods (`--cluster-cidr`); none if pods are not known, or by their interfaces.
    pub pod_networks: BTreeSet<IpNet>,
    /// `--masquerade-all`.
    pub masquerade_all: bool,
    /// Where node ports are served (`--nodeport-addresses`); none of a family for all of its addresses.
    pub node_port_networks: BTreeSet<IpNet>,
    /// Whether 127.0.0.1 serves node ports.
    pub localhost_node_ports: bool,
}

/// The mark of traffic that is masqueraded.
const MARK_MASQ: &str = "KUBE-MARK-MASQ";

/// The Service ports that the rulesets, one for each family, implement on the node `node`.
pub fn ports(rulesets: &[Ruleset], node: &str) -> Ports {
    let mut found: BTreeMap<ServicePortKey, Vec<Half<'_>>> = BTreeMap::new();
    let read: Vec<_> = rulesets
        .iter()
        .map(|ruleset| (ruleset, of_rules(ruleset)))
        .collect();
    let mut facts = KubeProxyFacts {
        localhost_node_ports: true,
        ..KubeProxyFacts::default()
    };
    let mut here = BTreeSet::new();
    for (ruleset, services) in &read {
        let Some(nat) = ruleset.table("nat") else {
            continue;
        };
        let serves_node_ports = facts.learn(nat, ruleset.family);
        let balanced = balanced(nat);
        for (key, service) in services {
            here.extend(service.local.iter().map(SocketAddr::ip));
            found.entry(key.clone()).or_default().push(Half {
                family: ruleset.family,
                service,
                balanced: balanced.get(key).cloned().unwrap_or_default(),
                serves_node_ports,
            });
        }
    }
    let mut ports = Ports {
        facts,
        ..Ports::default()
    };
    for (key, halves) in found {
        match port(&key, &halves, &here, node) {
            Ok(port) => ports.services.push(port),
            Err(why) => {
                ports.broken.insert(key, why);
            }
        }
    }
    ports
}

/// A Service port in one family.
struct Half<'r> {
    family: IpFamily,
    service: &'r PortRules,
    /// Its load balancer IPs.
    balanced: BTreeSet<IpAddr>,
    /// Whether any rule leads to node ports.
    serves_node_ports: bool,
}

/// By Service port, the addresses that the rules call load balancer IPs. An external IP's rule comes
/// first where an address is both.
fn balanced(nat: &Table) -> BTreeMap<ServicePortKey, BTreeSet<IpAddr>> {
    let mut balanced: BTreeMap<ServicePortKey, BTreeSet<IpAddr>> = BTreeMap::new();
    let mut external = BTreeSet::new();
    for rule in nat.rules(SERVICES) {
        let (Some((key, what)), Some(net)) = (about(rule), rule.destination()) else {
            continue;
        };
        match what {
            "external IP" => {
                external.insert((key, net.addr()));
            }
            "loadbalancer IP" if !external.contains(&(key.clone(), net.addr())) => {
                balanced.entry(key).or_default().insert(net.addr());
            }
            _ => {}
        }
    }
    balanced
}

fn port(
    key: &ServicePortKey,
    halves: &[Half<'_>],
    here: &BTreeSet<IpAddr>,
    node: &str,
) -> Result<ServicePort, &'static str> {
    let mut port = ServicePort::new(key.name.clone(), key.protocol, 0);
    port.essential = key.name.is_essential();
    let mut ranges = [None, None];
    for half in halves {
        half.is_whole()?;
        for (frontend, path) in &half.service.frontends {
            match *frontend {
                Frontend::ClusterIp { address } => {
                    port.port = address.port();
                    port.cluster_ips.push(address.ip());
                    port.internal_policy = stricter(port.internal_policy, path.fate);
                    continue;
                }
                Frontend::External { address } => {
                    // Without endpoints rules do not say which of the two it is, and nothing depends on it.
                    let unknown = path.fate == Fate::Reject;
                    if unknown || half.balanced.contains(&address.ip()) {
                        port.load_balancer_ips.push(address.ip());
                    } else {
                        port.external_ips.push(address.ip());
                    }
                }
                Frontend::NodePort { port: number } => {
                    // Where it is not looked up, it is served on no address: see [`KubeProxyFacts`].
                    port.node_port = Some(number);
                }
            }
            port.external_policy = stricter(port.external_policy, path.fate);
            if path.fate == Fate::Pass
                && port.internal_policy == TrafficPolicy::Cluster
                && !half.service.local.is_empty()
            {
                // Nothing else has a use for endpoints on this node.
                port.external_policy = TrafficPolicy::Local;
            }
            if let Some(sources) = &path.sources {
                ranges[half.family as usize] = Some(half.without_own(sources));
            }
        }
        let service = half.service;
        port.affinity = port.affinity.or(service.affinity);
        let health = service.health_check_node_port;
        port.health_check_node_port = port.health_check_node_port.or(health);
        port.endpoints.extend(half.endpoints(here, node));
    }
    if port.cluster_ips.is_empty() {
        return Err("there is no rule for its cluster IP");
    }
    let [v4, v6] = ranges;
    port.source_ranges = SourceRanges::of_families(v4, v6);
    port.kind = if !port.load_balancer_ips.is_empty() {
        ServiceType::LoadBalancer
    } else if port.node_port.is_some() {
        ServiceType::NodePort
    } else {
        ServiceType::ClusterIp
    };
    Ok(port)
}

/// What refuses says nothing about the policy.
fn stricter(policy: TrafficPolicy, fate: Fate) -> TrafficPolicy {
    match fate {
        Fate::Local | Fate::Drop => TrafficPolicy::Local,
        Fate::Cluster | Fate::Reject | Fate::Pass => policy,
    }
}

// === impl Half ===

impl Half<'_> {
    /// Rules that kube-proxy has written, all of them, are never like this.
    fn is_whole(&self) -> Result<(), &'static str> {
        let PortRules {
            frontends,
            cluster,
            local,
            odd,
            ..
        } = self.service;
        if !odd.is_empty() {
            return Err("an endpoint of it leads nowhere");
        }
        let has_none = cluster.is_empty() && local.is_empty();
        let mut is_external = false;
        let mut is_dropped = false;
        for (frontend, path) in frontends {
            let is_node_port = matches!(frontend, Frontend::NodePort { .. });
            is_external |= !matches!(frontend, Frontend::ClusterIp { .. });
            is_dropped |= path.fate == Fate::Drop;
            if path.fate == Fate::Pass && (self.serves_node_ports || !is_node_port) {
                return Err("a chain of it is missing or empty");
            }
            if path.fate == Fate::Reject && !has_none {
                return Err("it is refused in one table and has endpoints in the other");
            }
        }
        if is_dropped && has_none && is_external {
            return Err("no rule leads to its endpoints on other nodes");
        }
        Ok(())
    }

    /// kube-proxy lets in the load balancer IPs themselves where the node may come in.
    fn without_own(&self, sources: &[IpNet]) -> Vec<IpNet> {
        let is_own = |net: &IpNet| {
            self.service.frontends.keys().any(|frontend| {
                matches!(frontend, Frontend::External { address } if IpNet::from(address.ip()) == *net)
            })
        };
        sources.iter().copied().filter(|net| !is_own(net)).collect()
    }

    /// Endpoints of which [`select`](nodegate_model::selection::select) chooses the lists of the rules.
    fn endpoints(&self, here: &BTreeSet<IpAddr>, node: &str) -> Vec<Endpoint> {
        let PortRules {
            frontends,
            cluster,
            local,
            ..
        } = self.service;
        if cluster.is_empty() && local.is_empty() {
            let is_dropped = frontends.values().any(|path| path.fate == Fate::Drop);
            return is_dropped
                .then(|| Endpoint::ready(unspecified(self.family), 0, false))
                .into_iter()
                .collect();
        }
        // A set for policy Local with endpoints that the other does not have: those are ending while others
        // are ready, or meant for another zone. It comes to the same here.
        let hinted = !cluster.is_empty() && local.iter().any(|one| !cluster.contains(one));
        let all: BTreeSet<_> = cluster.iter().chain(local).copied().collect();
        let mut all: Vec<_> = all.into_iter().collect();
        // kube-proxy's order.
        all.sort_by_cached_key(ToString::to_string);
        all.into_iter()
            .map(|one| {
                let is_local = if local.is_empty() {
                    here.contains(&one.ip())
                } else {
                    local.contains(&one)
                };
                let mut endpoint = Endpoint::ready(one.ip(), one.port(), is_local);
                if hinted {
                    let whom = if cluster.contains(&one) { node } else { "" };
                    endpoint.hints = Hints {
                        nodes: BTreeSet::from([whom.to_owned()]),
                        ..Hints::default()
                    };
                }
                endpoint
            })
            .collect()
    }
}

/// Stands for endpoints on other nodes: rules that drop because there is no local endpoint tell that there
/// are others, and not their addresses. With policy Local the address is never used.
fn unspecified(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => Ipv4Addr::UNSPECIFIED.into(),
        IpFamily::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

// === impl KubeProxyFacts ===

impl KubeProxyFacts {
    /// Takes note of what a family's rules tell; answers whether any rule leads to node ports.
    fn learn(&mut self, nat: &Table, family: IpFamily) -> bool {
        for (_, rule) in nat.all_rules() {
            self.learn_pods(rule);
        }
        let mut serves = false;
        for rule in nat.rules(SERVICES) {
            if rule.jump() != Some(NODE_PORTS) {
                continue;
            }
            serves = true;
            match rule.destination() {
                Some(net) => {
                    self.node_port_networks.insert(net);
                }
                None => self.localhost_node_ports &= !excludes_loopback(rule),
            }
        }
        let mut networks = self.node_port_networks.iter();
        if !serves {
            // No address is in this network.
            self.node_port_networks.insert(unspecified(family).into());
            self.localhost_node_ports &= family == IpFamily::V6;
        } else if family == IpFamily::V4 && networks.any(|net| IpFamily::of_net(net) == family) {
            let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
            self.localhost_node_ports &= self
                .node_port_networks
                .iter()
                .any(|net| net.contains(&loopback));
        }
        serves
    }

    fn learn_pods(&mut self, rule: &Rule) {
        let Some(comment) = rule.comment() else {
            return;
        };
        if rule.jump() == Some(MARK_MASQ) && comment.ends_with(" cluster IP") {
            let mut is_for_all = true;
            for part in &rule.parts {
                match part {
                    Part::Source(Not::Not, address) => {
                        self.pod_networks.insert(address.net);
                        is_for_all = false;
                    }
                    Part::InInterface(Not::Not, _) => is_for_all = false,
                    _ => {}
                }
            }
            self.masquerade_all |= is_for_all;
        } else if comment.starts_with("pod traffic for ") {
            self.pod_networks.extend(rule.source());
        }
    }
}

/// `! -d 127.0.0.0/8`
fn excludes_loopback(rule: &Rule) -> bool {
    rule.parts.iter().any(
        |part| matches!(part, Part::Destination(Not::Not, address) if address.net.addr().is_loopback() && address.net.addr().is_ipv4()),
    )
}

#[cfg(test)]
mod tests;
