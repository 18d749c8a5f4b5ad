//! What routes do with requests.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderName, StatusCode};
use nodegate_model::gateway::{
    AbortStatus, Cluster, CorsPolicy, DirectResponse, Fault, FaultAbort, FaultDelay, HeaderAdd,
    HeaderChanges, HttpAction, HttpRoute, Mirror, Redirect, RetryOn, RetryPolicy, ValueMatch,
};
use nodegate_observe::{Record, RequestRecord, ResponseFlag, ResponseFlags, Subscription};
use nodegate_values::{format::Format, percentage::Percentage};
use patience::Stopwatch;
use tokio::time::{self, Instant};

use super::harness::{Endpoint, Fixture, Peer, free_port, header, ok, status, until};
use crate::fixture::{cluster, forward, gateway, http_listener, prefix_route};

/// A proxy with one route to one endpoint, and clusters that the route may name.
async fn proxy(
    endpoint: &Endpoint,
    others: Vec<Cluster>,
    change: impl FnOnce(&mut HttpRoute),
) -> (Fixture, u16) {
    let fixture = Fixture::new(1);
    let port = free_port();
    let mut route = prefix_route("/", &[("web", 1)]);
    change(&mut route);
    let mut clusters = others;
    clusters.push(cluster("web", &[&endpoint.address()]));
    fixture
        .apply(gateway(
            vec![http_listener(port, &["*"], vec![route])],
            clusters,
        ))
        .await;
    (fixture, port)
}

async fn record(records: &mut Subscription) -> RequestRecord {
    match &*records.recv().await {
        Record::Request(record) => (**record).clone(),
        Record::Connection(record) => panic!("{record}"),
    }
}

fn policy(attempts: u32, on: RetryOn) -> RetryPolicy {
    RetryPolicy {
        attempts,
        per_try_timeout: None,
        on,
        status_codes: Vec::new(),
        base_backoff: RetryPolicy::DEFAULT_BASE_BACKOFF,
        ignore_previous_hosts: true,
    }
}

fn changes(remove: &[&'static str], add: &[(&'static str, &str, bool)]) -> HeaderChanges {
    HeaderChanges {
        remove: remove
            .iter()
            .copied()
            .map(HeaderName::from_static)
            .collect(),
        add: add
            .iter()
            .map(|&(name, value, append)| HeaderAdd {
                name: HeaderName::from_static(name),
                value: Format::new(value).unwrap(),
                append,
            })
            .collect(),
    }
}

/// Answers with what it is told, in order, and then 200 with the request's body; counts requests.
async fn answering_in_turn(answers: &'static [&'static str]) -> (Endpoint, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let endpoint = Endpoint::new(move |_, mut peer| {
        let count = Arc::clone(&count);
        async move {
            while let Some(head) = peer.head().await {
                let length = header(&head, "content-length")
                    .unwrap_or("0")
                    .parse()
                    .unwrap();
                let body = peer.exactly(length).await;
                let attempt = header(&head, "x-envoy-attempt-count").unwrap_or_default();
                match answers.get(count.fetch_add(1, Ordering::SeqCst)) {
                    Some(&"silence") => {
                        let _ = peer.rest().await;
                        return;
                    }
                    Some(&"close") => return,
                    Some(answer) => peer.send(answer).await,
                    None => peer.send(ok(&format!("{attempt}:{body}"))).await,
                }
            }
        }
    })
    .await;
    (endpoint, requests)
}

const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn timeouts_count_from_the_end_of_the_request() {
    let (endpoint, _) = answering_in_turn(&["silence"]).await;
    let (fixture, port) = proxy(&endpoint, Vec::new(), |route| {
        forward(route).timeout = Some(Duration::from_millis(300));
    })
    .await;
    let mut records = fixture.proxy.tap().subscribe(4);
    let mut client = Peer::connect(port).await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx")
        .await;
    time::sleep(Duration::from_millis(400)).await;
    let started = Instant::now();
    client.send("y").await;
    let (head, body) = client.response().await;
    assert_eq!(status(&head), "HTTP/1.1 504 Gateway Timeout");
    assert_eq!(body, "upstream request timeout");
    let elapsed = started.elapsed();
    assert!(elapsed >= Duration::from_millis(295), "{elapsed:?}");
    let record = record(&mut records).await;
    assert_eq!(record.flags, ResponseFlag::UpstreamRequestTimeout.into());
    assert_eq!(record.details, "response_timeout");
}

#[tokio::test]
async fn timeouts_hold_for_the_response_s_body_too() {
    let endpoint = Endpoint::new(|_, mut peer| async move {
        let head = peer.head().await.unwrap();
        assert_eq!(
            header(&head, "x-envoy-expected-rq-timeout-ms"),
            Some("1000")
        );
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf ")
            .await;
        let _ = peer.rest().await;
    })
    .await;
    let (fixture, port) = proxy(&endpoint, Vec::new(), |route| {
        // Enough for the head on a busy machine.
        forward(route).timeout = Some(Duration::from_secs(1));
    })
    .await;
    let mut records = fixture.proxy.tap().subscribe(4);
    let mut client = Peer::connect(port).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(status(&client.head().await.unwrap()), "HTTP/1.1 200 OK");
    assert_eq!(client.until("never").await, None);
    let record = record(&mut records).await;
    assert_eq!(record.flags, ResponseFlag::UpstreamRequestTimeout.into());
}

#[tokio::test]
async fn every_try_has_its_time_and_all_of_them_end() {
    // Three tries of 200 ms and two pauses of at most 25 and 75 ms.
    let (endpoint, requests) = answering_in_turn(&["silence"; 9]).await;
    let (fixture, port) = proxy(&endpoint, Vec::new(), |route| {
        forward(route).retry = Some(RetryPolicy {
            per_try_timeout: Some(Duration::from_millis(200)),
            ..policy(2, RetryOn::SERVER_ERROR)
        });
    })
    .await;
    let mut records = fixture.proxy.tap().subscribe(4);
    let watch = Stopwatch::of_process();
    let (head, body) = Peer::connect(port).await.get("a", "/").await;
    let lap = watch.lap();
    assert_eq!(status(&head), "HTTP/1.1 504 Gateway Timeout");
    assert_eq!(body, "upstream request timeout");
    lap.within(Duration::from_millis(595)..Duration::from_millis(1500))
        .unwrap();
    until(|| requests.load(Ordering::SeqCst) == 3).await;
    let record = record(&mut records).await;
    assert_eq!(record.flags.to_string(), "UT,URX");
    assert_eq!(record.details, "upstream_per_try_timeout");
    assert_eq!(record.attempts, 3);
}

#[tokio::test]
async fn retries_send_the_body_again() {
    let (endpoint, _) = answering_in_turn(&[BUSY, "close"]).await;
    let (_fixture, port) = proxy(&endpoint, Vec::new(), |route| {
        forward(route).retry = Some(policy(2, RetryOn::SERVER_ERROR));
    })
    .await;
    let mut client = Peer::connect(port).await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbo")
        .await;
    time::sleep(Duration::from_millis(50)).await;
    client.send("dy").await;
    let (head, body) = client.response().await;
    assert_eq!(status(&head), "HTTP/1.1 200 OK");
    assert_eq!(body, "3:body");
}

#[tokio::test]
async fn one_request_s_retries_follow_each_other_under_a_limit_of_one() {
    let (endpoint, requests) = answering_in_turn(&[BUSY; 9]).await;
    let mut limited = cluster("limited", &[&endpoint.address()]);
    limited.policy.limits.max_retries = Some(1);
    let (fixture, port) = proxy(&endpoint, vec![limited], |route| {
        let forward = forward(route);
        forward.destinations[0].cluster = "limited".into();
        forward.retry = Some(policy(3, RetryOn::SERVER_ERROR));
    })
    .await;
    let mut records = fixture.proxy.tap().subscribe(4);
    let (head, _) = Peer::connect(port).await.get("a", "/").await;
    assert_eq!(status(&head), "HTTP/1.1 503 Service Unavailable");
    assert_eq!(requests.load(Ordering::SeqCst), 4);
    assert_eq!(record(&mut records).await.flags.to_string(), "URX");
}

#[tokio::test]
async fn every_try_has_all_headers_of_the_client() {
    const UNAVAILABLE: &str = "HTTP/1.1 200 OK\r\nGRPC-Status: 14\r\ncontent-length: 0\r\n\r\n";
    const HEADERS: &str = "Host: a\r\nAuthorization: Basic eDp5\r\nCookie: a=b\r\n";
    // With nothing configured, and without gRPC's content type.
    for (request, body) in [
        (format!("GET /x HTTP/1.1\r\n{HEADERS}\r\n"), 0),
        (
            format!("POST /x HTTP/1.1\r\n{HEADERS}Content-Length: 0\r\n\r\n"),
            0,
        ),
        (
            format!("POST /x HTTP/1.1\r\n{HEADERS}Content-Length: 3\r\n\r\nabc"),
            3,
        ),
        (
            format!("GET /x HTTP/1.1\r\n{HEADERS}TE: trailers\r\n\r\n"),
            0,
        ),
        (
            format!("GET /x HTTP/1.1\r\n{HEADERS}Connection: close\r\n\r\n"),
            0,
        ),
    ] {
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        let endpoint = Endpoint::new(move |_, mut peer| {
            let seen = Arc::clone(&seen);
            async move {
                while let Some(head) = peer.head().await {
                    peer.exactly(body).await;
                    seen.lock().unwrap().push(head);
                    peer.send(UNAVAILABLE).await;
                }
            }
        })
        .await;
        let (_fixture, port) = proxy(&endpoint, Vec::new(), |route| {
            forward(route).retry = Some(RetryPolicy::default());
        })
        .await;
        let mut client = Peer::connect(port).await;
        client.send(&request).await;
        assert_eq!(
            header(&client.response().await.0, "grpc-status"),
            Some("14")
        );
        let heads = heads.lock().unwrap();
        assert_eq!(heads.len(), 3, "{request}");
        for head in heads.iter() {
            for (name, value) in [
                ("host", "a"),
                ("authorization", "Basic eDp5"),
                ("cookie", "a=b"),
            ] {
                assert_eq!(header(head, name), Some(value), "{request}: {head}");
            }
        }
    }
}

#[tokio::test]
async fn every_try_says_the_same_of_the_body_s_length() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    let endpoint = Endpoint::new(move |_, mut peer| {
        let seen = Arc::clone(&seen);
        async move {
            while let Some(head) = peer.head().await {
                assert_eq!(
                    peer.until("0\r\n\r\n").await.unwrap(),
                    "4\r\nbody\r\n0\r\n\r\n"
                );
                seen.lock().unwrap().push(head);
                peer.send(BUSY).await;
            }
        }
    })
    .await;
    let (_fixture, port) = proxy(&endpoint, Vec::new(), |route| {
        forward(route).retry = Some(policy(1, RetryOn::SERVER_ERROR));
    })
    .await;
    let mut client = Peer::connect(port).await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n")
        .await;
    client.response().await;
    let heads = heads.lock().unwrap();
    assert_eq!(heads.len(), 2);
    for head in heads.iter() {
        assert_eq!(header(head, "transfer-encoding"), Some("chunked"));
        assert_eq!(header(head, "content-length"), None);
    }
}

#[tokio::test]
async fn what_is_too_large_to_keep_is_sent_once() {
    let (endpoint, requests) = answering_in_turn(&[BUSY]).await;
    let (_fixture, port) = proxy(&endpoint, Vec::new(), |route| {
        forward(route).retry = Some(policy(2, RetryOn::SERVER_ERROR));
    })
    .await;
    let length = (1 << 20) + 1;
    let mut client = Peer::connect(port).await;
    client
        .send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{}",
            "x".repeat(length)
        ))
        .await;
    let (head, _) = client.response().await;
    assert_eq!(status(&head), "HTTP/1.1 503 Service Unavailable");
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn other_endpoints_are_tried() {
    let endpoint = Endpoint::answering("hi").await;
    let dead = format!("127.0.0.1:{}", free_port());
    let both = cluster("both", &[&dead, &endpoint.address()]);
    let (_fixture, port) = proxy(&endpoint, vec![both], |route| {
        let forward = forward(route);
        forward.destinations[0].cluster = "both".into();
        forward.retry = Some(policy(2, RetryOn::CONNECT_FAILURE));
    })
    .await;
    let mut client = Peer::connect(port).await;
    for _ in 0..10 {
        let (head, _) = client.get("a", "/").await;
        assert_eq!(status(&head), "HTTP/1.1 200 OK");
    }
}

#[tokio::test]
async fn server_errors_are_not_retried_unless_asked_for() {
    let (endpoint, requests) = answering_in_turn(&[BUSY]).await;
    let (_fixture, port) = proxy(&endpoint, Vec::new(), |route| {
        forward(route).retry = Some(policy(2, RetryOn::CONNECT_FAILURE));
    })
    .await;
    let (head, _) = Peer::connect(port).await.get("a", "/").await;
    assert_eq!(status(&head), "HTTP/1.1 503 Service Unavailable");
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn redirects_and_direct_responses() {
    let endpoint = Endpoint::answering("hi").await;
    let (_fixture, port) = proxy(&endpoint, Vec::new(), |route| {
        route.action = HttpAction::Redirect(Redirect {
            status: 308,
            scheme: Some("https".into()),
            authority: None,
            port: None,
            path: Some("/new".into()),
            prefix: None,
        });
        route.headers.response = changes(&[], &[("x-mine", "1", false)]);
    })
    .await;
    let (head, body) = Peer::connect(port)
        .await
        .get("a.example:80", "/x?y=1")
        .await;
    assert_eq!(status(&head), "HTTP/1.1 308 Permanent Redirect");
    assert_eq!(header(&head, "location"), Some("https://a.example/new?y=1"));
    assert_eq!(header(&head, "x-mine"), Some("1"));
    assert_eq!(body, "");

    let (_fixture, port) = proxy(&endpoint, Vec::new(), |route| {
        route.action = HttpAction::DirectResponse(DirectResponse {
            status: 418,
            body: b"teapot".to_vec(),
        });
    })
    .await;
    let (head, body) = Peer::connect(port).await.get("a", "/").await;
    assert_eq!(status(&head), "HTTP/1.1 418 I'm a teapot");
    assert_eq!(header(&head, "content-type"), Some("text/plain"));
    assert_eq!(body, "teapot");
    assert_eq!(endpoint.connections(), 0);
}

#[tokio::test]
async fn direct_responses_are_what_their_headers_say() {
    let endpoint = Endpoint::answering("hi").await;
    let direct = async |status, change: HeaderChanges| {
        let (fixture, port) = proxy(&endpoint, Vec::new(), |route| {
            route.action = HttpAction::DirectResponse(DirectResponse {
                status,
                body: b"{}".to_vec(),
            });
            route.headers.response = change.clone();
        })
        .await;
        let mut records = fixture.proxy.tap().subscribe(1);
        let mut client = Peer::connect(port).await;
        client.send("GET /x?y HTTP/1.1\r\nHost: a:81\r\n\r\n").await;
        let head = client.head().await.unwrap();
        let record = record(&mut records).await;
        assert_eq!(
            (record.status, record.flags),
            (status, ResponseFlags::default())
        );
        head
    };
    // Who adds a type finds none there, and who removes one has nothing to remove (Envoy:
    // Utility::prepareLocalReply changes the headers before it looks for a type).
    for append in [true, false] {
        let head = direct(
            200,
            changes(&[], &[("content-type", "application/json", append)]),
        )
        .await;
        assert_eq!(head.matches("content-type: ").count(), 1, "{head}");
        assert_eq!(header(&head, "content-type"), Some("application/json"));
    }
    let head = direct(200, changes(&["content-type"], &[])).await;
    assert_eq!(header(&head, "content-type"), Some("text/plain"));
    // Where it is what was asked for.
    for (status, wanted) in [
        (200, None),
        (201, Some("http://a:81/x?y")),
        (302, Some("http://a:81/x?y")),
    ] {
        let head = direct(status, changes(&[], &[])).await;
        assert_eq!(header(&head, "location"), wanted, "{status}");
    }
    let head = direct(302, changes(&[], &[("location", "/there", false)])).await;
    assert_eq!(header(&head, "location"), Some("/there"));
    // No body goes with these, and nobody has left.
    for status in [204, 304] {
        let head = direct(status, changes(&[], &[])).await;
        assert_eq!(header(&head, "content-length"), None);
    }
}

#[tokio::test]
async fn later_tries_are_told_what_time_is_left() {
    let (told, mut times) = tokio::sync::mpsc::unbounded_channel();
    let endpoint = Endpoint::new(move |_, mut peer| {
        let told = told.clone();
        async move {
            while let Some(head) = peer.head().await {
                let time = header(&head, "x-envoy-expected-rq-timeout-ms");
                told.send(time.unwrap().parse::<u64>().unwrap()).unwrap();
            }
        }
    })
    .await;
    // With and without something that looks at the headers.
    for add in [&[][..], &[("x-a", "1", false)]] {
        let (_fixture, port) = proxy(&endpoint, Vec::new(), |route| {
            let forward = forward(route);
            forward.timeout = Some(Duration::from_millis(1500));
            forward.retry = Some(RetryPolicy {
                per_try_timeout: Some(Duration::from_millis(600)),
                ..policy(2, RetryOn::SERVER_ERROR)
            });
            route.headers.request = changes(&[], add);
        })
        .await;
        let (head, _) = Peer::connect(port).await.get("a", "/").await;
        assert_eq!(status(&head), "HTTP/1.1 504 Gateway Timeout");
        assert_eq!(times.recv().await, Some(600));
        assert_eq!(times.recv().await, Some(600));
        // Two tries and two pauses have passed.
        let last = times.recv().await.unwrap();
        assert!((1..=300).contains(&last), "{last}");
    }
}

#[tokio::test]
async fn whole_hosts_may_require_tls() {
    let endpoint = Endpoint::answering("hi").await;
    let fixture = Fixture::new(1);
    let port = free_port();
    let mut listener = http_listener(port, &["a.example"], Vec::new());
    if let nodegate_model::gateway::ListenerProtocol::Http(routes) = &mut listener.protocol {
        routes.virtual_hosts[0].require_tls = true;
        routes.virtual_hosts[0].routes = vec![prefix_route("/", &[("web", 1)])];
    }
    let clusters = vec![cluster("web", &[&endpoint.address()])];
    fixture.apply(gateway(vec![listener], clusters)).await;
    let (head, _) = Peer::connect(port)
        .await
        .get("a.example:30001", "/x?y")
        .await;
    assert_eq!(status(&head), "HTTP/1.1 301 Moved Permanently");
    assert_eq!(
        header(&head, "location"),
        Some("https://a.example:30001/x?y")
    );
}

#[tokio::test]
async fn headers_change_in_envoy_s_order() {
    let endpoint = Endpoint::echoing_heads().await;
    let (_fixture, port) = proxy(&endpoint, vec![cluster("other", &[])], |route| {
        let forward = forward(route);
        forward.authority = Some("new.example".into());
        let destination = &mut forward.destinations[0];
        destination.authority = Some("ignored.example".into());
        destination.headers.request = changes(
            &[],
            &[
                ("x-both", "destination", false),
                ("x-host-before", "%REQ(:authority)%", false),
            ],
        );
        destination.headers.response = changes(&[], &[("x-both", "destination", true)]);
        route.headers.request = changes(
            &["x-gone"],
            &[
                ("x-both", "route", false),
                (
                    "x-client",
                    "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%: 100%%",
                    false,
                ),
                ("x-path", "%REQ(:path)%", false),
                ("x-host", "%REQ(:authority)%", false),
                ("x-none", "%REQ(x-nowhere)%", false),
                ("x-more", "2", true),
            ],
        );
        route.headers.response = changes(
            &["x-secret"],
            &[
                ("x-both", "route", true),
                ("x-asked", "%REQ(x-ask)%", false),
            ],
        );
    })
    .await;
    let mut client = Peer::connect(port).await;
    client
        .send("GET /p?q HTTP/1.1\r\nHost: a\r\nX-Gone: 1\r\nX-More: 1\r\nX-Ask: me\r\n\r\n")
        .await;
    let (head, seen) = client.response().await;
    for (name, wanted) in [
        ("host", Some("new.example")),
        // The destination's host is put in before the route's changes, and the route's after them.
        ("x-host-before", Some("a")),
        ("x-host", Some("ignored.example")),
        ("x-both", Some("route")),
        ("x-client", Some("127.0.0.1: 100%")),
        ("x-path", Some("/p?q")),
        ("x-none", None),
        ("x-gone", None),
    ] {
        assert_eq!(header(&seen, name), wanted, "{name}");
    }
    assert_eq!(seen.matches("x-more: ").count(), 2, "{seen}");
    assert!(
        head.contains("x-both: destination\r\nx-both: route\r\n"),
        "{head}"
    );
    assert_eq!(header(&head, "x-asked"), Some("me"));
}

/// What a route does to an answer of the gateway's own comes before gRPC's form of it, and of a cluster that does not exist
/// there is no name (Envoy: Utility::prepareLocalReply).
#[tokio::test]
async fn own_answers_are_changed_before_they_are_grpc_s() {
    let endpoint = Endpoint::answering("hi").await;
    for (to, name) in [("nowhere", None), ("empty", Some("empty;"))] {
        let clusters = vec![cluster("empty", &[])];
        let (_fixture, port) = proxy(&endpoint, clusters, |route| {
            forward(route).destinations[0].cluster = to.into();
            route.headers.response = changes(
                &[],
                &[
                    ("x-kind", "%RESP(content-type)%", false),
                    ("x-status", "%GRPC_STATUS%", false),
                    ("x-cluster", "%UPSTREAM_CLUSTER%", false),
                    ("content-type", "mine", false),
                ],
            );
        })
        .await;
        let mut client = Peer::connect(port).await;
        client
            .send("GET / HTTP/1.1\r\nHost: a\r\ncontent-type: application/grpc\r\n\r\n")
            .await;
        let head = client.head().await.unwrap();
        for (name, wanted) in [
            ("content-type", Some("application/grpc")),
            ("grpc-status", Some("14")),
            ("x-kind", None),
            ("x-status", None),
            ("x-cluster", name),
        ] {
            assert_eq!(header(&head, name), wanted, "{to}: {name}");
        }
    }
}

#[tokio::test]
async fn faults_are_injected() {
    let endpoint = Endpoint::answering("hi").await;
    let fault = |percent, status| Fault {
        delay: Some(FaultDelay {
            percentage: Percentage::ALL,
            duration: Duration::from_millis(150),
        }),
        abort: Some(FaultAbort {
            percentage: Percentage::of_percent(percent).unwrap(),
            status,
        }),
    };
    for (percent, abort, wanted, flags, body) in [
        (
            100.0,
            AbortStatus::Http(418),
            418,
            "DI,FI",
            "fault filter abort",
        ),
        (
            100.0,
            AbortStatus::Grpc(14),
            200,
            "DI,FI",
            "fault filter abort",
        ),
        (0.0, AbortStatus::Http(418), 200, "DI", "hi"),
    ] {
        let (fixture, port) = proxy(&endpoint, Vec::new(), |route| {
            route.fault = Some(fault(percent, abort));
            // Doesn't apply.
            forward(route).timeout = Some(Duration::from_millis(1));
        })
        .await;
        let mut records = fixture.proxy.tap().subscribe(4);
        let started = Instant::now();
        let (head, answer) = Peer::connect(port).await.get("a", "/").await;
        assert!(started.elapsed() >= Duration::from_millis(145));
        let status_code = StatusCode::from_u16(wanted).unwrap();
        assert_eq!(&status(&head)[9..12], status_code.as_str());
        assert_eq!(answer, body);
        assert_eq!(record(&mut records).await.flags.to_string(), flags);
    }
}

#[tokio::test]
async fn origins_are_told_what_they_may() {
    let endpoint = Endpoint::echoing_heads().await;
    for forwarded in [true, false] {
        let (_fixture, port) = proxy(&endpoint, Vec::new(), |route| {
            route.cors = Some(CorsPolicy {
                allow_origins: vec![ValueMatch::Exact("https://good.example".into())],
                allow_methods: "GET,POST".into(),
                allow_headers: "x-a".into(),
                expose_headers: "x-b".into(),
                max_age: Some(60),
                allow_credentials: true,
                forward_unmatched_preflights: forwarded,
            });
        })
        .await;
        let mut client = Peer::connect(port).await;
        let mut ask = async |method: &str, origin: &str| {
            client
                .send(format!(
                    "{method} / HTTP/1.1\r\nHost: a\r\nOrigin: https://{origin}\r\n\
                     Access-Control-Request-Method: POST\r\n\
                     Content-Type: application/grpc\r\n\r\n"
                ))
                .await;
            client.response().await
        };
        let (head, body) = ask("OPTIONS", "good.example").await;
        assert_eq!((status(&head), body.as_str()), ("HTTP/1.1 200 OK", ""));
        assert_eq!(header(&head, "grpc-status"), None);
        for (name, wanted) in [
            ("access-control-allow-origin", "https://good.example"),
            ("access-control-allow-methods", "GET,POST"),
            ("access-control-allow-headers", "x-a"),
            ("access-control-max-age", "60"),
            ("access-control-allow-credentials", "true"),
        ] {
            assert_eq!(header(&head, name), Some(wanted), "{name}");
        }
        let (head, _) = ask("GET", "good.example").await;
        assert_eq!(header(&head, "access-control-expose-headers"), Some("x-b"));
        assert_eq!(
            header(&head, "access-control-allow-origin"),
            Some("https://good.example")
        );
        let (head, body) = ask("OPTIONS", "bad.example").await;
        assert_eq!(header(&head, "access-control-allow-origin"), None);
        assert_eq!(body.starts_with("OPTIONS"), forwarded);
    }
}

#[tokio::test]
async fn mirrors_get_copies_with_bodies() {
    let endpoint = Endpoint::answering("hi").await;
    let copies = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&copies);
    let mirror = Endpoint::new(move |_, mut peer| {
        let seen = Arc::clone(&seen);
        async move {
            while let Some(head) = peer.head().await {
                let length = header(&head, "content-length");
                let body = peer.exactly(length.map_or(0, |text| text.parse().unwrap()));
                let line = format!("{} {length:?} {}", status(&head), body.await);
                seen.lock().unwrap().push(line);
                // What it says is of no interest.
                peer.send(BUSY).await;
            }
        }
    })
    .await;
    let (_fixture, port) = proxy(
        &endpoint,
        vec![cluster("mirror", &[&mirror.address()])],
        |route| {
            let everything = |cluster: &str| Mirror {
                cluster: cluster.into(),
                percentage: Percentage::ALL,
            };
            forward(route).mirrors = vec![everything("mirror"), everything("nowhere")];
        },
    )
    .await;
    let mut client = Peer::connect(port).await;
    client
        .send("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")
        .await;
    // The endpoint answers before it has read the body, which goes through all the same.
    assert_eq!(client.response().await.1, "hi");
    assert_eq!(Peer::connect(port).await.get("a", "/b").await.1, "hi");
    let mut client = Peer::connect(port).await;
    client
        .send("POST /c HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        .await;
    assert_eq!(client.response().await.1, "hi");
    until(|| copies.lock().unwrap().len() == 3).await;
    let mut copies = copies.lock().unwrap().clone();
    copies.sort();
    assert_eq!(
        copies,
        [
            "GET /b HTTP/1.1 None ",
            "POST /a HTTP/1.1 Some(\"4\") body",
            "POST /c HTTP/1.1 Some(\"0\") ",
        ]
    );
}
