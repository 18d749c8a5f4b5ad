use std::sync::Arc;

use super::*;
use nodegate_model::gateway::{
    AbortStatus, Cluster, Destination, FaultAbort, Forward, HeaderMatch, HttpRoute, Listener,
    MatchedHeader, PathMatch, QueryMatch, Redirect, RouteMatch, TcpRoute, ValueMatch, VirtualHost,
};
use nodegate_values::percentage::Percentage;

fn origin(index: usize) -> RouteOrigin {
    RouteOrigin::virtual_service("default", "web", index)
}

fn to(cluster: &str, weight: u32) -> Destination {
    Destination::new(cluster, weight)
}

fn cluster(name: &str, endpoints: &[&str]) -> (String, Arc<Cluster>) {
    let endpoints = endpoints.iter().map(|text| text.parse().unwrap());
    (name.to_owned(), Arc::new(Cluster::new(name, endpoints)))
}

const V1: &str = "outbound|80|v1|web.default.svc.cluster.local";
const V2: &str = "outbound|80|v2|web.default.svc.cluster.local";

fn gateway(protocol: ListenerProtocol, clusters: Vec<(String, Arc<Cluster>)>) -> Gateway {
    Gateway {
        listeners: Arc::new([Listener {
            port: 8080,
            protocol,
        }]),
        clusters: clusters.into_iter().collect(),
    }
}

fn explained(gateway: &Gateway, port: u16, request: Option<&Request>) -> Option<Routed> {
    let known = Known {
        gateway,
        resources: &Resources::default(),
        services: &[],
        identity: &GatewayIdentity::default(),
    };
    route(&known, port, request)
}

fn request(host: &str) -> Request {
    Request {
        method: "GET".into(),
        host: host.into(),
        path: "/".into(),
        headers: Vec::new(),
        tls: None,
    }
}

fn http(domains: &[&[&str]]) -> ListenerProtocol {
    let virtual_host = |domains: &&[&str]| VirtualHost {
        name: format!("{}:80", domains[0]),
        domains: domains.iter().map(ToString::to_string).collect(),
        routes: vec![HttpRoute {
            name: String::new(),
            origin: origin(0),
            matches: RouteMatch::path(PathMatch::Prefix("/".into())),
            action: HttpAction::Forward(Box::new(Forward {
                destinations: vec![to(V1, 90), to(V2, 10)],
                ..Forward::default()
            })),
            headers: HeaderOperations::default(),
            fault: None,
            cors: None,
        }],
        require_tls: false,
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
    assert_eq!((status, flag), (503, Some(ResponseFlag::NoHealthyUpstream)));
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

/// Explains a request to a listener whose only virtual host has this route.
fn with_route(change: impl FnOnce(&mut HttpRoute), request: &Request) -> Routed {
    let ListenerProtocol::Http(mut routes) = http(&[&["*"]]) else {
        panic!("made as HTTP");
    };
    change(&mut routes.virtual_hosts[0].routes[0]);
    let endpoint = &["10.0.0.1:80"];
    let clusters = vec![cluster(V1, endpoint), cluster(V2, endpoint)];
    let gateway = gateway(ListenerProtocol::Http(routes), clusters);
    explained(&gateway, 8080, Some(request)).unwrap()
}

type Change = Box<dyn Fn(&mut RouteMatch)>;

#[test]
fn each_condition_says_what_it_wants_and_what_it_got() {
    let exact = |text: &str| ValueMatch::Exact(text.into());
    let user = |value, invert| HeaderMatch {
        name: MatchedHeader::Field(HeaderName::from_static("x-user")),
        value,
        invert,
    };
    let cases: Vec<(Change, &str, &str)> = vec![
        (
            Box::new(move |m| m.method = Some(exact("POST"))),
            "any path, method = POST",
            "the method is GET",
        ),
        (
            Box::new(move |m| m.headers.push(user(exact("jason"), false))),
            "any path, header x-user = jason",
            "header x-user is bob, carol",
        ),
        (
            Box::new(move |m| m.headers.push(user(ValueMatch::Present, true))),
            "any path, no header x-user",
            "header x-user is bob, carol",
        ),
        (
            Box::new(move |m| {
                m.query.push(QueryMatch {
                    name: "v".into(),
                    value: exact("2"),
                });
            }),
            "any path, query parameter v = 2",
            "query parameter v is 1",
        ),
        (
            Box::new(move |m| m.authority = Some(exact("other"))),
            "any path, authority = other",
            "the authority is any",
        ),
        (
            Box::new(move |m| {
                m.path = PathMatch::Exact("/B".into());
                m.ignore_case = true;
            }),
            "the path /B in any case",
            "/a is another",
        ),
    ];
    let asked = Request {
        path: "/a?v=1".into(),
        headers: ["bob", "carol"].map(|v| ("x-user".into(), v.into())).into(),
        ..request("any")
    };
    for (change, condition, misses) in cases {
        let routed = with_route(|route| change(&mut route.matches), &asked);
        let route = &routed.http.unwrap().routes[0];
        assert_eq!(route.condition, condition);
        assert_eq!(route.misses.as_deref(), Some(misses));
        assert!(route.nearest);
    }
}

#[test]
fn what_the_route_answers_itself_is_no_failure() {
    let redirect = Redirect {
        status: 308,
        scheme: Some("https".into()),
        authority: None,
        port: None,
        path: None,
        prefix: None,
    };
    let asked = Request {
        path: "/a/../b?q".into(),
        ..request("any:80")
    };
    let routed = with_route(
        |route| route.action = HttpAction::Redirect(redirect),
        &asked,
    );
    assert_eq!(
        routed.http.unwrap().normal_path.as_deref(),
        Some("/b?q"),
        "as it is matched"
    );
    let text = "http[0] of VirtualService default/web sends to https://any/b?q".to_owned();
    assert_eq!(routed.end, End::Answer { status: 308, text });
}

#[test]
fn failing_on_purpose_is_told_with_its_share() {
    let fault = nodegate_model::gateway::Fault {
        delay: None,
        abort: Some(FaultAbort {
            percentage: Percentage::of_percent(25.0).unwrap(),
            status: AbortStatus::Http(418),
        }),
    };
    let routed = with_route(|route| route.fault = Some(fault), &request("any"));
    let End::Status {
        status,
        flag,
        share,
        ..
    } = routed.end
    else {
        panic!("{:?}", routed.end);
    };
    assert_eq!((status, flag), (418, Some(ResponseFlag::FaultInjected)));
    assert!((share - 0.25).abs() < 1e-9);
}

#[test]
fn a_request_that_cannot_be_is_refused() {
    let asked = Request {
        path: "/%00".into(),
        ..request("any")
    };
    let routed = with_route(|_| {}, &asked);
    assert!(
        matches!(
            routed.end,
            End::Status {
                status: 400,
                flag: None,
                ..
            }
        ),
        "{:?}",
        routed.end
    );
}
