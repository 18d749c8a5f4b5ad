//! Services → frontends and the endpoints behind them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use k8s_openapi::api::core::v1::{self, Service, ServiceSpec};

use super::{
    INGRESS_GATEWAY, NodeIdentity, ServiceScope,
    endpoints::{Endpoints, protocol},
};
use crate::{
    model::service::{Endpoint, Protocol, ServicePort, ServicePortName},
    resources::{
        Resources,
        diagnostic::{Diagnostic, Severity},
        lookup::selects,
        object::Object,
    },
};

/// A Service with this label is some other proxy's business (kubernetes.io well-known labels).
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";

type Labels = BTreeMap<String, String>;

pub(super) fn compile(
    resources: &Resources,
    endpoints: &Endpoints<'_>,
    node: &NodeIdentity,
    scope: &ServiceScope,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<ServicePort> {
    let mut external = ExternalIps::of(resources);
    let mut ports = Vec::new();
    let mut services: Vec<_> = resources.services().collect();
    services.sort_by(|(a, _), (b, _)| a.age().cmp(&b.age()));
    let in_scope = in_scope(resources, scope);
    for (object, service) in services {
        let Some(spec) = translated(service).filter(|_| in_scope(object, service)) else {
            continue;
        };
        for port in spec.ports.iter().flatten() {
            let Ok(number) = u16::try_from(port.port) else {
                continue;
            };
            let protocol = protocol(port.protocol.as_deref());
            ports.push(ServicePort {
                name: ServicePortName {
                    namespace: object.key.namespace.clone(),
                    name: object.key.name.clone(),
                    port: port.name.clone().unwrap_or_default(),
                },
                protocol,
                port: number,
                node_port: port
                    .node_port
                    .and_then(|port| u16::try_from(port).ok())
                    .filter(|port| *port != 0),
                cluster_ips: cluster_ips(spec),
                external_ips: external.granted(object, spec, number, protocol, diagnostics),
                endpoints: behind(endpoints, object, port, node),
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

fn behind(
    endpoints: &Endpoints<'_>,
    object: &Object,
    port: &v1::ServicePort,
    node: &NodeIdentity,
) -> Vec<Endpoint> {
    let mut found = BTreeMap::new();
    for (ready, target) in endpoints.behind(&object.key.namespace, &object.key.name, port) {
        let local = ready.node == Some(node.name.as_str());
        *found.entry((ready.address, target)).or_default() |= local;
    }
    found
        .into_iter()
        .map(|((address, port), local)| Endpoint {
            address,
            port,
            local,
        })
        .collect()
}

fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    let all = spec.cluster_ips.iter().flatten();
    let all: Vec<IpAddr> = all.filter_map(|ip| ip.parse().ok()).collect();
    if all.is_empty() {
        spec.cluster_ip
            .iter()
            .filter_map(|ip| ip.parse().ok())
            .collect()
    } else {
        all
    }
}

/// Which Service an external IP leads to.
struct ExternalIps<'r> {
    cluster_ips: BTreeMap<IpAddr, &'r Object>,
    granted: BTreeMap<(IpAddr, u16, Protocol), String>,
}

// === impl ExternalIps ===

impl<'r> ExternalIps<'r> {
    fn of(resources: &'r Resources) -> Self {
        let cluster_ips = resources.services().flat_map(|(object, service)| {
            let ips = service.spec.as_ref().map(cluster_ips).unwrap_or_default();
            ips.into_iter().map(|ip| (ip, &**object))
        });
        Self {
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

/// Decides which Services are in `scope`.
fn in_scope<'r>(
    resources: &'r Resources,
    scope: &'r ServiceScope,
) -> impl Fn(&Object, &Service) -> bool + use<'r> {
    let gateways = match scope {
        ServiceScope::Gateway => gateway_pods(resources),
        ServiceScope::All | ServiceScope::Selector(_) => GatewayPods::default(),
    };
    move |object, service| match scope {
        ServiceScope::All => true,
        ServiceScope::Selector(selector) => selects(selector, service.metadata.labels.as_ref()),
        ServiceScope::Gateway => {
            let selector = service
                .spec
                .as_ref()
                .and_then(|spec| spec.selector.as_ref());
            selector
                .filter(|selector| !selector.is_empty())
                .is_some_and(|selector| gateways.chosen_by(&object.key.namespace, selector))
        }
    }
}

/// How gateway pods are known: by the selectors of Gateways, and by Istio's own label.
#[derive(Default)]
struct GatewayPods<'r> {
    selectors: BTreeSet<Labels>,
    /// Namespace and labels.
    pods: Vec<(&'r str, &'r Labels)>,
}

fn gateway_pods(resources: &Resources) -> GatewayPods<'_> {
    let own = Labels::from([(INGRESS_GATEWAY.0.into(), INGRESS_GATEWAY.1.into())]);
    // An empty selector says which Gateways apply, not which pods are gateways.
    let selectors: BTreeSet<_> = resources
        .gateways()
        .map(|(_, gateway)| gateway.spec.selector.clone())
        .filter(|selector| !selector.is_empty())
        .chain([own])
        .collect();
    let pods = resources.pods().filter_map(|(object, pod)| {
        let labels = pod.metadata.labels.as_ref()?;
        let is_gateway = selectors
            .iter()
            .any(|selector| selects(selector, Some(labels)));
        is_gateway.then_some((object.key.namespace.as_str(), labels))
    });
    GatewayPods {
        pods: pods.collect(),
        selectors,
    }
}

// === impl GatewayPods ===

impl GatewayPods<'_> {
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
