//! Gateways made by hand, for tests.

use std::sync::Arc;

use nodegate_model::gateway::{
    Cluster, Destination, Forward, Gateway, HttpAction, HttpRoute, HttpRoutes, Listener,
    ListenerProtocol, PathMatch, PathRewrite, RouteMatch, RouteOrigin, TcpRoute, VirtualHost,
};

pub(crate) fn gateway(listeners: Vec<Listener>, clusters: Vec<Cluster>) -> Gateway {
    Gateway {
        listeners: listeners.into(),
        clusters: clusters
            .into_iter()
            .map(|cluster| (cluster.name.clone(), Arc::new(cluster)))
            .collect(),
    }
}

/// Everything goes to one cluster.
pub(crate) fn everything_to(cluster: Cluster, port: u16) -> Gateway {
    let route = prefix_route("/", &[(&cluster.name, 1)]);
    gateway(
        vec![http_listener(port, &["*"], vec![route])],
        vec![cluster],
    )
}

pub(crate) fn cluster(name: &str, endpoints: &[&str]) -> Cluster {
    let endpoints = endpoints.iter().map(|endpoint| endpoint.parse().unwrap());
    Cluster::new(name, endpoints)
}

pub(crate) fn http_listener(port: u16, domains: &[&str], routes: Vec<HttpRoute>) -> Listener {
    Listener {
        port,
        protocol: ListenerProtocol::Http(HttpRoutes {
            name: format!("http.{port}"),
            virtual_hosts: vec![VirtualHost {
                name: format!("{}:80", domains[0]),
                domains: domains.iter().map(ToString::to_string).collect(),
                routes,
                require_tls: false,
            }],
        }),
    }
}

pub(crate) fn tcp_listener(port: u16, destinations: &[(&str, u32)]) -> Listener {
    Listener {
        port,
        protocol: ListenerProtocol::Tcp(TcpRoute {
            origin: origin(),
            destinations: weighted(destinations),
        }),
    }
}

pub(crate) fn prefix_route(prefix: &str, destinations: &[(&str, u32)]) -> HttpRoute {
    let matches = RouteMatch::path(PathMatch::Prefix(prefix.into()));
    HttpRoute::forwarding(origin(), matches, weighted(destinations))
}

pub(crate) fn rewrite_to(route: &mut HttpRoute, path: &str) {
    if let HttpAction::Forward(forward) = &mut route.action {
        forward.rewrite = Some(PathRewrite::Matched(path.into()));
    }
}

fn origin() -> RouteOrigin {
    RouteOrigin::virtual_service("default", "web", 0)
}

fn weighted(destinations: &[(&str, u32)]) -> Vec<Destination> {
    destinations
        .iter()
        .map(|&(cluster, weight)| Destination::new(cluster, weight))
        .collect()
}

/// What a route forwards.
pub(crate) fn forward(route: &mut HttpRoute) -> &mut Forward {
    match &mut route.action {
        HttpAction::Forward(forward) => forward,
        _ => panic!("made to forward"),
    }
}
