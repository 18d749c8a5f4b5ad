//! The same requests over HTTP/2: all of a script over one connection to each of the two.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, client::conn::http2, ext::Protocol};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time,
};

use crate::client::Answer;

/// What HTTP/2 has no such header for (RFC 9113, section 8.2.2), or what is about HTTP/1.1.
const FOREIGN: [&str; 7] = [
    "connection",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// A connection.
#[derive(Debug)]
pub(crate) struct Client {
    to: SocketAddr,
    port: u16,
    sender: http2::SendRequest<Full<Bytes>>,
}

impl Client {
    pub(crate) async fn connect(to: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        let port = stream.local_addr()?.port();
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { to, port, sender })
    }

    /// Asks, over another connection if this one has ended.
    pub(crate) async fn ask(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        if self.sender.ready().await.is_err() {
            *self = Self::connect(self.to).await?;
        }
        let mut answer = Answer {
            port: self.port,
            ..Answer::default()
        };
        let response = time::timeout(patience::limit(), self.sender.send_request(request)).await?;
        // A reset stream is an answer, too: none.
        let Ok(response) = response else {
            return Ok(answer);
        };
        let (head, body) = response.into_parts();
        answer.status = head.status.as_u16();
        let headers = head.headers.iter();
        answer.headers = headers
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes());
                (name.as_str().to_owned(), value.into_owned())
            })
            .collect();
        match body.collect().await {
            Ok(body) => answer.body = body.to_bytes().to_vec(),
            Err(_) => answer.cut = true,
        }
        Ok(answer)
    }
}

/// What came of asking for a WebSocket over a stream: the answer, and then what was said.
pub(crate) async fn websocket(
    to: SocketAddr,
    path: &str,
    protocol: &'static str,
) -> anyhow::Result<(Answer, String)> {
    let mut client = Client::connect(to).await?;
    // What the server can do is known once it has answered something.
    let missing = Request::get("http://nobody.test/").body(Full::default())?;
    client.ask(missing).await?;
    let request = Request::connect(format!("http://mirror.test{path}"))
        .extension(Protocol::from_static(protocol))
        .header("sec-websocket-version", "13")
        .body(Full::default())?;
    let response = client.sender.send_request(request);
    let response = time::timeout(patience::limit(), response).await??;
    let headers = response.headers().iter();
    let headers = headers.map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        (name.as_str().to_owned(), value)
    });
    let mut answer = Answer {
        status: response.status().as_u16(),
        headers: headers.collect(),
        ..Answer::default()
    };
    if !response.status().is_success() {
        answer.body = response.into_body().collect().await?.to_bytes().to_vec();
        return Ok((answer, String::new()));
    }
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await?);
    stream.write_all(b"early\n").await?;
    let mut said = Vec::new();
    while !said.ends_with(b"early\n") {
        let read = time::timeout(patience::limit(), stream.read_buf(&mut said)).await??;
        anyhow::ensure!(read > 0, "{to} ends the stream after {said:?}");
    }
    Ok((answer, String::from_utf8_lossy(&said).into_owned()))
}

/// A script's request in HTTP/2; none if there is no such thing.
pub(crate) fn request(text: &str) -> Option<Request<Full<Bytes>>> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let first: Vec<&str> = lines.next()?.split(' ').collect();
    let [method, target, "HTTP/1.1"] = first.as_slice() else {
        return None;
    };
    if !target.starts_with('/') || target.contains('#') || text.contains('\\') {
        return None;
    }
    let mut host = None;
    let mut length = None;
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(": ")?;
        let name = name.to_ascii_lowercase();
        if FOREIGN.contains(&name.as_str()) {
            return None;
        }
        match name.as_str() {
            "host" if host.is_some() => return None,
            "host" => host = Some(value),
            _ => {
                if name == "content-length" {
                    length = value.parse().ok();
                }
                headers.push((name, value));
            }
        }
    }
    if length.unwrap_or(0) != body.len() {
        return None;
    }
    let mut request = Request::builder()
        .method(*method)
        .uri(format!("http://{}{target}", host?));
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request.body(Full::from(body.to_owned())).ok()
}

/// The settings that a server begins with (RFC 9113, section 6.5), by their identifiers.
pub(crate) async fn settings(to: SocketAddr) -> anyhow::Result<BTreeMap<u16, u32>> {
    let mut stream = TcpStream::connect(to).await?;
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await?;
    let mut head = [0; 9];
    time::timeout(patience::limit(), stream.read_exact(&mut head)).await??;
    anyhow::ensure!(head[3] == 4, "{to} begins with another frame: {head:?}");
    let length = usize::from(head[1]) * 256 + usize::from(head[2]);
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await.context("settings")?;
    let (settings, _) = frame.as_chunks::<6>();
    let settings = settings
        .iter()
        .map(|[a, b, value @ ..]| (u16::from_be_bytes([*a, *b]), u32::from_be_bytes(*value)));
    Ok(settings.collect())
}
