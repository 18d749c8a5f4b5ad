//! What comes after the head: streaming, back-pressure, and no body at all.

use std::{sync::Arc, time::Duration};

use patience::Stopwatch;
use tokio::{io::AsyncWriteExt as _, sync::Notify, time};

use super::harness::{Endpoint, Peer, header, ok, proxy_to, soon, status};

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
async fn who_ends_its_side_after_a_body_gets_its_answer() {
    // A new connection each time: nobody takes the body before there is one.
    let endpoint = Endpoint::new(|_, mut peer| async move {
        peer.until("\r\n\r\nbody").await;
        peer.send(ok("hi")).await;
    })
    .await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    for connection in ["keep-alive", "close"] {
        let mut client = Peer::connect(port).await;
        client
            .send(format!(
                "POST / HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\nContent-Length: \
                 4\r\n\r\nbody"
            ))
            .await;
        client.shutdown().await;
        assert_eq!(client.response().await.1, "hi", "{connection}");
        assert_eq!(client.rest().await.unwrap(), "");
    }
}

#[tokio::test]
async fn who_ends_within_a_body_ends_its_request() {
    let (endpoint, rest) = Endpoint::telling_the_rest().await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = Peer::connect(port).await;
    client
        .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nbody")
        .await;
    let watch = Stopwatch::of_process();
    client.shutdown().await;
    assert_eq!(soon(rest).await.unwrap(), "body");
    watch.lap().below(Duration::from_millis(900)).unwrap();
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
