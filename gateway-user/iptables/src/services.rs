//! The Services that a node's rules implement, whichever program wrote them; and what the Services of
//! manifests should look like in rules.
//!
//! Names come from kube-proxy's comments, which are there even in large clusters; what happens comes
//! from the rules.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    fmt,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use nodegate_model::{
    selection::{Selection, select},
    service::{Endpoint, IpFamily, Protocol, ServicePort, ServicePortName, TrafficPolicy},
};
use serde::{Serialize, Serializer};

use super::{
    chains,
    config::KubeProxyConfig,
    odd::{self, OddEndpoint},
    render::{EXTERNAL_SERVICES, NODE_PORTS, SERVICES},
    rules::{Part, RecentAction, Rule, Ruleset, Table, Target},
};

/// Names a Service port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortKey {
    /// Namespace, Service, port name.
    pub name: ServicePortName,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// The Service ports of one family.
pub type Services = BTreeMap<ServicePortKey, PortRules>;

/// What rules do for a Service port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PortRules {
    /// Where it is reached, and what becomes of traffic that comes there.
    #[serde(serialize_with = "list")]
    pub frontends: BTreeMap<Frontend, Treatment>,
    /// Endpoints for policy Cluster, in the order of the rules.
    pub cluster: Vec<SocketAddr>,
    /// Endpoints for policy Local, in the order of the rules.
    pub local: Vec<SocketAddr>,
    /// For how long a client stays with an endpoint, in seconds.
    pub affinity: Option<u32>,
    /// The port at which load balancers ask for endpoints on this node.
    pub health_check_node_port: Option<u16>,
    /// Endpoints to which nothing gets as it should.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub odd: Vec<OddEndpoint>,
}

/// Where a Service port is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(tag = "kind")]
pub enum Frontend {
    /// At a cluster IP.
    #[serde(rename = "ClusterIP")]
    ClusterIp {
        /// The cluster IP and the Service's port.
        address: SocketAddr,
    },
    /// At an external IP or a load balancer IP; rules that refuse do not say which.
    External {
        /// The address and the Service's port.
        address: SocketAddr,
    },
    /// At a port of the node.
    NodePort {
        /// The node port.
        port: u16,
    },
}

/// What becomes of traffic to a frontend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Treatment {
    /// Where it goes.
    pub fate: Fate,
    /// The only clients that may come in; none for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sources: Option<Vec<IpNet>>,
}

/// Where traffic goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Fate {
    /// To one of all endpoints.
    Cluster,
    /// To one of this node's endpoints.
    Local,
    /// It is answered with an ICMP error or a reset: there is no endpoint.
    Reject,
    /// It is dropped: there is no endpoint on this node.
    Drop,
    /// It goes on untranslated: a chain is missing or empty, or node ports are not looked up.
    Pass,
}

/// The Services that `ruleset` implements.
pub fn of_rules(ruleset: &Ruleset) -> Services {
    let mut reader = Reader {
        nat: ruleset.table("nat"),
        filter: ruleset.table("filter"),
        found: Services::new(),
    };
    reader.nat();
    reader.filter();
    reader.found
}

/// What rules that kube-proxy wrote for `services` would implement.
pub fn of_model(services: &[ServicePort], family: IpFamily, config: &KubeProxyConfig) -> Services {
    let all = services.iter().filter_map(|service| {
        let address = service.cluster_ip(family)?;
        let key = ServicePortKey {
            name: service.name.clone(),
            protocol: service.protocol,
        };
        Some((key, expected(service, family, config, address)))
    });
    all.collect()
}

fn expected(
    service: &ServicePort,
    family: IpFamily,
    config: &KubeProxyConfig,
    cluster_ip: IpAddr,
) -> PortRules {
    let selection = select(service, family, &config.node);
    let at = |address| SocketAddr::new(address, service.port);
    let internal = fate(
        &selection,
        selection.internal_policy,
        selection.has_internal(),
    );
    let external = fate(
        &selection,
        selection.external_policy,
        selection.has_external(),
    );
    let ranges = service
        .source_ranges
        .of(family)
        .filter(|_| selection.has_endpoints);
    let mut frontends = BTreeMap::new();
    let cluster_ip = Frontend::ClusterIp {
        address: at(cluster_ip),
    };
    frontends.insert(cluster_ip, internal.into());
    for address in service.external_ips(family) {
        let frontend = Frontend::External {
            address: at(address),
        };
        frontends.insert(frontend, external.into());
    }
    for address in service.load_balancer_ips(family) {
        // The rule for an external IP comes first.
        let frontend = Frontend::External {
            address: at(address),
        };
        frontends.entry(frontend).or_insert_with(|| Treatment {
            fate: external,
            sources: ranges.map(<[IpNet]>::to_vec),
        });
    }
    if let Some(port) = service.node_port {
        let is_looked_up = config.family(family).serves_node_ports();
        let fate = match external {
            Fate::Cluster | Fate::Local if !is_looked_up => Fate::Pass,
            external => external,
        };
        frontends.insert(Frontend::NodePort { port }, fate.into());
    }
    let sockets = |endpoints: &[&Endpoint]| endpoints.iter().map(|e| e.socket()).collect();
    PortRules {
        frontends,
        cluster: sockets(&selection.cluster),
        local: sockets(&selection.local),
        affinity: service.affinity.filter(|_| !selection.reachable.is_empty()),
        health_check_node_port: service.health_check_node_port,
        odd: Vec::new(),
    }
}

fn fate(selection: &Selection<'_>, policy: TrafficPolicy, is_served: bool) -> Fate {
    match policy {
        _ if !selection.has_endpoints => Fate::Reject,
        _ if !is_served => Fate::Drop,
        TrafficPolicy::Cluster => Fate::Cluster,
        TrafficPolicy::Local => Fate::Local,
    }
}

/// Finds the Services in rules.
struct Reader<'r> {
    nat: Option<&'r Table>,
    filter: Option<&'r Table>,
    found: Services,
}

// === impl Reader ===

impl<'r> Reader<'r> {
    fn nat(&mut self) {
        let Some(nat) = self.nat else { return };
        for rule in nat.rules(SERVICES) {
            let Some((key, what)) = about(rule) else {
                continue;
            };
            let Some((address, chain)) = address(rule).zip(service_chain(rule)) else {
                continue;
            };
            let frontend = match what {
                "cluster IP" => Frontend::ClusterIp { address },
                "external IP" | "loadbalancer IP" => Frontend::External { address },
                _ => continue,
            };
            self.lead(nat, key, frontend, chain);
        }
        let is_looked_up = nat
            .rules(SERVICES)
            .any(|rule| rule.jump() == Some(NODE_PORTS));
        for rule in nat.rules(NODE_PORTS) {
            // With a destination it only counts what uses 127.0.0.1.
            if rule.destination().is_some() {
                continue;
            }
            let (Some((key, _)), Some(port), Some(chain)) =
                (about(rule), rule.destination_port(), service_chain(rule))
            else {
                continue;
            };
            let frontend = Frontend::NodePort { port };
            let path = self.lead(nat, key, frontend, chain);
            if !is_looked_up {
                path.fate = Fate::Pass;
            }
        }
    }

    fn filter(&mut self) {
        let Some(filter) = self.filter else { return };
        for chain in [SERVICES, EXTERNAL_SERVICES] {
            for rule in filter.rules(chain) {
                self.refusal(rule, chain);
            }
        }
        for rule in filter.rules(NODE_PORTS) {
            if let Some((key, "health check node port")) = about(rule) {
                // Health checks come over TCP, also for a Service of another protocol.
                for protocol in Protocol::ALL {
                    let name = key.name.clone();
                    if let Some(service) = self.found.get_mut(&ServicePortKey { name, protocol }) {
                        service.health_check_node_port = rule.destination_port();
                    }
                }
            }
        }
    }

    /// A rule that stands in for endpoints that are not there.
    fn refusal(&mut self, rule: &Rule, chain: &str) {
        let Some((key, "has no endpoints" | "has no local endpoints")) = about(rule) else {
            return;
        };
        let fate = match rule.target {
            Some(Target::Reject(_)) => Fate::Reject,
            Some(Target::Drop) => Fate::Drop,
            _ => return,
        };
        let frontend = match (address(rule), rule.destination_port()) {
            (Some(address), _) if chain == SERVICES => Frontend::ClusterIp { address },
            (Some(address), _) => Frontend::External { address },
            (None, Some(port)) => Frontend::NodePort { port },
            (None, None) => return,
        };
        match self.service(key).frontends.entry(frontend) {
            Entry::Vacant(entry) => {
                entry.insert(fate.into());
            }
            // Short cuts of pods and of the node aside, this is what clients meet.
            Entry::Occupied(mut entry) => entry.get_mut().fate = fate,
        }
    }

    /// Notes that `frontend` leads to `chain`. The first rule counts.
    fn lead(
        &mut self,
        nat: &'r Table,
        key: ServicePortKey,
        frontend: Frontend,
        chain: &'r str,
    ) -> &mut Treatment {
        let service = self.service(key);
        let path = follow(nat, chain, service, &mut HashMap::new(), 0);
        service.frontends.entry(frontend).or_insert(path)
    }

    fn service(&mut self, key: ServicePortKey) -> &mut PortRules {
        self.found.entry(key).or_default()
    }
}

/// The chain of a Service that a rule leads to. Up to 1.22, rules that only mark for masquerading stood
/// beside those in KUBE-SERVICES and KUBE-NODEPORTS.
fn service_chain(rule: &Rule) -> Option<&str> {
    rule.jump().filter(|chain| chains::is_of_service(chain))
}

/// As deep as chains of a Service are: KUBE-FW, KUBE-EXT, KUBE-SVC.
const DEPTH: usize = 4;

/// What a packet is given that the filter table then drops; up to 1.25, and kubelet's chain.
const MARK_DROP: &str = "KUBE-MARK-DROP";

/// Follows the chains of a Service to its endpoints; through each of them once, however many rules lead
/// to it.
fn follow<'r>(
    nat: &'r Table,
    chain: &'r str,
    service: &mut PortRules,
    known: &mut HashMap<&'r str, Treatment>,
    depth: usize,
) -> Treatment {
    let mut path = Treatment::from(Fate::Pass);
    if depth > DEPTH {
        return path;
    }
    if let Some(known) = known.get(chain) {
        return known.clone();
    }
    if chain.starts_with("KUBE-SVC-") {
        pick(nat, chain, Fate::Cluster, &mut path, service);
    } else if chain.starts_with("KUBE-SVL-") {
        pick(nat, chain, Fate::Local, &mut path, service);
    } else {
        let is_firewall = chain.starts_with("KUBE-FW-");
        let mut sources: Option<Vec<IpNet>> = is_firewall.then(Vec::new);
        for rule in nat.rules(chain) {
            let next = service_chain(rule).filter(|next| !next.starts_with("KUBE-SEP-"));
            let Some(next) = next else { continue };
            let beyond = follow(nat, next, service, known, depth + 1);
            let is_for_all = rule
                .parts
                .iter()
                .all(|part| matches!(part, Part::Comment(_)));
            if is_firewall || is_for_all {
                path.fate = beyond.fate;
            }
            if is_for_all {
                // Up to 1.25, a load balancer's IP had such a chain even if all may come in.
                sources = None;
            } else if let Some(sources) = &mut sources {
                sources.extend(rule.source());
            }
        }
        path.sources = sources;
        if chain.starts_with("KUBE-XLB-") {
            pick(nat, chain, Fate::Local, &mut path, service);
        }
    }
    known.insert(chain, path.clone());
    path
}

/// Notes the endpoints of a chain that picks one, which all packets get to that are to have this
/// `fate`.
fn pick(nat: &Table, chain: &str, fate: Fate, path: &mut Treatment, service: &mut PortRules) {
    let (endpoints, affinity) = endpoints(nat, chain, &mut service.odd);
    if !endpoints.is_empty() {
        path.fate = fate;
    } else if nat.rules(chain).any(|rule| rule.jump() == Some(MARK_DROP)) {
        path.fate = Fate::Drop;
    }
    service.affinity = service.affinity.or(affinity);
    match fate {
        Fate::Cluster => service.cluster = endpoints,
        _ => service.local = endpoints,
    }
}

/// The endpoints that a KUBE-SVC or KUBE-SVL chain picks from, and for how long clients stay.
/// Those that lead to none are noted.
fn endpoints(
    nat: &Table,
    chain: &str,
    odd: &mut Vec<OddEndpoint>,
) -> (Vec<SocketAddr>, Option<u32>) {
    let (mut endpoints, mut affinity) = (Vec::new(), None);
    for rule in nat.rules(chain) {
        let stays = rule.parts.iter().find_map(|part| match part {
            Part::Recent(recent) => match recent.action {
                RecentAction::Check(seconds) => Some(seconds),
                RecentAction::Set => None,
            },
            _ => None,
        });
        if stays.is_some() {
            // The rules that pick anew follow.
            affinity = stays;
            continue;
        }
        let target = rule.jump().filter(|next| next.starts_with("KUBE-SEP-"));
        match target.map(|chain| odd::endpoint(nat, chain)) {
            Some(Ok(to)) => endpoints.push(to),
            // Of a chain without rules more is said elsewhere.
            Some(Err(one)) if nat.rules(&one.chain).len() > 0 && !odd.contains(&one) => {
                odd.push(one);
            }
            Some(Err(_)) | None => {}
        }
    }
    (endpoints, affinity)
}

/// Which Service port a rule is about, and the rest of its comment.
pub(super) fn about(rule: &Rule) -> Option<(ServicePortKey, &str)> {
    let comment = rule.comment()?;
    let (name, what) = comment.split_once(' ').unwrap_or((comment, ""));
    let (namespace, rest) = name.split_once('/')?;
    let (service, port) = rest.split_once(':').unwrap_or((rest, ""));
    let protocol = rule.protocol()?.parse().ok()?;
    let key = ServicePortKey {
        name: ServicePortName {
            namespace: namespace.to_owned(),
            name: service.to_owned(),
            port: port.to_owned(),
        },
        protocol,
    };
    Some((key, what))
}

/// The one address and port that a rule is for.
fn address(rule: &Rule) -> Option<SocketAddr> {
    let net = rule.destination()?;
    let is_one = net.prefix_len() == net.max_prefix_len();
    is_one.then_some(SocketAddr::new(net.addr(), rule.destination_port()?))
}

fn list<S: Serializer>(
    frontends: &BTreeMap<Frontend, Treatment>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Line<'l> {
        #[serde(flatten)]
        frontend: &'l Frontend,
        #[serde(flatten)]
        path: &'l Treatment,
    }
    let lines = frontends.iter();
    serializer.collect_seq(lines.map(|(frontend, path)| Line { frontend, path }))
}

impl From<Fate> for Treatment {
    fn from(fate: Fate) -> Self {
        Self {
            fate,
            sources: None,
        }
    }
}

impl fmt::Display for ServicePortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.protocol.lowercase())
    }
}

impl Serialize for ServicePortKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClusterIp { address } => write!(f, "cluster IP {address}"),
            Self::External { address } => write!(f, "external address {address}"),
            Self::NodePort { port } => write!(f, "node port {port}"),
        }
    }
}

impl fmt::Display for Treatment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.fate {
            Fate::Cluster => "to all endpoints",
            Fate::Local => "to endpoints on this node",
            Fate::Reject => "refused (no endpoints)",
            Fate::Drop => "dropped (no endpoints on this node)",
            Fate::Pass => "untranslated",
        })?;
        match self.sources.as_deref() {
            None => Ok(()),
            Some([]) => f.write_str(", for nobody"),
            Some(sources) => {
                let sources: Vec<_> = sources.iter().map(ToString::to_string).collect();
                write!(f, ", for {} only", sources.join(", "))
            }
        }
    }
}
