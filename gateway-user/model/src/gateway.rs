//! Gateways, VirtualServices and DestinationRules as the proxy sees them.
//!
//! The nouns are Envoy's: a listener has virtual hosts, a virtual host has routes, a route leads to
//! clusters, a cluster has endpoints.

use std::{fmt, sync::Arc};

use nodegate_sharing::SharedMap;
use serde::{Deserialize, Serialize};

mod action;
mod cluster;
mod condition;
mod serial;
mod tls;

pub use action::{
    AbortStatus, CorsPolicy, Destination, DirectResponse, Fault, FaultAbort, FaultDelay, Forward,
    HeaderAdd, HeaderChanges, HeaderOperations, HttpAction, Mirror, PathRewrite, PrefixChange,
    Redirect, RetryPolicy,
};
pub use cluster::{
    Balancing, Cluster, ClusterPolicy, ConnectionLimits, Distribution, DnsTarget, Endpoint,
    HashKey, HashTable, Keepalive, Locality, LocalityPolicy, OutlierDetection, RetryBudget,
    TlsCredentials, TlsMode, TlsSecret, UpstreamTls, Warmup,
};
pub use condition::{HeaderMatch, MatchedHeader, PathMatch, QueryMatch, RouteMatch, ValueMatch};
pub use nodegate_values::retry::RetryOn;
pub use tls::{
    ChainProtocol, ClientCertificates, ClientIdentities, DownstreamTls, ServerCertificate,
    TlsChain, TlsListener, TlsSource, TlsVersion,
};

/// What one gateway pod serves.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Gateway {
    /// Sorted by port; at most one per port. As long as no route changes they are shared with the Gateway
    /// before.
    pub listeners: Arc<[Listener]>,
    /// By name, such as `outbound|80|v1|simple.simple.svc.cluster.local`. A route may name a cluster
    /// that is not here: Envoy answers 503 (`cluster_not_found`) then. Clusters that have not changed are
    /// shared with the Gateway before.
    pub clusters: SharedMap<String, Arc<Cluster>>,
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
    /// TLS: the name that a client asks for says what becomes of its connection.
    Tls(TlsListener),
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
    /// Whether requests that did not come over TLS are sent to `https`, whatever the routes say
    /// (`tls.httpsRedirect`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub require_tls: bool,
}

/// In what kind of object a route is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RouteKind {
    /// Istio's, of `networking.istio.io`.
    VirtualService,
    /// Istio's, of `security.istio.io`: because of it everything is refused.
    AuthorizationPolicy,
    /// Istio's, of `security.istio.io`: because of it everything is refused.
    RequestAuthentication,
}

impl fmt::Display for RouteKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::VirtualService => "VirtualService",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::RequestAuthentication => "RequestAuthentication",
        })
    }
}

/// Which object a route comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RouteOrigin {
    /// Kind of the object.
    pub kind: RouteKind,
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// 0-based place among the object's routes: of a VirtualService in `spec.http` or `spec.tcp`.
    pub index: usize,
}

impl RouteOrigin {
    /// The origin of a VirtualService's route.
    pub fn virtual_service(
        namespace: impl Into<String>,
        name: impl Into<String>,
        index: usize,
    ) -> Self {
        Self {
            kind: RouteKind::VirtualService,
            namespace: namespace.into(),
            name: name.into(),
            index,
        }
    }
}

/// Condition and action of an HTTP route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HttpRoute {
    /// `spec.http[].name`, with `.` and the match's name if it has one; empty when unnamed.
    pub name: String,
    /// Which VirtualService it comes from.
    pub origin: RouteOrigin,
    /// What requests it is for.
    #[serde(rename = "match")]
    pub matches: RouteMatch,
    /// What it does with them.
    pub action: HttpAction,
    /// Changes of headers, made with every action.
    #[serde(skip_serializing_if = "HeaderOperations::is_empty")]
    pub headers: HeaderOperations,
    /// Faults that are injected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// Which origins may use the responses in a browser; without a policy, no CORS header is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors: Option<CorsPolicy>,
}

/// Envoy's TcpProxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TcpRoute {
    /// Which VirtualService it comes from.
    pub origin: RouteOrigin,
    /// Where to; never empty.
    pub destinations: Vec<Destination>,
}

// === impl ListenerProtocol ===

impl ListenerProtocol {
    /// All tables by which requests are routed: of a port of TLS, one for each server.
    pub fn tables(&self) -> impl Iterator<Item = &HttpRoutes> {
        let (clear, chains) = match self {
            Self::Http(routes) => (Some(routes), [].as_slice()),
            Self::Tcp(_) => (None, [].as_slice()),
            Self::Tls(tls) => (None, tls.chains.as_slice()),
        };
        let inside = chains.iter().filter_map(|chain| chain.protocol.http());
        clear.into_iter().chain(inside)
    }
}

// === impl HttpRoute ===

impl HttpRoute {
    /// A route that passes requests on as they are.
    pub fn forwarding(
        origin: RouteOrigin,
        matches: RouteMatch,
        destinations: Vec<Destination>,
    ) -> Self {
        Self {
            name: String::new(),
            origin,
            matches,
            action: HttpAction::Forward(Box::new(Forward {
                destinations,
                ..Forward::default()
            })),
            headers: HeaderOperations::default(),
            fault: None,
            cors: None,
        }
    }

    /// The destinations of what it forwards; empty for other actions.
    pub fn destinations(&self) -> &[Destination] {
        self.action
            .forward()
            .map_or(&[], |forward| &forward.destinations)
    }
}
