use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::{io::AsyncWriteExt as _, sync::Notify, time};

use super::harness::{Endpoint, Fixture, Peer, free_port, header, ok, status};
use crate::{
    model::gateway::{Gateway, PathMatch},
    observe::{Record, ResponseFlag, ResponseFlags},
    proxy::{
        Options,
        fixture::{cluster, gateway, http_listener, prefix_route, rewrite_to},
    },
};

/// All paths of all hosts to one cluster with one endpoint.
fn simple(port: u16, endpoint: &Endpoint) -> Gateway {
    gateway(
        vec![http_listener(
            port,
            &["*"],
            vec![prefix_route("/", &[("web", 1)])],
        )],
        vec![cluster("web", &[&endpoint.address()])],
    )
}

/// A proxy with one worker in front of the endpoint.
pub(super) async fn proxy_to(endpoint: &Endpoint) -> (Fixture, u16) {
    let fixture = Fixture::new(1);
    let port = free_port();
    fixture.apply(simple(port, endpoint)).await;
    (fixture, port)
}

/// The bytes of a response but for `date`, which changes.
fn without_date(head: &str) -> String {
    head.split_inclusive("\r\n")
        .filter(|line| !line.starts_with("date: "))
        .collect()
}

#[tokio::test]
async fn requests_share_one_connection_to_the_endpoint() {
    let endpoint = Endpoint::answering("hi").await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = Peer::connect(port).await;
    for _ in 0..5 {
        let (head, body) = client.get("a.example", "/").await;
        assert_eq!(status(&head), "HTTP/1.1 200 OK");
        assert_eq!(body, "hi");
    }
    // Another client gets the idle connection too.
    Peer::connect(port).await.get("b.example", "/").await;
    assert_eq!(endpoint.connections(), 1);
}

#[tokio::test]
async fn headers_on_the_way_there() {
    let endpoint = Endpoint::echoing_heads().await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = Peer::connect(port).await;
    client
        .send(
            "GET /x?a=1 HTTP/1.1\r\nHost: A.Example:31373\r\nX-Forwarded-For: 1.1.1.1\r\n\
             X-Forwarded-Proto: https\r\nX-Request-Id: mine\r\nX-Envoy-Original-Path: /fake\r\n\
             X-Envoy-Max-Retries: 9\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\
             Keep-Alive: timeout=5\r\nUpgrade: h2c\r\nTE: trailers\r\nX-Kept: 1\r\n\r\n",
        )
        .await;
    let (_, seen) = client.response().await;
    assert_eq!(status(&seen), "GET /x?a=1 HTTP/1.1");
    for (name, value) in [
        ("host", Some("A.Example:31373")),
        ("x-forwarded-for", Some("1.1.1.1,127.0.0.1")),
        ("x-forwarded-proto", Some("http")),
        ("x-envoy-attempt-count", Some("1")),
        ("x-envoy-external-address", Some("127.0.0.1")),
        ("x-kept", Some("1")),
        ("x-envoy-original-path", None),
        ("x-envoy-max-retries", None),
        ("x-hop", None),
        ("connection", None),
        ("keep-alive", None),
        ("upgrade", None),
        ("te", None),
    ] {
        assert_eq!(header(&seen, name), value, "{name}");
    }
    let id = header(&seen, "x-request-id").unwrap();
    assert_eq!(id.len(), 36);
}

#[tokio::test]
async fn clients_of_both_families_are_named_properly() {
    let endpoint = Endpoint::echoing_heads().await;
    let fixture = Fixture::with_options(Options::default());
    let port = free_port();
    fixture.apply(simple(port, &endpoint)).await;
    for address in ["127.0.0.1", "::1"] {
        let ip: IpAddr = address.parse().unwrap();
        // Not every machine has IPv6.
        if ip.is_ipv6() && std::net::TcpListener::bind((ip, 0)).is_err() {
            continue;
        }
        let mut client = Peer::connect_to((ip, port).into()).await.unwrap();
        let (_, seen) = client.get("a", "/").await;
        assert_eq!(header(&seen, "x-forwarded-for"), Some(address));
    }
}

#[tokio::test]
async fn half_closed_clients_get_their_answer() {
    let endpoint = Endpoint::answering("hi").await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = Peer::connect(port).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.shutdown().await;
    assert_eq!(client.response().await.1, "hi");
    assert_eq!(client.rest().await.unwrap(), "");
}

#[tokio::test]
async fn large_heads_are_refused() {
    let endpoint = Endpoint::answering("hi").await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    for (size, wanted) in [
        (50 << 10, "HTTP/1.1 200 OK"),
        (61 << 10, "HTTP/1.1 431 Request Header Fields Too Large"),
    ] {
        let mut client = Peer::connect(port).await;
        let filler = "x".repeat(size);
        client
            .send(format!(
                "GET / HTTP/1.1\r\nHost: a\r\nX-Filler: {filler}\r\n\r\n"
            ))
            .await;
        assert_eq!(status(&client.head().await.unwrap()), wanted);
    }
}

#[tokio::test]
async fn bodies_with_conflicting_lengths_do_not_reach_the_endpoint_twice() {
    // Request smuggling: whoever believes content-length sees a second request.
    let endpoint = Endpoint::echoing_heads().await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = Peer::connect(port).await;
    client
        .send(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
             0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .await;
    let all = client.rest().await.unwrap();
    assert!(!all.contains("GET /smuggled"), "{all}");
    assert_eq!(
        header(&all, "Content-Length"),
        header(&all, "content-length")
    );
}

#[tokio::test]
async fn headers_on_the_way_back() {
    let endpoint = Endpoint::new(|_, mut peer| async move {
        while peer.head().await.is_some() {
            peer.send(
                "HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 1\r\nX-Mine: A\r\n\
                 Keep-Alive: timeout=5\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\
                 X-Envoy-Upstream-Service-Time: 999999\r\n\r\nx",
            )
            .await;
        }
    })
    .await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let (head, _) = Peer::connect(port).await.get("a", "/").await;
    assert!(head.contains("\r\nserver: istio-envoy\r\n"), "{head}");
    assert!(head.contains("\r\nx-mine: A\r\n"), "{head}");
    assert_eq!(header(&head, "date"), Some("Thu, 01 Jan 1970 00:00:00 GMT"));
    assert_eq!(header(&head, "keep-alive"), None);
    let time: u64 = header(&head, "x-envoy-upstream-service-time")
        .unwrap()
        .parse()
        .unwrap();
    assert!(time < 10_000);
}

#[tokio::test]
async fn own_answers_byte_for_byte() {
    let fixture = Fixture::new(1);
    let port = free_port();
    let dead = free_port();
    fixture
        .apply(gateway(
            vec![http_listener(
                port,
                &["a.example"],
                vec![
                    prefix_route("/unknown", &[("nowhere", 1)]),
                    prefix_route("/empty", &[("empty", 1)]),
                    prefix_route("/dead", &[("dead", 1)]),
                ],
            )],
            vec![
                cluster("empty", &[]),
                cluster("dead", &[&format!("127.0.0.1:{dead}")]),
            ],
        ))
        .await;
    let not_found = "HTTP/1.1 404 Not Found\r\nserver: istio-envoy\r\ncontent-length: 0\r\n\r\n";
    let unavailable = "HTTP/1.1 503 Service Unavailable\r\n";
    let refused = "upstream connect error or disconnect/reset before headers. reset reason: remote \
                   connection failure, transport failure reason: delayed connect error: Connection \
                   refused";
    let with_body = |body: &str| {
        format!(
            "{unavailable}content-type: text/plain\r\nserver: istio-envoy\r\ncontent-length: \
             {}\r\n\r\n{body}",
            body.len()
        )
    };
    let mut client = Peer::connect(port).await;
    for (host, target, wanted) in [
        ("b.example", "/dead", not_found.to_owned()),
        ("a.example:80", "/", not_found.to_owned()),
        (
            "a.example",
            "/unknown",
            format!("{unavailable}server: istio-envoy\r\ncontent-length: 0\r\n\r\n"),
        ),
        ("a.example", "/empty", with_body("no healthy upstream")),
        ("a.example", "/dead", with_body(refused)),
    ] {
        // All over one connection: none of these ends it.
        let (head, body) = client.get(host, target).await;
        assert_eq!(without_date(&head) + &body, wanted, "{host}{target}");
        assert!(header(&head, "date").is_some());
    }
}

#[tokio::test]
async fn requests_that_are_no_proper_http11() {
    let endpoint = Endpoint::answering("hi").await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    for (request, wanted) in [
        ("GET / HTTP/1.1\r\n\r\n", "400 Bad Request"),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "400 Bad Request",
        ),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", "426 Upgrade Required"),
        (
            "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
            "403 Forbidden",
        ),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "404 Not Found"),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "200 OK"),
    ] {
        let mut client = Peer::connect(port).await;
        client.send(request).await;
        let head = client.head().await.unwrap();
        assert_eq!(&status(&head)["HTTP/1.x ".len()..], wanted, "{request:?}");
    }
}

#[tokio::test]
async fn absolute_targets_become_paths() {
    let endpoint = Endpoint::echoing_heads().await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = Peer::connect(port).await;
    client
        .send("GET http://b.example:81/x?y HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    let (_, seen) = client.response().await;
    assert_eq!(status(&seen), "GET /x?y HTTP/1.1");
    assert_eq!(header(&seen, "host"), Some("b.example:81"));
}

#[tokio::test]
async fn rewrites_reach_the_endpoint() {
    let endpoint = Endpoint::echoing_heads().await;
    let fixture = Fixture::new(1);
    let port = free_port();
    let mut exact = prefix_route("/", &[("web", 1)]);
    exact.matches.path = PathMatch::Exact("/simple/httpserver".into());
    rewrite_to(&mut exact, "/hello");
    let mut prefix = prefix_route("/simple/nginx", &[("web", 1)]);
    rewrite_to(&mut prefix, "/");
    fixture
        .apply(gateway(
            vec![http_listener(
                port,
                &["simple.baihl.io"],
                vec![exact, prefix],
            )],
            vec![cluster("web", &[&endpoint.address()])],
        ))
        .await;
    let mut client = Peer::connect(port).await;
    for (target, wanted) in [
        ("/simple/httpserver?a=1", "/hello?a=1"),
        ("/simple/nginx", "/"),
        ("/simple/nginx/x", "//x"),
    ] {
        let (_, seen) = client.get("simple.baihl.io:31373", target).await;
        assert_eq!(status(&seen), format!("GET {wanted} HTTP/1.1"));
        assert_eq!(header(&seen, "x-envoy-original-path"), Some(target));
    }
}

#[tokio::test]
async fn responses_stream() {
    let go_on = Arc::new(Notify::new());
    let gate = Arc::clone(&go_on);
    let endpoint = Endpoint::new(move |_, mut peer| {
        let gate = Arc::clone(&gate);
        async move {
            peer.head().await;
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
                .await;
            gate.notified().await;
            peer.send("6\r\nsecond\r\n0\r\n\r\n").await;
        }
    })
    .await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = Peer::connect(port).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = client.head().await.unwrap();
    assert_eq!(header(&head, "transfer-encoding"), Some("chunked"));
    assert_eq!(client.until("first\r\n").await.unwrap(), "5\r\nfirst\r\n");
    go_on.notify_one();
    assert_eq!(
        client.until("0\r\n\r\n").await.unwrap(),
        "6\r\nsecond\r\n0\r\n\r\n"
    );
}

#[tokio::test]
async fn requests_stream() {
    let got_first = Arc::new(Notify::new());
    let signal = Arc::clone(&got_first);
    let endpoint = Endpoint::new(move |_, mut peer| {
        let signal = Arc::clone(&signal);
        async move {
            let head = peer.head().await.unwrap();
            assert_eq!(header(&head, "transfer-encoding"), Some("chunked"));
            peer.until("first").await.unwrap();
            signal.notify_one();
            peer.until("0\r\n\r\n").await.unwrap();
            peer.send(ok("done")).await;
        }
    })
    .await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    // GET: its body must not be forgotten either.
    for method in ["POST", "GET"] {
        let mut client = Peer::connect(port).await;
        client
            .send(format!(
                "{method} / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"
            ))
            .await;
        got_first.notified().await;
        client.send("6\r\nsecond\r\n0\r\n\r\n").await;
        assert_eq!(client.response().await.1, "done");
    }
}

#[tokio::test]
async fn slow_readers_stop_the_endpoint() {
    const BODY: usize = 64 << 20;
    let written = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let endpoint = Endpoint::new(move |_, mut peer| {
        let count = Arc::clone(&count);
        async move {
            peer.head().await;
            peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n"))
                .await;
            let block = vec![b'x'; 1 << 16];
            for _ in 0..BODY / block.len() {
                peer.stream().write_all(&block).await.unwrap();
                count.fetch_add(block.len(), std::sync::atomic::Ordering::SeqCst);
            }
        }
    })
    .await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = Peer::connect(port).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.head().await.unwrap();
    // Until nothing moves any more.
    let mut before = usize::MAX;
    loop {
        time::sleep(Duration::from_millis(200)).await;
        let now = written.load(std::sync::atomic::Ordering::SeqCst);
        if now == before {
            break;
        }
        before = now;
    }
    // What is under way sits in four socket buffers; none of it piles up in the proxy.
    assert!(before < BODY / 2, "{before} bytes under way");
    assert_eq!(client.exactly(BODY).await.len(), BODY);
}

#[tokio::test]
async fn head_and_empty_responses() {
    let endpoint = Endpoint::new(|_, mut peer| async move {
        while let Some(head) = peer.head().await {
            let answer = match status(&head) {
                "HEAD / HTTP/1.1" => "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
                "GET /204 HTTP/1.1" => "HTTP/1.1 204 No Content\r\n\r\n",
                _ => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
            };
            peer.send(answer).await;
        }
    })
    .await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = Peer::connect(port).await;
    for (request, wanted, length) in [
        ("HEAD /", "HTTP/1.1 200 OK", Some("1234")),
        ("GET /204", "HTTP/1.1 204 No Content", None),
        ("GET /304", "HTTP/1.1 304 Not Modified", None),
    ] {
        client
            .send(format!("{request} HTTP/1.1\r\nHost: a\r\n\r\n"))
            .await;
        // If there were a body, the next head would not be one.
        let head = client.head().await.unwrap();
        assert_eq!(status(&head), wanted);
        assert_eq!(header(&head, "content-length"), length);
    }
    assert_eq!(endpoint.connections(), 1);
}

#[tokio::test]
async fn expectations_are_met() {
    let endpoint = Endpoint::new(|_, mut peer| async move {
        peer.head().await;
        let body = peer.exactly(4).await;
        peer.send(ok(&body)).await;
    })
    .await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = Peer::connect(port).await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        .await;
    assert_eq!(
        client.head().await.unwrap(),
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    client.send("body").await;
    assert_eq!(client.response().await.1, "body");
}

#[tokio::test]
async fn open_connections_obey_new_routes() {
    let (old, new) = (
        Endpoint::answering("old").await,
        Endpoint::answering("new").await,
    );
    let (fixture, port) = proxy_to(&old).await;
    let mut client = Peer::connect(port).await;
    assert_eq!(client.get("a", "/").await.1, "old");
    fixture.apply(simple(port, &new)).await;
    assert_eq!(client.get("a", "/").await.1, "new");
}

#[tokio::test]
async fn connections_that_the_endpoint_closed_are_not_used() {
    // Each connection serves one request and is closed a little later, without `connection: close`.
    let endpoint = Endpoint::new(|_, mut peer| async move {
        peer.head().await;
        peer.send(ok("hi")).await;
    })
    .await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = Peer::connect(port).await;
    for _ in 0..20 {
        let (head, body) = client.get("a", "/").await;
        assert_eq!((status(&head), body.as_str()), ("HTTP/1.1 200 OK", "hi"));
    }
    assert_eq!(endpoint.connections(), 20);
}

#[tokio::test]
async fn connections_closed_at_the_same_moment_are_replaced() {
    // The first connection is closed when its second request has already come.
    let endpoint = Endpoint::new(|index, mut peer| async move {
        let mut served = 0;
        while peer.head().await.is_some() && (index > 0 || served < 1) {
            peer.send(ok("hi")).await;
            served += 1;
        }
    })
    .await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = Peer::connect(port).await;
    for _ in 0..3 {
        let (head, _) = client.get("a", "/").await;
        assert_eq!(status(&head), "HTTP/1.1 200 OK");
    }
    assert_eq!(endpoint.connections(), 2);
}

#[tokio::test]
async fn what_may_not_be_repeated_is_not() {
    let endpoint = Endpoint::new(|_, mut peer| async move {
        peer.head().await;
        peer.send(ok("hi")).await;
        peer.head().await;
    })
    .await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = Peer::connect(port).await;
    client.get("a", "/").await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
        .await;
    let (head, body) = client.response().await;
    assert_eq!(status(&head), "HTTP/1.1 503 Service Unavailable");
    assert_eq!(
        body,
        "upstream connect error or disconnect/reset before headers. reset reason: connection \
         termination"
    );
    assert_eq!(endpoint.connections(), 1);
}

#[tokio::test]
async fn nonsense_from_the_endpoint_is_a_bad_gateway() {
    let endpoint = Endpoint::new(|_, mut peer| async move {
        peer.head().await;
        peer.send("SSH-2.0-OpenSSH_9.6\r\n\r\n").await;
    })
    .await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let (head, body) = Peer::connect(port).await.get("a", "/").await;
    assert_eq!(status(&head), "HTTP/1.1 502 Bad Gateway");
    assert!(body.ends_with("reset reason: protocol error"), "{body}");
}

#[tokio::test]
async fn half_a_response_does_not_look_whole() {
    let endpoint = Endpoint::new(|_, mut peer| async move {
        peer.head().await;
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            .await;
    })
    .await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = Peer::connect(port).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.until("first\r\n").await.unwrap();
    assert!(client.until("0\r\n\r\n").await.is_none());
}

#[tokio::test]
async fn early_answers_do_not_poison_the_pool() {
    // Answers before the body has come.
    let endpoint = Endpoint::new(|_, mut peer| async move {
        while let Some(head) = peer.head().await {
            peer.send(ok("early")).await;
            let length = header(&head, "content-length").unwrap_or("0");
            peer.exactly(length.parse().unwrap()).await;
        }
    })
    .await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut first = Peer::connect(port).await;
    first
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nx")
        .await;
    assert_eq!(first.response().await.1, "early");
    // The connection is busy with that body: others get one of their own.
    let mut second = Peer::connect(port).await;
    let (head, body) = second.get("a", "/").await;
    assert_eq!((status(&head), body.as_str()), ("HTTP/1.1 200 OK", "early"));
    assert_eq!(endpoint.connections(), 2);
    // Once it has gone through, both clients go on.
    first.send("x".repeat(99)).await;
    for client in [&mut first, &mut second] {
        let (head, _) = client.get("a", "/").await;
        assert_eq!(status(&head), "HTTP/1.1 200 OK");
    }
    assert_eq!(endpoint.connections(), 2);
}

#[tokio::test]
async fn weights_are_exact_over_all_workers() {
    let (stable, canary) = (
        Endpoint::answering("1").await,
        Endpoint::answering("2").await,
    );
    let fixture = Fixture::new(3);
    let port = free_port();
    let make = || {
        gateway(
            vec![http_listener(
                port,
                &["*"],
                vec![prefix_route("/", &[("stable", 90), ("canary", 10)])],
            )],
            vec![
                cluster("stable", &[&stable.address()]),
                cluster("canary", &[&canary.address()]),
            ],
        )
    };
    fixture.apply(make()).await;
    let mut canaries = 0;
    for request in 0..100 {
        if request % 30 == 0 {
            fixture.apply(make()).await;
        }
        // A connection each: they spread over the workers.
        let (_, body) = Peer::connect(port).await.get("a", "/").await;
        canaries += usize::from(body == "2");
    }
    assert_eq!(canaries, 10);
}

#[tokio::test]
async fn records_tell_what_happened() {
    let endpoint = Endpoint::answering("hello").await;
    let fixture = Fixture::new(1);
    let port = free_port();
    let mut route = prefix_route("/a", &[("web", 1)]);
    rewrite_to(&mut route, "/b");
    fixture
        .apply(gateway(
            vec![http_listener(port, &["a.example"], vec![route])],
            vec![cluster("web", &[&endpoint.address()])],
        ))
        .await;
    let mut records = fixture.proxy.tap().subscribe(16);
    let mut client = Peer::connect(port).await;
    client
        .send("POST /a/x?q HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n")
        .await;
    client.response().await;
    client.get("a.example", "/none").await;
    client.get("b.example", "/none").await;

    let mut next = async || match &*records.recv().await {
        Record::Request(record) => (**record).clone(),
        Record::Connection(record) => panic!("{record}"),
    };
    let served = next().await;
    assert_eq!(
        (served.status, served.flags),
        (200, ResponseFlags::default())
    );
    assert_eq!(served.details, "via_upstream");
    assert_eq!(
        (served.method.as_str(), served.path.as_str()),
        ("POST", "/a/x?q")
    );
    assert_eq!(served.rewritten_path.as_deref(), Some("/b/x?q"));
    assert_eq!(
        served.decision.virtual_host.as_deref(),
        Some("a.example:80")
    );
    assert_eq!(served.decision.cluster.as_deref(), Some("web"));
    assert_eq!(served.decision.endpoint, Some(endpoint.address));
    assert_eq!((served.bytes_received, served.bytes_sent), (0, 5));
    assert_eq!(served.listener, port);
    assert_eq!(served.request_id.len(), 36);

    let missed = next().await;
    assert_eq!(
        (missed.status, missed.flags),
        (404, ResponseFlag::NoRoute.into())
    );
    assert_eq!(
        missed.decision.virtual_host.as_deref(),
        Some("a.example:80")
    );
    assert_eq!(missed.details, "route_not_found");
    assert_eq!(next().await.decision.virtual_host, None);
}

#[tokio::test]
async fn clients_that_leave_are_recorded() {
    let endpoint = Endpoint::new(|_, mut peer| async move {
        peer.head().await;
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            .await;
        // Until the proxy lets go.
        while peer.stream().write_all(b"1\r\nx\r\n").await.is_ok() {
            time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let (fixture, port) = proxy_to(&endpoint).await;
    let mut records = fixture.proxy.tap().subscribe(16);
    let mut client = Peer::connect(port).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.until("first").await.unwrap();
    drop(client);
    let record = time::timeout(Duration::from_secs(5), records.recv())
        .await
        .unwrap();
    let Record::Request(record) = &*record else {
        panic!("{record}");
    };
    assert_eq!(
        record.flags,
        ResponseFlag::DownstreamConnectionTermination.into()
    );
    assert!(record.bytes_sent >= 5);
}
