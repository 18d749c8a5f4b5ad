//! What is done with the connections of a port.

use std::sync::Arc;

use http::HeaderValue;
use nodegate_model::gateway::{
    self as model, HttpRoute, HttpRoutes, ListenerProtocol, TcpRoute, VirtualHost,
};
use nodegate_route::{Match, Rewrite, RouteTable, edge};
use nodegate_values::percentage::Percentage;

use super::{
    clusters::{Changes, Clusters},
    history::{History, RouteName},
    operation::operation,
    target::{ClusterRef, Target},
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
}

/// Routes of an HTTP listener and where they lead.
#[derive(Debug)]
pub(crate) struct HttpListener {
    pub(crate) table: Arc<RouteTable>,
    /// By virtual host and route.
    routes: Vec<Vec<Arc<RouteState>>>,
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
            Protocol::Tcp(tcp) if tcp.target.is_concerned(changes) => Protocol::Tcp(TcpListener {
                route: tcp.route.clone(),
                target: tcp.target.with(changes),
                counters: Arc::clone(&tcp.counters),
            }),
            Protocol::Tcp(_) => return Arc::clone(self),
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
            Protocol::Tcp(TcpListener {
                route,
                target,
                counters,
            }) => {
                let name = RouteName::of_tcp(route);
                history.note(name, &route.destinations, target.position(), counters);
            }
        }
        history
    }
}

impl Protocol {
    /// For logs.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Http(_) => "HTTP",
            Self::Tcp(_) => "TCP",
        }
    }
}

fn matches_own_headers(routes: &HttpRoutes) -> bool {
    let routes = routes.virtual_hosts.iter().flat_map(|host| &host.routes);
    let mut headers = routes.flat_map(|route| &route.matches.headers);
    headers.any(|header| edge::is_own(&header.name))
}

impl HttpListener {
    fn new<'a>(routes: &'a HttpRoutes, history: &mut History<'a>, clusters: &Clusters) -> Self {
        let hosts = routes.virtual_hosts.iter();
        let states = hosts.map(|host| {
            let routes = host.routes.iter();
            let states =
                routes.map(|route| Arc::new(RouteState::new(host, route, history, clusters)));
            states.collect()
        });
        Self {
            routes: states.collect(),
            table: Arc::new(RouteTable::new(routes.clone())),
            matches_own_headers: matches_own_headers(routes),
        }
    }

    /// Whether a route is chosen by a header that the gateway sets itself.
    pub(crate) fn matches_own_headers(&self) -> bool {
        self.matches_own_headers
    }

    /// The same with clusters as they are now; none if no route leads to a changed cluster.
    fn with(&self, changes: &Changes) -> Option<Self> {
        let hosts = self.routes.iter().enumerate();
        let concerned = hosts.flat_map(|(host, routes)| {
            let routes = routes.iter().enumerate();
            let concerned = routes.filter(|(_, route)| route.is_concerned(changes));
            concerned.map(move |(at, route)| (host, at, Arc::new(route.with(changes))))
        });
        let mut concerned = concerned.peekable();
        concerned.peek()?;
        let mut routes = self.routes.clone();
        for (host, at, route) in concerned {
            routes[host][at] = route;
        }
        Some(Self {
            table: Arc::clone(&self.table),
            matches_own_headers: self.matches_own_headers,
            routes,
        })
    }

    /// Says what its routes have counted.
    fn tell<'a>(&'a self, history: &mut History<'a>) {
        for (host, states) in self.table.routes().virtual_hosts.iter().zip(&self.routes) {
            for (route, state) in host.routes.iter().zip(states) {
                let (position, counters) = (state.target.position(), &state.counters);
                let name = RouteName::of_http(host, route);
                history.note(name, route.destinations(), position, counters);
            }
        }
    }

    /// The routes with their virtual hosts and states, in order.
    pub(crate) fn routes(&self) -> impl Iterator<Item = (&VirtualHost, &HttpRoute, &RouteState)> {
        let hosts = self.table.routes().virtual_hosts.iter().zip(&self.routes);
        hosts.flat_map(|(host, states)| {
            let routes = host.routes.iter().zip(states);
            routes.map(move |(route, state)| (host, route, &**state))
        })
    }

    /// The found route, kept for a request.
    pub(crate) fn routed(self: &Arc<Self>, found: Match) -> Routed {
        Routed {
            http: Arc::clone(self),
            found,
        }
    }
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
        let mirrors = route.action.forward().map_or(&[][..], |it| &it.mirrors);
        Self {
            target: Target::new(route.destinations(), position, clusters),
            operation: HeaderValue::try_from(operation(virtual_host, route)).ok(),
            mirrors: mirrors
                .iter()
                .map(|mirror| MirrorState {
                    percentage: mirror.percentage,
                    mirror: ClusterRef::new(&mirror.cluster, clusters),
                })
                .collect(),
            counters: history.counters(name),
        }
    }

    /// Whether it leads to a cluster that has changed.
    fn is_concerned(&self, changes: &Changes) -> bool {
        let mut mirrors = self.mirrors.iter();
        self.target.is_concerned(changes)
            || mirrors.any(|mirror| mirror.mirror.is_concerned(changes))
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
    fn new<'a>(route: &'a TcpRoute, history: &mut History<'a>, clusters: &Clusters) -> Self {
        let name = RouteName::of_tcp(route);
        let position = history.position(name, &route.destinations);
        Self {
            route: route.clone(),
            target: Target::new(&route.destinations, position, clusters),
            counters: history.counters(name),
        }
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
        &self.http.routes[self.found.virtual_host][self.found.route]
    }
}
