//! Asks a running nodegate.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// No process can be asked at the admin socket.
#[derive(Debug, thiserror::Error)]
#[error("{} at {}: {source} (fix: {})", self.what(), socket.display(), self.fix())]
pub struct Unreachable {
    socket: PathBuf,
    source: io::Error,
}

impl Unreachable {
    fn what(&self) -> &'static str {
        match self.source.kind() {
            io::ErrorKind::PermissionDenied => "not allowed to ask the nodegate",
            _ => "no nodegate answers",
        }
    }

    fn fix(&self) -> &'static str {
        match self.source.kind() {
            io::ErrorKind::PermissionDenied => "ask as root",
            _ => "start it, or name its socket with --admin or NODEGATE_ADMIN",
        }
    }
}

/// Sends a request to the admin socket, and gives the answer once its head is there.
///
/// # Errors
/// Says how to find the socket if nobody answers, and gives the answer's text if it is an error.
pub async fn request(
    socket: &Path,
    method: Method,
    path: &str,
    body: impl Into<Bytes>,
    patience: Duration,
) -> anyhow::Result<Response<Incoming>> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|source| Unreachable {
            socket: socket.to_owned(),
            source,
        })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "nodegate")
        .body(Full::new(body.into()))?;
    let response = tokio::time::timeout(patience, sender.send_request(request))
        .await
        .with_context(|| format!("no answer from {} within {patience:?}", socket.display()))??;
    if response.status() == StatusCode::OK {
        return Ok(response);
    }
    let status = response.status();
    let text = response.into_body().collect().await?.to_bytes();
    if status == StatusCode::BAD_REQUEST {
        // The question is at fault, and nothing is to be said about the answer.
        bail!("{}", String::from_utf8_lossy(&text).trim_end());
    }
    bail!("{status}: {}", String::from_utf8_lossy(&text).trim_end());
}
