//! A [`Gateway`] made ready for the request path.
//!
//! Each configuration shares with the one before what hasn't changed, so that an endpoint that comes or
//! goes costs what leads to it, and not the whole table.

use std::sync::Arc;

mod clusters;
mod history;
mod http_listener;
mod listener;
mod operation;
mod target;
mod tcp_listener;
mod tls_port;

pub(crate) use clusters::{Changes, Clusters, Endpoints};
pub(crate) use http_listener::{HttpListener, MirrorState, Routed};
pub(crate) use listener::{Listener, Protocol};
pub(crate) use tcp_listener::TcpListener;
pub(crate) use tls_port::{Chain, Inner};

use crate::dns::Answers;
use clusters::Previous;
use nodegate_model::gateway::{self as model, Gateway};

/// What all workers serve at one moment. It never changes: the next one takes its place.
#[derive(Debug, Default)]
pub(crate) struct Config {
    /// What it was made from.
    gateway: Arc<Gateway>,
    answers: Arc<Answers>,
    /// Sorted by port.
    listeners: Vec<Arc<Listener>>,
    clusters: Clusters,
}

impl Config {
    /// Compiles a Gateway with the addresses of names, and says which clusters have changed. What is the
    /// same as in the previous configuration is shared, what isn't goes on with what that has counted.
    pub(crate) fn new(
        gateway: &Arc<Gateway>,
        answers: &Arc<Answers>,
        previous: &Self,
    ) -> (Self, Changes) {
        let (clusters, changes) = Clusters::new(gateway, answers, previous.made_from());
        let mut listeners: Vec<_> = gateway
            .listeners
            .iter()
            .map(|listener| match previous.listener(listener.port) {
                Some(old) if previous.describes(listener, gateway) => old.with(&changes),
                old => Arc::new(Listener::new(listener, old.map(|old| &**old), &clusters)),
            })
            .collect();
        listeners.sort_by_key(|listener| listener.port);
        let config = Self {
            gateway: Arc::clone(gateway),
            answers: Arc::clone(answers),
            listeners,
            clusters,
        };
        (config, changes)
    }

    /// The Gateway that it was made from.
    pub(crate) fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
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

    /// All clusters, by name.
    pub(crate) fn clusters(&self) -> &Clusters {
        &self.clusters
    }

    fn made_from(&self) -> Previous<'_> {
        Previous {
            gateway: &self.gateway,
            answers: &self.answers,
            clusters: &self.clusters,
        }
    }

    /// Whether this was made from the same description of a listener.
    fn describes(&self, listener: &model::Listener, gateway: &Arc<Gateway>) -> bool {
        if Arc::ptr_eq(&self.gateway.listeners, &gateway.listeners) {
            return true;
        }
        let mut listeners = self.gateway.listeners.iter();
        let same_port = listeners.find(|other| other.port == listener.port);
        same_port == Some(listener)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{http_listener::RouteState, *};
    use crate::fixture::{cluster, gateway, http_listener, prefix_route, tcp_listener};
    use nodegate_model::gateway::Balancing;

    fn config_of(gateway: Gateway, previous: &Config) -> Config {
        Config::new(&Arc::new(gateway), &Arc::default(), previous).0
    }

    /// The clusters of the next `count` turns of the first route of the port.
    fn turns(config: &Config, port: u16, count: usize) -> Vec<String> {
        let listener = config.listener(port).unwrap();
        let target = match &listener.protocol {
            Protocol::Http(http) => &http.routes().next().unwrap().2.target,
            Protocol::Tcp(tcp) => &tcp.target,
            Protocol::Tls(_) => panic!("made in the clear"),
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
        let mut config = config_of(make(&["10.0.0.1:80"]), &Config::default());
        let (mut http, mut tcp) = (Vec::new(), Vec::new());
        for round in 0..10 {
            http.extend(turns(&config, 80, 10));
            tcp.extend(turns(&config, 31400, 1));
            let endpoints = ["10.0.0.1:80", "10.0.0.2:80"];
            config = config_of(make(&endpoints[..=round % 2]), &config);
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
            config = config_of(make(), &config);
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
            gateway(
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
            _ => panic!("made as TCP"),
        };
        assert_eq!(choose(1), None);
        assert_eq!(choose(2), Some(false));
        assert!(config.listener(3).is_none());
        assert!(
            config
                .clusters()
                .iter()
                .all(|cluster| cluster.addresses().count() == 0)
        );
    }

    /// A Gateway with many routes, each to a cluster of its own, and more clusters.
    fn large(routes: usize, clusters: usize) -> Gateway {
        let name = |index: usize| format!("outbound|80||service-{index}.default.svc.cluster.local");
        let address = |index: usize| std::net::Ipv4Addr::from_bits(0x0a00_0000 + index as u32);
        let clusters = (0..clusters)
            .map(|index| cluster(&name(index), &[&format!("{}:80", address(index))]))
            .collect();
        let routes = (0..routes)
            .map(|index| prefix_route(&format!("/{index}/"), &[(&name(index), 1)]))
            .collect();
        let listeners = vec![
            http_listener(80, &["*"], routes),
            tcp_listener(31400, &[(&name(0), 1)]),
        ];
        gateway(listeners, clusters)
    }

    /// The Gateway that comes after one in which a cluster has got another endpoint. What stays the same is
    /// shared.
    fn with_endpoint(before: &Gateway, name: &str) -> Gateway {
        let mut clusters = before.clusters.clone();
        clusters.insert(name.to_owned(), Arc::new(cluster(name, &["10.9.9.9:80"])));
        Gateway {
            listeners: before.listeners.clone(),
            clusters,
        }
    }

    fn http(config: &Config) -> &HttpListener {
        match &config.listener(80).unwrap().protocol {
            Protocol::Http(http) => http,
            _ => panic!("made as HTTP"),
        }
    }

    /// How many of the things that a configuration consists of are not shared with another one: clusters,
    /// routes, tables, TCP listeners.
    fn made_anew(next: &Config, previous: &Config) -> [usize; 4] {
        let old: HashSet<_> = previous.clusters().iter().map(Arc::as_ptr).collect();
        let clusters = next.clusters().iter().map(Arc::as_ptr);
        let states = |config| -> Vec<*const RouteState> {
            http(config)
                .routes()
                .map(|route| std::ptr::from_ref(route.2))
                .collect()
        };
        let routes = states(next).into_iter().zip(states(previous));
        let table = !Arc::ptr_eq(&http(next).table, &http(previous).table);
        let tcp = [next, previous].map(|config| config.listener(31400).unwrap());
        [
            clusters.filter(|cluster| !old.contains(cluster)).count(),
            routes.filter(|(new, old)| new != old).count(),
            usize::from(table),
            usize::from(!Arc::ptr_eq(tcp[0], tcp[1])),
        ]
    }

    #[test]
    fn one_endpoint_costs_one_cluster_and_its_routes() {
        let gateway = Arc::new(large(10_000, 30_000));
        let (first, changes) = Config::new(&gateway, &Arc::default(), &Config::default());
        let mut endpoints = Endpoints::default();
        assert!(endpoints.update(&changes).is_empty());
        assert_eq!(
            made_anew(&first, &Config::new(&gateway, &Arc::default(), &first).0),
            [0; 4]
        );

        let name = gateway.clusters.keys().nth(777).unwrap();
        let leads_there = http(&first).routes().filter(|(_, route, _)| {
            let mut destinations = route.destinations().iter();
            destinations.any(|destination| destination.cluster == *name)
        });
        let routes = leads_there.count();
        let next = Arc::new(with_endpoint(&gateway, name));
        let begin = std::time::Instant::now();
        let (second, changes) = Config::new(&next, &Arc::default(), &first);
        let gone = endpoints.update(&changes);
        println!("applied in {:?}", begin.elapsed());
        assert_eq!(made_anew(&second, &first), [1, routes, 0, 0]);
        assert_eq!(gone.len(), 1);
        let led = second
            .clusters()
            .iter()
            .find(|cluster| cluster.model.name == *name);
        assert_eq!(
            led.unwrap().addresses().next().unwrap().to_string(),
            "10.9.9.9:80"
        );
        for (_, route, state) in http(&second).routes() {
            if route.destinations()[0].cluster == *name {
                assert!(Arc::ptr_eq(
                    state.target.chosen(0).cluster.unwrap(),
                    led.unwrap()
                ));
            }
        }
    }

    #[test]
    fn clusters_that_say_the_same_are_shared_although_they_are_others() {
        let (first, _) = Config::new(
            &Arc::new(large(10, 30)),
            &Arc::default(),
            &Config::default(),
        );
        let (second, _) = Config::new(&Arc::new(large(10, 30)), &Arc::default(), &first);
        assert_eq!(made_anew(&second, &first), [0; 4]);
    }

    #[test]
    fn clusters_come_and_go_and_routes_hear_of_it() {
        let make = |clusters: &[&str]| {
            let clusters = clusters.iter().map(|name| cluster(name, &["10.0.0.1:80"]));
            let route = prefix_route("/", &[("b", 1)]);
            let listeners = vec![
                http_listener(80, &["*"], vec![route]),
                tcp_listener(31400, &[("a", 1)]),
            ];
            gateway(listeners, clusters.collect())
        };
        let mut endpoints = Endpoints::default();
        let mut config = Config::default();
        for (clusters, led, gone) in [
            (&["a", "c"][..], false, 0),
            (&["a", "b", "c"], true, 0),
            (&["b"], true, 0),
            (&["a", "c"], false, 0),
            (&[], false, 1),
        ] {
            let (next, changes) = Config::new(&Arc::new(make(clusters)), &Arc::default(), &config);
            assert_eq!(endpoints.update(&changes).len(), gone, "{clusters:?}");
            let chosen = http(&next)
                .routes()
                .next()
                .unwrap()
                .2
                .target
                .choose()
                .cluster;
            assert_eq!(chosen.is_some(), led, "{clusters:?}");
            let names: Vec<_> = next
                .clusters()
                .iter()
                .map(|one| one.model.name.as_str())
                .collect();
            assert_eq!(names, clusters);
            config = next;
        }
    }
}
