//! A [`Gateway`] made ready for the request path.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    model::gateway::{
        Cluster, Destination, Gateway, HttpRoute, HttpRoutes, ListenerProtocol, RouteMatch,
        RouteOrigin, TcpRoute,
    },
    route::{Match, Split, Table},
};

/// What all workers serve at one moment. Swapped whole.
#[derive(Debug, Default)]
pub(super) struct Config {
    /// Sorted by port.
    listeners: Vec<Arc<Listener>>,
    /// For the next configuration to carry on from.
    positions: HashMap<Key, Arc<AtomicU64>>,
}

/// What is done with the connections of a port.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) port: u16,
    pub(super) protocol: Protocol,
}

#[derive(Debug)]
pub(super) enum Protocol {
    Http(HttpListener),
    Tcp(TcpListener),
}

/// Routes of an HTTP listener and where they lead.
#[derive(Debug)]
pub(super) struct HttpListener {
    pub(super) table: Table,
    /// By virtual host and route.
    targets: Vec<Vec<Target>>,
}

/// Where a TCP listener leads.
#[derive(Debug)]
pub(super) struct TcpListener {
    pub(super) origin: RouteOrigin,
    pub(super) target: Target,
}

/// Destinations of a route, and whose turn it is.
#[derive(Debug)]
pub(super) struct Target {
    split: Split,
    position: Arc<AtomicU64>,
    /// In the order of the weights; none where the route names a cluster that doesn't exist.
    destinations: Vec<(String, Option<Arc<ClusterState>>)>,
}

/// A cluster, and which endpoint's turn it is.
#[derive(Debug)]
pub(super) struct ClusterState {
    cluster: Arc<Cluster>,
    position: Arc<AtomicU64>,
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
    Cluster(String),
}

/// Positions of the old configuration and of the one being made.
struct Positions<'a> {
    old: &'a HashMap<Key, Arc<AtomicU64>>,
    new: HashMap<Key, Arc<AtomicU64>>,
}

impl Config {
    /// Compiles a Gateway, going on with the previous configuration's positions.
    pub(super) fn new(gateway: &Gateway, previous: &Self) -> Self {
        let mut positions = Positions {
            old: &previous.positions,
            new: HashMap::new(),
        };
        let clusters: HashMap<&str, Arc<ClusterState>> = gateway
            .clusters
            .iter()
            .map(|(name, cluster)| {
                let state = ClusterState {
                    cluster: Arc::clone(cluster),
                    position: positions.take(Key::Cluster(name.clone())),
                };
                (name.as_str(), Arc::new(state))
            })
            .collect();

        let mut listeners: Vec<_> = gateway
            .listeners
            .iter()
            .map(|listener| {
                let protocol = match &listener.protocol {
                    ListenerProtocol::Http(routes) => Protocol::Http(HttpListener::new(
                        listener.port,
                        routes,
                        &clusters,
                        &mut positions,
                    )),
                    ListenerProtocol::Tcp(route) => Protocol::Tcp(TcpListener::new(
                        listener.port,
                        route,
                        &clusters,
                        &mut positions,
                    )),
                };
                Arc::new(Listener {
                    port: listener.port,
                    protocol,
                })
            })
            .collect();
        listeners.sort_by_key(|listener| listener.port);
        Self {
            listeners,
            positions: positions.new,
        }
    }

    /// The listener of a port.
    pub(super) fn listener(&self, port: u16) -> Option<&Arc<Listener>> {
        self.listeners
            .binary_search_by_key(&port, |listener| listener.port)
            .ok()
            .map(|index| &self.listeners[index])
    }

    /// All listeners, by port.
    pub(super) fn listeners(&self) -> &[Arc<Listener>] {
        &self.listeners
    }

    /// The endpoints that routes lead to; one may occur more than once.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners
            .iter()
            .flat_map(|listener| match &listener.protocol {
                Protocol::Http(http) => http.targets.iter().flatten().collect::<Vec<_>>(),
                Protocol::Tcp(tcp) => vec![&tcp.target],
            })
            .flat_map(|target| &target.destinations)
            .filter_map(|(_, cluster)| cluster.as_ref())
            .flat_map(|cluster| cluster.cluster.endpoints.iter())
            .map(|endpoint| endpoint.address)
    }
}

impl Protocol {
    /// For logs.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Http(_) => "HTTP",
            Self::Tcp(_) => "TCP",
        }
    }
}

impl HttpListener {
    fn new(
        port: u16,
        routes: &HttpRoutes,
        clusters: &HashMap<&str, Arc<ClusterState>>,
        positions: &mut Positions<'_>,
    ) -> Self {
        let targets = routes
            .virtual_hosts
            .iter()
            .map(|virtual_host| {
                virtual_host
                    .routes
                    .iter()
                    .map(|route| {
                        let key = Key::http(port, &virtual_host.name, route);
                        Target::new(route.destinations(), clusters, positions.take(key))
                    })
                    .collect()
            })
            .collect();
        Self {
            table: Table::new(routes.clone()),
            targets,
        }
    }

    /// Where the found route leads.
    pub(super) fn target(&self, found: Match) -> &Target {
        &self.targets[found.virtual_host][found.route]
    }
}

impl TcpListener {
    fn new(
        port: u16,
        route: &TcpRoute,
        clusters: &HashMap<&str, Arc<ClusterState>>,
        positions: &mut Positions<'_>,
    ) -> Self {
        let key = Key::Tcp {
            port,
            origin: route.origin.clone(),
            destinations: weights(&route.destinations),
        };
        Self {
            origin: route.origin.clone(),
            target: Target::new(&route.destinations, clusters, positions.take(key)),
        }
    }
}

impl Target {
    fn new(
        destinations: &[Destination],
        clusters: &HashMap<&str, Arc<ClusterState>>,
        position: Arc<AtomicU64>,
    ) -> Self {
        let weights: Vec<u32> = destinations
            .iter()
            .map(|destination| destination.weight)
            .collect();
        Self {
            split: Split::new(&weights),
            position,
            destinations: destinations
                .iter()
                .map(|destination| {
                    let name = destination.cluster.as_str();
                    (name.to_owned(), clusters.get(name).cloned())
                })
                .collect(),
        }
    }

    /// Takes the next turn: the name of the cluster, and the cluster if it exists.
    pub(super) fn choose(&self) -> (&str, Option<&ClusterState>) {
        let index = if self.split.is_single() {
            0
        } else {
            self.split
                .pick(self.position.fetch_add(1, Ordering::Relaxed))
        };
        match self.destinations.get(index) {
            Some((name, cluster)) => (name, cluster.as_deref()),
            // A route without destinations, which the model rules out, leads to no cluster.
            None => ("", None),
        }
    }
}

impl ClusterState {
    /// Takes the next turn round the endpoints; none if there are none.
    pub(super) fn endpoint(&self) -> Option<SocketAddr> {
        let endpoints = &self.cluster.endpoints;
        match endpoints.len() {
            0 => None,
            1 => Some(endpoints[0].address),
            count => {
                let turn = self.position.fetch_add(1, Ordering::Relaxed) % count as u64;
                Some(endpoints[turn as usize].address)
            }
        }
    }
}

impl Key {
    fn http(port: u16, virtual_host: &str, route: &HttpRoute) -> Self {
        Self::Http {
            port,
            virtual_host: virtual_host.to_owned(),
            origin: route.origin.clone(),
            matches: Box::new(route.matches.clone()),
            destinations: weights(route.destinations()),
        }
    }
}

fn weights(destinations: &[Destination]) -> Vec<(String, u32)> {
    destinations
        .iter()
        .map(|destination| (destination.cluster.clone(), destination.weight))
        .collect()
}

impl Positions<'_> {
    fn take(&mut self, key: Key) -> Arc<AtomicU64> {
        let position = self.old.get(&key).or_else(|| self.new.get(&key));
        let position = position.cloned().unwrap_or_default();
        self.new.insert(key, Arc::clone(&position));
        position
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::fixture::{cluster, gateway, http_listener, prefix_route, tcp_listener};

    /// The clusters of the next `count` turns of the first route of the port.
    fn turns(config: &Config, port: u16, count: usize) -> Vec<String> {
        let listener = config.listener(port).unwrap();
        let target = match &listener.protocol {
            Protocol::Http(http) => http.target(Match {
                virtual_host: 0,
                route: 0,
            }),
            Protocol::Tcp(tcp) => &tcp.target,
        };
        (0..count).map(|_| target.choose().0.to_owned()).collect()
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
        let mut config = Config::new(&make(&["10.0.0.1:80"]), &Config::default());
        let (mut http, mut tcp) = (Vec::new(), Vec::new());
        for round in 0..10 {
            http.extend(turns(&config, 80, 10));
            tcp.extend(turns(&config, 31400, 1));
            let endpoints = ["10.0.0.1:80", "10.0.0.2:80"];
            config = Config::new(&make(&endpoints[..=round % 2]), &config);
        }
        assert_eq!((count(&http, "a"), count(&http, "b")), (90, 10));
        assert_eq!((count(&tcp, "a"), count(&tcp, "b")), (8, 2));
    }

    #[test]
    fn round_robin_goes_on_over_configurations() {
        let make = || {
            gateway(
                vec![tcp_listener(31400, &[("a", 0)])],
                vec![cluster("a", &["10.0.0.1:80", "10.0.0.2:80"])],
            )
        };
        let mut config = Config::default();
        let mut seen = Vec::new();
        for _ in 0..4 {
            config = Config::new(&make(), &config);
            let Protocol::Tcp(tcp) = &config.listener(31400).unwrap().protocol else {
                panic!("made as TCP");
            };
            seen.push(tcp.target.choose().1.unwrap().endpoint().unwrap());
        }
        assert_eq!(seen[0], seen[2]);
        assert_eq!(seen[1], seen[3]);
        assert_ne!(seen[0], seen[1]);
    }

    #[test]
    fn unknown_clusters_and_missing_endpoints() {
        let config = Config::new(
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
            Protocol::Tcp(tcp) => tcp.target.choose().1.map(ClusterState::endpoint),
            Protocol::Http(_) => panic!("made as TCP"),
        };
        assert_eq!(choose(1), None);
        assert_eq!(choose(2), Some(None));
        assert!(config.listener(3).is_none());
        assert_eq!(config.endpoints().count(), 0);
    }
}
