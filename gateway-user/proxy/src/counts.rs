//! What routes and clusters have counted, to be exported.

use nodegate_model::gateway::RouteOrigin;

use crate::{
    config::{Config, HttpListener, Protocol, TcpListener},
    counters::Counts,
};

/// What the routes and clusters of a configuration have counted. Counts outlive configurations for as
/// long as there is a route that says the same, or a cluster of the same name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyCounts {
    /// By port, virtual host and route.
    pub routes: Vec<RouteCounts>,
    /// By name.
    pub clusters: Vec<ClusterCounts>,
}

/// What a route has counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteCounts {
    /// The listener's port.
    pub port: u16,
    /// The virtual host's name; none for TCP.
    pub virtual_host: Option<String>,
    /// Where the route comes from.
    pub origin: RouteOrigin,
    /// The route's name; empty when unnamed.
    pub name: String,
    /// Answers to clients, or connections.
    pub counts: Counts,
}

/// What a cluster has counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterCounts {
    /// The cluster's name.
    pub name: String,
    /// Answers of endpoints, or connections, of each try.
    pub counts: Counts,
}

impl ProxyCounts {
    pub(crate) fn of(config: &Config) -> Self {
        let mut routes = Vec::new();
        for listener in config.listeners() {
            match &listener.protocol {
                Protocol::Http(http) => routes.extend(of_http(listener.port, http)),
                Protocol::Tcp(tcp) => routes.push(of_tcp(listener.port, tcp)),
                Protocol::Tls(tls) => {
                    for chain in tls.chains() {
                        let http = chain.http().into_iter();
                        routes.extend(http.flat_map(|http| of_http(listener.port, http)));
                        routes.extend(chain.tcp().map(|tcp| of_tcp(listener.port, tcp)));
                    }
                }
            }
        }
        let clusters = config.clusters().iter().map(|cluster| ClusterCounts {
            name: cluster.model.name.clone(),
            counts: cluster.counters().sum(),
        });
        Self {
            routes,
            clusters: clusters.collect(),
        }
    }
}

fn of_http(port: u16, http: &HttpListener) -> impl Iterator<Item = RouteCounts> {
    http.routes().map(move |(host, route, state)| RouteCounts {
        port,
        virtual_host: Some(host.name.clone()),
        origin: route.origin.clone(),
        name: route.name.clone(),
        counts: state.counters.sum(),
    })
}

fn of_tcp(port: u16, tcp: &TcpListener) -> RouteCounts {
    RouteCounts {
        port,
        virtual_host: None,
        origin: tcp.route.origin.clone(),
        name: String::new(),
        counts: tcp.counters.sum(),
    }
}
