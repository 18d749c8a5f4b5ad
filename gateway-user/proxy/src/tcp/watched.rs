//! A stream that is watched while bytes go through it.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use nodegate_observe::ResponseFlag;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{connections::Handle, worker::Worker};

/// A stream that counts what is read from it, and tells when its connection is in use.
pub(super) struct Watched<'a, S> {
    pub(super) stream: &'a mut S,
    pub(super) handle: &'a Handle,
    pub(super) worker: &'a Worker,
    pub(super) bytes: &'a Cell<u64>,
    /// The flag of a connection in which this stream breaks.
    pub(super) broken: ResponseFlag,
    /// Where that is noted.
    pub(super) blame: &'a Cell<Option<ResponseFlag>>,
}

impl<S> Watched<'_, S> {
    /// Notes what happened to an operation on the stream.
    fn watch<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &polled {
            Poll::Ready(Ok(_)) => self.handle.touch(self.worker.now()),
            Poll::Ready(Err(_)) => self.blame.set(Some(self.broken)),
            Poll::Pending => {}
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut *self.stream).poll_read(cx, buffer);
        let read = buffer.filled().len() - before;
        self.bytes.set(self.bytes.get() + read as u64);
        self.watch(polled)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut *self.stream).poll_write(cx, buffer);
        self.watch(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut *self.stream).poll_shutdown(cx);
        self.watch(polled)
    }
}
