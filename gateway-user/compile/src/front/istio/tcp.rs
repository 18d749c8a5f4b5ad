//! TCP routes of VirtualServices.

use super::{
    binding::{BoundService, names_gateway},
    context::GatewayContext,
    destinations::{self, NamedIn},
    server::GatewayServer,
};
use nodegate_model::gateway::{Listener, ListenerProtocol, RouteOrigin, TcpRoute};
use nodegate_resources::{
    istio::{L4Match, RouteDestination},
    object::Object,
};
use nodegate_values::diagnostic::{Diagnostic, Severity};

/// A route that another one is taken before.
pub(super) struct Lost<'r> {
    /// The VirtualService.
    object: &'r Object,
    /// The place in `spec.tcp`.
    index: usize,
    server: GatewayServer<'r>,
    /// The one that is taken.
    first: RouteOrigin,
}

/// The route of a TCP server: of the first VirtualService that has one for it, the first. They are
/// not put together (`buildGatewayNetworkFiltersFromTCPRoutes` of istio's
/// pilot/pkg/networking/core/gateway.go). Those of others are lost.
pub(super) fn route<'r>(
    server: GatewayServer<'r>,
    context: &mut GatewayContext<'r>,
    lost: &mut Vec<Lost<'r>>,
) -> Option<TcpRoute> {
    let mut taken: Option<TcpRoute> = None;
    for service in context.bound_to(server.gateway) {
        if server.domains(&service).is_empty() {
            continue;
        }
        let found = service.spec.tcp.iter().enumerate().find(|(_, route)| {
            route.matches.is_empty()
                || route
                    .matches
                    .iter()
                    .any(|matches| applies(matches, &service, server))
        });
        let Some((index, route)) = found else {
            continue;
        };
        if let Some(first) = &taken {
            lost.push(Lost {
                object: service.object,
                index,
                server,
                first: first.origin.clone(),
            });
            continue;
        }
        let key = &service.object.key;
        let named_in = NamedIn {
            namespace: &key.namespace,
            server_port: server.port,
        };
        let origin = RouteOrigin::virtual_service(&key.namespace, &key.name, index);
        taken = Some(leading(origin, &route.route, named_in, context));
    }
    taken
}

// === impl Lost ===

impl Lost<'_> {
    /// Says so, unless the route is taken at another server.
    pub(super) fn report(&self, listeners: &[Listener]) -> Option<Diagnostic> {
        let key = &self.object.key;
        let own = RouteOrigin::virtual_service(&key.namespace, &key.name, self.index);
        let is_taken = |listener: &Listener| match &listener.protocol {
            ListenerProtocol::Tcp(route) => route.origin == own,
            ListenerProtocol::Http(_) => false,
        };
        if listeners.iter().any(is_taken) {
            return None;
        }
        let RouteOrigin {
            kind,
            namespace,
            name,
            index,
        } = &self.first;
        let message = format!(
            "never taken: the server of {} for port {} has tcp[{index}] of {kind} {namespace}/{name}",
            self.server.gateway.key, self.server.port
        );
        let fix = "weights of one route share a port; else use another port".to_owned();
        let path = format!("spec.tcp[{}]", self.index);
        Some(self.object.report(Severity::Warning, path, message, fix))
    }
}

/// A route to these destinations.
pub(super) fn leading(
    origin: RouteOrigin,
    route: &[RouteDestination],
    named_in: NamedIn<'_>,
    context: &mut GatewayContext<'_>,
) -> TcpRoute {
    let destinations = destinations::of_route(route, named_in, &mut context.clusters);
    TcpRoute {
        origin,
        destinations: destinations
            .into_iter()
            .map(|(_, destination)| destination)
            .collect(),
    }
}

/// On a gateway only port and gateways count (`l4SingleMatch`).
fn applies(matches: &L4Match, service: &BoundService<'_>, server: GatewayServer<'_>) -> bool {
    let namespace = &service.object.key.namespace;
    (matches.port == 0 || matches.port == i64::from(server.port))
        && (matches.gateways.is_empty()
            || names_gateway(&matches.gateways, namespace, server.gateway))
}
