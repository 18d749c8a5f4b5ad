//! Services → frontends and the endpoints behind them.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
};

use k8s_openapi::api::core::v1::{Pod, Service, ServiceSpec};
use nodegate_model::service::{
    Endpoint, Protocol, ServicePort, ServicePortName, ServiceType, SourceRanges, TrafficPolicy,
};
use nodegate_resources::{Resources, lookup::selects, object::Object};
use nodegate_values::diagnostic::{Diagnostic, Severity};

use crate::{
    endpoints::{Endpoints, View},
    identity::{INGRESS_GATEWAY, NodeIdentity},
    ports::protocol,
    scope::{Claims, ServiceScope},
};

/// A Service with this label is served by another proxy than kube-proxy (kubernetes.io well-known
/// labels).
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";

/// The API server's default for how long a client stays with an endpoint, in seconds
/// (`DefaultClientIPServiceAffinitySeconds`).
const AFFINITY: u32 = 10800;

pub(crate) type Labels = BTreeMap<String, String>;

/// Which Services are translated, and from which node's point of view.
#[derive(Debug)]
pub(crate) struct ServiceView<'w> {
    pub(crate) scope: &'w ServiceScope,
    pub(crate) claims: Claims,
    pub(crate) node: &'w NodeIdentity,
}

pub(crate) fn compile(
    resources: &Resources,
    endpoints: &Endpoints<'_>,
    wanted: &ServiceView<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<ServicePort> {
    let mut external = ExternalIpClaims::of(resources);
    let mut ports = Vec::new();
    let mut services: Vec<_> = resources.services().collect();
    services.sort_by(|(a, _), (b, _)| a.age().cmp(&b.age()));
    let gateways = gateway_pods(resources);
    for (object, service) in services {
        let Some(spec) = translated(service) else {
            continue;
        };
        let is_gateway = gateways.behind(object, spec);
        if !in_scope(wanted.scope, object, service, is_gateway) {
            continue;
        }
        report_ranges(object, spec, diagnostics);
        let common = common(object, service, spec);
        let common = ServicePort {
            essential: is_gateway || common.name.is_essential(),
            ..common
        };
        for port in spec.ports.iter().flatten() {
            let Ok(number) = u16::try_from(port.port) else {
                continue;
            };
            let protocol = protocol(port.protocol.as_deref());
            let external_ips = match wanted.claims {
                Claims::Oldest => external.granted(object, spec, number, protocol, diagnostics),
                Claims::All => addresses(spec.external_ips.iter().flatten()),
            };
            let name = ServicePortName {
                port: port.name.clone().unwrap_or_default(),
                ..common.name.clone()
            };
            ports.push(ServicePort {
                endpoints: behind(endpoints, &name, protocol, wanted.node),
                name,
                protocol,
                port: number,
                node_port: some_port(port.node_port),
                external_ips,
                ..common.clone()
            });
        }
    }
    ports.sort_by(|a, b| (&a.name, a.protocol).cmp(&(&b.name, b.protocol)));
    ports
}

/// The Service's content, if it is one that kube-proxy would translate.
fn translated(service: &Service) -> Option<&ServiceSpec> {
    let spec = service.spec.as_ref()?;
    let elsewhere = service
        .metadata
        .labels
        .as_ref()
        .is_some_and(|labels| labels.contains_key(OTHER_PROXY));
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let external_name = spec.type_.as_deref() == Some("ExternalName");
    (!elsewhere && !headless && !external_name).then_some(spec)
}

/// What all ports of a Service have in common.
fn common(object: &Object, service: &Service, spec: &ServiceSpec) -> ServicePort {
    let name = ServicePortName {
        namespace: object.key.namespace.clone(),
        name: object.key.name.clone(),
        port: String::new(),
    };
    let kind = match spec.type_.as_deref() {
        Some("NodePort") => ServiceType::NodePort,
        Some("LoadBalancer") => ServiceType::LoadBalancer,
        _ => ServiceType::ClusterIp,
    };
    // `ExternallyAccessible` of Kubernetes' pkg/api/v1/service.
    let accessible =
        kind != ServiceType::ClusterIp || spec.external_ips.iter().flatten().next().is_some();
    let external_policy = policy(
        spec.external_traffic_policy
            .as_deref()
            .filter(|_| accessible),
    );
    // `NeedsHealthCheck` of Kubernetes' pkg/api/v1/service.
    let health_checked =
        kind == ServiceType::LoadBalancer && external_policy == TrafficPolicy::Local;
    let ranges: Vec<&str> = given_ranges(spec).collect();
    ServicePort {
        kind,
        cluster_ips: cluster_ips(spec),
        load_balancer_ips: load_balancer_ips(service),
        source_ranges: SourceRanges::parse(&ranges),
        external_policy,
        internal_policy: policy(spec.internal_traffic_policy.as_deref()),
        affinity: affinity(spec),
        health_check_node_port: some_port(spec.health_check_node_port).filter(|_| health_checked),
        // Every port has its own; these are replaced.
        ..ServicePort::new(name, Protocol::Tcp, 0)
    }
}

fn policy(text: Option<&str>) -> TrafficPolicy {
    match text {
        Some("Local") => TrafficPolicy::Local,
        _ => TrafficPolicy::Cluster,
    }
}

fn some_port(number: Option<i32>) -> Option<u16> {
    let number = u16::try_from(number?).ok()?;
    (number != 0).then_some(number)
}

fn affinity(spec: &ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref();
    let seconds = config
        .and_then(|config| config.client_ip.as_ref())
        .and_then(|client| client.timeout_seconds)
        .and_then(|seconds| u32::try_from(seconds).ok());
    Some(seconds.unwrap_or(AFFINITY))
}

fn load_balancer_ips(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref();
    let ingress = status
        .and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref())
        .into_iter()
        .flatten()
        // `Proxy` asks that traffic from within the cluster goes to the load balancer, too.
        .filter(|ingress| ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"));
    addresses(ingress.filter_map(|ingress| ingress.ip.as_ref()))
}

fn given_ranges(spec: &ServiceSpec) -> impl Iterator<Item = &str> {
    let ranges = spec.load_balancer_source_ranges.iter().flatten();
    ranges.map(String::as_str)
}

/// Tells of source ranges that cannot be read.
fn report_ranges(object: &Object, spec: &ServiceSpec, diagnostics: &mut Vec<Diagnostic>) {
    let is_bad = |range: &str| range.trim().parse::<ipnet::IpNet>().is_err();
    let bad: Vec<_> = given_ranges(spec).map(is_bad).collect();
    let consequence = if bad.contains(&false) {
        "it is ignored"
    } else {
        "with no other to go by, nobody may use the load balancer IPs"
    };
    for (index, text) in given_ranges(spec)
        .enumerate()
        .filter(|(index, _)| bad[*index])
    {
        let path = format!("spec.loadBalancerSourceRanges[{index}]");
        let message = format!("`{text}` is not a network; {consequence}");
        let fix = "a network such as 192.168.0.0/16".to_owned();
        diagnostics.push(object.report(Severity::Warning, path, message, fix));
    }
}

/// The endpoints of a port in kube-proxy's order, which is that of their text.
///
/// Of several entries for one address kube-proxy takes one that is not ending; among equals it takes
/// whichever it meets last, which is chance. Here it is the best.
pub(crate) fn behind(
    endpoints: &Endpoints<'_>,
    name: &ServicePortName,
    protocol: Protocol,
    node: &NodeIdentity,
) -> Vec<Endpoint> {
    let mut found: BTreeMap<_, Endpoint> = BTreeMap::new();
    let port = (name.port.as_str(), protocol);
    let targets = endpoints.behind(&name.namespace, &name.name, port, View::KubeProxy);
    for (target, number) in targets {
        let endpoint = target.model(number, &node.name);
        let rank = |endpoint: &Endpoint| {
            (
                !endpoint.terminating,
                endpoint.ready,
                endpoint.local,
                endpoint.serving,
            )
        };
        match found.entry(endpoint.socket().to_string()) {
            Entry::Vacant(entry) => {
                entry.insert(endpoint);
            }
            Entry::Occupied(mut entry) if rank(&endpoint) > rank(entry.get()) => {
                entry.insert(endpoint);
            }
            Entry::Occupied(_) => {}
        }
    }
    found.into_values().collect()
}

fn addresses<'t>(texts: impl Iterator<Item = &'t String>) -> Vec<IpAddr> {
    texts.filter_map(|text| text.parse().ok()).collect()
}

fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    let all = addresses(spec.cluster_ips.iter().flatten());
    if all.is_empty() {
        addresses(spec.cluster_ip.iter())
    } else {
        all
    }
}

/// Which Service an external IP leads to.
struct ExternalIpClaims<'r> {
    /// Addresses of Nodes.
    nodes: BTreeMap<IpAddr, &'r str>,
    node_ports: BTreeMap<(u16, Protocol), &'r Object>,
    cluster_ips: BTreeMap<IpAddr, &'r Object>,
    granted: BTreeMap<(IpAddr, u16, Protocol), String>,
}

// === impl ExternalIpClaims ===

impl<'r> ExternalIpClaims<'r> {
    fn of(resources: &'r Resources) -> Self {
        let cluster_ips = resources.services().flat_map(|(object, service)| {
            let ips = service.spec.as_ref().map(cluster_ips).unwrap_or_default();
            ips.into_iter().map(|ip| (ip, &**object))
        });
        let nodes = resources.nodes().flat_map(|(object, node)| {
            let status = node.status.as_ref();
            let addresses = status.and_then(|status| status.addresses.as_deref());
            let addresses = addresses.unwrap_or_default().iter();
            addresses.filter_map(|it| Some((it.address.parse().ok()?, object.key.name.as_str())))
        });
        let node_ports = resources.services().flat_map(|(object, service)| {
            let ports = service
                .spec
                .iter()
                .flat_map(|spec| spec.ports.iter().flatten());
            ports.filter_map(|port| {
                let number = some_port(port.node_port)?;
                Some(((number, protocol(port.protocol.as_deref())), &**object))
            })
        });
        Self {
            nodes: nodes.collect(),
            node_ports: node_ports.collect(),
            cluster_ips: cluster_ips.collect(),
            granted: BTreeMap::new(),
        }
    }

    /// The external IPs that this port gets: none that would take over another Service's address.
    fn granted(
        &mut self,
        object: &Object,
        spec: &ServiceSpec,
        port: u16,
        protocol: Protocol,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Vec<IpAddr> {
        let mut granted = Vec::new();
        for (index, text) in spec.external_ips.iter().flatten().enumerate() {
            let Ok(ip) = text.parse::<IpAddr>() else {
                continue;
            };
            let path = format!("spec.externalIPs[{index}]");
            let fix = "choose another address".to_owned();
            if let Some(other) = self.cluster_ips.get(&ip)
                && other.key != object.key
            {
                let message = format!(
                    "{ip} is the cluster IP of {}; it does not lead here",
                    other.key
                );
                diagnostics.push(object.report(Severity::Error, path, message, fix));
                continue;
            }
            if let Some(node) = self.nodes.get(&ip) {
                let other = self.node_ports.get(&(port, protocol));
                let other = other.filter(|other| other.key != object.key);
                diagnostics.push(of_node(object, &path, (ip, node), port, other.copied()));
                if other.is_some() {
                    continue;
                }
            }
            let taken = self.granted.entry((ip, port, protocol));
            let owner = taken.or_insert_with(|| object.key.to_string());
            if *owner != object.key.to_string() {
                let message = format!("{ip} port {port} leads to {owner} already");
                diagnostics.push(object.report(Severity::Error, path, message, fix));
            } else if !granted.contains(&ip) {
                granted.push(ip);
            }
        }
        granted
    }
}

/// Tells what an external IP that is a Node's address takes there.
fn of_node(
    object: &Object,
    path: &str,
    (ip, node): (IpAddr, &str),
    port: u16,
    other: Option<&Object>,
) -> Diagnostic {
    if let Some(other) = other {
        let message = format!(
            "{ip} is an address of Node {node}, and {port} is a node port of {}; it does not lead here",
            other.key
        );
        let fix = "another port".to_owned();
        return object.report(Severity::Error, path, message, fix);
    }
    let message = format!(
        "{ip} is an address of Node {node}: what listens at its port {port} is reached from elsewhere no more"
    );
    object.report(Severity::Info, path, message, None)
}

fn in_scope(scope: &ServiceScope, object: &Object, service: &Service, is_gateway: bool) -> bool {
    match scope {
        ServiceScope::All | ServiceScope::Names(_) => {
            scope.has_name(&object.key.namespace, &object.key.name) == Some(true)
        }
        ServiceScope::Selector(selector) => selects(selector, service.metadata.labels.as_ref()),
        ServiceScope::Gateway => is_gateway,
    }
}

/// How gateway pods are known: by the selectors of Gateways, and by Istio's own label.
struct GatewayPods<'r> {
    selectors: BTreeSet<Labels>,
    /// Namespace and labels.
    pods: Vec<(&'r str, &'r Labels)>,
}

/// The selectors of gateway pods.
pub(crate) fn gateway_selectors(resources: &Resources) -> BTreeSet<Labels> {
    let own = Labels::from([(INGRESS_GATEWAY.0.into(), INGRESS_GATEWAY.1.into())]);
    // An empty selector says which Gateways apply, not which pods are gateways.
    let selectors = resources
        .gateways()
        .map(|(_, gateway)| gateway.spec.selector.clone());
    let selectors = selectors.filter(|selector| !selector.is_empty());
    selectors.chain([own]).collect()
}

/// The labels of a gateway pod; none of any other pod.
pub(crate) fn gateway_labels<'p>(pod: &'p Pod, selectors: &BTreeSet<Labels>) -> Option<&'p Labels> {
    let labels = pod.metadata.labels.as_ref()?;
    let mut selectors = selectors.iter();
    selectors
        .any(|selector| selects(selector, Some(labels)))
        .then_some(labels)
}

fn gateway_pods(resources: &Resources) -> GatewayPods<'_> {
    let selectors = gateway_selectors(resources);
    let pods = resources.pods().filter_map(|(object, pod)| {
        let labels = gateway_labels(pod, &selectors)?;
        Some((object.key.namespace.as_str(), labels))
    });
    GatewayPods {
        pods: pods.collect(),
        selectors,
    }
}

// === impl GatewayPods ===

impl GatewayPods<'_> {
    /// Whether the Service leads to gateway pods.
    fn behind(&self, object: &Object, spec: &ServiceSpec) -> bool {
        spec.selector
            .as_ref()
            .filter(|selector| !selector.is_empty())
            .is_some_and(|selector| self.chosen_by(&object.key.namespace, selector))
    }

    /// Whether a Service with this selector leads to gateway pods, or will as soon as there are any.
    fn chosen_by(&self, namespace: &str, selector: &Labels) -> bool {
        self.pods
            .iter()
            .any(|(its, labels)| *its == namespace && selects(selector, Some(labels)))
            || self
                .selectors
                .iter()
                .any(|wanted| selects(wanted, Some(selector)))
    }
}
