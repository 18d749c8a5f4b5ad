//! What kube-proxy would hand to `iptables-restore` for a set of Services: a full sync.
//!
//! Rule for rule as `syncProxyRules` of Kubernetes' pkg/proxy/iptables/proxier.go writes them. Only
//! the order of the Services differs, which there is chance and here is that of their names.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nodegate_model::{
    selection::{Selection, select},
    service::{Endpoint, IpFamily, ServicePort, TrafficPolicy},
};

use super::{
    chains,
    config::{FamilyConfig, KubeProxyConfig, LocalDetector},
    rules::{Not, Part, Probability, Recent, RecentAction, Rule, Ruleset, SetMark, Table, Target},
};

/// With more endpoints than this, kube-proxy leaves out comments (`largeClusterEndpointsThreshold`).
const LARGE_CLUSTER: usize = 1000;

pub(super) const SERVICES: &str = "KUBE-SERVICES";
pub(super) const EXTERNAL_SERVICES: &str = "KUBE-EXTERNAL-SERVICES";
pub(super) const NODE_PORTS: &str = "KUBE-NODEPORTS";
pub(super) const PROXY_FIREWALL: &str = "KUBE-PROXY-FIREWALL";
pub(super) const POSTROUTING: &str = "KUBE-POSTROUTING";
pub(super) const MARK_MASQ: &str = "KUBE-MARK-MASQ";
pub(super) const FORWARD: &str = "KUBE-FORWARD";
pub(super) const FIREWALL: &str = "KUBE-FIREWALL";

/// The rules of one family for `services`.
pub fn render(services: &[ServicePort], family: IpFamily, config: &KubeProxyConfig) -> Ruleset {
    let services: Vec<_> = services
        .iter()
        .filter(|service| service.cluster_ip(family).is_some())
        .collect();
    let of_family = |endpoint: &&Endpoint| IpFamily::of(endpoint.address) == family;
    let endpoints = services
        .iter()
        .map(|service| service.endpoints.iter().filter(of_family).count());
    let mut sync = Sync {
        family,
        config,
        own: config.family(family),
        is_large: endpoints.sum::<usize>() > LARGE_CLUSTER,
        filter: Table::new("filter"),
        nat: Table::new("nat"),
    };
    sync.begin();
    for service in services {
        sync.service(service);
    }
    sync.end();
    Ruleset {
        family,
        tables: vec![sync.filter, sync.nat],
    }
}

/// The rules under way.
struct Sync<'c> {
    family: IpFamily,
    config: &'c KubeProxyConfig,
    own: &'c FamilyConfig,
    is_large: bool,
    filter: Table,
    nat: Table,
}

/// A Service port under way.
struct Port<'s> {
    service: &'s ServicePort,
    selection: Selection<'s>,
    /// `ns/name:port`
    name: String,
    cluster_chain: String,
    local_chain: String,
    external_chain: String,
    /// The chain of each reachable endpoint.
    endpoint_chains: BTreeMap<SocketAddr, String>,
    /// For load balancer IPs that not everybody may use.
    firewall: Option<(String, &'s [IpNet])>,
}

// === impl Sync ===

impl Sync<'_> {
    fn begin(&mut self) {
        for chain in [
            SERVICES,
            EXTERNAL_SERVICES,
            FORWARD,
            NODE_PORTS,
            PROXY_FIREWALL,
        ] {
            self.filter.declare(chain, None);
        }
        for chain in [SERVICES, NODE_PORTS, POSTROUTING, MARK_MASQ] {
            self.nat.declare(chain, None);
        }
        self.localnet();
        self.masquerade();
    }

    /// With node ports on 127.0.0.1 the kernel routes packets with such addresses
    /// (`route_localnet`); those from other machines must not get in.
    fn localnet(&mut self) {
        if !self.own.localhost_node_ports {
            return;
        }
        let rule = Rule::new(
            vec![
                comment("block incoming localnet connections"),
                Part::Destination(Not::Is, loopback_v4().into()),
                Part::Source(Not::Not, loopback_v4().into()),
                Part::ConnectionState(Not::Not, "RELATED,ESTABLISHED,DNAT".into()),
            ],
            Target::Drop,
        );
        self.filter.append(FIREWALL, rule);
    }

    fn masquerade(&mut self) {
        let mark = self.config.masquerade_mark;
        let not_marked = Rule::new(vec![Part::Mark(Not::Not, mark, mark)], Target::Return);
        // Off again: a packet that passes twice must not be masqueraded twice.
        let unmark = Rule::new(Vec::new(), Target::Mark(SetMark::Xor(mark)));
        let masquerade = Rule::new(
            vec![comment("kubernetes service traffic requiring SNAT")],
            Target::Masquerade {
                random_fully: self.config.random_fully,
            },
        );
        for rule in [not_marked, unmark, masquerade] {
            self.nat.append(POSTROUTING, rule);
        }
        let mark = Rule::new(Vec::new(), Target::Mark(SetMark::Or(mark)));
        self.nat.append(MARK_MASQ, mark);
    }

    fn service(&mut self, service: &ServicePort) {
        let port = Port::new(service, self.family, self.config);
        self.cluster_ip(&port);
        self.external_ips(&port);
        self.load_balancer_ips(&port);
        self.node_port(&port);
        self.health_check(&port);
        for chain in port.chains() {
            self.nat.declare(chain, None);
        }
        self.internal(&port);
        self.external(&port);
        self.firewall(&port);
        self.choices(&port);
        for endpoint in &port.selection.reachable {
            self.endpoint(&port, endpoint);
        }
    }

    fn cluster_ip(&mut self, port: &Port<'_>) {
        let Some(address) = port.service.cluster_ip(self.family) else {
            return;
        };
        if port.selection.has_internal() {
            let parts = port.at(address, "cluster IP");
            let chain = port.internal_chain().to_owned();
            self.nat
                .append(SERVICES, Rule::new(parts, Target::Jump(chain)));
        } else {
            self.filter.append(SERVICES, port.refuse_at(address));
        }
    }

    fn external_ips(&mut self, port: &Port<'_>) {
        for address in port.service.external_ips(self.family) {
            if port.selection.has_endpoints {
                let parts = port.at(address, "external IP");
                let chain = port.external_chain.clone();
                self.nat
                    .append(SERVICES, Rule::new(parts, Target::Jump(chain)));
            }
            if !port.selection.has_external() {
                self.filter
                    .append(EXTERNAL_SERVICES, port.refuse_at(address));
            }
        }
    }

    fn load_balancer_ips(&mut self, port: &Port<'_>) {
        for address in port.service.load_balancer_ips(self.family) {
            if !port.selection.has_endpoints {
                continue;
            }
            let parts = port.at(address, "loadbalancer IP");
            let firewall = port.firewall.as_ref().map(|(chain, _)| chain);
            let chain = firewall.unwrap_or(&port.external_chain).clone();
            self.nat
                .append(SERVICES, Rule::new(parts, Target::Jump(chain)));
            if let Some(chain) = firewall {
                let parts = port.at(address, &format!("traffic not accepted by {chain}"));
                self.filter
                    .append(PROXY_FIREWALL, Rule::new(parts, Target::Drop));
            }
        }
        if !port.selection.has_external() {
            for address in port.service.load_balancer_ips(self.family) {
                self.filter
                    .append(EXTERNAL_SERVICES, port.refuse_at(address));
            }
        }
    }

    fn node_port(&mut self, port: &Port<'_>) {
        let Some(number) = port.service.node_port else {
            return;
        };
        let [module, protocol] = port.protocol();
        let destination = destination_port(number);
        if port.selection.has_endpoints {
            let target = || Target::Jump(port.external_chain.clone());
            let mut parts = vec![comment(&port.name), module.clone(), protocol.clone()];
            if self.own.localhost_node_ports && self.config.nfacct {
                let mut counted = parts.clone();
                counted.extend([
                    Part::Destination(Not::Is, loopback_v4().into()),
                    destination.clone(),
                    Part::Account("localhost_nps_accepted_pkts".into()),
                ]);
                self.nat.append(NODE_PORTS, Rule::new(counted, target()));
            }
            parts.push(destination.clone());
            self.nat.append(NODE_PORTS, Rule::new(parts, target()));
        }
        if !port.selection.has_external() {
            let parts = vec![
                comment(&port.refusal()),
                Part::DestinationType(Not::Is, "LOCAL".into()),
                module,
                protocol,
                destination,
            ];
            self.filter
                .append(EXTERNAL_SERVICES, Rule::new(parts, port.refuse()));
        }
    }

    fn health_check(&mut self, port: &Port<'_>) {
        if let Some(number) = port.service.health_check_node_port {
            let parts = vec![
                comment(&format!("{} health check node port", port.name)),
                Part::Module("tcp".into()),
                Part::Protocol(Not::Is, "tcp".into()),
                destination_port(number),
            ];
            self.filter
                .append(NODE_PORTS, Rule::new(parts, Target::Accept));
        }
    }

    /// Masquerades what comes to the cluster IP from elsewhere than the node's pods.
    fn internal(&mut self, port: &Port<'_>) {
        let Some(address) = port.service.cluster_ip(self.family) else {
            return;
        };
        if !port.selection.has_internal() {
            return;
        }
        let mut parts = port.at(address, "cluster IP");
        if !self.config.masquerade_all {
            let Some(local) = &self.own.local else { return };
            parts.push(from_local(Not::Not, local));
        }
        self.nat.append(port.internal_chain(), to_mark(parts));
    }

    fn external(&mut self, port: &Port<'_>) {
        if !port.uses_external_chain() {
            return;
        }
        let Port {
            name,
            external_chain,
            ..
        } = port;
        match port.service.external_policy {
            // The client is lost to masquerading; any node may answer.
            TrafficPolicy::Cluster => {
                let text = format!("masquerade traffic for {name} external destinations");
                self.nat
                    .append(external_chain, to_mark(vec![comment(&text)]));
            }
            TrafficPolicy::Local => self.short_circuit(port),
        }
        if port.selection.has_external() {
            let chain = match port.service.external_policy {
                TrafficPolicy::Cluster => &port.cluster_chain,
                TrafficPolicy::Local => &port.local_chain,
            };
            let rule = Rule::new(Vec::new(), Target::Jump(chain.clone()));
            self.nat.append(external_chain, rule);
        }
    }

    /// Traffic that does not come from outside takes all endpoints, whatever the external policy.
    fn short_circuit(&mut self, port: &Port<'_>) {
        let Port {
            name,
            external_chain,
            cluster_chain,
            ..
        } = port;
        let to_cluster = || Target::Jump(cluster_chain.clone());
        let from_node = || Part::SourceType(Not::Is, "LOCAL".into());
        if let Some(local) = &self.own.local {
            let text = format!("pod traffic for {name} external destinations");
            let parts = vec![comment(&text), from_local(Not::Is, local)];
            self.nat
                .append(external_chain, Rule::new(parts, to_cluster()));
        }
        let text = format!("masquerade LOCAL traffic for {name} external destinations");
        let rule = to_mark(vec![comment(&text), from_node()]);
        self.nat.append(external_chain, rule);
        let text = format!("route LOCAL traffic for {name} external destinations");
        let parts = vec![comment(&text), from_node()];
        self.nat
            .append(external_chain, Rule::new(parts, to_cluster()));
    }

    fn firewall(&mut self, port: &Port<'_>) {
        let Some((chain, ranges)) = &port.firewall else {
            return;
        };
        let text = comment(&format!("{} loadbalancer IP", port.name));
        let admit = |source| {
            let parts = vec![text.clone(), Part::Source(Not::Is, source)];
            Rule::new(parts, Target::Jump(port.external_chain.clone()))
        };
        for range in *ranges {
            self.nat.append(chain, admit((*range).into()));
        }
        // The node may have the load balancer IP itself, and use it as the source.
        let node_may = |ip: IpAddr| ranges.iter().any(|range| range.contains(&ip));
        if self.own.node_ip.is_some_and(node_may) {
            for address in port.service.load_balancer_ips(self.family) {
                self.nat.append(chain, admit(address.into()));
            }
        }
        let text = format!(
            "other traffic to {} will be dropped by {PROXY_FIREWALL}",
            port.name
        );
        let rule = Rule {
            parts: vec![comment(&text)],
            target: None,
        };
        self.nat.append(chain, rule);
    }

    /// The chains that pick an endpoint.
    fn choices(&mut self, port: &Port<'_>) {
        let lists = [
            (&port.cluster_chain, &port.selection.cluster),
            (&port.local_chain, &port.selection.local),
        ];
        for (chain, endpoints) in lists {
            if let Some(seconds) = port.service.affinity {
                for endpoint in endpoints {
                    let list = port.endpoint_chain(endpoint);
                    let mut parts = self.about(port, endpoint);
                    parts.push(recent(&list, RecentAction::Check(seconds)));
                    self.nat.append(chain, Rule::new(parts, Target::Jump(list)));
                }
            }
            for (index, endpoint) in endpoints.iter().enumerate() {
                let mut parts = self.about(port, endpoint);
                let left = endpoints.len() - index;
                if left > 1 {
                    parts.push(Part::Random(Probability::one_in(left)));
                }
                let target = Target::Jump(port.endpoint_chain(endpoint));
                self.nat.append(chain, Rule::new(parts, target));
            }
        }
    }

    fn about(&self, port: &Port<'_>, endpoint: &Endpoint) -> Vec<Part> {
        let text = || comment(&format!("{} -> {}", port.name, endpoint.socket()));
        (!self.is_large).then(text).into_iter().collect()
    }

    fn endpoint(&mut self, port: &Port<'_>, endpoint: &Endpoint) {
        let chain = port.endpoint_chain(endpoint);
        let name = (!self.is_large).then(|| comment(&port.name));
        let mut parts: Vec<_> = name.iter().cloned().collect();
        // A pod that reaches itself must see another source, or it would answer itself directly.
        parts.push(Part::Source(Not::Is, endpoint.address.into()));
        self.nat.append(&chain, to_mark(parts));
        let mut parts: Vec<_> = name.into_iter().collect();
        if port.service.affinity.is_some() {
            parts.push(recent(&chain, RecentAction::Set));
        }
        parts.extend(port.protocol());
        let rule = Rule::new(parts, Target::Dnat(endpoint.socket()));
        self.nat.append(&chain, rule);
    }

    fn end(&mut self) {
        for parts in self.node_port_destinations() {
            let text =
                "kubernetes service nodeports; NOTE: this must be the last rule in this chain";
            let parts = [comment(text)].into_iter().chain(parts).collect();
            self.nat
                .append(SERVICES, Rule::new(parts, Target::Jump(NODE_PORTS.into())));
        }
        self.forward();
    }

    /// Which packets are looked at for node ports.
    fn node_port_destinations(&self) -> Vec<Vec<Part>> {
        let own = self.own;
        if let Some(addresses) = own.node_port_destinations() {
            let parts = |address: IpAddr| vec![Part::Destination(Not::Is, address.into())];
            return addresses.into_iter().map(parts).collect();
        }
        let mut parts = vec![Part::DestinationType(Not::Is, "LOCAL".into())];
        match self.family {
            IpFamily::V4 if own.localhost_node_ports => {}
            IpFamily::V4 => parts.push(Part::Destination(Not::Not, loopback_v4().into())),
            IpFamily::V6 => parts.push(Part::Destination(Not::Not, loopback_v6().into())),
        }
        vec![parts]
    }

    fn forward(&mut self) {
        let mark = self.config.masquerade_mark;
        // A packet that conntrack took for invalid would leave untranslated, and the peer would
        // reset the connection (kubernetes/kubernetes#74839).
        if !self.config.conntrack_liberal {
            let mut parts = vec![Part::ConnectionState(Not::Is, "INVALID".into())];
            if self.config.nfacct {
                parts.push(Part::Account("ct_state_invalid_dropped_pkts".into()));
            }
            self.filter.append(FORWARD, Rule::new(parts, Target::Drop));
        }
        let marked = vec![
            comment("kubernetes forwarding rules"),
            Part::Mark(Not::Is, mark, mark),
        ];
        let answers = vec![
            comment("kubernetes forwarding conntrack rule"),
            Part::ConnectionState(Not::Is, "RELATED,ESTABLISHED".into()),
        ];
        for parts in [marked, answers] {
            self.filter
                .append(FORWARD, Rule::new(parts, Target::Accept));
        }
    }
}

// === impl Port ===

impl<'s> Port<'s> {
    fn new(service: &'s ServicePort, family: IpFamily, config: &KubeProxyConfig) -> Self {
        let (name, protocol) = (&service.name, service.protocol);
        let selection = select(service, family, &config.node);
        let chain = |endpoint: &&Endpoint| {
            let socket = endpoint.socket();
            (socket, chains::endpoint(name, protocol, socket))
        };
        let endpoint_chains = selection.reachable.iter().map(chain).collect();
        // All but those of endpoints end alike.
        let cluster_chain = chains::service(name, protocol);
        let alike = |prefix: &str| {
            let hash = chains::hash(&cluster_chain).unwrap_or_default();
            [prefix, hash].concat()
        };
        let ranges = service.source_ranges.of(family);
        let firewall = ranges
            .filter(|_| selection.has_endpoints)
            .filter(|_| service.load_balancer_ips(family).next().is_some())
            .map(|ranges| (alike("KUBE-FW-"), ranges));
        Self {
            service,
            selection,
            name: name.to_string(),
            local_chain: alike("KUBE-SVL-"),
            external_chain: alike("KUBE-EXT-"),
            cluster_chain,
            endpoint_chains,
            firewall,
        }
    }

    fn internal_chain(&self) -> &str {
        match self.service.internal_policy {
            TrafficPolicy::Cluster => &self.cluster_chain,
            TrafficPolicy::Local => &self.local_chain,
        }
    }

    /// Those that this port has, in kube-proxy's order.
    fn chains(&self) -> impl Iterator<Item = &str> {
        let external = self.uses_external_chain().then_some(&self.external_chain);
        let firewall = self.firewall.as_ref().map(|(chain, _)| chain);
        let cluster = (!self.selection.cluster.is_empty()).then_some(&self.cluster_chain);
        let local = (!self.selection.local.is_empty()).then_some(&self.local_chain);
        let chains = [external, firewall, cluster, local].into_iter().flatten();
        chains.map(String::as_str)
    }

    fn uses_external_chain(&self) -> bool {
        self.selection.has_endpoints && self.selection.is_external
    }

    fn endpoint_chain(&self, endpoint: &Endpoint) -> String {
        let chain = self.endpoint_chains.get(&endpoint.socket());
        chain.cloned().unwrap_or_default()
    }

    fn protocol(&self) -> [Part; 2] {
        let protocol = self.service.protocol.lowercase();
        [
            Part::Module(protocol.into()),
            Part::Protocol(Not::Is, protocol.into()),
        ]
    }

    /// Traffic to the Service's port at an address.
    fn at(&self, address: IpAddr, what: &str) -> Vec<Part> {
        self.at_commented(address, &format!("{} {what}", self.name))
    }

    fn at_commented(&self, address: IpAddr, text: &str) -> Vec<Part> {
        let [module, protocol] = self.protocol();
        vec![
            comment(text),
            module,
            protocol,
            Part::Destination(Not::Is, address.into()),
            destination_port(self.service.port),
        ]
    }

    /// What stands in for endpoints that are not there. Without any at all, clients should know at
    /// once; with some on other nodes, the load balancer should look for another node.
    fn refuse(&self) -> Target {
        if self.selection.has_endpoints {
            Target::Drop
        } else {
            Target::Reject(None)
        }
    }

    fn refusal(&self) -> String {
        let local = if self.selection.has_endpoints {
            "local "
        } else {
            ""
        };
        format!("{} has no {local}endpoints", self.name)
    }

    fn refuse_at(&self, address: IpAddr) -> Rule {
        Rule::new(self.at_commented(address, &self.refusal()), self.refuse())
    }
}

pub(super) fn comment(text: &str) -> Part {
    Part::Comment(text.to_owned())
}

fn to_mark(parts: Vec<Part>) -> Rule {
    Rule::new(parts, Target::Jump(MARK_MASQ.into()))
}

fn destination_port(port: u16) -> Part {
    Part::DestinationPort(Not::Is, port, port)
}

fn recent(list: &str, action: RecentAction) -> Part {
    Part::Recent(Recent {
        list: list.to_owned(),
        action,
        mask: None,
    })
}

fn from_local(not: Not, local: &LocalDetector) -> Part {
    match local {
        LocalDetector::Cidr(net) => Part::Source(not, (*net).into()),
        LocalDetector::Interface(name) => Part::InInterface(not, name.clone()),
    }
}

/// 127.0.0.0/8
fn loopback_v4() -> IpNet {
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into()
}

/// `::1/128`
fn loopback_v6() -> IpNet {
    Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Dialect;
    use nodegate_model::service::{Protocol, ServicePortName, SourceRanges};

    /// kube-proxy would let everybody in.
    #[test]
    fn source_ranges_that_cannot_be_read_let_nobody_in() {
        let name = ServicePortName {
            namespace: "ns".into(),
            name: "a".into(),
            port: String::new(),
        };
        let firewall = chains::firewall(&name, Protocol::Tcp);
        let service = ServicePort {
            cluster_ips: vec!["10.96.0.1".parse().unwrap()],
            load_balancer_ips: vec!["192.0.2.1".parse().unwrap()],
            source_ranges: SourceRanges::parse(&["nonsense"]),
            endpoints: vec![Endpoint::ready("10.0.0.1".parse().unwrap(), 80, true)],
            ..ServicePort::new(name, Protocol::Tcp, 80)
        };
        let rules = render(&[service], IpFamily::V4, &KubeProxyConfig::default());
        let text = rules.text(Dialect::Save);
        let about: Vec<_> = text
            .lines()
            .filter(|line| line.contains("KUBE-FW-") && line.starts_with("-A"))
            .collect();
        assert_eq!(
            about,
            [
                "-A KUBE-PROXY-FIREWALL -m comment --comment \"ns/a traffic not accepted by KUBE-FW-X\" -m tcp -p tcp -d 192.0.2.1 --dport 80 -j DROP",
                "-A KUBE-SERVICES -m comment --comment \"ns/a loadbalancer IP\" -m tcp -p tcp -d 192.0.2.1 --dport 80 -j KUBE-FW-X",
                "-A KUBE-FW-X -m comment --comment \"other traffic to ns/a will be dropped by KUBE-PROXY-FIREWALL\"",
            ]
            .map(|line| line.replace("KUBE-FW-X", &firewall))
        );
    }
}
