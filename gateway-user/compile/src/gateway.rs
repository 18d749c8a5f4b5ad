//! Gateways → the listeners of one gateway pod.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Pod, Service, ServicePort},
    apimachinery::pkg::util::intstr::IntOrString,
};
use nodegate_model::{
    gateway::{Gateway, Listener, ListenerProtocol},
    service::Protocol,
};
use nodegate_resources::{
    Resources,
    istio::{self, VirtualService},
    lookup::{Destinations, full_host, gateway_reference, is_exported, is_host_within, selects},
    object::Object,
};
use nodegate_values::diagnostic::{Diagnostic, Severity};

use super::{
    GatewayIdentity,
    clusters::Clusters,
    endpoints::{Endpoints, protocol},
    http, tcp,
};

/// A server of a Gateway.
#[derive(Clone, Copy)]
pub(super) struct Server<'r> {
    pub(super) gateway: &'r Object,
    /// Place in `spec.servers`.
    index: usize,
    pub(super) spec: &'r istio::Server,
    /// The Gateway's port number: a Service port.
    pub(super) port: u16,
}

/// A VirtualService that a Gateway applies.
#[derive(Clone, Copy)]
pub(super) struct Bound<'r> {
    pub(super) object: &'r Object,
    pub(super) spec: &'r istio::VirtualServiceSpec,
}

/// What all listeners are made of.
pub(super) struct Context<'r> {
    pub(super) resources: &'r Resources,
    pub(super) identity: &'r GatewayIdentity,
    pub(super) clusters: Clusters<'r>,
    pub(super) diagnostics: Vec<Diagnostic>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Http,
    Tcp,
}

pub(super) fn compile(
    resources: &Resources,
    endpoints: &Endpoints<'_>,
    identity: &GatewayIdentity,
    diagnostics: &mut Vec<Diagnostic>,
) -> Gateway {
    let known = Destinations::of(resources.objects.values());
    let mut context = Context {
        resources,
        identity,
        clusters: Clusters::new(resources, known, endpoints, identity),
        diagnostics: Vec::new(),
    };
    let ports = servers_by_port(resources, identity, diagnostics);
    let mut listeners = Vec::new();
    for (port, (kind, servers)) in ports {
        let protocol = match kind {
            Kind::Http => Some(ListenerProtocol::Http(http::routes(
                port,
                &servers,
                &mut context,
            ))),
            Kind::Tcp => servers.first().and_then(|server| {
                let route = tcp::route(*server, &mut context);
                if route.is_none() {
                    let message =
                        "no VirtualService has a tcp route for this server, so the port is closed";
                    let fix = "bind a VirtualService with a tcp route to this Gateway".to_owned();
                    diagnostics.push(server.report(Severity::Warning, message, fix));
                }
                route.map(ListenerProtocol::Tcp)
            }),
        };
        listeners.extend(protocol.map(|protocol| Listener { port, protocol }));
    }
    let clusters = context.clusters.finish(&mut context.diagnostics);
    diagnostics.append(&mut context.diagnostics);
    unreachable_hosts(resources, identity, diagnostics);
    Gateway {
        listeners,
        clusters,
    }
}

/// The Gateways of this pod, in istiod's order (`mergeGateways` of `pilot/pkg/model/push_context.go`).
fn gateways<'r>(
    resources: &'r Resources,
    identity: &GatewayIdentity,
) -> Vec<(&'r Object, &'r istio::Gateway)> {
    let mut gateways: Vec<_> = resources
        .gateways()
        .filter(|(_, gateway)| selects(&gateway.spec.selector, Some(&identity.labels)))
        .map(|(object, gateway)| (&**object, gateway))
        .collect();
    gateways.sort_by(|(a, _), (b, _)| a.age().cmp(&b.age()));
    gateways
}

/// The servers of this pod's Gateways, by the port to bind. HTTP servers share a port; anything else
/// that comes later is left out.
fn servers_by_port<'r>(
    resources: &'r Resources,
    identity: &GatewayIdentity,
    diagnostics: &mut Vec<Diagnostic>,
) -> BTreeMap<u16, (Kind, Vec<Server<'r>>)> {
    let mut ports: BTreeMap<u16, (Kind, Vec<Server<'r>>)> = BTreeMap::new();
    for (gateway, spec) in gateways(resources, identity) {
        for (index, spec) in spec.spec.servers.iter().enumerate() {
            let (Some(kind), Ok(number)) = (kind(spec), u16::try_from(spec.port.number)) else {
                continue;
            };
            let server = Server {
                gateway,
                index,
                spec,
                port: number,
            };
            let bind = match target_port(resources, identity, number) {
                Ok(port) => port,
                Err((message, fix)) => {
                    diagnostics.push(server.report(Severity::Warning, message, fix.to_owned()));
                    number
                }
            };
            let (first_kind, servers) = ports.entry(bind).or_insert((kind, Vec::new()));
            match servers.first() {
                Some(first) if (*first_kind, kind) != (Kind::Http, Kind::Http) => {
                    diagnostics.push(server.conflict(kind, first, *first_kind));
                }
                _ => servers.push(server),
            }
        }
    }
    ports
}

/// What a server speaks; none for what this version leaves out, which validation has told.
fn kind(server: &istio::Server) -> Option<Kind> {
    if server.bind.as_ref().is_some_and(|bind| !bind.is_empty()) {
        return None;
    }
    match server.port.protocol.to_ascii_uppercase().as_str() {
        "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB" => Some(Kind::Http),
        "TCP" | "MONGO" => Some(Kind::Tcp),
        _ => None,
    }
}

/// The port that a server with port `number` binds: the target of the first such port of a Service
/// that leads to this pod, else the number itself (`resolvePorts` of istio's pilot/pkg/model/gateway.go).
fn target_port(
    resources: &Resources,
    identity: &GatewayIdentity,
    number: u16,
) -> Result<u16, (String, &'static str)> {
    let mut services: Vec<_> = resources
        .services()
        .filter(|(object, service)| {
            let selector = service
                .spec
                .as_ref()
                .and_then(|spec| spec.selector.as_ref());
            object.key.namespace == identity.namespace
                && selector.is_some_and(|selector| {
                    !selector.is_empty() && selects(selector, Some(&identity.labels))
                })
        })
        .collect();
    services.sort_by(|(a, _), (b, _)| a.age().cmp(&b.age()));
    let port = services.iter().find_map(|(object, service)| {
        let port = ports(service).iter().find(|port| {
            port.port == i32::from(number) && protocol(port.protocol.as_deref()) == Protocol::Tcp
        })?;
        Some((object, port))
    });
    let Some((object, port)) = port else {
        let Some((first, service)) = services.first() else {
            return Ok(number);
        };
        let ports: Vec<_> = ports(service)
            .iter()
            .map(|port| port.port.to_string())
            .collect();
        let message = format!(
            "{} has no port {number} (it has {}), so nobody outside reaches this server; {number} itself is bound",
            first.key,
            ports.join(", "),
        );
        return Err((message, "a port of the Service, not of the container"));
    };
    let pod = resources.pod(&identity.namespace, &identity.name);
    resolved(port, pod).ok_or_else(|| {
        let message = format!(
            "{} leads port {number} to a container port that this pod does not name; {number} itself is bound",
            object.key
        );
        (message, "name the container's port so, or give a number as targetPort")
    })
}

fn ports(service: &Service) -> &[ServicePort] {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    ports.map_or(&[], Vec::as_slice)
}

fn resolved(port: &ServicePort, pod: Option<&Pod>) -> Option<u16> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => u16::try_from(port.port).ok(),
        Some(IntOrString::Int(target)) => u16::try_from(*target).ok(),
        Some(IntOrString::String(name)) => {
            let containers = &pod?.spec.as_ref()?.containers;
            let mut ports = containers
                .iter()
                .flat_map(|container| container.ports.iter().flatten());
            let port = ports.find(|port| {
                port.name.as_ref() == Some(name)
                    && protocol(port.protocol.as_deref()) == Protocol::Tcp
            })?;
            u16::try_from(port.container_port).ok()
        }
    }
}

/// Warns about VirtualServices whose hosts no server of their Gateways has.
fn unreachable_hosts(
    resources: &Resources,
    identity: &GatewayIdentity,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let gateways = gateways(resources, identity);
    for (object, service) in resources.virtual_services() {
        let bound = Bound {
            object,
            spec: &service.spec,
        };
        let its: Vec<_> = gateways
            .iter()
            .filter(|(gateway, _)| bound.names(gateway))
            .collect();
        let mut servers = its.iter().flat_map(|(gateway, spec)| {
            let servers = spec.spec.servers.iter().enumerate();
            servers.map(|(index, spec)| Server {
                gateway,
                index,
                spec,
                port: 0,
            })
        });
        if !its.is_empty() && !servers.any(|server| !server.domains(&bound).is_empty()) {
            let names: Vec<_> = its
                .iter()
                .map(|(gateway, _)| gateway.key.to_string())
                .collect();
            let message = format!("no server of {} has any of these hosts", names.join(", "));
            let fix = "add the host to the Gateway's server".to_owned();
            diagnostics.push(object.report(Severity::Warning, "spec.hosts", message, fix));
        }
    }
}

// === impl Kind ===

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Tcp => "TCP",
        }
    }
}

// === impl Server ===

impl Server<'_> {
    fn report(
        &self,
        severity: Severity,
        message: impl Into<String>,
        fix: impl Into<Option<String>>,
    ) -> Diagnostic {
        let path = format!("spec.servers[{}].port.number", self.index);
        self.gateway.report(severity, path, message, fix)
    }

    fn conflict(&self, kind: Kind, first: &Self, first_kind: Kind) -> Diagnostic {
        let path = format!("spec.servers[{}].port.number", first.index);
        let message = format!(
            "port {} is taken by the {} server of {} ({}); this {} server is left out",
            self.port,
            first_kind.name(),
            first.gateway.key,
            first.gateway.origin.location(&path),
            kind.name(),
        );
        self.report(Severity::Error, message, "use another port".to_owned())
    }

    /// The domains that this server serves for a VirtualService: of each pair of hosts that have
    /// something in common, the narrower one (`Names.Intersection` of istio's pkg/config/host).
    pub(super) fn domains(&self, service: &Bound<'_>) -> Vec<String> {
        let namespace = &service.object.key.namespace;
        let mut domains = Vec::new();
        for server_host in self.hosts() {
            let Some(server_host) = self.host_for(server_host, namespace) else {
                continue;
            };
            for host in &service.spec.hosts {
                let host = full_host(host, namespace);
                let narrower = if is_host_within(&host, &server_host) {
                    host
                } else if is_host_within(&server_host, &host) {
                    server_host.clone()
                } else {
                    continue;
                };
                if !domains.contains(&narrower) {
                    domains.push(narrower);
                }
            }
        }
        domains
    }

    /// Whether requests in the clear are sent to `https`.
    pub(super) fn redirects_to_https(&self) -> bool {
        self.spec.tls.as_ref().is_some_and(|tls| tls.https_redirect)
    }

    /// Its hosts, whoever they are for.
    pub(super) fn own_domains(&self) -> Vec<String> {
        let mut domains = Vec::new();
        for host in self.hosts() {
            let domain = host
                .split_once('/')
                .map_or(host.as_str(), |(_, domain)| domain);
            let domain = domain.to_ascii_lowercase();
            if !domains.contains(&domain) {
                domains.push(domain);
            }
        }
        domains
    }

    /// Its hosts; `*/*` stands for all others, too (`sanitizeServerHostNamespace` of istio's
    /// pilot/pkg/model).
    fn hosts(&self) -> &[String] {
        let any = self.spec.hosts.iter().position(|host| host == "*/*");
        match any {
            Some(index) => &self.spec.hosts[index..=index],
            None => &self.spec.hosts,
        }
    }

    /// A host of this server as far as VirtualServices of `namespace` are meant: `host` and `*/host`
    /// are for all, `./host` is for those of the Gateway's own namespace, `ns/host` for those of `ns`.
    fn host_for(&self, host: &str, namespace: &str) -> Option<String> {
        let (its, host) = host.split_once('/').unwrap_or(("*", host));
        let meant = match its {
            "*" => true,
            "." => self.gateway.key.namespace == namespace,
            its => its == namespace,
        };
        meant.then(|| host.to_ascii_lowercase())
    }
}

// === impl Bound ===

impl Bound<'_> {
    fn names(&self, gateway: &Object) -> bool {
        names_gateway(&self.spec.gateways, &self.object.key.namespace, gateway)
    }

    /// Where istiod puts it among others: those that only some may see come first.
    fn visibility(&self) -> u8 {
        match self.spec.export_to.as_slice() {
            [] => 2,
            to if to.iter().any(|to| to == "*") => 2,
            to if to.iter().any(|to| to == ".") => 0,
            _ => 1,
        }
    }
}

/// Whether `gateway` is among the Gateways that are named in an object of `namespace`.
pub(super) fn names_gateway(names: &[String], namespace: &str, gateway: &Object) -> bool {
    let key = &gateway.key;
    names
        .iter()
        .filter_map(|name| gateway_reference(name, namespace))
        .any(|named| named == (key.namespace.as_str(), key.name.as_str()))
}

// === impl Context ===

impl<'r> Context<'r> {
    /// The VirtualServices that `gateway` applies, in istiod's order (`VirtualServicesForGateway` of
    /// `pilot/pkg/model/push_context.go`).
    pub(super) fn bound_to(&self, gateway: &Object) -> Vec<Bound<'r>> {
        let mut bound: Vec<_> = self
            .resources
            .virtual_services()
            .map(|(object, service)| bound(object, service))
            .filter(|service| {
                let own = &service.object.key.namespace;
                !service.spec.hosts.is_empty()
                    && service.names(gateway)
                    && is_exported(&service.spec.export_to, own, &self.identity.namespace)
            })
            .collect();
        bound.sort_by(|a, b| {
            (a.visibility(), a.object.age()).cmp(&(b.visibility(), b.object.age()))
        });
        bound
    }
}

fn bound<'r>(object: &'r Object, service: &'r VirtualService) -> Bound<'r> {
    Bound {
        object,
        spec: &service.spec,
    }
}
