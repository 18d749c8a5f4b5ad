//! Heads, proper and not: of requests over connections that are read directly and over connections
//! that hyper reads, and of answers that are read either way. The other side can't tell.

use std::sync::{Arc, Mutex};

use fastrand::Rng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::harness::{Endpoint, Peer, ok, proxy_to};

/// How many heads, unless `NODEGATE_HEADS` says so.
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

const STATUSES: &[&str] = &[
    "HTTP/1.1 200 OK",
    "HTTP/1.1 200 OK",
    "HTTP/1.1 200 OK",
    "HTTP/1.1 200",
    "HTTP/1.1 200 ",
    "HTTP/1.1 404 caf\u{e9}",
    "HTTP/1.1 503 Service Unavailable",
    "HTTP/1.1 204 No Content",
    "HTTP/1.1 304 Not Modified",
    "HTTP/1.1 100 Continue",
    "HTTP/1.1 101 Switching Protocols",
    "HTTP/1.1 999 Nine",
    "HTTP/1.1 099 Nine",
    "HTTP/1.1 20 OK",
    "HTTP/1.1 2000 OK",
    "HTTP/1.0 200 OK",
    "HTTP/2.0 200 OK",
    "HTTP/1.1  200 OK",
    "HTTP/1.1 200 O\u{1}K",
    "ICY 200 OK",
    "",
];
const LENGTHS: &[&str] = &[
    "Content-Length: 5",
    "Content-Length: 5",
    "Content-Length: 5",
    "content-length:5",
    "Content-Length: 0",
    "Content-Length: 3",
    "Content-Length: 9",
    "Content-Length: 5\r\nContent-Length: 5",
    "Content-Length: 5\r\nContent-Length: 4",
    "Content-Length: 5, 5",
    "Content-Length: -5",
    "Content-Length: 0x5",
    "Content-Length: 99999999999999999999",
    "Content-Length: 5\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: gzip",
    "X: until the end",
];
const BODIES: &[&str] = &[
    "hello",
    "hello",
    "5\r\nhello\r\n0\r\n\r\n",
    "5;x=y\r\nhello\r\n0\r\nt: 1\r\n\r\n",
    "x\r\n",
    "",
];

fn heads() -> usize {
    std::env::var("NODEGATE_HEADS").map_or(HEADS, |heads| heads.parse().unwrap())
}

/// Mostly the usual: if much were odd at once, all would be refused for the same reasons.
fn odd<'a>(random: &mut Rng, all: &[&'a str]) -> &'a str {
    let at = if random.u8(..4) == 0 {
        random.usize(..all.len())
    } else {
        0
    };
    all[at]
}

fn request(random: &mut Rng) -> Vec<u8> {
    let (method, target) = (odd(random, METHODS), odd(random, TARGETS));
    let (version, host) = (odd(random, VERSIONS), odd(random, HOSTS));
    let first = format!("{method} {target} {version}");
    let mut request = head(random, vec![first, host.to_owned()]);
    // Without it, who is first decides: the endpoint's answer, or the client's end.
    let has = |line: &str| {
        let mut parts = request.windows(line.len());
        parts.any(|part| part == line.as_bytes())
    };
    if has("Content-Length: 3") {
        request.extend_from_slice(b"abc");
    } else if has(": chunked") {
        request.extend_from_slice(b"0\r\n\r\n");
    }
    request
}

fn answer(random: &mut Rng) -> Vec<u8> {
    let (status, length) = (odd(random, STATUSES), odd(random, LENGTHS));
    let mut answer = head(random, vec![status.to_owned(), length.to_owned()]);
    let body = match length {
        "Transfer-Encoding: chunked" => *random.choice(&BODIES[2..]).unwrap(),
        _ => odd(random, BODIES),
    };
    answer.extend_from_slice(body.as_bytes());
    answer
}

/// A head that begins with these lines.
fn head(random: &mut Rng, mut lines: Vec<String>) -> Vec<u8> {
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

/// Answers every request, of which the body is empty or short, with its head, in visible characters.
async fn showing_heads() -> Endpoint {
    Endpoint::new(|_, mut peer| async move {
        let mut read = Vec::new();
        loop {
            if let Some((head, length)) = whole_request(&read) {
                read.drain(..length);
                peer.send(ok(&head)).await;
            } else if peer.stream().read_buf(&mut read).await.unwrap_or(0) == 0 {
                return;
            }
        }
    })
    .await
}

/// The head of a request, and how long the request is; none if it isn't whole.
fn whole_request(read: &[u8]) -> Option<(String, usize)> {
    let end = |read: &[u8]| read.windows(4).position(|four| four == b"\r\n\r\n");
    let head = end(read)? + 4;
    let shown = read[..head - 4].escape_ascii().to_string();
    let body = if shown.contains("chunked") {
        end(&read[head..])? + 4
    } else if shown.contains("content-length: 3") {
        3
    } else {
        0
    };
    (read.len() >= head + body).then_some((shown, head + body))
}

/// All that comes back for a request, of which the beginning is answered first, in visible characters.
/// What differs from time to time is left out, and so is the order of headers.
async fn outcome(port: u16, beginning: &str, rest: &[u8], pieces: usize) -> Vec<String> {
    let mut client = Peer::connect(port).await;
    if !beginning.is_empty() {
        client.send(beginning).await;
        client.response().await;
    }
    let stream = client.stream();
    for piece in rest.chunks(rest.len().div_ceil(pieces)) {
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

/// How many outcomes there were of which kind.
#[derive(Debug, Default)]
struct Count {
    good: usize,
    bad: usize,
}

impl Count {
    fn add(&mut self, outcome: &[String], bad: &str) {
        let is = |status: &str| outcome.iter().any(|line| line.starts_with(status));
        self.good += usize::from(is("HTTP/1.1 200"));
        self.bad += usize::from(is(bad));
    }

    /// Otherwise little was compared.
    fn check(&self) {
        let few = heads() / 4;
        assert!(self.good > few && self.bad > few, "{self:?}");
    }
}

#[tokio::test]
async fn all_requests_are_read_alike() {
    let endpoint = showing_heads().await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut random = Rng::with_seed(7);
    let mut count = Count::default();
    for _ in 0..heads() {
        let request = request(&mut random);
        // What hyper says to a part of a head depends on how it comes.
        let whole = request.windows(2).any(|end| end == b"\n\n")
            || request.windows(3).any(|end| end == b"\n\r\n");
        let pieces = if whole { random.usize(1..4) } else { 1 };
        let directly = outcome(port, DIRECT, &request, pieces).await;
        let by_hyper = outcome(port, HYPER, &request, pieces).await;
        assert_eq!(directly, by_hyper, "{} in {pieces}", request.escape_ascii());
        count.add(&directly, "HTTP/1.1 4");
    }
    count.check();
}

#[tokio::test]
async fn all_answers_are_read_alike() {
    let answer_now = Arc::new(Mutex::new(Vec::new()));
    let given = Arc::clone(&answer_now);
    let endpoint = Endpoint::new(move |_, mut peer| {
        let answer: Vec<u8> = given.lock().unwrap().clone();
        async move {
            let Some(head) = peer.head().await else {
                return;
            };
            if head.starts_with("POST") {
                peer.exactly(1).await;
            }
            // A proxy that has seen enough is gone.
            let _ = peer.stream().write_all(&answer).await;
            let _ = peer.stream().shutdown().await;
            let _ = peer.stream().read_to_end(&mut Vec::new()).await;
        }
    })
    .await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut random = Rng::with_seed(7);
    let mut count = Count::default();
    for _ in 0..heads() {
        let answer = answer(&mut random);
        answer_now.lock().unwrap().clone_from(&answer);
        // Only requests without a body are asked directly.
        let get = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let post = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx";
        let directly = outcome(port, "", get, 1).await;
        let by_hyper = outcome(port, "", post, 1).await;
        assert_eq!(directly, by_hyper, "{}", answer.escape_ascii());
        count.add(&directly, "HTTP/1.1 5");
    }
    count.check();
}
