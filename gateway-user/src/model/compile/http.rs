//! HTTP routes of VirtualServices → virtual hosts.

use super::gateway::{Bound, Context, Server, names_gateway};
use crate::{
    model::gateway::{
        Forward, HeaderOperations, HttpAction, HttpRoute, HttpRoutes, PathMatch, PathRewrite,
        RouteMatch, RouteOrigin, VirtualHost,
    },
    resources::{
        istio::{self, HttpMatch},
        lookup::selects,
    },
};

/// The routes of the HTTP servers that share `port` (`buildGatewayHTTPRouteConfig` of istio's
/// pilot/pkg/networking/core/gateway.go). Without any VirtualService there is no virtual host, and
/// everything is answered with 404.
pub(super) fn routes(port: u16, servers: &[Server<'_>], context: &mut Context<'_>) -> HttpRoutes {
    let mut virtual_hosts: Vec<VirtualHost> = Vec::new();
    for server in servers {
        for service in context.bound_to(server.gateway) {
            let domains = server.domains(&service);
            if domains.is_empty() {
                continue;
            }
            let routes = of_service(&service, *server, context);
            if routes.is_empty() {
                continue;
            }
            for domain in domains {
                add(&mut virtual_hosts, domain, server.port, &routes);
            }
        }
    }
    for host in &mut virtual_hosts {
        // `SortVHostRoutes`: nothing is sorted but the routes that match everything, to the end.
        host.routes.sort_by_key(is_catch_all);
    }
    virtual_hosts.sort_by(|a, b| a.name.cmp(&b.name));
    HttpRoutes {
        name: format!("http.{port}"),
        virtual_hosts,
    }
}

fn add(hosts: &mut Vec<VirtualHost>, domain: String, port: u16, routes: &[HttpRoute]) {
    let known = hosts.iter_mut().find(|host| host.domains.contains(&domain));
    match known {
        Some(host) => host.routes.extend_from_slice(routes),
        None => hosts.push(VirtualHost {
            name: format!("{domain}:{port}"),
            domains: vec![domain],
            routes: routes.to_vec(),
            require_tls: false,
        }),
    }
}

fn is_catch_all(route: &HttpRoute) -> bool {
    route.matches.is_catch_all()
}

/// The routes of one VirtualService, up to the first that matches everything
/// (`BuildHTTPRoutesForVirtualService` of istio's pilot/pkg/networking/core/route).
fn of_service(
    service: &Bound<'_>,
    server: Server<'_>,
    context: &mut Context<'_>,
) -> Vec<HttpRoute> {
    let mut routes = Vec::new();
    for (index, route) in service.spec.http.iter().enumerate() {
        let matches: Vec<_> = if route.matches.is_empty() {
            vec![None]
        } else {
            let here = route
                .matches
                .iter()
                .filter(|m| applies(m, service, server, context));
            here.map(Some).collect()
        };
        for matches in matches {
            let route = one_route(route, matches, index, service, server, context);
            let ends = is_catch_all(&route);
            routes.push(route);
            if ends {
                return routes;
            }
        }
    }
    routes
}

/// Whether a match is for this server at all: what it says about the proxy, not about requests
/// (`sourceMatchHTTP`; named gateways make the labels irrelevant).
fn applies(
    matches: &HttpMatch,
    service: &Bound<'_>,
    server: Server<'_>,
    context: &Context<'_>,
) -> bool {
    let identity = context.identity;
    let from_here = if matches.gateways.is_empty() {
        selects(&matches.source_labels, Some(&identity.labels))
            && (matches.source_namespace.is_empty()
                || matches.source_namespace == identity.namespace)
    } else {
        names_gateway(
            &matches.gateways,
            &service.object.key.namespace,
            server.gateway,
        )
    };
    from_here && (matches.port == 0 || matches.port == i64::from(server.port))
}

fn one_route(
    route: &istio::HttpRoute,
    matches: Option<&HttpMatch>,
    index: usize,
    service: &Bound<'_>,
    server: Server<'_>,
    context: &mut Context<'_>,
) -> HttpRoute {
    let key = &service.object.key;
    let name = match matches {
        Some(matches) if !matches.name.is_empty() => format!("{}.{}", route.name, matches.name),
        _ => route.name.clone(),
    };
    let rewrite = route
        .rewrite
        .as_ref()
        .and_then(|rewrite| rewrite.uri.clone());
    HttpRoute {
        name,
        origin: RouteOrigin {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            index,
        },
        matches: RouteMatch::path(path(matches)),
        action: HttpAction::Forward(Box::new(Forward {
            destinations: context
                .clusters
                .of_route(&route.route, &key.namespace, server.port),
            rewrite: rewrite
                .filter(|uri| !uri.is_empty())
                .map(PathRewrite::Matched),
            ..Forward::default()
        })),
        headers: HeaderOperations::default(),
        fault: None,
        cors: None,
    }
}

fn path(matches: Option<&HttpMatch>) -> PathMatch {
    let uri = matches.and_then(|matches| matches.uri.as_ref());
    if let Some(exact) = uri.and_then(|uri| uri.exact.clone()) {
        return PathMatch::Exact(exact);
    }
    let prefix = uri.and_then(|uri| uri.prefix.clone());
    PathMatch::Prefix(prefix.unwrap_or_else(|| "/".into()))
}
