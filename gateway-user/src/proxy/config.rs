//! A [`Gateway`] made ready for the request path.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use http::HeaderValue;

use super::{cluster::ClusterState, dns::Answers};
use crate::model::gateway::{
    Destination, Gateway, HttpRoute, HttpRoutes, ListenerProtocol, PathMatch, RouteMatch,
    RouteOrigin, TcpRoute, VirtualHost,
};
use crate::resources::percentage::Percentage;
use crate::route::{Match, Rewrite, Split, Table};

/// What all workers serve at one moment. Swapped whole.
#[derive(Debug, Default)]
pub(crate) struct Config {
    /// Sorted by port.
    listeners: Vec<Arc<Listener>>,
    clusters: Clusters,
    /// For the next configuration to carry on from.
    positions: HashMap<Key, Arc<AtomicU64>>,
}

type Clusters = HashMap<String, Arc<ClusterState>>;

/// What is done with the connections of a port.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
}

#[derive(Debug)]
pub(crate) enum Protocol {
    Http(Arc<HttpListener>),
    Tcp(TcpListener),
}

/// Routes of an HTTP listener and where they lead.
#[derive(Debug)]
pub(crate) struct HttpListener {
    pub(crate) table: Table,
    /// By virtual host and route.
    routes: Vec<Vec<RouteState>>,
}

/// What a route needs beside its description.
#[derive(Debug)]
pub(crate) struct RouteState {
    pub(crate) target: Target,
    /// `x-envoy-decorator-operation`
    pub(crate) operation: Option<HeaderValue>,
    pub(crate) mirrors: Vec<MirrorState>,
}

/// Who else gets a copy, of how many requests.
#[derive(Debug)]
pub(crate) struct MirrorState {
    pub(crate) percentage: Percentage,
    pub(crate) cluster: Option<Arc<ClusterState>>,
}

/// The route that a request takes, for as long as that takes.
#[derive(Clone, Debug)]
pub(crate) struct Routed {
    http: Arc<HttpListener>,
    found: Match,
}

/// Where a TCP listener leads.
#[derive(Debug)]
pub(crate) struct TcpListener {
    pub(crate) origin: RouteOrigin,
    pub(crate) target: Target,
}

/// Destinations of a route, and whose turn it is.
#[derive(Debug)]
pub(crate) struct Target {
    split: Split,
    position: Arc<AtomicU64>,
    /// In the order of the weights; none where the route names a cluster that doesn't exist.
    destinations: Vec<(String, Option<Arc<ClusterState>>)>,
}

/// The destination whose turn it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chosen<'a> {
    /// Its place among the route's destinations.
    pub(crate) index: usize,
    /// Name of the cluster.
    pub(crate) name: &'a str,
    /// The cluster, if it exists.
    pub(crate) cluster: Option<&'a Arc<ClusterState>>,
}

/// Names what a position belongs to: a new configuration that has the same goes on where the old one
/// was, so that an endpoint's coming or going doesn't start the sequences over.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Http {
        port: u16,
        virtual_host: String,
        origin: RouteOrigin,
        matches: Box<RouteMatch>,
        destinations: Vec<(String, u32)>,
    },
    Tcp {
        port: u16,
        origin: RouteOrigin,
        destinations: Vec<(String, u32)>,
    },
}

/// What a new configuration is made with.
struct Maker<'a> {
    clusters: &'a Clusters,
    old: &'a HashMap<Key, Arc<AtomicU64>>,
    new: HashMap<Key, Arc<AtomicU64>>,
}

impl Config {
    /// Compiles a Gateway with what names of endpoints lead to, going on with what the previous
    /// configuration counted.
    pub(crate) fn new(gateway: &Gateway, answers: &Answers, previous: &Self) -> Self {
        let clusters: Clusters = gateway
            .clusters
            .iter()
            .map(|(name, cluster)| {
                let before = previous.clusters.get(name).map(|before| &**before);
                let cluster = answers.resolve(cluster);
                (name.clone(), Arc::new(ClusterState::new(&cluster, before)))
            })
            .collect();
        let mut maker = Maker {
            clusters: &clusters,
            old: &previous.positions,
            new: HashMap::new(),
        };
        let mut listeners: Vec<_> = gateway
            .listeners
            .iter()
            .map(|listener| {
                let port = listener.port;
                let protocol = match &listener.protocol {
                    ListenerProtocol::Http(routes) => {
                        Protocol::Http(Arc::new(maker.http(port, routes)))
                    }
                    ListenerProtocol::Tcp(route) => Protocol::Tcp(maker.tcp(port, route)),
                };
                Arc::new(Listener { port, protocol })
            })
            .collect();
        listeners.sort_by_key(|listener| listener.port);
        Self {
            listeners,
            positions: maker.new,
            clusters,
        }
    }

    /// Whether the Gateway's clusters have other endpoints with these answers than they have here.
    pub(crate) fn is_resolved_otherwise(&self, gateway: &Gateway, answers: &Answers) -> bool {
        let named = gateway.clusters.iter();
        let mut named = named.filter(|(_, cluster)| !cluster.names.is_empty());
        named.any(|(name, cluster)| {
            let here = self.clusters.get(name).map(|here| &here.model.endpoints);
            here != Some(&answers.resolve(cluster).endpoints)
        })
    }

    /// The listener of a port.
    pub(crate) fn listener(&self, port: u16) -> Option<&Arc<Listener>> {
        self.listeners
            .binary_search_by_key(&port, |listener| listener.port)
            .ok()
            .map(|index| &self.listeners[index])
    }

    /// All listeners, by port.
    pub(crate) fn listeners(&self) -> &[Arc<Listener>] {
        &self.listeners
    }

    /// The endpoints of all clusters; one may occur more than once.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = SocketAddr> {
        self.clusters
            .values()
            .flat_map(|cluster| cluster.addresses())
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

impl Maker<'_> {
    fn http(&mut self, port: u16, routes: &HttpRoutes) -> HttpListener {
        let states = routes
            .virtual_hosts
            .iter()
            .map(|host| {
                let routes = host.routes.iter();
                routes.map(|route| self.route(port, host, route)).collect()
            })
            .collect();
        HttpListener {
            table: Table::new(routes.clone()),
            routes: states,
        }
    }

    fn route(&mut self, port: u16, virtual_host: &VirtualHost, route: &HttpRoute) -> RouteState {
        let position = self.position(Key::Http {
            port,
            virtual_host: virtual_host.name.clone(),
            origin: route.origin.clone(),
            matches: Box::new(route.matches.clone()),
            destinations: weights(route.destinations()),
        });
        let mirrors = route.action.forward().map_or(&[][..], |it| &it.mirrors);
        RouteState {
            target: self.target(route.destinations(), position),
            operation: HeaderValue::try_from(operation(virtual_host, route)).ok(),
            mirrors: mirrors
                .iter()
                .map(|mirror| MirrorState {
                    percentage: mirror.percentage,
                    cluster: self.clusters.get(&mirror.cluster).cloned(),
                })
                .collect(),
        }
    }

    fn tcp(&mut self, port: u16, route: &TcpRoute) -> TcpListener {
        let position = self.position(Key::Tcp {
            port,
            origin: route.origin.clone(),
            destinations: weights(&route.destinations),
        });
        TcpListener {
            origin: route.origin.clone(),
            target: self.target(&route.destinations, position),
        }
    }

    fn target(&self, destinations: &[Destination], position: Arc<AtomicU64>) -> Target {
        let weights: Vec<u32> = destinations.iter().map(|one| one.weight).collect();
        Target {
            split: Split::new(&weights),
            position,
            destinations: destinations
                .iter()
                .map(|destination| {
                    let name = &destination.cluster;
                    (name.clone(), self.clusters.get(name).cloned())
                })
                .collect(),
        }
    }

    fn position(&mut self, key: Key) -> Arc<AtomicU64> {
        let position = self.old.get(&key).or_else(|| self.new.get(&key));
        let position = position.cloned().unwrap_or_default();
        self.new.insert(key, Arc::clone(&position));
        position
    }
}

fn weights(destinations: &[Destination]) -> Vec<(String, u32)> {
    destinations
        .iter()
        .map(|destination| (destination.cluster.clone(), destination.weight))
        .collect()
}

/// What a route is called in traces: `nginx.simple.svc.cluster.local:80/simple/nginx*`.
// Istio: GetRouteOperation of pilot/pkg/networking/util.
fn operation(virtual_host: &VirtualHost, route: &HttpRoute) -> String {
    let path = match &route.matches.path {
        PathMatch::Prefix(prefix) => format!("{prefix}*"),
        PathMatch::Exact(path) => path.clone(),
        PathMatch::Regex(pattern) => pattern.as_str().to_owned(),
    };
    if let [destination] = route.destinations() {
        // outbound|80|v1|nginx.simple.svc.cluster.local
        let mut parts = destination.cluster.split('|').skip(1);
        if let (Some(port), Some(host)) = (parts.next(), parts.nth(1)) {
            return format!("{host}:{port}{path}");
        }
    }
    let port = virtual_host
        .name
        .rsplit_once(':')
        .map_or("80", |(_, port)| port);
    format!("{}:{port}{path}", route.origin.name)
}

impl HttpListener {
    /// The found route, kept for a request.
    pub(crate) fn routed(self: &Arc<Self>, found: Match) -> Routed {
        Routed {
            http: Arc::clone(self),
            found,
        }
    }
}

impl Routed {
    /// What the route is.
    pub(crate) fn route(&self) -> &HttpRoute {
        self.http.table.route(self.found)
    }

    /// The virtual host that it is of.
    pub(crate) fn virtual_host(&self) -> &VirtualHost {
        self.http.table.virtual_host(self.found.virtual_host)
    }

    /// What it does to the path.
    pub(crate) fn rewrite(&self) -> Option<&Rewrite> {
        self.http.table.rewrite(self.found)
    }

    /// Where it leads.
    pub(crate) fn state(&self) -> &RouteState {
        &self.http.routes[self.found.virtual_host][self.found.route]
    }
}

impl Target {
    /// Takes the next turn.
    pub(crate) fn choose(&self) -> Chosen<'_> {
        let index = if self.split.is_single() {
            0
        } else {
            self.split
                .pick(self.position.fetch_add(1, Ordering::Relaxed))
        };
        self.chosen(index)
    }

    /// What stands at a place that was chosen before.
    pub(crate) fn chosen(&self, index: usize) -> Chosen<'_> {
        match self.destinations.get(index) {
            Some((name, cluster)) => Chosen {
                index,
                name,
                cluster: cluster.as_ref(),
            },
            // A route without destinations leads to no cluster.
            None => Chosen {
                index,
                name: "",
                cluster: None,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::gateway::Balancing;
    use crate::proxy::fixture::{cluster, gateway, http_listener, prefix_route, tcp_listener};

    fn config_of(gateway: &Gateway, previous: &Config) -> Config {
        Config::new(gateway, &Answers::default(), previous)
    }

    /// The clusters of the next `count` turns of the first route of the port.
    fn turns(config: &Config, port: u16, count: usize) -> Vec<String> {
        let listener = config.listener(port).unwrap();
        let target = match &listener.protocol {
            Protocol::Http(http) => &http.routes[0][0].target,
            Protocol::Tcp(tcp) => &tcp.target,
        };
        (0..count)
            .map(|_| target.choose().name.to_owned())
            .collect()
    }

    fn count(turns: &[String], name: &str) -> usize {
        turns.iter().filter(|turn| *turn == name).count()
    }

    #[test]
    fn sequences_go_on_when_only_endpoints_change() {
        let make = |endpoints: &[&str]| {
            gateway(
                vec![
                    http_listener(80, &["*"], vec![prefix_route("/", &[("a", 90), ("b", 10)])]),
                    tcp_listener(31400, &[("a", 80), ("b", 20)]),
                ],
                vec![cluster("a", endpoints), cluster("b", endpoints)],
            )
        };
        let mut config = config_of(&make(&["10.0.0.1:80"]), &Config::default());
        let (mut http, mut tcp) = (Vec::new(), Vec::new());
        for round in 0..10 {
            http.extend(turns(&config, 80, 10));
            tcp.extend(turns(&config, 31400, 1));
            let endpoints = ["10.0.0.1:80", "10.0.0.2:80"];
            config = config_of(&make(&endpoints[..=round % 2]), &config);
        }
        assert_eq!((count(&http, "a"), count(&http, "b")), (90, 10));
        assert_eq!((count(&tcp, "a"), count(&tcp, "b")), (8, 2));
    }

    #[test]
    fn round_robin_goes_on_over_configurations() {
        let make = || {
            let mut cluster = cluster("a", &["10.0.0.1:80", "10.0.0.2:80"]);
            cluster.policy.balancing = Balancing::RoundRobin;
            gateway(vec![tcp_listener(31400, &[("a", 0)])], vec![cluster])
        };
        let mut config = Config::default();
        let mut seen = Vec::new();
        for _ in 0..4 {
            config = config_of(&make(), &config);
            let Protocol::Tcp(tcp) = &config.listener(31400).unwrap().protocol else {
                panic!("made as TCP");
            };
            let cluster = tcp.target.choose().cluster.unwrap();
            seen.push(cluster.engage(None, &[]).unwrap().address());
        }
        assert_eq!(seen[0], seen[2]);
        assert_eq!(seen[1], seen[3]);
        assert_ne!(seen[0], seen[1]);
    }

    #[test]
    fn unknown_clusters_and_missing_endpoints() {
        let config = config_of(
            &gateway(
                vec![
                    tcp_listener(1, &[("gone", 1)]),
                    tcp_listener(2, &[("empty", 1)]),
                ],
                vec![cluster("empty", &[])],
            ),
            &Config::default(),
        );
        let choose = |port| match &config.listener(port).unwrap().protocol {
            Protocol::Tcp(tcp) => {
                let cluster = tcp.target.choose().cluster;
                cluster.map(|cluster| cluster.engage(None, &[]).is_some())
            }
            Protocol::Http(_) => panic!("made as TCP"),
        };
        assert_eq!(choose(1), None);
        assert_eq!(choose(2), Some(false));
        assert!(config.listener(3).is_none());
        assert_eq!(config.endpoints().count(), 0);
    }

    #[test]
    fn operations_are_named_as_istio_names_them() {
        let name = "outbound|80|v1|nginx.simple.svc.cluster.local";
        let mut routes = [
            prefix_route("/simple/nginx", &[(name, 1)]),
            prefix_route("/", &[(name, 1), ("other", 1)]),
        ];
        routes[1].matches.path = PathMatch::Exact("/x".into());
        let host = VirtualHost {
            name: "a.example:8000".into(),
            domains: Vec::new(),
            routes: Vec::new(),
            require_tls: false,
        };
        let names = routes.map(|route| operation(&host, &route));
        assert_eq!(
            names,
            [
                "nginx.simple.svc.cluster.local:80/simple/nginx*",
                "web:8000/x"
            ]
        );
    }
}
