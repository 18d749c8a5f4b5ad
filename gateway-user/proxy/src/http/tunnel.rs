//! Connections that have become something else than HTTP: bytes both ways.

use std::{cell::Cell, future::poll_fn, io, pin::pin, task::Poll};

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, copy_bidirectional_with_sizes},
    sync::oneshot,
};

use super::{
    body::RequestBody,
    ended::{Ending, Side},
    exchange::Exchange,
    stream::ClientStream,
};
use crate::{
    accept::Transport,
    connections::{Handle, Order},
    pool::{Raw, UpstreamBody},
};

/// What is read at once, for each direction.
const BUFFER: usize = 16 * 1024;

/// A connection that is about to become something else than HTTP.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) raw: oneshot::Receiver<Raw>,
    pub(crate) exchange: Box<Exchange>,
    /// Without it hyper would take the connection to the endpoint for unused, and close it before it
    /// comes through `raw`.
    pub(crate) _answer: UpstreamBody<RequestBody>,
}

impl Tunnel {
    /// Passes bytes until both sides have ended; `read` has come from the client already. The end of
    /// either side is passed on, and the other goes on.
    pub(crate) async fn run<S: Transport>(
        mut self,
        mut client: ClientStream<S>,
        read: Bytes,
        handle: &Handle,
    ) {
        let Ok(raw) = self.raw.await else {
            return;
        };
        client.tunnel();
        let first = Cell::new(None);
        let mut relay = pin!(relay(TokioIo::new(client), read, raw, &first));
        let result = poll_fn(|cx| match handle.order(cx) {
            Order::Serve | Order::Finish => relay.as_mut().poll(cx),
            Order::Close => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
        })
        .await;
        let (received, sent) = result.unwrap_or_default();
        self.exchange
            .tunnelled(received, sent, ended_by_client(&first));
    }

    /// The same for a stream of HTTP/2. Its connection obeys the orders.
    pub(crate) async fn run_stream(mut self, client: impl AsyncRead + AsyncWrite + Unpin) {
        let Ok(raw) = self.raw.await else {
            return;
        };
        let first = Cell::new(None);
        let result = relay(client, Bytes::new(), raw, &first).await;
        let (received, sent) = result.unwrap_or_default();
        self.exchange
            .tunnelled(received, sent, ended_by_client(&first));
    }
}

fn ended_by_client(first: &Cell<Option<Side>>) -> bool {
    first.get() == Some(Side::Client)
}

/// Passes bytes both ways, and says how many came from the client and went there.
async fn relay(
    client: impl AsyncRead + AsyncWrite + Unpin,
    read: Bytes,
    raw: Raw,
    first: &Cell<Option<Side>>,
) -> io::Result<(u64, u64)> {
    let mut client = Ending {
        stream: client,
        side: Side::Client,
        first,
    };
    let mut upstream = Ending {
        stream: raw.stream,
        side: Side::Endpoint,
        first,
    };
    upstream.write_all(&read).await?;
    // TLS may hold some of it back.
    upstream.flush().await?;
    client.write_all(&raw.read).await?;
    client.flush().await?;
    let copied = copy_bidirectional_with_sizes(&mut client, &mut upstream, BUFFER, BUFFER).await?;
    let (received, sent) = copied;
    Ok((received + read.len() as u64, sent + raw.read.len() as u64))
}
