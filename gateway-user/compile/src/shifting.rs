//! TCP routes that are nothing but weights → turns of a Service port's connections.
//!
//! A gateway's TCP route that says no more than how connections are divided needs no proxy: what leads to the
//! gateway leads to the destinations' endpoints just as well. Whatever else is asked for, the proxy does it, and
//! connections go there as ever; which of the two it is, and why, stands at the Service port.

mod conditions;
mod order;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use nodegate_model::{
    gateway::RouteOrigin,
    service::{
        Endpoint, Protocol, ServicePort,
        shift::{KernelShift, Shift, ShiftDestination, Way},
    },
};
use nodegate_resources::{
    ResourceKind, Resources,
    lookup::selects,
    object::{Body, Object},
};
use nodegate_values::diagnostic::{Diagnostic, Severity};

use crate::{
    endpoints::{Endpoints, View},
    front::istio::{PlainTcpRoute, plain_tcp_route},
    identity::{GatewayIdentity, NodeIdentity, TcpShifting, UnknownShifting},
    services::Labels,
    slices::Named,
};

/// The annotation by which a VirtualService decides for itself.
const ANNOTATION: &str = "nodegate.io/tcp-shifting";

/// A Service port whose connections a gateway has a TCP route for.
#[derive(Debug)]
pub(crate) struct ShiftedPort {
    /// Place among the Service ports.
    place: usize,
    route: PlainTcpRoute,
    /// Why the proxy has to follow it, whatever the endpoints are; none: it has not.
    against: Option<String>,
    /// Whether that is to be told, since the kernel was asked for.
    is_wanted: bool,
    /// What the VirtualService's annotation says, if that is nothing.
    unknown: Option<UnknownShifting>,
}

/// The Service ports with TCP routes, as far as that doesn't depend on the destinations' endpoints.
pub(crate) fn find(
    resources: &Resources,
    endpoints: &Endpoints<'_>,
    services: &[Arc<ServicePort>],
    node: &NodeIdentity,
) -> Vec<ShiftedPort> {
    let selectors = tcp_selectors(resources);
    if selectors.is_empty() {
        return Vec::new();
    }
    let mut routes = Routes {
        resources,
        selectors,
        known: BTreeMap::new(),
    };
    let ports = services.iter().enumerate();
    let ports = ports.filter(|(_, port)| is_candidate(port));
    ports
        .filter_map(|(place, port)| {
            let (route, same) = routes.behind(endpoints, port)?;
            let (wish, unknown) = match wish(resources, &route) {
                None => (node.tcp_shifting, None),
                Some(Ok(wish)) => (wish, None),
                Some(Err(unknown)) => (node.tcp_shifting, Some(unknown)),
            };
            let against = match wish {
                TcpShifting::Proxy => Some("--tcp-shifting or the annotation says so".to_owned()),
                _ if !same => Some("the gateways behind the port have other routes".to_owned()),
                _ => conditions::of_port(port).or_else(|| conditions::of_route(&route)),
            };
            Some(ShiftedPort {
                place,
                route,
                against,
                is_wanted: wish == TcpShifting::Kernel,
                unknown,
            })
        })
        .collect()
}

/// Only what is in front of gateways is essential, but for the cluster's API and DNS.
fn is_candidate(port: &ServicePort) -> bool {
    port.protocol == Protocol::Tcp && port.essential
}

/// The Services whose ports gateways may have TCP routes for.
pub(crate) fn candidates(services: &[Arc<ServicePort>]) -> BTreeSet<Named> {
    let ports = services.iter().filter(|port| is_candidate(port));
    ports
        .map(|port| (port.name.namespace.clone(), port.name.name.clone()))
        .collect()
}

/// The selectors of Gateways with a server of plain TCP.
fn tcp_selectors(resources: &Resources) -> Vec<&Labels> {
    let gateways = resources.gateways();
    let gateways = gateways.filter(|(_, gateway)| gateway.spec.serves_tcp());
    gateways
        .map(|(_, gateway)| &gateway.spec.selector)
        .collect()
}

/// What a route's VirtualService wants.
fn wish(
    resources: &Resources,
    route: &PlainTcpRoute,
) -> Option<Result<TcpShifting, UnknownShifting>> {
    let origin = &route.route.origin;
    let object = virtual_service(resources, origin)?;
    let Body::VirtualService(service) = &object.body else {
        return None;
    };
    let annotations = service.metadata.annotations.as_ref()?;
    annotations.get(ANNOTATION).map(|text| text.parse())
}

fn virtual_service<'r>(resources: &'r Resources, origin: &RouteOrigin) -> Option<&'r Object> {
    let object = resources.get(
        ResourceKind::VirtualService,
        &origin.namespace,
        &origin.name,
    );
    object.map(|object| &**object)
}

/// The TCP routes of gateway pods.
struct Routes<'r> {
    resources: &'r Resources,
    selectors: Vec<&'r Labels>,
    /// By namespace, labels and port: pods that have them in common serve the same there.
    known: BTreeMap<(String, Labels, u16), Option<PlainTcpRoute>>,
}

// === impl Routes ===

impl Routes<'_> {
    /// The route of the gateways behind a port, and whether all of them have it; none if the first has none.
    fn behind(
        &mut self,
        endpoints: &Endpoints<'_>,
        port: &ServicePort,
    ) -> Option<(PlainTcpRoute, bool)> {
        let name = &port.name;
        let wanted = (name.port.as_str(), port.protocol);
        let targets = endpoints.behind(&name.namespace, &name.name, wanted, View::KubeProxy);
        let mut found: Option<PlainTcpRoute> = None;
        let mut same = true;
        for (target, number) in targets {
            let its = target.pod.and_then(|pod| {
                let labels = pod.metadata.labels.as_ref()?;
                let mut selectors = self.selectors.iter();
                if !selectors.any(|selector| selects(selector, Some(labels))) {
                    return None;
                }
                let identity = GatewayIdentity {
                    namespace: pod.metadata.namespace.clone().unwrap_or_default(),
                    name: pod.metadata.name.clone().unwrap_or_default(),
                    labels: labels.clone(),
                    ..GatewayIdentity::default()
                };
                self.of(&identity, number)
            });
            match (&found, its) {
                (None, Some(route)) => found = Some(route.clone()),
                (Some(first), Some(route)) => same &= first.route == route.route,
                (_, None) => same = false,
            }
        }
        Some((found?, same))
    }

    fn of(&mut self, identity: &GatewayIdentity, port: u16) -> Option<&PlainTcpRoute> {
        let key = (identity.namespace.clone(), identity.labels.clone(), port);
        let resources = self.resources;
        let known = self.known.entry(key);
        known
            .or_insert_with(|| plain_tcp_route(resources, identity, port))
            .as_ref()
    }
}

/// The Services that shifted ports depend on: that of the port, and those of the destinations.
pub(crate) fn services_of(ports: &[ShiftedPort], services: &[Arc<ServicePort>]) -> BTreeSet<Named> {
    let own = ports.iter().map(|port| {
        let name = &services[port.place].name;
        (name.namespace.clone(), name.name.clone())
    });
    let behind = ports.iter().flat_map(|port| port.route.behind.iter());
    own.chain(behind.map(|behind| behind.service.clone()))
        .collect()
}

/// Says at each Service port who follows the route, now that the endpoints are known.
pub(crate) fn settle(
    ports: &[ShiftedPort],
    resources: &Resources,
    endpoints: &Endpoints<'_>,
    node: &NodeIdentity,
    services: &mut [Arc<ServicePort>],
) -> Vec<Diagnostic> {
    let mut diagnostics = Vec::new();
    let mut shifts: BTreeMap<usize, Shift> = ports
        .iter()
        .map(|port| {
            let service = &services[port.place];
            let way = match &port.against {
                Some(why) => Way::Proxy(why.clone()),
                None => port.way(service, endpoints, node),
            };
            if let Way::Proxy(why) = &way
                && port.is_wanted
            {
                diagnostics.extend(port.complaint(resources, service, why));
            }
            diagnostics.extend(port.misspelling(resources));
            let route = port.route.route.origin.clone();
            (port.place, Shift { route, way })
        })
        .collect();
    for (place, service) in services.iter_mut().enumerate() {
        let shift = shifts.remove(&place);
        if service.shift != shift {
            *service = Arc::new(ServicePort {
                shift,
                ..ServicePort::clone(service)
            });
        }
    }
    diagnostics
}

// === impl ShiftedPort ===

impl ShiftedPort {
    fn way(&self, service: &ServicePort, endpoints: &Endpoints<'_>, node: &NodeIdentity) -> Way {
        let destinations = self.route.route.destinations.iter();
        let destinations: Vec<_> = destinations
            .map(|destination| ShiftDestination {
                cluster: destination.cluster.clone(),
                weight: destination.weight,
                endpoints: self.endpoints(&destination.cluster, endpoints, node),
            })
            .collect();
        if let Some(empty) = destinations.iter().find(|one| one.endpoints.is_empty()) {
            return Way::Proxy(format!("{} has no endpoint that is ready", empty.cluster));
        }
        match order::by_family(service, &destinations) {
            Ok(order) => Way::Kernel(KernelShift {
                destinations,
                order,
            }),
            Err(why) => Way::Proxy(why),
        }
    }

    /// The endpoints of a cluster that take traffic.
    fn endpoints(
        &self,
        cluster: &str,
        endpoints: &Endpoints<'_>,
        node: &NodeIdentity,
    ) -> Vec<Endpoint> {
        let mut behind = self.route.behind.iter();
        let behind = behind.find(|behind| behind.cluster == cluster);
        behind
            .map(|behind| behind.ready(endpoints, &node.name))
            .unwrap_or_default()
    }

    /// That the kernel was asked for in vain.
    fn complaint(
        &self,
        resources: &Resources,
        service: &ServicePort,
        why: &str,
    ) -> Option<Diagnostic> {
        let origin = &self.route.route.origin;
        let object = virtual_service(resources, origin)?;
        let message = format!(
            "the kernel is to divide the connections of {}, and can't: {why}; the gateway's proxy does",
            service.name
        );
        let path = format!("spec.tcp[{}]", origin.index);
        let fix = "mend that, or ask for `auto`".to_owned();
        Some(object.report(Severity::Warning, path, message, fix))
    }

    /// That the annotation says nothing.
    fn misspelling(&self, resources: &Resources) -> Option<Diagnostic> {
        let unknown = self.unknown.as_ref()?;
        let object = virtual_service(resources, &self.route.route.origin)?;
        let path = format!("metadata.annotations.{ANNOTATION}");
        let UnknownShifting(text) = unknown;
        let message = format!("`{text}` is none of auto, kernel and proxy: --tcp-shifting decides");
        Some(object.report(Severity::Warning, path, message, None))
    }
}
