//! HTTP routes of VirtualServices → virtual hosts.

mod action;
pub(super) mod condition;
mod delegate;
pub(super) mod error;
mod site;

use std::{borrow::Cow, collections::HashMap};

use nodegate_model::gateway::{
    HttpAction, HttpRoute, HttpRoutes, PathMatch, RouteOrigin, VirtualHost,
};
use nodegate_resources::{
    istio::{self, HttpMatch},
    lookup::selects,
};
use nodegate_values::diagnostic::Severity;

use error::Unreadable;
use site::RouteSite;

use super::{
    binding::{BoundService, names_gateway},
    context::GatewayContext,
    server::GatewayServer,
};

/// The routes of HTTP servers that share them (`buildGatewayHTTPRouteConfig` of istio's
/// pilot/pkg/networking/core/gateway.go). Without any VirtualService there is no virtual host, and
/// everything is answered with 404.
pub(super) fn routes(
    name: String,
    servers: &[GatewayServer<'_>],
    context: &mut GatewayContext<'_>,
) -> HttpRoutes {
    let mut hosts = VirtualHosts::default();
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
                let host = hosts.of(domain, server.port);
                host.routes.extend_from_slice(&routes);
                host.require_tls |= server.redirects_to_https();
            }
        }
        if server.redirects_to_https() {
            // Whether or not there is a VirtualService for them.
            for domain in server.own_domains() {
                hosts.of(domain, server.port).require_tls = true;
            }
        }
    }
    let mut virtual_hosts = hosts.list;
    for host in &mut virtual_hosts {
        // `SortVHostRoutes`: nothing is sorted but the routes that match everything, to the end.
        host.routes
            .sort_by_key(|route| route.matches.is_catch_all());
    }
    virtual_hosts.sort_by(|a, b| a.name.cmp(&b.name));
    HttpRoutes {
        name,
        virtual_hosts,
    }
}

/// Virtual hosts in the making: one for each domain.
#[derive(Default)]
struct VirtualHosts {
    list: Vec<VirtualHost>,
    by_domain: HashMap<String, usize>,
}

impl VirtualHosts {
    fn of(&mut self, domain: String, port: u16) -> &mut VirtualHost {
        let index = *self.by_domain.entry(domain).or_insert_with_key(|domain| {
            self.list.push(VirtualHost {
                name: format!("{domain}:{port}"),
                domains: vec![domain.clone()],
                routes: Vec::new(),
                require_tls: false,
            });
            self.list.len() - 1
        });
        &mut self.list[index]
    }
}

/// The routes of one VirtualService, up to the first that matches everything
/// (`BuildHTTPRoutesForVirtualService` of istio's pilot/pkg/networking/core/route).
fn of_service<'r>(
    service: &BoundService<'r>,
    server: GatewayServer<'_>,
    context: &mut GatewayContext<'r>,
) -> Vec<HttpRoute> {
    let mut routes = Vec::new();
    for (index, route) in service.spec.http.iter().enumerate() {
        let key = &service.object.key;
        let origin = RouteOrigin::virtual_service(&key.namespace, &key.name, index);
        let delegated = match &route.delegate {
            None => vec![(Cow::Borrowed(route), service.object.key.namespace.as_str())],
            Some(to) => delegate::routes(service.object, index, route, to, context),
        };
        for (route, namespace) in delegated {
            let site = RouteSite {
                origin: &origin,
                namespace,
                server,
            };
            if one(&route, site, service, context, &mut routes) {
                return routes;
            }
        }
    }
    routes
}

/// Adds the routes that one rule makes: one for each of its matches. Returns whether the last of
/// them matches everything.
fn one(
    route: &istio::HttpRoute,
    site: RouteSite<'_>,
    service: &BoundService<'_>,
    context: &mut GatewayContext<'_>,
    routes: &mut Vec<HttpRoute>,
) -> bool {
    let matches: Vec<_> = if route.matches.is_empty() {
        vec![None]
    } else {
        let here = route
            .matches
            .iter()
            .filter(|m| applies(m, service, site.server, context));
        here.map(Some).collect()
    };
    for matches in matches {
        let route = match compiled(route, matches, site, context) {
            Ok(route) => route,
            Err(error) => {
                report(&error, site, service, context);
                continue;
            }
        };
        let ends = route.matches.is_catch_all();
        routes.push(route);
        if ends {
            return true;
        }
    }
    false
}

fn report(
    error: &Unreadable,
    site: RouteSite<'_>,
    service: &BoundService<'_>,
    context: &mut GatewayContext<'_>,
) {
    let path = format!("spec.http[{}]", site.origin.index);
    let message = format!("{error}; the route is left out");
    let report = service.object.report(Severity::Error, path, message, None);
    context.diagnostics.push(report);
}

/// Whether a match is for this server at all: what it says about the proxy, not about requests
/// (`sourceMatchHTTP`; named gateways make the labels irrelevant).
fn applies(
    matches: &HttpMatch,
    service: &BoundService<'_>,
    server: GatewayServer<'_>,
    context: &GatewayContext<'_>,
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

fn compiled(
    route: &istio::HttpRoute,
    matches: Option<&HttpMatch>,
    site: RouteSite<'_>,
    context: &mut GatewayContext<'_>,
) -> Result<HttpRoute, Unreadable> {
    let name = match matches {
        Some(matches) if !matches.name.is_empty() => format!("{}.{}", route.name, matches.name),
        _ => route.name.clone(),
    };
    let action::CompiledAction {
        mut action,
        headers,
    } = action::compile(route, site, context)?;
    let matches = condition::compile(matches)?;
    if let (HttpAction::Redirect(to), PathMatch::Prefix(prefix)) = (&mut action, &matches.path)
        && let Some(change) = &mut to.prefix
    {
        change.length = Some(prefix.len());
    }
    Ok(HttpRoute {
        name,
        origin: site.origin.clone(),
        matches,
        action,
        headers,
        fault: match &route.fault {
            Some(fault) => action::fault(fault)?,
            None => None,
        },
        cors: route.cors_policy.as_ref().map(action::cors).transpose()?,
    })
}
