//! Endpoints: one that says what it saw, and some that misbehave.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time,
};
use tokio_rustls::TlsAcceptor;

use crate::certificates::{Certificates, Kind};

/// A request as the endpoint saw it, which is the body of its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Name of the endpoint.
    pub(crate) endpoint: String,
    pub(crate) version: String,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) authority: Option<String>,
    pub(crate) headers: BTreeMap<String, Vec<String>>,
    pub(crate) body: String,
    /// In TLS: the name that was asked for, the protocol that was agreed upon, and whether there was
    /// a certificate.
    #[serde(default)]
    pub(crate) tls: Option<(Option<String>, Option<String>, bool)>,
}

/// All endpoints, by name. They live as long as the runtime that they were started in.
#[derive(Debug)]
pub(crate) struct Upstreams {
    /// Ports on the loopback address.
    pub(crate) ports: BTreeMap<&'static str, u16>,
    /// Of those that speak TLS, and what clients need for it.
    pub(crate) certificates: Certificates,
    pub(crate) copies: Copies,
    /// Bound, but not listening: whoever connects is refused.
    _refusing: Socket,
}

/// Requests to the endpoint that gets copies only.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copies(Arc<Mutex<Vec<Seen>>>);

impl Copies {
    /// All since the last time.
    pub(crate) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, seen: Seen) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(seen);
    }
}

/// What an endpoint does with a connection.
#[derive(Clone, Copy, Debug)]
enum Manner {
    Echo,
    EchoHttp2,
    /// Reads the request and closes.
    Close,
    /// Answers with what is not HTTP.
    Garbage,
    /// Never answers.
    Silence,
    /// Closes within the body.
    Cut,
    /// Reads a request, answers with what it says in `answer`, each `^` being the end of a line, and
    /// closes.
    Verbatim,
    /// Speaks TLS.
    Tls(Kind),
    /// As [`Manner::Switch`], in TLS.
    TlsSwitch,
    /// Agrees to another protocol, in which it greets and says everything again.
    Switch,
}

const MANNERS: [(&str, Manner); 19] = [
    ("echo", Manner::Echo),
    ("v1", Manner::Echo),
    ("v2", Manner::Echo),
    ("near1", Manner::Echo),
    ("near2", Manner::Echo),
    ("far1", Manner::Echo),
    ("far2", Manner::Echo),
    ("echo-http2", Manner::EchoHttp2),
    ("closing", Manner::Close),
    ("garbage", Manner::Garbage),
    ("silent", Manner::Silence),
    ("cutting", Manner::Cut),
    ("verbatim", Manner::Verbatim),
    ("copies", Manner::Echo),
    ("switching", Manner::Switch),
    ("tls", Manner::Tls(Kind::Plain)),
    ("tls-switching", Manner::TlsSwitch),
    ("tls-mutual", Manner::Tls(Kind::Mutual)),
    ("tls-strange", Manner::Tls(Kind::Strange)),
];

impl Upstreams {
    /// Starts them in the current runtime.
    pub(crate) async fn start() -> io::Result<Self> {
        let refusing = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        refusing.bind(&SockAddr::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))))?;
        let address = refusing.local_addr()?.as_socket();
        let certificates = Certificates::new().map_err(io::Error::other)?;
        let copies = Copies::default();
        let mut ports = BTreeMap::new();
        ports.extend(address.map(|address| ("refusing", address.port())));
        for (name, manner) in MANNERS {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            ports.insert(name, listener.local_addr()?.port());
            let acceptors = certificates.acceptors.clone();
            let seen = copies.clone();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    match manner {
                        Manner::TlsSwitch => {
                            let acceptor = acceptors[Kind::Plain as usize].clone();
                            tokio::spawn(async move {
                                if let Ok(stream) = acceptor.accept(stream).await {
                                    switch(stream).await;
                                }
                            });
                        }
                        Manner::Tls(kind) => {
                            let acceptor = acceptors[kind as usize].clone();
                            tokio::spawn(serve_tls(stream, name, acceptor));
                        }
                        manner => {
                            tokio::spawn(serve(stream, name, manner, seen.clone()));
                        }
                    }
                }
            });
        }
        Ok(Self {
            ports,
            certificates,
            copies,
            _refusing: refusing,
        })
    }
}

async fn serve(mut stream: TcpStream, name: &'static str, manner: Manner, copies: Copies) {
    let copies = (name == "copies").then_some(copies);
    let echo = service_fn(move |request| {
        let copies = copies.clone();
        async move { Ok::<_, Infallible>(echo(name, None, copies, request).await) }
    });
    // How a connection ends is what the proxies are asked about.
    match manner {
        Manner::Echo => {
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), echo)
                .await;
        }
        Manner::EchoHttp2 => {
            let _ = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), echo)
                .await;
        }
        Manner::Close => drop(read_head(&mut stream).await),
        Manner::Garbage => {
            read_head(&mut stream).await;
            let _ = stream.write_all(b"NONSENSE\r\n\r\n").await;
        }
        Manner::Silence => {
            read_head(&mut stream).await;
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        }
        Manner::Cut => {
            read_head(&mut stream).await;
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
            let _ = stream.write_all(head).await;
        }
        Manner::Verbatim => while verbatim(&mut stream).await {},
        Manner::Switch => switch(stream).await,
        // `serve_tls` does that.
        Manner::Tls(_) | Manner::TlsSwitch => {}
    }
}

/// Answers what a request says in its header `answer`, `^` for a line's end; whether it goes on after
/// that. It ends where the answer ends with `$`, and where a proxy does: one that ended unasked after a
/// whole answer would be asked again by a proxy that has not seen the end yet.
async fn verbatim(stream: &mut TcpStream) -> bool {
    let head = read_head(stream).await;
    let head = String::from_utf8_lossy(&head).into_owned();
    let Some(answer) = head.lines().find_map(|line| line.strip_prefix("answer: ")) else {
        return false;
    };
    let whole = answer.strip_suffix('$');
    let bytes = whole.unwrap_or(answer).replace('^', "\r\n");
    stream.write_all(bytes.as_bytes()).await.is_ok() && whole.is_none()
}

/// Greets in another protocol, says everything again, and `bye`.
async fn switch(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let asked = read_head(&mut stream).await.to_ascii_lowercase();
    let key = String::from_utf8_lossy(&asked).contains("\r\nsec-websocket-key: ");
    let key = if key { "yes" } else { "no" };
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: y\r\nx-key: {key}\r\n\r\nhello\n"
    );
    let _ = stream.write_all(head.as_bytes()).await;
    let (mut read, mut write) = tokio::io::split(stream);
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.write_all(b"bye").await;
}

async fn serve_tls(stream: TcpStream, name: &'static str, acceptor: TlsAcceptor) {
    // What it doesn't like is what the proxies are asked about.
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let connection = stream.get_ref().1;
    let asked = connection.server_name().map(ToOwned::to_owned);
    let protocol = connection.alpn_protocol();
    let protocol = protocol.map(|protocol| String::from_utf8_lossy(protocol).into_owned());
    let http2 = protocol.as_deref() == Some("h2");
    let tls = Some((asked, protocol, connection.peer_certificates().is_some()));
    let echo = service_fn(move |request| {
        let tls = tls.clone();
        async move { Ok::<_, Infallible>(echo(name, tls, None, request).await) }
    });
    let stream = TokioIo::new(stream);
    if http2 {
        let connection = http2::Builder::new(TokioExecutor::new()).serve_connection(stream, echo);
        let _ = connection.await;
    } else {
        let _ = http1::Builder::new().serve_connection(stream, echo).await;
    }
}

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut buffer = Vec::new();
    while !buffer.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    buffer
}

/// Says what it saw, and obeys headers of the request: `answer-status`, `answer-header` (`name=value`),
/// `answer-after` (milliseconds), `fail-at` (the name of the endpoint that answers 503).
async fn echo(
    name: &'static str,
    tls: Option<(Option<String>, Option<String>, bool)>,
    copies: Option<Copies>,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes);
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in &parts.headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers
            .entry(name.as_str().to_owned())
            .or_default()
            .push(value);
    }
    let wish = |name: &str| headers.get(name).and_then(|values| values.first());
    if let Some(after) = wish("answer-after").and_then(|after| after.parse().ok()) {
        time::sleep(Duration::from_millis(after)).await;
    }
    let mut builder = Response::builder().header("server", "upstream");
    if let Some(status) = wish("answer-status").and_then(|status| status.parse::<u16>().ok()) {
        builder = builder.status(status);
    }
    if wish("fail-at").is_some_and(|at| at == name) {
        builder = builder.status(StatusCode::SERVICE_UNAVAILABLE);
    }
    for wish in headers.get("answer-header").into_iter().flatten() {
        if let Some((name, value)) = wish.split_once('=') {
            builder = builder.header(name, value);
        }
    }
    let seen = Seen {
        endpoint: name.to_owned(),
        version: format!("{:?}", parts.version),
        method: parts.method.to_string(),
        target: parts
            .uri
            .path_and_query()
            .map_or_else(|| parts.uri.to_string(), ToString::to_string),
        authority: parts.uri.authority().map(ToString::to_string),
        headers,
        body: match &body {
            Ok(body) => String::from_utf8_lossy(body).into_owned(),
            Err(error) => format!("broken: {error}"),
        },
        tls,
    };
    if let Some(copies) = copies {
        copies.add(seen.clone());
    }
    let body = serde_json::to_vec(&seen).unwrap_or_default();
    builder.body(Full::from(body)).unwrap_or_else(|error| {
        let mut response = Response::new(Full::from(error.to_string()));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}
