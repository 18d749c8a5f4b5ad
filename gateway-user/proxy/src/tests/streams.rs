//! How streams of HTTP/2 end, and what of them goes on in HTTP/1.1.

use std::error::Error as _;

use http::{Method, Request};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use nodegate_observe::{Record, RequestRecord, ResponseFlag, ResponseFlags};
use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::mpsc};

use super::{
    harness::{Endpoint, Peer, header, ok, proxy_to, soon, status},
    http2::{
        END_HEADERS, END_STREAM, HEAD, OK, PREFACE, Server, connect, frame, proxy_to_frames,
        proxy_to_http2, request,
    },
};

/// `:status: 204`
const NO_CONTENT: u8 = 0x89;
const NO_ERROR: u32 = 0;
const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 7;

/// An answer is whole only with the end of its stream: hyper takes a reset without an error for one.
#[tokio::test]
async fn an_answer_that_an_endpoint_abandons_is_not_whole() {
    for code in [NO_ERROR, PROTOCOL_ERROR, REFUSED_STREAM, 8] {
        let frames = vec![
            frame(1, 4, 1, &[OK]),
            frame(0, 0, 1, b"some"),
            frame(3, 0, 1, &code.to_be_bytes()),
        ];
        let (fixture, port, _endpoint) = proxy_to_frames(frames).await;
        let mut records = fixture.proxy.tap().subscribe(16);
        let mut client = connect(port).await;
        let response = client.send_request(request("/", "")).await.unwrap();
        let mut body = response.into_body();
        let some = body.frame().await.unwrap().unwrap();
        assert_eq!(some.into_data().unwrap(), "some");
        let error = body.frame().await.unwrap().unwrap_err();
        let reset: &h2::Error = error.source().unwrap().downcast_ref().unwrap();
        // What the endpoint has done is nothing that the client has done.
        assert_eq!(reset.reason(), Some(h2::Reason::INTERNAL_ERROR), "{code}");
        let record = records.recv().await;
        let Record::Request(record) = &*record else {
            panic!("{record}")
        };
        assert_eq!(record.flags, ResponseFlag::UpstreamRemoteReset.into());
        let says_refused = record.details.contains("{remote_refused_stream_reset}");
        assert_eq!(says_refused, code == REFUSED_STREAM, "{}", record.details);
    }
}

#[tokio::test]
async fn a_body_where_there_is_none_is_a_broken_answer() {
    let frames = vec![frame(1, 4, 1, &[NO_CONTENT]), frame(0, 1, 1, b"some")];
    let (_fixture, port, _endpoint) = proxy_to_frames(frames).await;
    let mut client = connect(port).await;
    let response = client.send_request(request("/", "")).await.unwrap();
    assert_eq!(response.status(), 204);
    assert!(response.into_body().collect().await.is_err());
}

#[tokio::test]
async fn who_hears_of_a_broken_protocol_is_a_bad_gateway() {
    let frames = vec![frame(3, 0, 1, &PROTOCOL_ERROR.to_be_bytes())];
    let (_fixture, port, _endpoint) = proxy_to_frames(frames).await;
    let (head, body) = Peer::connect(port).await.get("a", "/").await;
    assert_eq!(status(&head), "HTTP/1.1 502 Bad Gateway");
    assert!(body.ends_with("reset reason: protocol error"), "{body}");
}

#[tokio::test]
async fn a_body_of_unknown_length_goes_on_whatever_the_method() {
    let endpoint = Endpoint::new(|_, mut peer| async move {
        peer.head().await;
        let body = peer.until("0\r\n\r\n").await;
        peer.send(&ok(&body.unwrap_or_default())).await;
    })
    .await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = connect(port).await;
    let body = futures_util::stream::iter([Ok(http_body::Frame::data("body".into()))]);
    let mut asked = request("/", "");
    *asked.method_mut() = Method::GET;
    *asked.body_mut() = BoxBody::new(http_body_util::StreamBody::new(body));
    let response = soon(client.send_request(asked)).await.unwrap();
    let seen = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(&seen[..], b"4\r\nbody\r\n0\r\n\r\n");
}

/// Which it may be asked over another connection.
#[tokio::test]
async fn a_stream_that_is_not_taken_any_more_is_refused() {
    // Of this connection none is taken.
    let frames = vec![frame(7, 0, 0, &[0; 8])];
    let (_fixture, port, _endpoint) = proxy_to_frames(frames).await;
    let (head, body) = Peer::connect(port).await.get("a", "/").await;
    assert_eq!(status(&head), "HTTP/1.1 503 Service Unavailable");
    assert!(
        body.ends_with("reset reason: remote refused stream reset"),
        "{body}"
    );
}

#[tokio::test]
async fn user_information_is_no_part_of_a_host() {
    let endpoint = Endpoint::answering("ok").await;
    let (_fixture, port) = proxy_to(&endpoint).await;
    let mut client = connect(port).await;
    let asked = Request::get("http://user@a.example/")
        .body(BoxBody::new(Full::from("")))
        .unwrap();
    let response = client.send_request(asked).await.unwrap();
    assert_eq!(response.status(), 400);
    assert_eq!(endpoint.connections(), 0);
}

#[tokio::test]
async fn an_empty_post_says_nothing_of_its_length_in_http2() {
    let server = Server::new().await;
    let (_fixture, port) = proxy_to_http2(&server, |_| {}).await;
    let mut client = Peer::connect(port).await;
    client.send("POST / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let (head, _) = client.response().await;
    assert_eq!(header(&head, "x-seen-authority"), Some("a"));
    assert_eq!(header(&head, "x-seen-content-length"), None);
}

/// A client of HTTP/1.1 that has got all of the length has not left, whatever becomes of the endpoint's stream.
#[tokio::test]
async fn an_answer_is_served_when_its_length_has_come() {
    // `content-length: 4`, not indexed (RFC 7541, section 6.2.2).
    let head = [OK, 0x0f, 0x0d, 1, b'4'];
    let frames = vec![
        frame(1, 4, 1, &head),
        frame(0, 0, 1, b"some"),
        frame(3, 0, 1, &NO_ERROR.to_be_bytes()),
    ];
    let (fixture, port, _endpoint) = proxy_to_frames(frames).await;
    let mut records = fixture.proxy.tap().subscribe(16);
    let (_, body) = Peer::connect(port).await.get("a", "/").await;
    assert_eq!(body, "some");
    let record = records.recv().await;
    let Record::Request(record) = &*record else {
        panic!("{record}")
    };
    let served = (record.flags, &*record.details, record.bytes_sent);
    assert_eq!(served, (ResponseFlags::default(), "via_upstream", 4));
}

/// What the log has of a client that sends `begin` and, once an endpoint has been asked, does `then`.
async fn left(
    begin: Vec<Vec<u8>>,
    then: impl AsyncFnOnce(TcpStream) -> Option<TcpStream>,
) -> RequestRecord {
    let (asked, mut is_asked) = mpsc::unbounded_channel();
    let endpoint = Endpoint::new(move |_, mut peer| {
        let asked = asked.clone();
        async move {
            peer.head().await;
            asked.send(()).unwrap();
            // Until the proxy has had enough.
            peer.until("nothing").await;
        }
    })
    .await;
    let (fixture, port) = proxy_to(&endpoint).await;
    let mut records = fixture.proxy.tap().subscribe(1);
    let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    client.write_all(PREFACE).await.unwrap();
    client.write_all(&begin.concat()).await.unwrap();
    soon(is_asked.recv()).await.unwrap();
    let _client = then(client).await;
    let record = soon(records.recv()).await;
    let Record::Request(record) = &*record else {
        panic!("{record}")
    };
    RequestRecord::clone(record)
}

/// As Envoy writes it: what a client has done to its stream, and what to its connection.
#[tokio::test]
async fn the_log_tells_how_a_client_has_left() {
    let ask = || vec![frame(1, END_HEADERS | END_STREAM, 1, HEAD)];
    let record = left(ask(), async |mut client| {
        client
            .write_all(&frame(3, 0, 1, &8_u32.to_be_bytes()))
            .await
            .unwrap();
        Some(client)
    })
    .await;
    assert_eq!(record.flags, ResponseFlag::DownstreamRemoteReset.into());
    assert_eq!(record.details, "http2.remote_reset");

    let record = left(ask(), async |_| None).await;
    let flag = ResponseFlag::DownstreamConnectionTermination;
    assert_eq!(record.flags, flag.into());
    assert_eq!(record.details, "downstream_remote_disconnect");

    // `content-length: 4`, and less.
    let announced = [HEAD, &[0x0f, 0x0d, 1, b'4']].concat();
    let ask = vec![frame(1, END_HEADERS, 1, &announced), frame(0, 0, 1, b"one")];
    let record = left(ask, async |mut client| {
        client
            .write_all(&frame(0, END_STREAM, 1, b""))
            .await
            .unwrap();
        Some(client)
    })
    .await;
    assert_eq!(record.flags, ResponseFlag::DownstreamProtocolError.into());
    assert_eq!(record.details, "http2.remote_reset");
}
