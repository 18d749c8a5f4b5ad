//! What is refused, what is put right, and who is still there.

use std::{sync::Arc, time::Duration};

use nodegate_observe::{Record, ResponseFlag};
use patience::Stopwatch;
use tokio::{sync::Notify, time};

use super::harness::{
    Endpoint, Fixture, Peer, free_port, header, ok, proxy_to, simple, soon, status,
};
use crate::{
    Options,
    fixture::{cluster, gateway, http_listener, prefix_route},
};

#[tokio::test]
async fn paths_are_matched_and_passed_on_in_normal_form() {
    let endpoint = Endpoint::echoing_heads().await;
    let fixture = Fixture::new(1);
    let port = free_port();
    fixture
        .apply(gateway(
            vec![http_listener(
                port,
                &["*"],
                vec![prefix_route("/public/", &[("web", 1)])],
            )],
            vec![cluster("web", &[&endpoint.address()])],
        ))
        .await;
    let mut client = Peer::connect(port).await;
    let (_, seen) = client.get("a", "/x/..\\public/./a//b%2Fc?d=/../e").await;
    assert_eq!(status(&seen), "GET /public/a//b%2Fc?d=/../e HTTP/1.1");
    // Dots don't lead out of what is routed.
    for (target, wanted) in [
        ("/public/../private", "HTTP/1.1 404 Not Found"),
        ("/public/%2e%2e/private", "HTTP/1.1 404 Not Found"),
        ("/public/%00", "HTTP/1.1 400 Bad Request"),
    ] {
        assert_eq!(status(&client.get("a", target).await.0), wanted, "{target}");
    }
}

#[tokio::test]
async fn what_is_no_request_is_refused_in_envoy_s_words() {
    let endpoint = Endpoint::answering("hi").await;
    let (fixture, port) = proxy_to(&endpoint).await;
    let mut records = fixture.proxy.tap().subscribe(8);
    let hundred = "x: y\r\n".repeat(101);
    let bad = "400 Bad Request";
    let large = "431 Request Header Fields Too Large";
    for (request, reason) in [
        ("GET /\0 HTTP/1.1\r\n\r\n".to_owned(), bad),
        (
            "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n".to_owned(),
            bad,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"
                .to_owned(),
            bad,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n".to_owned(),
            bad,
        ),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{hundred}\r\n"), large),
        (
            format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(61 << 10)),
            large,
        ),
    ] {
        let mut client = Peer::connect(port).await;
        client.send(&request).await;
        let head = client.head().await.unwrap();
        assert_eq!(status(&head), format!("HTTP/1.1 {reason}"));
        assert_eq!(header(&head, "server"), Some("istio-envoy"));
        assert_eq!(header(&head, "connection"), Some("close"));
        assert_eq!(header(&head, "content-type"), Some("text/plain"));
        assert!(header(&head, "date").is_some(), "{head}");
        let body = client.exactly(reason.len() - 4).await;
        assert_eq!(body, reason[4..]);
        let Record::Request(record) = &*records.recv().await else {
            panic!("no TCP here");
        };
        assert_eq!(record.flags, ResponseFlag::DownstreamProtocolError.into());
        assert_eq!(record.status.to_string(), reason[..3]);
    }
    assert_eq!(endpoint.connections(), 0);
}

#[tokio::test]
async fn two_ideas_of_a_body_s_length_are_refused() {
    let endpoint = Endpoint::echoing_heads().await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for framing in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n",
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}0\r\n\r\n{smuggled}");
        // In one piece, and cut in the middle of the head; first on the connection, and second.
        for (cut, first) in [(0, true), (30, true), (30, false), (0, false)] {
            let mut client = Peer::connect(port).await;
            if !first {
                client.get("a", "/").await;
            }
            if cut > 0 {
                client.send(&request[..cut]).await;
                time::sleep(Duration::from_millis(20)).await;
            }
            client.send(&request[cut..]).await;
            let all = client.rest().await.unwrap_or_default();
            assert!(all.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{all}");
            assert!(all.ends_with("\r\n\r\nBad Request"), "{all}");
        }
    }
}

#[tokio::test]
async fn bodies_may_look_like_heads() {
    let endpoint = Endpoint::new(|_, mut peer| async move {
        while let Some(head) = peer.head().await {
            let length = header(&head, "content-length").unwrap().parse().unwrap();
            let body = peer.exactly(length).await;
            peer.send(ok(&body)).await;
        }
    })
    .await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let body = "POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\nrest";
    let mut client = Peer::connect(port).await;
    for pause in [0, 20] {
        client
            .send(format!(
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
                body.len()
            ))
            .await;
        time::sleep(Duration::from_millis(pause)).await;
        client.send(body).await;
        assert_eq!(client.response().await.1, body);
    }
}

#[tokio::test]
async fn endpoints_hear_when_the_client_has_gone() {
    let (came, went) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let signals = (Arc::clone(&came), Arc::clone(&went));
    let endpoint = Endpoint::new(move |_, mut peer| {
        let (came, went) = signals.clone();
        async move {
            peer.head().await;
            came.notify_one();
            // The end of the connection, before any answer.
            let _ = peer.rest().await;
            went.notify_one();
        }
    })
    .await;
    let (fixture, port) = proxy_to(&endpoint).await;
    let mut records = fixture.proxy.tap().subscribe(8);
    let mut client = Peer::connect(port).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    came.notified().await;
    let watch = Stopwatch::of_process();
    drop(client);
    soon(went.notified()).await;
    watch.lap().below(Duration::from_secs(8)).unwrap();
    let Record::Request(record) = &*records.recv().await else {
        panic!("no TCP here");
    };
    assert_eq!(record.status, 0);
    assert_eq!(
        record.flags,
        ResponseFlag::DownstreamConnectionTermination.into()
    );
}

#[tokio::test]
async fn resets_are_noticed_at_once() {
    let came = Arc::new(Notify::new());
    let signal = Arc::clone(&came);
    let endpoint = Endpoint::new(move |_, mut peer| {
        let came = Arc::clone(&signal);
        async move {
            peer.head().await;
            came.notify_one();
            let _ = peer.rest().await;
        }
    })
    .await;
    let (fixture, port) = proxy_to(&endpoint).await;
    let mut records = fixture.proxy.tap().subscribe(8);
    let mut client = Peer::connect(port).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    came.notified().await;
    client.stream().set_zero_linger().unwrap();
    let watch = Stopwatch::of_process();
    drop(client);
    soon(records.recv()).await;
    watch.lap().below(Duration::from_millis(500)).unwrap();
}

#[tokio::test]
async fn expectations_are_the_endpoint_s_to_meet() {
    // Refuses the first, takes the second.
    let endpoint = Endpoint::new(|_, mut peer| async move {
        while let Some(head) = peer.head().await {
            assert_eq!(header(&head, "expect"), Some("100-continue"));
            if status(&head).contains("/no") {
                peer.send(
                    "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                )
                .await;
                return;
            }
            time::sleep(Duration::from_millis(100)).await;
            peer.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            let body = peer.exactly(4).await;
            peer.send(ok(&body)).await;
        }
    })
    .await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let request = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        )
    };
    let mut client = Peer::connect(port).await;
    client.send(request("/no")).await;
    let head = client.head().await.unwrap();
    assert_eq!(status(&head), "HTTP/1.1 417 Expectation Failed");
    // What the client sends next might be the body or another request.
    assert_eq!(header(&head, "connection"), Some("close"));

    let mut client = Peer::connect(port).await;
    let started = time::Instant::now();
    client.send(request("/yes")).await;
    let head = client.head().await.unwrap();
    assert_eq!(status(&head), "HTTP/1.1 100 Continue");
    assert!(started.elapsed() >= Duration::from_millis(90));
    client.send("body").await;
    assert_eq!(client.response().await.1, "body");
}

#[tokio::test]
async fn bodies_that_nobody_asked_for_end_the_connection() {
    let endpoint = Endpoint::answering("hi").await;
    let fixture = Fixture::new(1);
    let port = free_port();
    let routes = vec![prefix_route("/web", &[("web", 1)])];
    fixture
        .apply(gateway(
            vec![http_listener(port, &["*"], routes)],
            vec![cluster("web", &[&endpoint.address()])],
        ))
        .await;
    for (expect, wanted) in [
        ("Expect: 100-continue\r\n", Some("close")),
        ("Expect: something\r\n", None),
    ] {
        let mut client = Peer::connect(port).await;
        client
            .send(format!(
                "POST / HTTP/1.1\r\nHost: a\r\n{expect}Content-Length: 4\r\n\r\n"
            ))
            .await;
        let head = client.head().await.unwrap();
        assert_eq!(status(&head), "HTTP/1.1 404 Not Found");
        assert_eq!(header(&head, "connection"), wanted, "{expect}");
    }
}

#[tokio::test]
async fn connection_names_nothing_that_says_who_asks() {
    let endpoint = Endpoint::echoing_heads().await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let ten = "a, b, c, d, e, f, g, h, i, j";
    for (named, wanted) in [
        ("keep-alive, X-Forwarded-For", "400"),
        ("x-forwarded-host", "400"),
        ("close,x-forwarded-proto", "400"),
        (":path", "400"),
        (ten, "400"),
        ("x-forwarded-port, x-mine", "200"),
        (&ten[3..], "200"),
    ] {
        let mut client = Peer::connect(port).await;
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {named}\r\n\r\n");
        client.send(request).await;
        let head = client.head().await.unwrap();
        assert!(status(&head).contains(wanted), "{named}: {head}");
    }
}

#[tokio::test]
async fn slow_heads_are_refused() {
    let endpoint = Endpoint::answering("hi").await;
    let fixture = Fixture::with_options(Options {
        workers: std::num::NonZero::<usize>::MIN,
        address: Some(std::net::Ipv4Addr::LOCALHOST.into()),
        header_timeout: Duration::from_secs(1),
        ..Options::default()
    });
    let port = free_port();
    fixture.apply(simple(port, &endpoint)).await;
    let mut idle = Peer::connect(port).await;
    // The last could still become HTTP/2.
    for beginning in ["GET / HTTP/1.1\r\nHost: a\r\n", "P"] {
        let mut client = Peer::connect(port).await;
        client.send(beginning).await;
        let (head, body) = client.response().await;
        assert_eq!(status(&head), "HTTP/1.1 408 Request Timeout");
        assert_eq!(body, "request header timeout");
        assert_eq!(client.rest().await.unwrap(), "");
    }
    // Whoever has not begun has time.
    assert_eq!(idle.get("a", "/").await.1, "hi");
}
