//! The routes of requests, and where they lead.

use std::{collections::BTreeSet, sync::Arc};

use http::HeaderValue;
use nodegate_model::gateway::{HttpRoute, HttpRoutes, MatchedHeader, Mirror, VirtualHost};
use nodegate_route::{Match, Rewrite, RouteTable, edge};
use nodegate_sharing::SharedList;
use nodegate_values::percentage::Percentage;
use rustc_hash::FxHashMap;

use super::{
    clusters::{Changes, Clusters},
    history::{History, RouteName},
    operation::operation,
    target::{ClusterRef, Target},
};
use crate::{cluster::ClusterState, counters::Counters};

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
