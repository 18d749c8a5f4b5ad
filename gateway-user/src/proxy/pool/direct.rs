//! HTTP/1.1 with an endpoint, spoken directly: the ordinary exchange, and nothing else.
//!
//! Ordinary is a request without a body, and an answer in HTTP/1.1 that is not an interim one, has a
//! body, and says in one `content-length` how long that is. For everything else there is hyper: whoever
//! asks for something else doesn't come here, and when an answer turns out to be something else, the
//! connection is handed over with all that has been read of it ([`Adopted`]), so that there is one
//! opinion only about what is not ordinary.
//!
//! The connection is read in the task that waits for the answer. There is no task of its own, nothing
//! is passed between tasks, and nothing is kept to be sent again but the request itself.

use std::{
    io,
    mem::{self, MaybeUninit},
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, Method, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
    request, response,
    uri::PathAndQuery,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
};
use tokio_util::io::poll_read_buf;

use crate::proxy::head::{self, FIRST_READ, MAX_HEAD, MAX_HEADERS};

/// Least of a body that is read at once.
const LEAST_READ: usize = 4 * 1024;
/// Most of a body that is read at once.
const MOST_READ: usize = 64 * 1024;

/// A connection on which nothing is under way but what is asked here.
#[derive(Debug)]
pub(crate) struct Direct {
    stream: TcpStream,
    /// Read, and not yet handed up.
    read: Bytes,
    /// The head that is sent.
    head: Vec<u8>,
}

/// What came of asking.
#[derive(Debug)]
pub(crate) enum Asked {
    /// An ordinary answer: its head, and how much of its body is still to come.
    Answer(response::Parts, u64),
    /// Something else, of which nothing has been taken.
    Unusual,
    /// Nothing of the request has been sent.
    Unsent,
    /// The connection has ended before there was an answer.
    Ended,
}

/// A connection for hyper, on which the request has been sent and some of the answer been read. What
/// hyper writes as its first request goes nowhere, and then it reads what has been read.
#[derive(Debug)]
pub(crate) struct Adopted {
    stream: TcpStream,
    read: Bytes,
    /// How much of the end of a head hyper has written in place of the one that was sent; none once
    /// that is over.
    written: Option<usize>,
    waker: Option<Waker>,
}

impl Direct {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            read: Bytes::new(),
            head: Vec::new(),
        }
    }

    /// Whether the endpoint has neither closed the connection nor sent what nobody asked for, as far
    /// as is known: costs a system call only where something has happened.
    pub(crate) fn is_alive(&self) -> bool {
        if !self.read.is_empty() {
            return false;
        }
        match self
            .stream
            .poll_read_ready(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Pending => true,
            Poll::Ready(_) => {
                let read = self.stream.try_read(&mut [0]);
                read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            }
        }
    }

    /// Whether it can ask this, if there is no body.
    pub(crate) fn can_ask(request: &request::Parts) -> bool {
        let target = request.uri.path_and_query().map(PathAndQuery::as_str);
        request.method != Method::HEAD
            && request.method != Method::CONNECT
            && request.uri.authority().is_none()
            && target.is_some_and(|target| target.starts_with('/'))
            && !request.headers.contains_key(TRANSFER_ENCODING)
    }

    /// Sends a request without a body, and reads the head of the answer. `more` adds headers to those
    /// of the request, which are not there any more after an answer unless they are to be kept: their
    /// memory is the answer's.
    pub(crate) async fn ask(
        &mut self,
        request: &mut request::Parts,
        more: impl FnOnce(&mut Vec<u8>),
        keep: bool,
    ) -> Asked {
        encode(request, more, &mut self.head);
        match self.stream.write(&self.head).await {
            Err(_) | Ok(0) => return Asked::Unsent,
            Ok(length) if length == self.head.len() => {}
            Ok(length) => {
                if self.stream.write_all(&self.head[length..]).await.is_err() {
                    return Asked::Ended;
                }
            }
        }
        let mut none = HeaderMap::new();
        let spare = if keep {
            &mut none
        } else {
            &mut request.headers
        };
        std::future::poll_fn(|cx| self.poll_answer(cx, spare)).await
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>, spare: &mut HeaderMap) -> Poll<Asked> {
        loop {
            // Read to where there is room for all answers, and copied to where there is room for this
            // one: connections that wait for their next use need no memory then.
            let mut room = [MaybeUninit::uninit(); FIRST_READ];
            let mut room = ReadBuf::uninit(&mut room);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room));
            if read.is_err() || room.filled().is_empty() {
                return Poll::Ready(Asked::Ended);
            }
            self.read = head::join(&self.read, room.filled());
            match parse(&mut self.read, spare) {
                Parsed::Ordinary(head, length) => {
                    return Poll::Ready(Asked::Answer(head, length));
                }
                Parsed::Partial if self.read.len() < MAX_HEAD => {}
                Parsed::Partial | Parsed::Unusual => return Poll::Ready(Asked::Unusual),
            }
        }
    }

    /// More of a body of which so much is left.
    pub(crate) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        left: &mut u64,
    ) -> Poll<io::Result<Bytes>> {
        let most = usize::try_from(*left).unwrap_or(usize::MAX);
        if self.read.is_empty() {
            let mut room = BytesMut::with_capacity(most.clamp(LEAST_READ, MOST_READ));
            let stream = Pin::new(&mut self.stream);
            if ready!(poll_read_buf(stream, cx, &mut room))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.read = room.freeze();
        }
        let piece = self.read.split_to(self.read.len().min(most));
        *left -= piece.len() as u64;
        Poll::Ready(Ok(piece))
    }

    /// For hyper, with what has been asked and read.
    pub(crate) fn adopt(self) -> Adopted {
        Adopted {
            stream: self.stream,
            read: self.read,
            written: Some(0),
            waker: None,
        }
    }

    /// The stream, if nothing is under way.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }
}

/// The head of a request without a body.
fn encode(request: &request::Parts, more: impl FnOnce(&mut Vec<u8>), head: &mut Vec<u8>) {
    let target = request.uri.path_and_query();
    head.clear();
    head.extend_from_slice(request.method.as_str().as_bytes());
    head.push(b' ');
    head.extend_from_slice(target.map_or("/", PathAndQuery::as_str).as_bytes());
    head.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in &request.headers {
        head::put(head, name.as_str(), value.as_bytes());
    }
    more(head);
    head.extend_from_slice(b"\r\n");
}

enum Parsed {
    Ordinary(response::Parts, u64),
    Partial,
    Unusual,
}

/// Takes an ordinary head, into the memory of other headers; leaves anything else as it is.
fn parse(read: &mut Bytes, spare: &mut HeaderMap) -> Parsed {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        read,
        &mut fields,
    );
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Parsed::Partial,
        Err(_) => return Parsed::Unusual,
    };
    let status = response
        .code
        .and_then(|code| StatusCode::from_u16(code).ok());
    let (Some(status), Some(1)) = (status, response.version) else {
        return Parsed::Unusual;
    };
    if status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
    {
        return Parsed::Unusual;
    }
    let Some(body) = framing(response.headers) else {
        return Parsed::Unusual;
    };
    let Some(headers) = head::collect(response.headers, read, mem::take(spare)) else {
        return Parsed::Unusual;
    };
    // Without what the headers' values share.
    read.advance(length);
    let mut head = response::Response::new(()).into_parts().0;
    head.status = status;
    head.version = Version::HTTP_11;
    head.headers = headers;
    Parsed::Ordinary(head, body)
}

/// How long the body is, if that is said in the ordinary way, and the connection stays.
// RFC 9112, section 6.3: other ways to say it need more care.
fn framing(fields: &[httparse::Header<'_>]) -> Option<u64> {
    let mut length = None;
    for field in fields {
        let is = |name: &HeaderName| field.name.eq_ignore_ascii_case(name.as_str());
        if is(&CONTENT_LENGTH) {
            let digits = std::str::from_utf8(field.value).ok()?;
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            if !plain || length.is_some() {
                return None;
            }
            length = Some(digits.parse().ok()?);
        } else if is(&TRANSFER_ENCODING)
            || (is(&CONNECTION) && !field.value.eq_ignore_ascii_case(b"keep-alive"))
        {
            return None;
        }
    }
    length
}

impl AsyncRead for Adopted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.written.is_some() {
            // An answer before its request would be none to hyper.
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
        const END: &[u8] = b"\r\n\r\n";
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
