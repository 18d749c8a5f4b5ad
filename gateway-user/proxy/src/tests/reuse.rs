//! Connections that stay: which requests go over them, and what happens when they end.

use super::harness::{Endpoint, Peer, ok, proxy_to, simple, status};

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
