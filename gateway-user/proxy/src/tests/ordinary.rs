//! Connections of clients that change hands: ordinary requests are read directly, others by hyper, and
//! clients can't tell.

use std::time::Duration;

use patience::Stopwatch;
use tokio::time::sleep;

use super::harness::{Endpoint, Peer, header, ok, proxy_to, soon, status, until};

/// Longer than a connection must rest to change hands again.
const REST: Duration = Duration::from_millis(3200);

/// Answers with the method and the body of what is asked; in chunks if the path says so.
async fn telling() -> Endpoint {
    Endpoint::new(|_, mut peer| async move {
        while let Some(head) = peer.head().await {
            let length = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
            let body = peer.exactly(length).await;
            let method = head.split(' ').next().unwrap();
            let told = format!("{method} {body}");
            if head.contains("/nothing") {
                peer.send("HTTP/1.1 204 No Content\r\n\r\n").await;
            } else if head.contains("/chunked") {
                peer.send(format!(
                    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{told}\r\n0\r\n\r\n",
                    told.len()
                ))
                .await;
            } else {
                peer.send(ok(&told)).await;
            }
        }
    })
    .await
}

async fn post(client: &mut Peer, body: &str) -> String {
    let length = body.len();
    client
        .send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .await;
    client.response().await.1
}

#[tokio::test]
async fn connections_change_hands_and_come_back() {
    let endpoint = telling().await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = Peer::connect(port).await;
    for _ in 0..2 {
        for _ in 0..2 {
            assert_eq!(client.get("a", "/").await.1, "GET ");
        }
        assert_eq!(post(&mut client, "one").await, "POST one");
        assert_eq!(client.get("a", "/").await.1, "GET ");
        client
            .send("GET /chunked HTTP/1.1\r\nHost: a\r\n\r\n")
            .await;
        let head = client.head().await.unwrap();
        assert_eq!(header(&head, "transfer-encoding"), Some("chunked"));
        assert_eq!(
            client.until("0\r\n\r\n").await.unwrap(),
            "4\r\nGET \r\n0\r\n\r\n"
        );
        sleep(REST).await;
    }
}

#[tokio::test]
async fn an_unusual_answer_to_the_first_request_is_given_once() {
    let endpoint = telling().await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = Peer::connect(port).await;
    // The second is read with the first.
    client
        .send("GET /nothing HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    let head = client.head().await.unwrap();
    assert_eq!(status(&head), "HTTP/1.1 204 No Content");
    assert_eq!(client.response().await.1, "GET ");
    assert_eq!(post(&mut client, "x").await, "POST x");
}

#[tokio::test]
async fn chunks_leave_as_they_come() {
    let endpoint = Endpoint::new(|_, mut peer| async move {
        while peer.head().await.is_some() {
            peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
                .await;
            sleep(Duration::from_millis(50)).await;
            let long = "b".repeat(100_000);
            peer.send(format!("{:x}\r\n{long}\r\n", long.len())).await;
            sleep(Duration::from_millis(50)).await;
            peer.send("0\r\nx-trailer: 1\r\n\r\n").await;
        }
    })
    .await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = Peer::connect(port).await;
    for _ in 0..3 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.head().await.unwrap();
        assert_eq!(client.exactly(6).await, "1\r\na\r\n");
        let mut body = 0;
        loop {
            let line = client.until("\r\n").await.unwrap();
            let length = usize::from_str_radix(line.trim_end(), 16).unwrap();
            let chunk = client.exactly(length + 2).await;
            if length == 0 {
                break;
            }
            assert!(chunk.starts_with('b') && chunk.ends_with("\r\n"));
            body += length;
        }
        assert_eq!(body, 100_000);
    }
    assert_eq!(endpoint.connections(), 1);
}

#[tokio::test]
async fn requests_at_once_are_answered_in_their_order() {
    let endpoint = telling().await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = Peer::connect(port).await;
    client
        .send(
            "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n\
             DELETE /2 HTTP/1.1\r\nHost: a\r\n\r\n\
             POST /3 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
             GET /4 HTTP/1.1\r\nHost: a\r\n\r\n",
        )
        .await;
    for wanted in ["GET ", "DELETE ", "POST abc", "GET "] {
        assert_eq!(client.response().await.1, wanted);
    }
}

#[tokio::test]
async fn heads_may_come_in_pieces() {
    let endpoint = Endpoint::echoing_heads().await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = Peer::connect(port).await;
    for _ in 0..2 {
        for piece in [
            "G",
            "ET /x?y=z HT",
            "TP/1.1\r",
            "\nHost: a\r\nX-Mine: ",
            "1\r\n\r",
            "\n",
        ] {
            client.send(piece).await;
            sleep(Duration::from_millis(5)).await;
        }
        let (head, body) = client.response().await;
        assert_eq!(status(&head), "HTTP/1.1 200 OK");
        assert!(body.starts_with("GET /x?y=z HTTP/1.1\r\n"), "{body}");
        assert_eq!(header(&body, "x-mine"), Some("1"));
    }
    // As long as heads may be, and longer than those that are read directly.
    let long = "a".repeat(40_000);
    client
        .send(format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Long: {long}\r\n\r\n"
        ))
        .await;
    let (_, body) = client.response().await;
    assert_eq!(header(&body, "x-long"), Some(&*long));
    assert_eq!(endpoint.connections(), 1);
}

#[tokio::test]
async fn slow_readers_get_all_of_a_large_body() {
    const LENGTH: usize = 8 << 20;
    let endpoint = Endpoint::new(|_, mut peer| async move {
        while peer.head().await.is_some() {
            let text = "0123456789abcdef".repeat(LENGTH / 16);
            peer.send(ok(&text)).await;
        }
    })
    .await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = Peer::connect(port).await;
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let head = client.head().await.unwrap();
        assert_eq!(header(&head, "content-length"), Some(&*LENGTH.to_string()));
        for part in 0..8 {
            sleep(Duration::from_millis(20)).await;
            let body = client.exactly(LENGTH / 8).await;
            assert!(body.starts_with("0123456789abcdef"), "part {part}");
            assert_eq!(body.len(), LENGTH / 8);
        }
    }
}

#[tokio::test]
async fn who_ends_its_side_still_gets_its_answer() {
    let endpoint = Endpoint::new(|_, mut peer| async move {
        while peer.head().await.is_some() {
            sleep(Duration::from_millis(200)).await;
            peer.send(ok("late")).await;
        }
    })
    .await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = Peer::connect(port).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    client.shutdown().await;
    assert_eq!(client.response().await.1, "late");
    assert_eq!(client.rest().await.unwrap(), "");
}

#[tokio::test]
async fn who_leaves_ends_its_request() {
    let (endpoint, rest) = Endpoint::telling_the_rest().await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = Peer::connect(port).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    until(|| endpoint.connections() > 0).await;
    let watch = Stopwatch::of_process();
    drop(client);
    // No answer: the proxy ends the connection when its client has gone.
    assert_eq!(soon(rest).await.unwrap(), "");
    watch.lap().below(Duration::from_secs(8)).unwrap();
}

#[tokio::test]
async fn connections_that_come_back_end_when_they_should() {
    let endpoint = telling().await;
    let (fixture, port) = proxy_to(&endpoint).await;
    let mut direct = Peer::connect(port).await;
    direct.get("a", "/").await;
    let mut returned = Peer::connect(port).await;
    post(&mut returned, "x").await;
    let mut hyper = Peer::connect(port).await;
    sleep(REST).await;
    post(&mut hyper, "x").await;
    let shutdown = tokio::spawn(async move { fixture.proxy.shutdown(patience::limit()).await });
    for client in [&mut direct, &mut returned, &mut hyper] {
        assert_eq!(client.rest().await.unwrap(), "");
    }
    shutdown.await.unwrap();
}
