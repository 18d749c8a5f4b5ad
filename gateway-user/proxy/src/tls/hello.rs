//! The first message of a client: which name it asks for, before anything is said to it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use rustls::server::{Accepted, Acceptor};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
};

use crate::accept::Transport;

/// What is read at once. Most first messages are shorter.
const READ: usize = 2048;

/// The first byte of a record with a handshake's message (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;

/// A first message.
pub(super) struct Hello {
    pub(super) accepted: Accepted,
    /// All that has been read.
    pub(super) read: Vec<u8>,
}

impl Hello {
    /// The name that is asked for (SNI).
    pub(super) fn server_name(&self) -> Option<String> {
        let message = self.accepted.client_hello();
        message.server_name().map(ToOwned::to_owned)
    }
}

/// Why there is none.
#[derive(Debug)]
pub(super) enum NoHello {
    /// The client has gone, or has never spoken.
    Gone,
    /// It speaks something else than TLS.
    Clear,
    /// It is no message that a client may begin with.
    Bad(rustls::Error),
}

/// Reads a first message.
pub(super) async fn read(stream: &mut TcpStream) -> Result<Hello, NoHello> {
    let mut acceptor = Acceptor::default();
    let mut read = Vec::with_capacity(READ);
    loop {
        let before = read.len();
        read.reserve(READ);
        match stream.read_buf(&mut read).await {
            Ok(0) | Err(_) => return Err(NoHello::Gone),
            Ok(_) => {}
        }
        if read[0] != HANDSHAKE {
            return Err(NoHello::Clear);
        }
        let mut new = &read[before..];
        while !new.is_empty() {
            // It has no room where more comes than any first message needs.
            let Ok(1..) = acceptor.read_tls(&mut new) else {
                let told = "more than a first message".to_owned();
                return Err(NoHello::Bad(rustls::Error::General(told)));
            };
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok(Hello { accepted, read }),
            Ok(None) => {}
            Err((error, mut alert)) => {
                let mut said = Vec::new();
                // Writing to memory can't fail; a client that doesn't read has its reasons.
                if alert.write(&mut said).is_ok() {
                    let _ = stream.write_all(&said).await;
                }
                return Err(NoHello::Bad(error));
            }
        }
    }
}

/// A stream of which something has been read that is to be read again.
#[derive(Debug)]
pub(super) struct Replayed {
    read: Vec<u8>,
    /// How much of it has been read again.
    taken: usize,
    stream: TcpStream,
}

// === impl Replayed ===

impl Replayed {
    pub(super) fn new(read: Vec<u8>, stream: TcpStream) -> Self {
        Self {
            read,
            taken: 0,
            stream,
        }
    }
}

impl AsyncRead for Replayed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.taken < self.read.len() {
            let length = buffer.remaining().min(self.read.len() - self.taken);
            buffer.put_slice(&self.read[self.taken..self.taken + length]);
            self.taken += length;
            if self.taken == self.read.len() {
                self.read = Vec::new();
                self.taken = 0;
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Replayed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Transport for Replayed {
    fn tcp(&self) -> &TcpStream {
        &self.stream
    }

    fn clear(&mut self) -> Option<(Vec<u8>, &TcpStream)> {
        let mut read = std::mem::take(&mut self.read);
        read.drain(..std::mem::take(&mut self.taken));
        Some((read, &self.stream))
    }
}
