//! hyper's side of connections to endpoints: shaking hands, and the tasks that drive them.

use std::{error::Error, io};

use bytes::Bytes;
use http_body::Body;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task,
};

use super::{dial::ConnectError, interim::Bounded};
use crate::{http1 as wire1, http2 as wire2};

/// The body of a request. The default is none.
pub(crate) trait SendBody:
    Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Default + Unpin + 'static
{
}

impl<B> SendBody for B where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Default + Unpin + 'static
{
}

type Http1<S, B> = (
    http1::SendRequest<B>,
    http1::Connection<TokioIo<Bounded<S>>, B>,
);

pub(super) async fn handshake_http1<S, B>(stream: S) -> Result<Http1<S, B>, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    B: SendBody,
{
    wire1::client_builder()
        .handshake(TokioIo::new(Bounded::new(stream)))
        .await
        .map_err(|error| ConnectError::Io(io::Error::other(error)))
}

/// Begins HTTP/1.1. The connection is driven by a task of its own, which also sees when the endpoint
/// closes it while it is idle. Errors reach the task that waits for the answer.
pub(super) async fn start_http1<S, B>(stream: S) -> Result<http1::SendRequest<B>, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    B: SendBody,
{
    let (sender, connection) = handshake_http1(stream).await?;
    task::spawn_local(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

/// Begins HTTP/2. The connection is driven by a task of its own.
pub(super) async fn start_http2<S, B>(stream: S) -> Result<http2::SendRequest<B>, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    B: SendBody,
{
    let (sender, connection) = wire2::client_builder()
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| ConnectError::Io(io::Error::other(error)))?;
    task::spawn_local(async move {
        let _ = connection.await;
    });
    Ok(sender)
}
