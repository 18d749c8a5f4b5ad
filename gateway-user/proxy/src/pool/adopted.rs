//! A connection on its way from [`Direct`](super::direct::Direct) to hyper, in the middle of an exchange.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// The end of a head.
const END: &[u8] = b"\r\n\r\n";

/// A connection for hyper over which a request has been sent and a part of the answer been read. The
/// head that hyper writes as its first request is dropped, because it has been sent already; then hyper
/// reads what has been read.
#[derive(Debug)]
pub(super) struct Adopted {
    stream: TcpStream,
    read: Bytes,
    /// How much of the end of its first head hyper has written; none once it has written all of it.
    written: Option<usize>,
    waker: Option<Waker>,
}

impl Adopted {
    pub(super) fn new(stream: TcpStream, read: Bytes) -> Self {
        Self {
            stream,
            read,
            written: Some(0),
            waker: None,
        }
    }
}

impl AsyncRead for Adopted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.written.is_some() {
            // hyper takes what comes before its request for a broken connection.
            self.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        if self.read.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let length = self.read.len().min(buffer.remaining());
        buffer.put_slice(&self.read.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Adopted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Some(mut matched) = self.written else {
            return Pin::new(&mut self.stream).poll_write(cx, bytes);
        };
        for (at, &byte) in bytes.iter().enumerate() {
            matched = match byte {
                _ if byte == END[matched] => matched + 1,
                b'\r' => 1,
                _ => 0,
            };
            if matched == END.len() {
                self.written = None;
                if let Some(waker) = self.waker.take() {
                    waker.wake();
                }
                return Poll::Ready(Ok(at + 1));
            }
        }
        self.written = Some(matched);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
