use std::{collections::BTreeMap, sync::Arc};

use super::*;
use crate::model::gateway::{Cluster, HttpRoute, Listener, PathMatch, TcpRoute, VirtualHost};

fn origin(index: usize) -> RouteOrigin {
    RouteOrigin {
        namespace: "default".into(),
        name: "web".into(),
        index,
    }
}

fn to(cluster: &str, weight: u32) -> Destination {
    Destination {
        cluster: cluster.into(),
        weight,
    }
}

fn cluster(name: &str, endpoints: &[&str]) -> (String, Arc<Cluster>) {
    let endpoints = endpoints.iter().map(|text| text.parse().unwrap());
    let cluster = Cluster {
        name: name.to_owned(),
        endpoints: endpoints.collect(),
    };
    (name.to_owned(), Arc::new(cluster))
}

const V1: &str = "outbound|80|v1|web.default.svc.cluster.local";
const V2: &str = "outbound|80|v2|web.default.svc.cluster.local";

fn gateway(protocol: ListenerProtocol, clusters: Vec<(String, Arc<Cluster>)>) -> Gateway {
    Gateway {
        listeners: vec![Listener {
            port: 8080,
            protocol,
        }],
        clusters: BTreeMap::from_iter(clusters),
    }
}

fn explained(gateway: &Gateway, port: u16, request: Option<&Request>) -> Option<Routed> {
    let known = Known {
        gateway,
        resources: &Resources::default(),
        services: &[],
    };
    route(&known, port, request)
}

fn request(host: &str) -> Request {
    Request {
        method: "GET".into(),
        host: host.into(),
        path: "/".into(),
        headers: Vec::new(),
    }
}

fn http(domains: &[&[&str]]) -> ListenerProtocol {
    let virtual_host = |domains: &&[&str]| VirtualHost {
        name: format!("{}:80", domains[0]),
        domains: domains.iter().map(ToString::to_string).collect(),
        routes: vec![HttpRoute {
            name: String::new(),
            origin: origin(0),
            path: PathMatch::Prefix("/".into()),
            rewrite: None,
            destinations: vec![to(V1, 90), to(V2, 10)],
        }],
    };
    ListenerProtocol::Http(HttpRoutes {
        name: "http.8080".into(),
        virtual_hosts: domains.iter().map(virtual_host).collect(),
    })
}

#[test]
fn part_of_the_traffic_may_fail() {
    let protocol = http(&[&["*"]]);
    let gateway = gateway(
        protocol,
        vec![cluster(V1, &["10.0.0.1:80"]), cluster(V2, &[])],
    );
    let routed = explained(&gateway, 8080, Some(&request("any"))).unwrap();
    let shares: Vec<_> = routed
        .destinations
        .iter()
        .map(|share| share.share)
        .collect();
    assert_eq!(shares, [0.9, 0.1]);
    let End::Status {
        status,
        flag,
        share,
        ..
    } = routed.end
    else {
        panic!("{:?}", routed.end);
    };
    assert_eq!((status, flag), (503, ResponseFlag::NoHealthyUpstream));
    assert!((share - 0.1).abs() < 1e-9);
}

#[test]
fn the_virtual_host_is_chosen_by_its_longest_domain() {
    let protocol = http(&[&["*"], &["*.example", "a.example"], &["*.b.example"]]);
    let endpoint = &["10.0.0.1:80"];
    let gateway = gateway(protocol, vec![cluster(V1, endpoint), cluster(V2, endpoint)]);
    for (host, name, domain, why) in [
        (
            "A.example:80",
            "*.example:80",
            "a.example",
            "`A.example:80` is its domain a.example",
        ),
        (
            "x.b.example",
            "*.b.example:80",
            "*.b.example",
            "`x.b.example` is in its domain *.b.example, and in no longer one",
        ),
        ("other", "*:80", "*", "no other is for `other`"),
    ] {
        let routed = explained(&gateway, 8080, Some(&request(host))).unwrap();
        assert!(matches!(routed.end, End::Endpoint));
        let found = routed.http.unwrap().virtual_host.unwrap();
        assert_eq!(
            (&*found.name, &*found.domain, &*found.why),
            (name, domain, why)
        );
    }
}

#[test]
fn connections_of_a_tcp_listener_go_to_clusters() {
    let protocol = || {
        ListenerProtocol::Tcp(TcpRoute {
            origin: origin(0),
            destinations: vec![to(V1, 80), to(V2, 20)],
        })
    };
    let endpoint = &["10.0.0.1:9000"];
    let good = gateway(
        protocol(),
        vec![cluster(V1, endpoint), cluster(V2, endpoint)],
    );
    let routed = explained(&good, 8080, None).unwrap();
    assert!(matches!(routed.end, End::Endpoint));
    assert_eq!(routed.destinations.len(), 2);
    let bad = gateway(protocol(), vec![cluster(V1, endpoint)]);
    let routed = explained(&bad, 8080, None).unwrap();
    let End::Closed { flag, share, .. } = routed.end else {
        panic!("{:?}", routed.end);
    };
    assert_eq!(flag, ResponseFlag::NoCluster);
    assert!((share - 0.2).abs() < 1e-9);
    assert!(explained(&good, 9090, None).is_none());
}
