//! Endpoints' answers of all shapes, whoever reads them: those to requests without a body are read
//! directly if they are ordinary, and those to others by hyper. Clients can't tell.

use std::time::Duration;

use tokio::time::sleep;

use super::harness::{Endpoint, Fixture, Peer, header, ok, proxy_to, status};

/// How an endpoint's answer reaches a client that asks twice.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    head: Vec<String>,
    /// Until the connection's end, or for as long as the head says.
    body: String,
    /// Connections that the endpoint has had after a second request.
    connections: usize,
}

async fn outcome(answer: &'static [u8], pieces: usize, request: &str) -> Outcome {
    let endpoint = Endpoint::new(move |_, mut peer| async move {
        while let Some(head) = peer.head().await {
            if header(&head, "content-length").is_some_and(|length| length != "0") {
                peer.exactly(3).await;
            }
            if header(&head, "host") == Some("plain") {
                peer.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    .await;
                continue;
            }
            for piece in answer.chunks(answer.len().div_ceil(pieces)) {
                // The client may have had enough.
                if peer.stream().try_write(piece).is_err() {
                    return;
                }
                tokio::task::yield_now().await;
                sleep(Duration::from_millis(3)).await;
            }
            let text = String::from_utf8_lossy(answer);
            let endless = !text.contains("ontent-") && !text.contains("ransfer-");
            let closes = text.contains(": close") || text.contains("HTTP/1.0");
            if endless || closes || text.contains("broken") {
                return;
            }
        }
    })
    .await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = Peer::connect(port).await;
    // So that the connection is one that has been used before.
    client.get("plain", "/").await;
    client.send(request).await;
    let head = client.head().await.expect("no response");
    let length = header(&head, "content-length").and_then(|length| length.parse().ok());
    let body = match length {
        _ if request.starts_with("HEAD") => String::new(),
        _ if [" 204 ", " 304 "]
            .iter()
            .any(|code| status(&head).contains(code)) =>
        {
            String::new()
        }
        Some(length) => client.exactly(length).await,
        None if head.contains("chunked") => {
            let body = client.until("0\r\n\r\n").await.unwrap_or_default();
            // Every other line is a chunk; which they are is nobody's business.
            body.split("\r\n").skip(1).step_by(2).collect()
        }
        None => client.rest().await.unwrap_or_default(),
    };
    Peer::connect(port).await.get("plain", "/").await;
    let changing = ["date: ", "x-envoy-upstream-service-time: "];
    let mut head: Vec<String> = head.lines().map(str::to_owned).collect();
    head.retain(|line| !changing.iter().any(|start| line.starts_with(start)));
    head[1..].sort();
    Outcome {
        head,
        body,
        connections: endpoint.connections(),
    }
}

/// The same answer to requests that differ in nothing but that one has a body.
async fn same(answer: &'static [u8]) -> Outcome {
    let request = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: ";
    let empty = format!("{request}0\r\n\r\n");
    let filled = format!("{request}3\r\n\r\nabc");
    let text = String::from_utf8_lossy(answer);
    let direct = outcome(answer, 1, &empty).await;
    let hyper = outcome(answer, 1, &filled).await;
    assert_eq!(
        (&direct.head, &direct.body),
        (&hyper.head, &hyper.body),
        "{text}"
    );
    assert_eq!(direct.connections, hyper.connections, "{text}");
    // Nothing about that request is hyper's.
    let plain = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
    for pieces in [1, 3] {
        let plain = outcome(answer, pieces, plain).await;
        assert_eq!(
            (&plain.head, &plain.body),
            (&hyper.head, &hyper.body),
            "{text} in {pieces}"
        );
    }
    for pieces in [2, 5, answer.len()] {
        let slow = outcome(answer, pieces, &empty).await;
        assert_eq!(
            (&direct.head, &direct.body),
            (&slow.head, &slow.body),
            "{text} in {pieces}"
        );
    }
    direct
}

#[tokio::test]
async fn ordinary_answers_keep_their_connection() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Mine: \xc3\xbc\r\n\r\nhello"[..],
        b"HTTP/1.1 404 Nothing Here\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nno",
        b"HTTP/1.1 500 \r\ncontent-length: 0\r\nx-empty:\r\nx-twice: 1\r\nX-Twice: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\ncontent-length: 3\n\nabc",
    ] {
        let outcome = same(answer).await;
        assert_eq!(
            outcome.connections,
            1,
            "{}",
            String::from_utf8_lossy(answer)
        );
    }
}

#[tokio::test]
async fn answers_with_other_ends_are_read_to_them() {
    for (answer, body) in [
        (
            &b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"[..],
            None,
        ),
        (b"HTTP/1.1 204 No Content\r\nx-no-content-: 1\r\n\r\n", Some("")),
        (b"HTTP/1.1 304 Not Modified\r\nx-no-content-: 1\r\n\r\n", Some("")),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc",
            Some("abc"),
        ),
    ] {
        let outcome = same(answer).await;
        if let Some(body) = body.filter(|body| !body.is_empty()) {
            assert_eq!(outcome.body, body);
        }
        assert_eq!(outcome.connections, 1, "{}", String::from_utf8_lossy(answer));
    }
    for answer in [
        &b"HTTP/1.1 200 OK\r\n\r\nuntil the end"[..],
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc",
        b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nabc",
    ] {
        let outcome = same(answer).await;
        assert!(outcome.head[0].ends_with("200 OK"), "{outcome:?}");
        assert!(
            outcome.connections > 1,
            "{}",
            String::from_utf8_lossy(answer)
        );
    }
}

#[tokio::test]
async fn interim_answers_are_not_the_answer() {
    let outcome = same(
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc",
    )
    .await;
    assert_eq!(outcome.body, "abc");
    assert_eq!(outcome.head[0], "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn broken_answers_are_broken_whoever_reads_them() {
    for (answer, wanted) in [
        (
            &b"HTTP/1.1 200 OK\r\ncontent-length: 3, 4\r\nbroken: 1\r\n\r\nabc"[..],
            "502",
        ),
        (b"broken\r\n\r\n", "502"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: x\r\nbroken: 1\r\n\r\n",
            "502",
        ),
        (b"HTTP/1.1 200 OK\r\nbroken\r\n", "502"),
        // More than one idea of where it ends (RFC 9112, section 6.3).
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\nbroken: 1\r\n\r\n2\r\nab\r\n0\r\n\r\n",
            "502",
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\nbroken: 1\r\n\r\n2\r\nab\r\n0\r\n\r\n",
            "502",
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 3, 3\r\nbroken: 1\r\n\r\nabc",
            "502",
        ),
        // Codings that nobody undoes.
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\nbroken: 1\r\n\r\nabc",
            "502",
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\nbroken: 1\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "502",
        ),
        (
            b"HTTP/1.1 204 No Content\r\ncontent-length: 3\r\nbroken: 1\r\n\r\nabc",
            "502",
        ),
        (
            b"HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\nbroken: 1\r\n\r\n0\r\n\r\n",
            "502",
        ),
    ] {
        let outcome = same(answer).await;
        assert!(outcome.head[0].contains(wanted), "{outcome:?}");
    }
}

#[tokio::test]
async fn folded_lines_are_one() {
    let outcome = same(b"HTTP/1.1 200 OK\r\nx-a: 1\r\n 2\r\ncontent-length: 3\r\n\r\nabc").await;
    let line = outcome.head.iter().find(|line| line.starts_with("x-a: "));
    let words: Vec<_> = line.unwrap().split_whitespace().collect();
    assert_eq!(words, ["x-a:", "1", "2"]);
}

#[tokio::test]
async fn endpoints_that_speak_http10_are_asked_in_http11() {
    let endpoint = Endpoint::new(|_, mut peer| async move {
        while let Some(head) = peer.head().await {
            let body = status(&head).to_owned();
            let length = body.len();
            peer.send(format!(
                "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: {length}\r\n\r\n{body}"
            ))
            .await;
        }
    })
    .await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = Peer::connect(port).await;
    for _ in 0..3 {
        let (head, body) = client.get("a", "/x").await;
        assert_eq!(status(&head), "HTTP/1.1 200 OK");
        assert_eq!(body, "GET /x HTTP/1.1");
    }
}

#[tokio::test]
async fn what_nobody_asked_for_ends_the_connection() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\n\r\n";
    let outcome = outcome(answer, 1, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((&*outcome.body, outcome.connections), ("abc", 2));
}

#[tokio::test]
async fn what_is_unmodified_keeps_its_length() {
    let answer = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n";
    let outcome = outcome(answer, 1, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(outcome.head.contains(&"content-length: 7".to_owned()));
    assert_eq!(outcome.connections, 1);
}

#[tokio::test]
async fn heads_have_no_bodies() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\n";
    let outcome = outcome(answer, 1, "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(outcome.connections, 1);
    assert!(outcome.head.contains(&"content-length: 30".to_owned()));
}

#[tokio::test]
async fn bodies_that_end_early_end_the_client_s_connection() {
    let endpoint = Endpoint::new(|_, mut peer| async move {
        peer.head().await;
        peer.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")
            .await;
    })
    .await;
    let (_fixture, port): (Fixture, u16) = proxy_to(&endpoint).await;
    let mut client = Peer::connect(port).await;
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let head = client.head().await.unwrap();
    assert_eq!(header(&head, "content-length"), Some("10"));
    assert_eq!(client.rest().await.unwrap_or_default(), "abc");
}

#[tokio::test]
async fn interim_answers_have_an_end() {
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n";
    let endpoint = Endpoint::new(move |_, mut peer| async move {
        while let Some(head) = peer.head().await {
            let count = if head.contains("many") { 101 } else { 100 };
            peer.send(&(hints.repeat(count) + &ok("hi"))).await;
        }
    })
    .await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let (head, body) = Peer::connect(port).await.get("a", "/few").await;
    assert_eq!((status(&head), &*body), ("HTTP/1.1 200 OK", "hi"));
    let (head, _) = Peer::connect(port).await.get("a", "/many").await;
    assert_eq!(status(&head), "HTTP/1.1 503 Service Unavailable");
}
