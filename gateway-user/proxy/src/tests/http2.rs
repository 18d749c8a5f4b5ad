//! HTTP/2 on either side or both.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2::SendRequest,
    ext::Protocol,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nodegate_model::gateway::HttpRoute;
use nodegate_observe::{Record, ResponseFlag, ResponseFlags};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time,
};

use super::harness::{
    Endpoint, Fixture, Peer, free_port, header, ok, proxy_to, simple, soon, status, until,
};
use crate::{
    Options,
    fixture::{cluster, forward, gateway, http_listener, prefix_route},
};

pub(super) type Client = SendRequest<BoxBody<Bytes, Infallible>>;

/// An endpoint that speaks HTTP/2: answers what the closure says, with the request's body and trailers.
pub(super) struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    pub(super) async fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service_fn(serve));
                tokio::spawn(async move {
                    let _ = connection.await;
                });
            }
        });
        Self {
            address,
            connections,
        }
    }
}

impl Server {
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn serve(
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let (parts, body) = request.into_parts();
    assert_eq!(parts.version, Version::HTTP_2);
    if parts.uri.path() == "/slow" {
        time::sleep(patience::limit()).await;
    }
    // As it comes: nothing is collected.
    let body = body.map_frame(|frame| frame).map_err(|_| unreachable!());
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let body = body.with_trailers(async { Some(Ok(trailers)) });
    let mut response = Response::new(BoxBody::new(body));
    for (name, value) in [
        ("x-seen-path", parts.uri.path()),
        (
            "x-seen-authority",
            parts
                .uri
                .authority()
                .map_or("", |authority| authority.as_str()),
        ),
    ] {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    for name in [
        "te",
        "host",
        "content-length",
        "x-forwarded-for",
        "x-envoy-attempt-count",
    ] {
        if let Some(value) = parts.headers.get(name) {
            let name: http::HeaderName = format!("x-seen-{name}").parse().unwrap();
            response.headers_mut().insert(name, value.clone());
        }
    }
    Ok(response)
}

pub(super) async fn connect(port: u16) -> Client {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .unwrap();
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    client
}

pub(super) fn request(path: &str, body: &'static str) -> Request<BoxBody<Bytes, Infallible>> {
    Request::post(format!("http://a.example:30001{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(BoxBody::new(Full::from(body)))
        .unwrap()
}

/// A proxy in front of an HTTP/2 endpoint.
pub(super) async fn proxy_to_http2(
    server: &Server,
    change: impl FnOnce(&mut HttpRoute),
) -> (Fixture, u16) {
    let fixture = Fixture::new(1);
    let port = free_port();
    let mut route = prefix_route("/", &[("web", 1)]);
    change(&mut route);
    let mut web = cluster("web", &[&server.address.to_string()]);
    web.http2 = true;
    fixture
        .apply(gateway(
            vec![http_listener(port, &["*"], vec![route])],
            vec![web],
        ))
        .await;
    (fixture, port)
}

#[tokio::test]
async fn grpc_goes_through_with_its_trailers() {
    let server = Server::new().await;
    let (_fixture, port) = proxy_to_http2(&server, |_| {}).await;
    let mut client = connect(port).await;
    let response = client
        .send_request(request("/svc/Call", "hello"))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let headers = response.headers().clone();
    for (name, value) in [
        ("x-seen-path", "/svc/Call"),
        ("x-seen-authority", "a.example:30001"),
        ("x-seen-te", "trailers"),
        ("x-seen-x-forwarded-for", "127.0.0.1"),
        ("x-seen-x-envoy-attempt-count", "1"),
        ("server", "istio-envoy"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    assert!(!headers.contains_key("x-seen-host"));
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(body.to_bytes(), "hello");
}

#[tokio::test]
async fn both_directions_stream_at_once() {
    let server = Server::new().await;
    let (_fixture, port) = proxy_to_http2(&server, |_| {}).await;
    let mut client = connect(port).await;
    let (send, receive) = mpsc::channel::<Bytes>(1);
    let stream = futures_util::stream::unfold(receive, async |mut receive| {
        let data = receive.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(data)), receive))
    });
    let mut asked = request("/svc/Chat", "");
    *asked.body_mut() = BoxBody::new(StreamBody::new(Box::pin(stream)));
    let mut body = client.send_request(asked).await.unwrap().into_body();
    for word in ["one", "two", "three"] {
        send.send(Bytes::from(word)).await.unwrap();
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), word);
    }
    drop(send);
    let trailers = body.frame().await.unwrap().unwrap().into_trailers();
    assert_eq!(trailers.unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn many_requests_share_one_connection() {
    let server = Server::new().await;
    let (_fixture, port) = proxy_to_http2(&server, |_| {}).await;
    let client = connect(port).await;
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.send_request(request("/", "x")).await.unwrap() })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().status(), 200);
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn our_own_answers_are_grpc_s_too() {
    let server = Server::new().await;
    let (fixture, port) = proxy_to_http2(&server, |route| {
        forward(route).timeout = Some(Duration::from_millis(200));
    })
    .await;
    let mut records = fixture.proxy.tap().subscribe(4);
    let mut client = connect(port).await;
    let response = client.send_request(request("/slow", "x")).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(
        response.headers()["grpc-message"],
        "upstream request timeout"
    );
    let Record::Request(record) = &*records.recv().await else {
        panic!("no TCP here");
    };
    assert_eq!(record.protocol, "HTTP/2");
    assert_eq!(record.flags, ResponseFlag::UpstreamRequestTimeout.into());
}

#[tokio::test]
async fn http2_clients_reach_http1_endpoints() {
    let endpoint = Endpoint::echoing_heads().await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = connect(port).await;
    let response = client.send_request(request("/x?y", "body")).await;
    let body = response.unwrap().into_body().collect().await.unwrap();
    let seen = String::from_utf8(body.to_bytes().to_vec()).unwrap();
    assert_eq!(status(&seen), "POST /x?y HTTP/1.1");
    assert_eq!(header(&seen, "host"), Some("a.example:30001"));
    assert_eq!(header(&seen, "te"), Some("trailers"));
}

#[tokio::test]
async fn http1_clients_reach_http2_endpoints() {
    let server = Server::new().await;
    let (_fixture, port) = proxy_to_http2(&server, |_| {}).await;
    let mut client = Peer::connect(port).await;
    client
        .send("POST /x HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello")
        .await;
    let head = client.head().await.unwrap();
    assert_eq!(header(&head, "x-seen-authority"), Some("a.example"));
    // Trailers have no place here, and are dropped.
    assert_eq!(
        client.until("0\r\n\r\n").await.unwrap(),
        "5\r\nhello\r\n0\r\n\r\n"
    );
}

#[tokio::test]
async fn trailers_of_http1_stay_there() {
    let endpoint = Endpoint::new(|_, mut peer| async move {
        while peer.head().await.is_some() {
            peer.send(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-t: 1\r\n\r\n",
            )
            .await;
        }
    })
    .await;
    let (fixture, port) = proxy_to(&endpoint).await;
    let mut records = fixture.proxy.tap().subscribe(2);
    let mut client = connect(port).await;
    for _ in 0..2 {
        let request = Request::get("http://a.example/x").body(BoxBody::default());
        let response = client.send_request(request.unwrap()).await.unwrap();
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers(), None);
        assert_eq!(body.to_bytes(), "ok");
        let Record::Request(record) = &*records.recv().await else {
            panic!("no TCP here");
        };
        assert_eq!(
            (record.flags, &*record.details),
            (ResponseFlags::default(), "via_upstream")
        );
    }
    assert_eq!(endpoint.connections(), 1);
}

/// An endpoint that answers the first request in HTTP/2 with these frames, all at once.
async fn answering_with(frames: Vec<Vec<u8>>) -> Endpoint {
    Endpoint::new(move |_, mut peer| {
        let frames = frames.clone();
        async move {
            // The preface, and its rest.
            peer.head().await;
            peer.head().await;
            peer.send(frame(4, 0, 0, &[])).await;
            // What the request says is of no interest, once it is there.
            loop {
                let head = peer.bytes(9).await;
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                peer.bytes(length as usize).await;
                if head[3] == HEADERS {
                    break;
                }
            }
            peer.send(frames.concat()).await;
            time::sleep(patience::limit()).await;
        }
    })
    .await
}

pub(super) async fn proxy_to_frames(frames: Vec<Vec<u8>>) -> (Fixture, u16, Endpoint) {
    let endpoint = answering_with(frames).await;
    let server = Server {
        address: endpoint.address,
        connections: Arc::default(),
    };
    let (fixture, port) = proxy_to_http2(&server, |_| {}).await;
    (fixture, port, endpoint)
}

/// The type of the frame that a request begins with.
const HEADERS: u8 = 1;
/// `:status: 200`
pub(super) const OK: u8 = 0x88;

#[tokio::test]
async fn what_is_no_http2_is_a_bad_gateway() {
    // `connection: close`, which HTTP/2 doesn't have.
    let head = [&[OK, 0, 10][..], b"connection", &[5], b"close"].concat();
    let (fixture, port, endpoint) = proxy_to_frames(vec![frame(1, 5, 1, &head)]).await;
    let mut records = fixture.proxy.tap().subscribe(1);
    let (head, body) = Peer::connect(port).await.get("a", "/").await;
    assert_eq!(status(&head), "HTTP/1.1 502 Bad Gateway");
    assert!(body.ends_with("reset reason: protocol error"), "{body}");
    let Record::Request(record) = &*records.recv().await else {
        panic!("no TCP here");
    };
    assert_eq!(record.flags, ResponseFlag::UpstreamProtocolError.into());
    assert_eq!(endpoint.connections(), 1);
}

#[tokio::test]
async fn what_comes_before_a_reset_arrives() {
    let frames = vec![
        frame(1, 4, 1, &[OK]),
        frame(0, 0, 1, b"some"),
        frame(3, 0, 1, &2_u32.to_be_bytes()),
    ];
    let (_fixture, port, _endpoint) = proxy_to_frames(frames).await;
    let mut client = connect(port).await;
    let response = client.send_request(request("/", "")).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "some");
    assert!(body.frame().await.unwrap().is_err());
}

#[tokio::test]
async fn a_change_ends_http2_connections_gently() {
    let server = Server::new().await;
    let (fixture, port) = proxy_to_http2(&server, |_| {}).await;
    let mut client = connect(port).await;
    client.send_request(request("/", "x")).await.unwrap();
    fixture.apply(gateway(Vec::new(), Vec::new())).await;
    soon(async {
        while client.ready().await.is_ok() && !client.is_closed() {
            time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn heads_have_their_limits() {
    let server = Server::new().await;
    let (_fixture, port) = proxy_to_http2(&server, |_| {}).await;
    let mut client = connect(port).await;
    let mut many = request("/", "");
    for index in 0..100 {
        let name: http::HeaderName = format!("x-{index}").parse().unwrap();
        many.headers_mut().insert(name, "1".parse().unwrap());
    }
    many.headers_mut().remove("content-type");
    let response = client.send_request(many).await.unwrap();
    assert_eq!(response.status(), 431);
}

/// A frame (RFC 9113, section 4.1).
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `GET http://a/`, of HPACK's static table but for the host.
pub(super) const HEAD: &[u8] = &[0x82, 0x86, 0x84, 0x41, 1, b'a'];
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
pub(super) const END_HEADERS: u8 = 4;
pub(super) const END_STREAM: u8 = 1;

/// Sends frames until the proxy has had enough; tells how many that took, if it ever had.
async fn flood(port: u16, begin: &[u8], frames: impl Iterator<Item = Vec<u8>>) -> Option<usize> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .unwrap();
    let (mut read, mut write) = stream.into_split();
    let closed = tokio::spawn(async move {
        let mut sink = Vec::new();
        // However it ends: it does.
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut read, &mut sink).await;
    });
    let mut sent = 0;
    let flooding = async {
        tokio::io::AsyncWriteExt::write_all(&mut write, begin)
            .await
            .ok()?;
        for frame in frames {
            if closed.is_finished() {
                return Some(());
            }
            tokio::io::AsyncWriteExt::write_all(&mut write, &frame)
                .await
                .ok()?;
            sent += 1;
        }
        Some(())
    };
    let _ = time::timeout(patience::limit(), flooding).await;
    let ended = time::timeout(patience::limit(), closed).await.is_ok();
    ended.then_some(sent)
}

#[tokio::test]
async fn whoever_resets_all_streams_at_once_is_cut_off() {
    let endpoint = Endpoint::answering("hi").await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    // CVE-2023-44487: requests that are taken back before they can be answered.
    let frames = (0..100_000_u32).map(|at| {
        let stream = at * 2 + 1;
        let mut both = frame(1, END_HEADERS | END_STREAM, stream, HEAD);
        both.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
        both
    });
    let sent = flood(port, PREFACE, frames).await;
    assert!(sent.is_some_and(|sent| sent < 100_000), "{sent:?}");
    // Others are served as before.
    let (_, body) = Peer::connect(port).await.get("a", "/").await;
    assert_eq!(body, "hi");
}

/// As the flood before, but each request is with the endpoint by the time it is taken back.
#[tokio::test]
async fn whoever_resets_most_requests_is_cut_off_however_slowly() {
    let (asked, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&asked);
    let endpoint = Endpoint::new(move |_, mut peer| {
        let counted = Arc::clone(&counted);
        async move {
            while peer
                .head()
                .await
                .is_some_and(|head| !head.contains("ordinary"))
            {
                counted.fetch_add(1, Ordering::SeqCst);
            }
            peer.send(&ok("hi")).await;
        }
    })
    .await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .unwrap();
    let (mut read, mut write) = stream.into_split();
    let closed = tokio::spawn(async move {
        let mut sink = Vec::new();
        // However it ends: it does.
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut read, &mut sink).await;
    });
    tokio::io::AsyncWriteExt::write_all(&mut write, PREFACE)
        .await
        .unwrap();
    for at in 0..1_000_u32 {
        let stream = at * 2 + 1;
        let request = frame(1, END_HEADERS | END_STREAM, stream, HEAD);
        let reset = frame(3, 0, stream, &8_u32.to_be_bytes());
        if tokio::io::AsyncWriteExt::write_all(&mut write, &request)
            .await
            .is_err()
        {
            break;
        }
        until(|| asked.load(Ordering::SeqCst) > at as usize || closed.is_finished()).await;
        if closed.is_finished() {
            break;
        }
        seen.fetch_add(1, Ordering::SeqCst);
        if tokio::io::AsyncWriteExt::write_all(&mut write, &reset)
            .await
            .is_err()
        {
            break;
        }
    }
    soon(closed).await.unwrap();
    // Of 500 requests half, as with Envoy; one may be under way.
    let seen = seen.load(Ordering::SeqCst);
    assert!((250..=252).contains(&seen), "{seen}");
    let (_, body) = Peer::connect(port).await.get("ordinary", "/").await;
    assert_eq!(body, "hi");
}

#[tokio::test]
async fn heads_that_never_end_are_cut_off() {
    let endpoint = Endpoint::answering("hi").await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    // CONTINUATION frames without an end: 16 KiB of one header each, literal and never indexed.
    let mut begin = PREFACE.to_vec();
    begin.extend(frame(1, 0, 1, HEAD));
    let piece = [&[0x10, 1, b'x', 0x7F, 0xE1, 0x7C][..], &[b'a'; 16_000][..]].concat();
    let frames = (0..100_000).map(|_| frame(9, 0, 1, &piece));
    let sent = flood(port, &begin, frames).await;
    assert!(sent.is_some_and(|sent| sent < 1_000), "{sent:?}");
    // Empty ones cost nothing but time, and there is an end to them, too.
    let frames = (0..1_000_000).map(|_| frame(9, 0, 1, &[]));
    let sent = flood(port, &begin, frames).await;
    assert!(sent.is_some_and(|sent| sent < 100_000), "{sent:?}");
    let (_, body) = Peer::connect(port).await.get("a", "/").await;
    assert_eq!(body, "hi");
}

/// Asks for a WebSocket over a stream (RFC 8441).
async fn extended(client: &mut Client, protocol: &'static str) -> Response<Incoming> {
    let request = Request::connect("http://a.example/chat")
        .extension(Protocol::from_static(protocol))
        .header("sec-websocket-version", "13")
        .body(BoxBody::new(Full::default()))
        .unwrap();
    client.send_request(request).await.unwrap()
}

/// A proxy that lets streams become WebSockets.
async fn offering(endpoint: &Endpoint) -> (Fixture, u16) {
    let fixture = Fixture::with_options(Options {
        workers: NonZero::<usize>::MIN,
        address: Some(Ipv4Addr::LOCALHOST.into()),
        extended_connect: true,
        ..Options::default()
    });
    let port = free_port();
    fixture.apply(simple(port, endpoint)).await;
    (fixture, port)
}

/// A client that has heard what the server can do.
async fn connect_and_settle(port: u16) -> Client {
    let mut client = connect(port).await;
    let missing = Request::get("http://a.example/none").body(BoxBody::new(Full::default()));
    client.send_request(missing.unwrap()).await.unwrap();
    client
}

#[tokio::test]
async fn streams_become_websockets() {
    let endpoint = Endpoint::new(|_, mut peer| async move {
        while let Some(head) = peer.head().await {
            if status(&head) == "GET /none HTTP/1.1" {
                peer.send(&ok("")).await;
                continue;
            }
            assert_eq!(status(&head), "GET /chat HTTP/1.1");
            assert_eq!(header(&head, "host"), Some("a.example"));
            assert_eq!(header(&head, "upgrade"), Some("websocket"));
            assert_eq!(header(&head, "connection"), Some("upgrade"));
            assert_eq!(header(&head, "sec-websocket-version"), Some("13"));
            assert_eq!(header(&head, "sec-websocket-key").unwrap().len(), 24);
            peer.send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: y\r\nSec-WebSocket-Protocol: chat\r\n\r\nhello\n",
            )
            .await;
            while let Some(line) = peer.until("\n").await {
                peer.send(line).await;
            }
            peer.send("bye").await;
            return;
        }
    })
    .await;
    let (fixture, port) = offering(&endpoint).await;
    let mut client = connect_and_settle(port).await;
    let mut records = fixture.proxy.tap().subscribe(8);
    // Two at once, over one connection.
    let mut streams = Vec::new();
    for _ in 0..2 {
        let response = extended(&mut client, "websocket").await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
        for name in ["connection", "upgrade", "sec-websocket-accept"] {
            assert!(!response.headers().contains_key(name), "{name}");
        }
        let upgraded = hyper::upgrade::on(response).await.unwrap();
        streams.push(Peer::of(TokioIo::new(upgraded)));
    }
    for stream in &mut streams {
        assert_eq!(stream.until("\n").await.unwrap(), "hello\n");
        let long = "x".repeat(200_000) + "\n";
        stream.send(&long).await;
        assert_eq!(stream.until("\n").await.unwrap(), long);
    }
    for mut stream in streams {
        stream.shutdown().await;
        assert_eq!(stream.rest().await.unwrap(), "bye");
        let record = records.recv().await;
        let Record::Request(record) = &*record else {
            panic!("{record:?}");
        };
        assert_eq!(record.status, 101);
        assert_eq!(
            (record.bytes_received, record.bytes_sent),
            (200_001, 200_010)
        );
    }
}

/// As with Istio, who leaves Envoy's `allow_connect` alone.
#[tokio::test]
async fn websockets_over_http2_are_not_offered_unasked() {
    let endpoint = Endpoint::answering("hi").await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = connect_and_settle(port).await;
    let request = Request::connect("http://a.example/chat")
        .extension(Protocol::from_static("websocket"))
        .body(BoxBody::new(Full::default()))
        .unwrap();
    // hyper's client doesn't even send it.
    assert!(client.send_request(request).await.is_err());
}

#[tokio::test]
async fn streams_that_do_not_become_websockets_are_answered() {
    let endpoint = Endpoint::answering("no").await;
    let (_fixture, port) = offering(&endpoint).await;
    let mut client = connect_and_settle(port).await;
    // The endpoint declines, and says something.
    let response = extended(&mut client, "websocket").await;
    assert_eq!(response.status(), 200);
    let upgraded = hyper::upgrade::on(response).await.unwrap();
    assert_eq!(Peer::of(TokioIo::new(upgraded)).rest().await.unwrap(), "no");
    // Nothing else is passed on.
    let response = extended(&mut client, "irc").await;
    assert_eq!(response.status(), 403);
    // The connection goes on.
    let plain = Request::connect("a.example:80").body(BoxBody::new(Full::default()));
    let response = client.send_request(plain.unwrap()).await.unwrap();
    assert_eq!(response.status(), 404);
}
