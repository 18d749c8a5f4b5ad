//! What is done with the connections of a port.

use std::{collections::BTreeSet, sync::Arc};

use http::HeaderValue;
use nodegate_model::gateway::{
    self as model, HttpRoute, HttpRoutes, ListenerProtocol, MatchedHeader, Mirror, TcpRoute,
    VirtualHost,
};
use nodegate_route::{Match, Rewrite, RouteTable, edge};
use nodegate_sharing::SharedList;
use nodegate_values::percentage::Percentage;
use rustc_hash::FxHashMap;

use super::{
    clusters::{Changes, Clusters},
    history::{History, RouteName},
    operation::operation,
    target::{ClusterRef, Target},
    tls_port::TlsPort,
};
use crate::{cluster::ClusterState, counters::Counters};

/// What is done with the connections of a port.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
}

/// What is spoken over the connections of a listener.
#[derive(Debug)]
pub(crate) enum Protocol {
    Http(Arc<HttpListener>),
    Tcp(TcpListener),
    Tls(TlsPort),
}

/// Routes of an HTTP listener and where they lead.
#[derive(Debug)]
pub(crate) struct HttpListener {
    pub(crate) table: Arc<RouteTable>,
    /// The places of each virtual host's routes in `states` begin here.
    first: Arc<[usize]>,
    /// The places in `states` of the routes that lead to a cluster, which need not exist.
    leading_to: Arc<FxHashMap<String, Vec<usize>>>,
    states: SharedList<Arc<RouteState>>,
    matches_own_headers: bool,
}

/// What a route needs beside its description.
#[derive(Debug)]
pub(crate) struct RouteState {
    pub(crate) target: Target,
    /// `x-envoy-decorator-operation`
    pub(crate) operation: Option<HeaderValue>,
    pub(crate) mirrors: Vec<MirrorState>,
    pub(crate) counters: Arc<Counters>,
}

/// A cluster that gets copies of requests, and how many.
#[derive(Debug)]
pub(crate) struct MirrorState {
    pub(crate) percentage: Percentage,
    mirror: ClusterRef,
}

/// The route that a request takes. Keeps the listener's routes for as long as the request takes.
#[derive(Clone, Debug)]
pub(crate) struct Routed {
    http: Arc<HttpListener>,
    found: Match,
}

/// Where a TCP listener leads.
#[derive(Debug)]
pub(crate) struct TcpListener {
    pub(crate) route: TcpRoute,
    pub(crate) target: Target,
    pub(crate) counters: Arc<Counters>,
}

impl Listener {
    /// Makes a listener, going on with what the one of its port has counted.
    pub(super) fn new<'a>(
        listener: &'a model::Listener,
        previous: Option<&'a Self>,
        clusters: &Clusters,
    ) -> Self {
        let mut history = previous.map(Self::history).unwrap_or_default();
        let protocol = match &listener.protocol {
            ListenerProtocol::Http(routes) => {
                Protocol::Http(Arc::new(HttpListener::new(routes, &mut history, clusters)))
            }
            ListenerProtocol::Tcp(route) => {
                Protocol::Tcp(TcpListener::new(route, &mut history, clusters))
            }
            ListenerProtocol::Tls(listener) => Protocol::Tls(TlsPort::new(
                listener,
                previous.and_then(Self::tls),
                clusters,
            )),
        };
        Self {
            port: listener.port,
            protocol,
        }
    }

    /// The same with clusters as they are now. What leads to no changed cluster is shared.
    pub(super) fn with(self: &Arc<Self>, changes: &Changes) -> Arc<Self> {
        let protocol = match &self.protocol {
            Protocol::Http(http) => match http.with(changes) {
                Some(http) => Protocol::Http(Arc::new(http)),
                None => return Arc::clone(self),
            },
            Protocol::Tcp(tcp) => match tcp.with(changes) {
                Some(tcp) => Protocol::Tcp(tcp),
                None => return Arc::clone(self),
            },
            Protocol::Tls(tls) => match tls.with(changes) {
                Some(tls) => Protocol::Tls(tls),
                None => return Arc::clone(self),
            },
        };
        Arc::new(Self {
            port: self.port,
            protocol,
        })
    }

    /// What its routes have counted.
    fn history(&self) -> History<'_> {
        let mut history = History::default();
        match &self.protocol {
            Protocol::Http(http) => http.tell(&mut history),
            Protocol::Tcp(tcp) => tcp.tell(&mut history),
            // Each of its chains has a history of its own.
            Protocol::Tls(_) => {}
        }
        history
    }

    /// The routes of requests over connections of this chain; of a port in the clear there is none to name.
    pub(crate) fn http(&self, chain: Option<&str>) -> Option<&Arc<HttpListener>> {
        match (&self.protocol, chain) {
            (Protocol::Http(http), None) => Some(http),
            (Protocol::Tls(tls), Some(chain)) => tls.named(chain)?.http(),
            _ => None,
        }
    }

    /// Where connections of this chain go; of a port in the clear there is none to name.
    pub(crate) fn tcp(&self, chain: Option<&str>) -> Option<&TcpListener> {
        match (&self.protocol, chain) {
            (Protocol::Tcp(tcp), None) => Some(tcp),
            (Protocol::Tls(tls), Some(chain)) => tls.named(chain)?.tcp(),
            _ => None,
        }
    }

    /// The chains of a port of TLS.
    pub(crate) fn tls(&self) -> Option<&TlsPort> {
        match &self.protocol {
            Protocol::Tls(tls) => Some(tls),
            Protocol::Http(_) | Protocol::Tcp(_) => None,
        }
    }
}

impl Protocol {
    /// For logs.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Http(_) => "HTTP",
            Self::Tcp(_) => "TCP",
            Self::Tls(_) => "TLS",
        }
    }
}

fn matches_own_headers(routes: &HttpRoutes) -> bool {
    let routes = routes.virtual_hosts.iter().flat_map(|host| &host.routes);
    let mut headers = routes.flat_map(|route| &route.matches.headers);
    headers.any(|header| matches!(&header.name, MatchedHeader::Field(name) if edge::is_own(name)))
}

impl HttpListener {
    pub(super) fn new<'a>(
        routes: &'a HttpRoutes,
        history: &mut History<'a>,
        clusters: &Clusters,
    ) -> Self {
        let hosts = &routes.virtual_hosts;
        let mut next = 0;
        let first = hosts.iter().map(|host| {
            let first = next;
            next += host.routes.len();
            first
        });
        let first = first.collect();
        let mut leading_to: FxHashMap<_, Vec<_>> = FxHashMap::default();
        for (place, (_, route)) in all(hosts).enumerate() {
            for cluster in clusters_of(route) {
                let places = leading_to.entry(cluster.to_owned()).or_default();
                if places.last() != Some(&place) {
                    places.push(place);
                }
            }
        }
        let states = all(hosts)
            .map(|(host, route)| Arc::new(RouteState::new(host, route, history, clusters)));
        Self {
            first,
            leading_to: Arc::new(leading_to),
            states: states.collect(),
            table: Arc::new(RouteTable::new(routes.clone())),
            matches_own_headers: matches_own_headers(routes),
        }
    }

    /// Whether a route is chosen by a header that the gateway sets itself.
    pub(crate) fn matches_own_headers(&self) -> bool {
        self.matches_own_headers
    }

    /// The same with clusters as they are now; none if no route leads to a changed cluster.
    pub(super) fn with(&self, changes: &Changes) -> Option<Self> {
        let places = changes.names().filter_map(|name| self.leading_to.get(name));
        // A route may lead to several of them.
        let places: BTreeSet<usize> = places.flatten().copied().collect();
        if places.is_empty() {
            return None;
        }
        let mut states = self.states.clone();
        for place in places {
            states.replace(place, Arc::new(self.states[place].with(changes)));
        }
        Some(Self {
            table: Arc::clone(&self.table),
            matches_own_headers: self.matches_own_headers,
            first: Arc::clone(&self.first),
            leading_to: Arc::clone(&self.leading_to),
            states,
        })
    }

    /// Says what its routes have counted.
    pub(super) fn tell<'a>(&'a self, history: &mut History<'a>) {
        for (host, route, state) in self.routes() {
            let (position, counters) = (state.target.position(), &state.counters);
            let name = RouteName::of_http(host, route);
            history.note(name, route.destinations(), position, counters);
        }
    }

    /// The routes with their virtual hosts and states, in order.
    pub(crate) fn routes(&self) -> impl Iterator<Item = (&VirtualHost, &HttpRoute, &RouteState)> {
        let routes = all(&self.table.routes().virtual_hosts);
        let states = self.states.iter();
        routes
            .zip(states)
            .map(|((host, route), state)| (host, route, &**state))
    }

    /// The found route, kept for a request.
    pub(crate) fn routed(self: &Arc<Self>, found: Match) -> Routed {
        Routed {
            http: Arc::clone(self),
            found,
        }
    }
}

/// All routes with their virtual hosts, in order.
fn all(hosts: &[VirtualHost]) -> impl Iterator<Item = (&VirtualHost, &HttpRoute)> {
    hosts
        .iter()
        .flat_map(|host| host.routes.iter().map(move |route| (host, route)))
}

/// The names of the clusters that a route leads to, mirrors too.
fn clusters_of(route: &HttpRoute) -> impl Iterator<Item = &str> {
    let destinations = route.destinations().iter();
    let destinations = destinations.map(|destination| destination.cluster.as_str());
    destinations.chain(mirrors(route).iter().map(|mirror| mirror.cluster.as_str()))
}

fn mirrors(route: &HttpRoute) -> &[Mirror] {
    let forward = route.action.forward();
    forward.map_or(&[], |forward| &forward.mirrors)
}

impl RouteState {
    fn new<'a>(
        virtual_host: &'a VirtualHost,
        route: &'a HttpRoute,
        history: &mut History<'a>,
        clusters: &Clusters,
    ) -> Self {
        let name = RouteName::of_http(virtual_host, route);
        let position = history.position(name, route.destinations());
        Self {
            target: Target::new(route.destinations(), position, clusters),
            operation: HeaderValue::try_from(operation(virtual_host, route)).ok(),
            mirrors: mirrors(route)
                .iter()
                .map(|mirror| MirrorState {
                    percentage: mirror.percentage,
                    mirror: ClusterRef::new(&mirror.cluster, clusters),
                })
                .collect(),
            counters: history.counters(name),
        }
    }

    /// The same with clusters as they are now.
    fn with(&self, changes: &Changes) -> Self {
        let mirrors = self.mirrors.iter();
        Self {
            target: self.target.with(changes),
            operation: self.operation.clone(),
            mirrors: mirrors
                .map(|mirror| MirrorState {
                    percentage: mirror.percentage,
                    mirror: mirror.mirror.with(changes),
                })
                .collect(),
            counters: Arc::clone(&self.counters),
        }
    }
}

impl MirrorState {
    /// The cluster, if it exists.
    pub(crate) fn cluster(&self) -> Option<&Arc<ClusterState>> {
        self.mirror.cluster.as_ref()
    }
}

impl TcpListener {
    pub(super) fn new<'a>(
        route: &'a TcpRoute,
        history: &mut History<'a>,
        clusters: &Clusters,
    ) -> Self {
        let name = RouteName::of_tcp(route);
        let position = history.position(name, &route.destinations);
        Self {
            route: route.clone(),
            target: Target::new(&route.destinations, position, clusters),
            counters: history.counters(name),
        }
    }

    /// The same with clusters as they are now; none if it leads to no changed cluster.
    pub(super) fn with(&self, changes: &Changes) -> Option<Self> {
        self.target.is_concerned(changes).then(|| Self {
            route: self.route.clone(),
            target: self.target.with(changes),
            counters: Arc::clone(&self.counters),
        })
    }

    /// Says what its route has counted.
    pub(super) fn tell<'a>(&'a self, history: &mut History<'a>) {
        let name = RouteName::of_tcp(&self.route);
        let position = self.target.position();
        history.note(name, &self.route.destinations, position, &self.counters);
    }
}

impl Routed {
    /// The route's description.
    pub(crate) fn route(&self) -> &HttpRoute {
        self.http.table.route(self.found)
    }

    /// The virtual host that the route is of.
    pub(crate) fn virtual_host(&self) -> &VirtualHost {
        self.http.table.virtual_host(self.found.virtual_host)
    }

    /// What the route does to the path.
    pub(crate) fn rewrite(&self) -> Option<&Rewrite> {
        self.http.table.rewrite(self.found)
    }

    /// What the route needs beside its description.
    pub(crate) fn state(&self) -> &RouteState {
        let first = self.http.first[self.found.virtual_host];
        &self.http.states[first + self.found.route]
    }
}
