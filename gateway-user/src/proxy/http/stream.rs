//! A client's connection below HTTP: what the protocol implementation above it can't see or say.
//!
//! - A head with both `content-length` and `transfer-encoding` is refused, where hyper would take
//!   the second and forget the first.
//! - A target with a fragment is refused, where hyper would cut it off.
//! - hyper's own refusals leave in the form in which Envoy makes them.
//! - An old client is told in HTTP/1.1 that it should speak that.
//! - A client that shuts down its sending side while it waits gets a moment for its answer; one that
//!   has gone altogether looks the same, and must not keep an endpoint busy for longer.

use std::{
    io,
    mem::MaybeUninit,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use memchr::memchr;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::refusal::Refusal;
use crate::proxy::{
    connections::{Handle, Rejection},
    head::{self, FIRST_READ},
    parity::Difference,
    worker::Worker,
};

/// A client's connection.
#[derive(Debug)]
pub(crate) struct ClientStream {
    stream: TcpStream,
    address: SocketAddr,
    local: SocketAddr,
    handle: Rc<Handle>,
    worker: Rc<Worker>,
    /// Read already, and not yet handed up.
    prefix: Bytes,
    /// Whether this is HTTP/1.1, one message at a time.
    messages: bool,
    head: Head,
    /// Whether a NUL has been handed up in place of a head that must be refused.
    spoilt: bool,
    /// Whether the client has shut down its side and nobody above knows.
    ended: bool,
    /// What goes out instead of what came from above.
    instead: Bytes,
}

/// A head that is coming in.
#[derive(Debug, Default)]
struct Head {
    /// What has come, if that isn't all.
    seen: Vec<u8>,
    /// Whether all of it has come, and what follows needs no look.
    whole: bool,
}

impl ClientStream {
    pub(crate) fn new(
        stream: TcpStream,
        address: SocketAddr,
        local: SocketAddr,
        handle: Rc<Handle>,
        worker: Rc<Worker>,
    ) -> Self {
        Self {
            stream,
            address,
            local,
            handle,
            worker,
            prefix: Bytes::new(),
            messages: true,
            head: Head::default(),
            spoilt: false,
            ended: false,
            instead: Bytes::new(),
        }
    }

    /// Reads the first bytes, which stay to be read; true if they are the preface of HTTP/2 (RFC
    /// 9113, section 3.4), as far as they go.
    pub(crate) fn poll_preface(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        loop {
            let seen = &self.prefix[..];
            if seen.len() >= PREFACE.len() || !PREFACE.starts_with(seen) {
                let multiplexed = seen.starts_with(PREFACE);
                self.messages = !multiplexed;
                return Poll::Ready(Ok(multiplexed));
            }
            if !ready!(self.poll_more(cx))? {
                // The end will be read again.
                return Poll::Ready(Ok(false));
            }
            self.handle.head_began(self.worker.now());
        }
    }

    /// What has been read and not been taken.
    pub(crate) fn read(&self) -> &Bytes {
        &self.prefix
    }

    /// Takes so much of it.
    pub(crate) fn take(&mut self, length: usize) -> Bytes {
        self.prefix.split_to(length)
    }

    /// Puts what has been taken before all that can be read.
    pub(crate) fn put_back(&mut self, taken: &Bytes) {
        if !taken.is_empty() {
            self.prefix = head::join(taken, &self.prefix);
        }
    }

    /// Reads more, behind what has been read; false at the end.
    pub(crate) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        // Read to where there is room for anything, and kept in what it needs.
        let mut room = [MaybeUninit::uninit(); FIRST_READ];
        let mut room = ReadBuf::uninit(&mut room);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room))?;
        let more = !room.filled().is_empty();
        if more {
            self.prefix = head::join(&self.prefix, room.filled());
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

    /// Passes to hyper, which begins with a head.
    pub(crate) fn begin(&mut self) {
        self.head = Head::default();
    }

    /// From now on bytes are bytes.
    pub(crate) fn tunnel(&mut self) {
        self.messages = false;
    }

    /// Bytes as they come, into the room that there is.
    fn poll_bytes(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let length = self.prefix.len().min(buffer.remaining());
        buffer.put_slice(&self.prefix.split_to(length));
        Poll::Ready(Ok(()))
    }

    /// Looks at what has been read; spoils it if it must be refused.
    fn inspect(&mut self, read: &mut [u8]) {
        if self.handle.is_serving() || self.handle.body_is_open() {
            return;
        }
        if !self.handle.is_reading_head() {
            self.head = Head::default();
        }
        self.handle.head_began(self.worker.now());
        if let Some(rejection) = self.head.read(read) {
            self.handle.reject(rejection);
            self.spoilt = true;
            read[0] = 0;
        }
    }

    /// Whether the end of what the client sends may be told above.
    fn may_end(&self) -> bool {
        !self.messages
            || self.handle.may_end(self.worker.now())
            || self.worker.options.parity.has(Difference::HalfClose)
    }
}

impl Head {
    /// Takes what has been read now, and says why the head must be refused, if it must.
    fn read(&mut self, read: &[u8]) -> Option<Rejection> {
        if self.whole {
            // More than one request at once: hyper's own rule applies to the later ones.
            return None;
        }
        if self.seen.is_empty() {
            let (whole, rejection) = look_at(read);
            self.whole = whole;
            if !whole {
                self.seen.extend_from_slice(read);
            }
            return rejection;
        }
        self.seen.extend_from_slice(read);
        let (whole, rejection) = look_at(&self.seen);
        self.whole = whole;
        rejection
    }
}

/// Looks at a head, or the part of it that is there: whether it is whole, and why it must be refused,
/// if it must.
///
/// A target with a fragment is one that no request may have (RFC 9112, section 3.2), and hyper drops
/// the fragment. Both headers that say where the body ends are an attempt at smuggling (section 6.1);
/// Envoy refuses them unless `allow_chunked_length` is set.
fn look_at(head: &[u8]) -> (bool, Option<Rejection>) {
    let mut rest = head;
    let (mut begun, mut whole) = (false, false);
    let (mut length, mut encoding) = (false, false);
    while !rest.is_empty() {
        let end = memchr(b'\n', rest);
        let (line, after) = match end {
            Some(end) => (&rest[..end], &rest[end + 1..]),
            None => (rest, &rest[rest.len()..]),
        };
        rest = after;
        match line {
            // Before the request, empty lines mean nothing.
            [] | [b'\r'] if !begun => {}
            [] | [b'\r'] => {
                whole = end.is_some();
                break;
            }
            line if !begun => {
                begun = true;
                if memchr(b'#', line).is_some() {
                    return (false, Some(Rejection::Fragment));
                }
            }
            [b'c' | b'C', ..] => length |= is_header(line, b"content-length"),
            [b't' | b'T', ..] => encoding |= is_header(line, b"transfer-encoding"),
            _ => {}
        }
    }
    (whole, (length && encoding).then_some(Rejection::Ambiguous))
}

fn is_header(line: &[u8], name: &[u8]) -> bool {
    line.get(name.len()) == Some(&b':') && line[..name.len()].eq_ignore_ascii_case(name)
}

impl Read for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.handle.rejection().is_some() && !this.spoilt {
            this.spoilt = true;
            // Heads are parsed when they seem to be whole.
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
        // SAFETY: `ReadBuf::uninit` never uninitializes what is initialized already.
        let mut buffer = ReadBuf::uninit(unsafe { cursor.as_mut() });
        ready!(this.poll_bytes(cx, &mut buffer))?;
        let length = buffer.filled().len();
        if length > 0 {
            if this.messages {
                this.inspect(buffer.filled_mut());
            }
            // SAFETY: So many bytes have been filled, and so initialized, at the cursor's position.
            unsafe { cursor.advance(length) };
        } else if cursor.remaining() > 0 {
            this.ended = true;
            this.handle.client_ended(this.worker.now());
            if !this.may_end() {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for ClientStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.handle.set_flushed(false);
        if this.instead.is_empty()
            && this.messages
            && this.handle.is_reading_head()
            && let Some(refusal) = Refusal::parse(bytes)
        {
            this.instead = refusal.answer(this.handle.rejection(), |record| {
                record.send(
                    &this.worker.tap,
                    (this.address, this.local),
                    this.handle.port(),
                );
            });
        }
        // hyper answers in the client's version, and Envoy in its own. These connections end with this
        // answer.
        if this.instead.is_empty()
            && this.handle.is_outdated()
            && let Some(rest) = bytes.strip_prefix(b"HTTP/1.0 ")
        {
            this.instead = [b"HTTP/1.1 ", rest].concat().into();
        }
        if this.instead.is_empty() {
            return Pin::new(&mut this.stream).poll_write(cx, bytes);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_are_found_in_targets_only() {
        for (head, wanted) in [
            ("GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n", true),
            ("\r\nGET /a?b# HTTP/1.1\r\n", true),
            ("GET /a HTTP/1.1\r\nx: #\r\n\r\n#", false),
        ] {
            let found = look_at(head.as_bytes()).1 == Some(Rejection::Fragment);
            assert_eq!(found, wanted, "{head:?}");
        }
    }

    #[test]
    fn both_lengths_are_ambiguous_and_one_is_not() {
        for (head, wanted) in [
            (
                "POST / HTTP/1.1\r\nContent-Length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
                true,
            ),
            (
                "POST / HTTP/1.1\r\nTRANSFER-ENCODING: chunked\r\ncontent-length:1\r\n\r\n",
                true,
            ),
            (
                "\r\nPOST / HTTP/1.1\ncontent-length: 1\ntransfer-encoding: chunked\n\n",
                true,
            ),
            (
                "POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\ntransfer-encoding: chunked\r\n",
                false,
            ),
            (
                "POST / HTTP/1.1\r\nx-content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
                false,
            ),
        ] {
            let found = look_at(head.as_bytes()).1 == Some(Rejection::Ambiguous);
            assert_eq!(found, wanted, "{head:?}");
        }
    }

    #[test]
    fn heads_are_looked_at_in_pieces() {
        let whole = b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut head = Head::default();
        let found: Vec<_> = whole.chunks(7).filter_map(|part| head.read(part)).collect();
        assert_eq!(found.first(), Some(&Rejection::Ambiguous));
        assert!(head.whole);
        for length in 0..whole.len() {
            assert!(!look_at(&whole[..length]).0, "{length}");
        }
    }
}
