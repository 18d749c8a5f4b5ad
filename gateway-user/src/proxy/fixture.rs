//! Gateways made by hand, for tests.

use std::sync::Arc;

use crate::model::gateway::{
    Cluster, Destination, Gateway, HttpRoute, HttpRoutes, Listener, ListenerProtocol, PathMatch,
    RouteOrigin, TcpRoute, VirtualHost,
};

pub(crate) fn gateway(listeners: Vec<Listener>, clusters: Vec<Cluster>) -> Gateway {
    Gateway {
        listeners,
        clusters: clusters
            .into_iter()
            .map(|cluster| (cluster.name.clone(), Arc::new(cluster)))
            .collect(),
    }
}

pub(crate) fn cluster(name: &str, endpoints: &[&str]) -> Cluster {
    Cluster {
        name: name.into(),
        endpoints: endpoints
            .iter()
            .map(|endpoint| endpoint.parse().unwrap())
            .collect(),
    }
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
    HttpRoute {
        name: String::new(),
        origin: origin(),
        path: PathMatch::Prefix(prefix.into()),
        rewrite: None,
        destinations: weighted(destinations),
    }
}

fn origin() -> RouteOrigin {
    RouteOrigin {
        namespace: "default".into(),
        name: "web".into(),
        index: 0,
    }
}

fn weighted(destinations: &[(&str, u32)]) -> Vec<Destination> {
    destinations
        .iter()
        .map(|&(cluster, weight)| Destination {
            cluster: cluster.into(),
            weight,
        })
        .collect()
}
