//! Connections that become something else.

use std::sync::Arc;

use nodegate_observe::{Record, ResponseFlag, ResponseFlags};
use tokio::{io::AsyncWriteExt as _, sync::Notify};

use super::harness::{Endpoint, Peer, header, proxy_to, soon, status};

const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n\
                         Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";

/// Agrees to become an echo, with a greeting in the same packet.
async fn echo() -> Endpoint {
    Endpoint::new(|_, mut peer| async move {
        let head = peer.head().await.unwrap();
        assert_eq!(header(&head, "upgrade"), Some("websocket"));
        assert_eq!(header(&head, "connection"), Some("upgrade"));
        assert_eq!(header(&head, "sec-websocket-key"), Some("x"));
        peer.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: y\r\n\r\nhello\n",
        )
        .await;
        while let Some(line) = peer.until("\n").await {
            peer.send(line).await;
        }
        peer.send("bye").await;
    })
    .await
}

#[tokio::test]
async fn websockets_pass_with_early_bytes_and_half_close() {
    let endpoint = echo().await;
    let (fixture, port) = proxy_to(&endpoint).await;
    let mut records = fixture.proxy.tap().subscribe(4);
    let mut client = Peer::connect(port).await;
    // The first line doesn't wait for the answer.
    client.send(format!("{HANDSHAKE}early\n")).await;
    let head = client.head().await.unwrap();
    assert_eq!(status(&head), "HTTP/1.1 101 Switching Protocols");
    assert_eq!(header(&head, "upgrade"), Some("websocket"));
    assert_eq!(header(&head, "sec-websocket-accept"), Some("y"));
    assert_eq!(client.until("\n").await.unwrap(), "hello\n");
    assert_eq!(client.until("\n").await.unwrap(), "early\n");
    client.send("later\n").await;
    assert_eq!(client.until("\n").await.unwrap(), "later\n");
    client.shutdown().await;
    assert_eq!(client.rest().await.unwrap(), "bye");
    // The client has ended it.
    let record = soon(records.recv()).await;
    let Record::Request(record) = &*record else {
        panic!("{record}");
    };
    assert_eq!(
        record.flags,
        ResponseFlag::DownstreamConnectionTermination.into()
    );
    assert_eq!(record.details, "downstream_remote_disconnect");
}

#[tokio::test]
async fn a_tunnel_that_the_endpoint_ends_is_over_in_order() {
    let endpoint = Endpoint::new(|_, mut peer| async move {
        peer.head().await;
        peer.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nbye",
        )
        .await;
    })
    .await;
    let (fixture, port) = proxy_to(&endpoint).await;
    let mut records = fixture.proxy.tap().subscribe(4);
    let mut client = Peer::connect(port).await;
    client.send(HANDSHAKE).await;
    client.head().await.unwrap();
    assert_eq!(client.rest().await.unwrap(), "bye");
    drop(client);
    let record = soon(records.recv()).await;
    let Record::Request(record) = &*record else {
        panic!("{record}");
    };
    assert_eq!(record.flags, ResponseFlags::default());
}

#[tokio::test]
async fn endpoints_may_decline() {
    let endpoint = Endpoint::answering("no").await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = Peer::connect(port).await;
    client.send(HANDSHAKE).await;
    let (head, body) = client.response().await;
    assert_eq!((status(&head), body.as_str()), ("HTTP/1.1 200 OK", "no"));
    // What the client says next may not be meant as a request.
    assert_eq!(header(&head, "connection"), Some("close"));
    assert_eq!(client.rest().await.unwrap(), "");
}

#[tokio::test]
async fn other_protocols_are_refused_and_offers_of_http2_ignored() {
    let endpoint = Endpoint::echoing_heads().await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let ask = |protocol: &str| {
        format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n")
    };
    let mut client = Peer::connect(port).await;
    client.send(ask("irc")).await;
    let (head, body) = client.response().await;
    assert_eq!(
        (status(&head), body.as_str()),
        ("HTTP/1.1 403 Forbidden", "")
    );
    assert_eq!(header(&head, "connection"), Some("close"));
    assert_eq!(client.rest().await.unwrap(), "");
    let mut client = Peer::connect(port).await;
    client.send(ask("h2c")).await;
    let (head, seen) = client.response().await;
    assert_eq!(status(&head), "HTTP/1.1 200 OK");
    assert_eq!(header(&seen, "upgrade"), None);
}

#[tokio::test]
async fn nobody_is_switched_unasked() {
    let endpoint = Endpoint::new(|_, mut peer| async move {
        peer.head().await;
        peer.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
            .await;
    })
    .await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let (head, _) = Peer::connect(port).await.get("a", "/").await;
    assert_eq!(status(&head), "HTTP/1.1 502 Bad Gateway");
}

#[tokio::test]
async fn clients_that_leave_before_the_switch_are_forgotten() {
    let (came, gone) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let signals = (Arc::clone(&came), Arc::clone(&gone));
    let endpoint = Endpoint::new(move |_, mut peer| {
        let (came, gone) = signals.clone();
        async move {
            peer.head().await;
            came.notify_one();
            gone.notified().await;
            // The proxy may have noticed, and have let go.
            let switch =
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
            let _ = peer.stream().write_all(switch).await;
            let _ = peer.rest().await;
        }
    })
    .await;
    let (fixture, port) = proxy_to(&endpoint).await;
    let mut records = fixture.proxy.tap().subscribe(4);
    let mut client = Peer::connect(port).await;
    client.send(HANDSHAKE).await;
    came.notified().await;
    drop(client);
    gone.notify_one();
    // Whatever it is called: it is over, and not kept for ever.
    soon(records.recv()).await;
}
