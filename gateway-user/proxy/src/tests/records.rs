//! What is told about requests, and which destination they got.

use std::time::Duration;

use nodegate_model::gateway::HttpAction;
use nodegate_observe::{Record, ResponseFlag, ResponseFlags};
use tokio::{io::AsyncWriteExt as _, time};

use super::harness::{Endpoint, Fixture, Peer, free_port, proxy_to, soon};
use crate::fixture::{cluster, gateway, http_listener, prefix_route, rewrite_to};

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
    let HttpAction::Forward(forward) = &mut route.action else {
        unreachable!()
    };
    forward.authority = Some("other.example".into());
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
    assert_eq!(served.authority, "a.example");
    assert_eq!(served.rewritten_authority.as_deref(), Some("other.example"));
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
    let record = soon(records.recv()).await;
    let Record::Request(record) = &*record else {
        panic!("{record}");
    };
    assert_eq!(
        record.flags,
        ResponseFlag::DownstreamConnectionTermination.into()
    );
    assert!(record.bytes_sent >= 5);
}

/// Envoy knows the endpoint when it finds that there is no room for the request, and what every endpoint is
/// told of the client when none is asked.
#[tokio::test]
async fn what_was_known_is_recorded_though_nobody_was_asked() {
    let endpoint = Endpoint::answering("hello").await;
    let fixture = Fixture::new(1);
    let port = free_port();
    let mut full = cluster("full", &[&endpoint.address()]);
    full.policy.limits.max_requests = Some(0);
    fixture
        .apply(gateway(
            vec![http_listener(
                port,
                &["a"],
                vec![prefix_route("/full", &[("full", 1)])],
            )],
            vec![full],
        ))
        .await;
    let mut records = fixture.proxy.tap().subscribe(16);
    let mut client = Peer::connect(port).await;
    client.get("a", "/full").await;
    client
        .send("GET /none HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n")
        .await;
    client.response().await;
    let mut next = async || match &*records.recv().await {
        Record::Request(record) => (**record).clone(),
        Record::Connection(record) => panic!("{record}"),
    };
    let overflown = next().await;
    assert_eq!(overflown.flags, ResponseFlag::UpstreamOverflow.into());
    assert_eq!(overflown.decision.endpoint, Some(endpoint.address));
    let missed = next().await;
    assert_eq!(missed.flags, ResponseFlag::NoRoute.into());
    assert_eq!(missed.request_id.len(), 36);
    assert_eq!(missed.forwarded_for.as_deref(), Some("192.0.2.1,127.0.0.1"));
}
