//! The same requests over HTTP/2: all of a script over one connection to each of the two.

use std::net::SocketAddr;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, time};

use crate::client::{Answer, PATIENCE};

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
        let response = time::timeout(PATIENCE, self.sender.send_request(request)).await?;
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

/// The identifiers of the settings that a server begins with (RFC 9113, section 6.5).
pub(crate) async fn settings(to: SocketAddr) -> anyhow::Result<Vec<u16>> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = TcpStream::connect(to).await?;
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await?;
    let mut head = [0; 9];
    time::timeout(PATIENCE, stream.read_exact(&mut head)).await??;
    anyhow::ensure!(head[3] == 4, "{to} begins with another frame: {head:?}");
    let length = usize::from(head[1]) * 256 + usize::from(head[2]);
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await.context("settings")?;
    let ids = frame
        .chunks(6)
        .map(|setting| u16::from_be_bytes([setting[0], setting[1]]));
    Ok(ids.collect())
}
