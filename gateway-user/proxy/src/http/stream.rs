//! The bytes of a client's connection: read for direct service and for hyper, and corrected where hyper
//! can't see or say what Envoy does.
//!
//! - A head with a [`HeadFault`](crate::http1::HeadFault) is refused.
//! - hyper's own refusals leave in the form in which Envoy makes them.
//! - An old client is told in HTTP/1.1 that it should speak that.
//! - A client that shuts down its sending side while it waits gets a moment for its answer; one that
//!   has gone altogether looks the same, and must not keep an endpoint busy for longer.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::ReadBuf;

use super::refusal::Refusal;
use crate::{
    accept::{Peers, Transport},
    connections::{Handle, Rejection},
    http1::{self, FIRST_READ, Requests},
    http2::{Frames, PREFACE},
    overload::Refusal as Overload,
    parity::Difference,
    worker::Worker,
};

/// What the client's bytes are.
#[derive(Debug)]
enum Spoken {
    /// Requests in HTTP/1.1. hyper gets one after the other.
    Requests(Requests),
    /// HTTP/2.
    Frames(Frames),
    /// No HTTP any more.
    Bytes,
}

/// The bytes of a client's connection.
#[derive(Debug)]
pub(crate) struct ClientStream<S> {
    stream: S,
    peers: Peers,
    handle: Rc<Handle>,
    worker: Rc<Worker>,
    /// What has been read and not been handed up.
    prefix: Bytes,
    spoken: Spoken,
    /// Whether the request that is being served is still to be handed up.
    owed: bool,
    /// Whether a NUL has been handed up in place of a head that must be refused.
    spoilt: bool,
    /// Whether the client has shut down its side, which has not been handed up yet.
    ended: bool,
    /// What is written instead of what came from above.
    instead: Bytes,
}

impl<S: Transport> ClientStream<S> {
    pub(crate) fn new(stream: S, peers: Peers, handle: Rc<Handle>, worker: Rc<Worker>) -> Self {
        Self {
            stream,
            peers,
            handle,
            worker,
            prefix: Bytes::new(),
            spoken: Spoken::Requests(Requests::default()),
            owed: false,
            spoilt: false,
            ended: false,
            instead: Bytes::new(),
        }
    }

    /// Reads the first bytes, which stay to be read; true if they are the preface of HTTP/2.
    pub(crate) fn poll_preface(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            let seen = &self.prefix[..];
            if seen.len() >= PREFACE.len() || !PREFACE.starts_with(seen) {
                let multiplexed = seen.starts_with(PREFACE);
                if multiplexed {
                    self.spoken = Spoken::Frames(Frames::behind(PREFACE.len()));
                }
                return Poll::Ready(Ok(multiplexed));
            }
            if !ready!(self.poll_more(cx))? {
                // The end of the stream will be read again.
                return Poll::Ready(Ok(false));
            }
            self.handle.head_began(self.worker.now());
        }
    }

    /// What has been read and not been taken.
    pub(crate) fn read(&self) -> &Bytes {
        &self.prefix
    }

    /// Takes so many bytes of what has been read.
    pub(crate) fn take(&mut self, length: usize) -> Bytes {
        self.prefix.split_to(length)
    }

    /// Puts back what has been taken: it will be read first.
    pub(crate) fn put_back(&mut self, taken: &Bytes) {
        if !taken.is_empty() {
            self.prefix = http1::join(taken, &self.prefix);
        }
    }

    /// Reads more, behind what has been read; false at the end.
    pub(crate) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        // Read into a large place on the stack, and copied into one of the right size: a connection that
        // waits for its next request keeps no large buffer.
        let mut room = [MaybeUninit::uninit(); FIRST_READ];
        let mut room = ReadBuf::uninit(&mut room);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room))?;
        let more = !room.filled().is_empty();
        if more {
            self.prefix = http1::join(&self.prefix, room.filled());
        }
        Poll::Ready(Ok(more))
    }

    /// Waits until the client has gone, while a request of it is being served. What it sends meanwhile
    /// is read, once.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.ended {
            if !self.prefix.is_empty() {
                return Poll::Pending;
            }
            match ready!(self.poll_more(cx)) {
                Ok(true) => {}
                Ok(false) => {
                    self.ended = true;
                    self.handle.client_ended(self.worker.now());
                }
                Err(_) => return Poll::Ready(()),
            }
        }
        if self.may_end() {
            Poll::Ready(())
        } else {
            // The sweep wakes us.
            Poll::Pending
        }
    }

    /// Writes bytes as they are.
    pub(crate) fn poll_put(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match ready!(Pin::new(&mut self.stream).poll_write(cx, bytes)) {
            Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => Poll::Ready(written),
        }
    }

    /// hyper reads from now on, and begins with a head: that of the request that is being served, if it `is_served`.
    pub(crate) fn begin(&mut self, is_served: bool) {
        self.spoken = Spoken::Requests(Requests::default());
        self.owed = is_served;
    }

    /// What is read from now on is no HTTP, and isn't looked at.
    pub(crate) fn tunnel(&mut self) {
        self.spoken = Spoken::Bytes;
    }

    /// Bytes as they come, into the room that there is: of HTTP/1.1 none beyond the end of a request.
    fn poll_bytes(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
            let length = self.inspect(buffer.filled());
            // Of the next request.
            self.prefix = Bytes::copy_from_slice(&buffer.filled()[length..]);
            buffer.set_filled(length);
        } else {
            let prefix = self.prefix.clone();
            let length = self.inspect(&prefix[..prefix.len().min(buffer.remaining())]);
            buffer.put_slice(&self.prefix.split_to(length));
        }
        if self.spoilt && !buffer.filled().is_empty() {
            buffer.filled_mut()[0] = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Looks at what has been read: how much of it may be handed up now. It is to be spoilt if it must be refused.
    fn inspect(&mut self, read: &[u8]) -> usize {
        let requests = match &mut self.spoken {
            Spoken::Requests(requests) if !read.is_empty() => requests,
            Spoken::Frames(frames) => {
                if frames.flood(read, self.worker.now()) {
                    Overload::Floods.note();
                    self.handle.close();
                }
                return read.len();
            }
            Spoken::Requests(_) | Spoken::Bytes => return read.len(),
        };
        if requests.are_in_head() && !self.handle.is_serving() {
            self.handle.head_began(self.worker.now());
        }
        self.owed = false;
        let taken = requests.take(read);
        if let Some(fault) = taken.fault {
            self.handle.reject(Rejection::Fault(fault));
            self.spoilt = true;
        }
        taken.length
    }

    /// Whether the next bytes are of a request that has to wait for the one before.
    fn is_held(&self) -> bool {
        let are_between =
            matches!(&self.spoken, Spoken::Requests(requests) if requests.are_between());
        are_between && !self.owed && self.handle.is_serving()
    }

    /// Waits until the client has gone, or until it may ask for more. What it sends meanwhile is read, once.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.handle.hold();
        if self.prefix.is_empty() && !ready!(self.poll_more(cx))? {
            return self.poll_end();
        }
        Poll::Pending
    }

    /// The client has shut down its side.
    fn poll_end(&mut self) -> Poll<io::Result<()>> {
        self.ended = true;
        self.handle.client_ended(self.worker.now());
        if self.may_end() {
            Poll::Ready(Ok(()))
        } else {
            // The sweep wakes us.
            Poll::Pending
        }
    }

    fn speaks_http1(&self) -> bool {
        matches!(self.spoken, Spoken::Requests(_))
    }

    /// Whether the end of what the client sends may be handed up.
    fn may_end(&self) -> bool {
        !self.speaks_http1()
            || self.handle.may_end(self.worker.now())
            || self.worker.options.parity.has(Difference::HalfClose)
    }
}

impl<S: Transport> Read for ClientStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.handle.rejection().is_some() && !this.spoilt {
            this.spoilt = true;
            // hyper parses a head when it seems to be whole, and refuses one with a NUL.
            let spoilt = &b"\0\r\n\r\n"[..cursor.remaining().min(5)];
            cursor.put_slice(spoilt);
            return Poll::Ready(Ok(()));
        }
        if this.ended {
            return if this.may_end() {
                Poll::Ready(Ok(()))
            } else {
                // The sweep wakes us.
                Poll::Pending
            };
        }
        if this.is_held() {
            return this.poll_held(cx);
        }
        // SAFETY: `ReadBuf::uninit` never uninitializes what is initialized already.
        let mut buffer = ReadBuf::uninit(unsafe { cursor.as_mut() });
        ready!(this.poll_bytes(cx, &mut buffer))?;
        let length = buffer.filled().len();
        if length > 0 {
            // SAFETY: So many bytes have been filled, and so initialized, at the cursor's position.
            unsafe { cursor.advance(length) };
        } else if cursor.remaining() > 0 {
            return this.poll_end();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Transport> Write for ClientStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.handle.set_flushed(false);
        if this.instead.is_empty()
            && this.speaks_http1()
            && this.handle.is_reading_head()
            && let Some(refusal) = Refusal::parse(bytes)
        {
            this.instead = refusal.answer(this.handle.rejection(), |record| {
                record.send(&this.worker.tap, this.peers, this.handle.port());
            });
        }
        // hyper answers in the client's version, and Envoy in its own. A connection in an old version ends
        // with this answer.
        if this.instead.is_empty()
            && this.handle.is_outdated()
            && let Some(rest) = bytes.strip_prefix(b"HTTP/1.0 ")
        {
            this.instead = [b"HTTP/1.1 ", rest].concat().into();
        }
        if this.instead.is_empty() {
            let written = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
            if let Spoken::Frames(frames) = &mut this.spoken {
                frames.wrote(written);
            }
            return Poll::Ready(Ok(written));
        }
        while !this.instead.is_empty() {
            let written = ready!(Pin::new(&mut this.stream).poll_write(cx, &this.instead))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            this.instead.advance(written);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.handle.set_flushed(true);
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
