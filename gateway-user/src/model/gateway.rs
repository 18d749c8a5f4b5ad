//! Gateways, VirtualServices and DestinationRules as the proxy sees them.
//!
//! The nouns are Envoy's: a listener has virtual hosts, a virtual host has routes, a route leads to
//! clusters, a cluster has endpoints.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use serde::Serialize;

/// What one gateway pod serves.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Gateway {
    /// Sorted by port; at most one per port.
    pub listeners: Vec<Listener>,
    /// By name, such as `outbound|80|v1|simple.simple.svc.cluster.local`. A route may name a cluster
    /// that is not here: Envoy answers 503 (`cluster_not_found`) then.
    pub clusters: BTreeMap<String, Arc<Cluster>>,
}

/// A port that the gateway pod listens on, on all its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listener {
    /// The port to bind: the `targetPort` of the Service port that the Gateway's server names, or
    /// the server's own port if no Service has it.
    pub port: u16,
    /// What it does with connections.
    pub protocol: ListenerProtocol,
}

/// What a listener does with connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerProtocol {
    /// HTTP: match requests against the routes.
    Http(HttpRoutes),
    /// TCP: hand each connection to a cluster.
    Tcp(TcpRoute),
}

/// Envoy's RouteConfiguration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HttpRoutes {
    /// `http.8080`
    pub name: String,
    /// Virtual hosts; each domain occurs once over all of them.
    pub virtual_hosts: Vec<VirtualHost>,
}

/// The routes of a set of host names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VirtualHost {
    /// `simple.baihl.io:80`: first domain and the Gateway server's port.
    pub name: String,
    /// Lower case, without ports: exact names, `*.suffix`, or `*`.
    pub domains: Vec<String>,
    /// In order: the first that matches is taken.
    pub routes: Vec<HttpRoute>,
}

/// Which VirtualService a route comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct RouteOrigin {
    /// Namespace of the VirtualService.
    pub namespace: String,
    /// Name of the VirtualService.
    pub name: String,
    /// 0-based place in `spec.http` or `spec.tcp`.
    pub index: usize,
}

/// Condition and action of an HTTP route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HttpRoute {
    /// `spec.http[].name`, with `.` and the match's name if it has one; empty when unnamed.
    pub name: String,
    /// Which VirtualService it comes from.
    pub origin: RouteOrigin,
    /// What the path must look like.
    pub path: PathMatch,
    /// `spec.http[].rewrite.uri`
    pub rewrite: Option<String>,
    /// Where to; never empty.
    pub destinations: Vec<Destination>,
}

/// What the path of a request (without its query) must look like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PathMatch {
    /// Starts with this string: a raw prefix, which does not stop at slashes. `/` matches all.
    Prefix(String),
    /// Equals this string.
    Exact(String),
}

/// A share of a route's traffic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Destination {
    /// Key of [`Gateway::clusters`].
    pub cluster: String,
    /// Share of the sum of weights. Destinations of weight 0 are left out, unless there is only one
    /// destination: that one gets all, whatever its weight.
    pub weight: u32,
}

/// Envoy's TcpProxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TcpRoute {
    /// Which VirtualService it comes from.
    pub origin: RouteOrigin,
    /// Where to; never empty.
    pub destinations: Vec<Destination>,
}

/// Endpoints of a Service port or of a subset of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cluster {
    /// `outbound|80|v1|simple.simple.svc.cluster.local`
    pub name: String,
    /// Sorted, without duplicates. Empty: `no healthy upstream`.
    pub endpoints: Vec<SocketAddr>,
}
