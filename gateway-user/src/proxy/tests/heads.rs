//! Heads of requests, proper and not, over connections that are read directly and over connections
//! that hyper reads: the same answer, and the endpoint sees the same.

use fastrand::Rng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::harness::{Endpoint, Peer, ok, proxy_to};

/// How many heads.
const HEADS: usize = 1500;
/// What a connection begins with: afterwards it is read directly,
const DIRECT: &str = "GET /first HTTP/1.1\r\nHost: a\r\n\r\n";
/// or by hyper, for a while.
const HYPER: &str = "POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";

const METHODS: &[&str] = &[
    "GET", "GET", "GET", "GET", "DELETE", "OPTIONS", "HEAD", "TRACE", "PROPFIND", "get", "G/T", "",
    "CONNECT", "POST", "GE\u{1}T",
];
const TARGETS: &[&str] = &[
    "/",
    "/",
    "/a/b?c=d&e",
    "/a/b?c=d&e",
    "/%41%2F%2e%2e/x",
    "//a//b",
    "/a/../../b",
    "/a#b",
    "/a?b#c",
    "/a b",
    "/\u{e9}",
    "/{x}|y^z`",
    "/\"quoted\"",
    "/back\\slash",
    "/tab\there",
    "/null\0",
    "*",
    "",
    "a",
    "?a",
    "http://b/x?y",
    "http://",
    "/%",
    "/%zz",
];
const VERSIONS: &[&str] = &[
    "HTTP/1.1",
    "HTTP/1.1",
    "HTTP/1.1",
    "HTTP/1.1",
    "HTTP/1.1",
    "HTTP/1.0",
    "HTTP/2.0",
    "HTTP/1.2",
    "http/1.1",
    "HTTP/1.1 ",
    "",
];
const HOSTS: &[&str] = &[
    "Host: a",
    "Host: a",
    "Host: a",
    "Host: a",
    "Host: a:80",
    "host:a",
    "Host: ",
    "Host: a b",
    "Host: a/b",
    "Host: u@a",
    "Host : a",
    "Host: a\r\nHost: b",
    "X: no host",
];
const FIELDS: &[&str] = &[
    "Accept: */*",
    "Cookie: a=1",
    "Cookie: b=2; c",
    "X-Empty:",
    "X-Spaces:   \t both sides \t ",
    "X-Text: caf\u{e9}",
    "X-Same: 1",
    "x-same: 2",
    "Connection: keep-alive",
    "Connection: Keep-Alive",
    "Connection: close",
    "Connection: x-same",
    "Keep-Alive: timeout=5",
    "Proxy-Connection: keep-alive",
    "TE: trailers",
    "TE: gzip",
    "Upgrade: h2c",
    "Upgrade: websocket",
    "Expect: 100-continue",
    "Content-Length: 0",
    "Content-Length: 3",
    "Content-Length: +1",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip",
    "X-Forwarded-For: 10.1.2.3",
    "X-Forwarded-Proto: https",
    "X-Request-Id: mine",
    "x-envoy-internal: true",
    "Trailer: x",
    "under_score: 1",
    "X-Space : 1",
    "X-No-Colon",
    ": no name",
    "X(y): 1",
    "X-Bell: \u{7}",
    "X-Delete: \u{7f}",
    "X-Null: \0",
    "X-Return: a\rb",
    "X-Folded: a\r\n b",
    " X-Leading: space",
];

/// Most of it is as usual, and little is odd at once: otherwise all would be refused for the same
/// reasons.
fn head(random: &mut Rng) -> Vec<u8> {
    let odd = |random: &mut Rng, all: &[&str]| {
        let at = if random.u8(..4) == 0 {
            random.usize(..all.len())
        } else {
            0
        };
        all[at].to_owned()
    };
    let (method, target) = (odd(random, METHODS), odd(random, TARGETS));
    let (version, host) = (odd(random, VERSIONS), odd(random, HOSTS));
    let mut lines = vec![format!("{method} {target} {version}"), host];
    for _ in 0..random.usize(..4) {
        lines.push((*random.choice(FIELDS).unwrap()).to_owned());
    }
    if random.u8(..20) == 0 {
        let many = random.usize(50..110);
        lines.extend((0..many).map(|index| format!("x-{index}: {index}")));
    }
    if random.u8(..20) == 0 {
        let long = random.usize(1..40_000);
        lines.push(format!("x-long: {}", "y".repeat(long)));
    }
    let end = if random.u8(..12) == 0 { "\n" } else { "\r\n" };
    let mut head = lines.join(end) + end;
    if random.u8(..20) != 0 {
        head.push_str(end);
    }
    let mut head = head.into_bytes();
    if random.u8(..8) == 0 {
        let at = random.usize(..head.len().min(80));
        head[at] = random.u8(..);
    }
    head
}

/// Answers every request with its head, in visible characters.
async fn showing_heads() -> Endpoint {
    Endpoint::new(|_, mut peer| async move {
        let mut read = Vec::new();
        loop {
            match read.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(at) => {
                    let shown = read[..at].escape_ascii().to_string();
                    read.drain(..at + 4);
                    peer.send(ok(&shown)).await;
                }
                None if peer.stream().read_buf(&mut read).await.unwrap_or(0) == 0 => return,
                None => {}
            }
        }
    })
    .await
}

/// All that comes back for a head, in visible characters. What differs from time to time is left out,
/// and so is the order of headers.
async fn outcome(port: u16, beginning: &str, head: &[u8], pieces: usize) -> Vec<String> {
    let mut client = Peer::connect(port).await;
    client.send(beginning).await;
    client.response().await;
    let stream = client.stream();
    for piece in head.chunks(head.len().div_ceil(pieces)) {
        // It may have been refused by now.
        let _ = stream.write_all(piece).await;
        tokio::task::yield_now().await;
    }
    let _ = stream.shutdown().await;
    let mut read = Vec::new();
    // A reset instead of an end is no other answer.
    let _ = stream.read_to_end(&mut read).await;
    let shown = read.escape_ascii().to_string().replace("\\\\", "\\");
    let changing = [
        "date: ",
        "x-envoy-upstream-service-time: ",
        "x-request-id: ",
    ];
    let mut lines: Vec<_> = shown.split("\\r\\n").map(str::to_owned).collect();
    lines.retain(|line| !changing.iter().any(|start| line.starts_with(start)));
    lines.sort();
    lines
}

#[tokio::test]
async fn all_heads_are_read_alike() {
    let endpoint = showing_heads().await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut random = Rng::with_seed(7);
    let (mut passed_on, mut refused) = (0, 0);
    for _ in 0..HEADS {
        let head = head(&mut random);
        let pieces = random.usize(1..4);
        let directly = outcome(port, DIRECT, &head, pieces).await;
        let by_hyper = outcome(port, HYPER, &head, pieces).await;
        let shown = head.escape_ascii();
        assert_eq!(directly, by_hyper, "{shown}");
        let is = |status: &str| directly.iter().any(|line| line.starts_with(status));
        passed_on += usize::from(is("HTTP/1.1 200"));
        refused += usize::from(is("HTTP/1.1 4"));
    }
    assert!(passed_on > HEADS / 4, "{passed_on} were passed on");
    assert!(refused > HEADS / 4, "{refused} were refused");
}
