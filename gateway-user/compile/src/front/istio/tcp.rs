//! TCP routes of VirtualServices.

use super::{
    binding::{BoundService, names_gateway},
    context::GatewayContext,
    destinations::{self, NamedIn},
    server::GatewayServer,
};
use nodegate_model::gateway::{RouteOrigin, TcpRoute};
use nodegate_resources::istio::{L4Match, RouteDestination};

/// The route of a TCP server: of the first VirtualService that has one for it, the first. They are
/// not put together (`buildGatewayNetworkFiltersFromTCPRoutes` of istio's
/// pilot/pkg/networking/core/gateway.go).
pub(super) fn route(
    server: GatewayServer<'_>,
    context: &mut GatewayContext<'_>,
) -> Option<TcpRoute> {
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
        let key = &service.object.key;
        let named_in = NamedIn {
            namespace: &key.namespace,
            server_port: server.port,
        };
        let origin = RouteOrigin::virtual_service(&key.namespace, &key.name, index);
        return Some(leading(origin, &route.route, named_in, context));
    }
    None
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
