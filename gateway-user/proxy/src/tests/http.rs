//! Heads: what endpoints and clients see of each other's, and which are refused.

use std::{
    net::{IpAddr, Ipv4Addr},
    num::NonZero,
};

use nodegate_model::gateway::PathMatch;
use nodegate_observe::Record;

use super::harness::{Endpoint, Fixture, Peer, free_port, header, proxy_to, simple, status};
use crate::{
    Options,
    fixture::{cluster, gateway, http_listener, prefix_route, rewrite_to},
};

/// The bytes of a response but for `date`, which changes.
fn without_date(head: &str) -> String {
    head.split_inclusive("\r\n")
        .filter(|line| !line.starts_with("date: "))
        .collect()
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
        ("te", Some("trailers")),
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
            "404 Not Found",
        ),
        // As Istio has it: a fragment is dropped.
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "200 OK"),
        ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request"),
        ("BREW / HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request"),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "400 Bad Request"),
        ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", "400 Bad Request"),
        (
            "GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "403 Forbidden",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "501 Not Implemented",
        ),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "404 Not Found"),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "200 OK"),
    ] {
        let mut client = Peer::connect(port).await;
        client.send(request).await;
        let head = client.head().await.unwrap();
        assert_eq!(status(&head), format!("HTTP/1.1 {wanted}"), "{request:?}");
    }
}

/// Whatever the bytes are, which are random.
#[tokio::test]
async fn tls_on_a_plain_port_has_one_answer() {
    let endpoint = Endpoint::answering("hi").await;
    let (fixture, port) = proxy_to(&endpoint).await;
    let mut records = fixture.proxy.tap().subscribe(4);
    for random in ["\u{1}\u{2}#/ ?", "abc def", "\r\n\r\n", "\u{0}\u{0}"] {
        let mut client = Peer::connect(port).await;
        client
            .send(&format!("\u{16}\u{3}\u{1}\u{0}\u{20}{random}"))
            .await;
        let (head, body) = client.response().await;
        assert_eq!(status(&head), "HTTP/1.1 400 Bad Request", "{random:?}");
        assert_eq!(body, "Bad Request");
        let Record::Request(record) = &*records.recv().await else {
            panic!("no request");
        };
        assert_eq!(record.details, "http1.codec_error.tls_on_a_plain_port");
        assert_eq!(record.flags.to_string(), "DPE");
    }
}

#[tokio::test]
async fn http10_is_served_where_it_is_accepted() {
    let endpoint = Endpoint::echoing_heads().await;
    let fixture = Fixture::with_options(Options {
        workers: NonZero::<usize>::MIN,
        address: Some(Ipv4Addr::LOCALHOST.into()),
        accept_http10: true,
        ..Options::default()
    });
    let port = free_port();
    fixture.apply(simple(port, &endpoint)).await;
    let mut client = Peer::connect(port).await;
    client
        .send("GET /x HTTP/1.0\r\nHost: a.example\r\n\r\n")
        .await;
    let (head, seen) = client.response().await;
    assert_eq!(status(&head), "HTTP/1.0 200 OK");
    assert_eq!(status(&seen), "GET /x HTTP/1.1");
    // It says where to, as any other has to.
    let mut client = Peer::connect(port).await;
    client.send("GET /x HTTP/1.0\r\n\r\n").await;
    assert_eq!(
        status(&client.head().await.unwrap()),
        "HTTP/1.0 400 Bad Request"
    );
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
