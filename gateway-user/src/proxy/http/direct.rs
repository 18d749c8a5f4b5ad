//! HTTP/1.1 with a client, spoken directly: ordinary requests with ordinary answers, and nothing else.
//!
//! Ordinary is a request without a body and without a wish for anything but an answer, and an answer
//! that has a body, be it empty. For everything else there is hyper: a connection is handed over as
//! soon as something else stands in it, with all that has been read ([`Turn::Hyper`]), so that there is
//! one opinion only about what is not ordinary. When nothing has been asked for a while, it comes back.
//!
//! A connection on which nothing is asked has no buffers here.

use std::{
    future::poll_fn,
    io::{self, Write as _},
    mem,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use http::{
    HeaderMap, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, DATE, EXPECT, HeaderName, TRANSFER_ENCODING, UPGRADE},
    request::Parts,
    uri::PathAndQuery,
};
use http_body::Body as _;

use super::{
    Client, answer,
    body::{RequestBody, ResponseBody},
    exchange::Exchange,
    stream::ClientStream,
};
use crate::proxy::{
    connections::Order,
    head::{self, MAX_HEAD, MAX_HEADERS},
    worker::Worker,
};

/// Bodies up to that length leave together with their head.
const TOGETHER: usize = 16 * 1024;

/// Whose turn it is now.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Nobody's: the connection is over.
    Over,
    /// hyper's. What it has to read stands in the stream; the answer to the first request is there
    /// already if that has been asked.
    Hyper(Option<Response<ResponseBody>>),
}

/// A request for which there is hyper.
#[derive(Debug)]
struct Unusual;

/// Serves a connection for as long as what is asked and answered is ordinary.
pub(crate) async fn serve(stream: &mut ClientStream, client: &Rc<Client>) -> Turn {
    loop {
        let request = poll_fn(|cx| poll_request(stream, client, cx)).await;
        let (parts, length) = match request {
            Ok(request) => request,
            Err(turn) => return turn,
        };
        let head = stream.take(length);
        let Some(response) = ask(parts, stream, client).await else {
            return Turn::Over;
        };
        let Some(framing) = framing(&response) else {
            stream.put_back(&head);
            return Turn::Hyper(Some(response));
        };
        // From here on nobody needs it.
        drop(head);
        let last = client.handle.is_finishing();
        let written = write(response, framing, last, stream, client).await;
        if last || written.is_err() {
            return Turn::Over;
        }
    }
}

/// The answer to a request. None if the connection ends before.
async fn ask(
    parts: Parts,
    stream: &mut ClientStream,
    client: &Rc<Client>,
) -> Option<Response<ResponseBody>> {
    let exchange = Exchange::new(client, Version::HTTP_11);
    let request = Request::from_parts(parts, RequestBody::EMPTY);
    let mut answer = pin!(answer(request, exchange));
    poll_fn(|cx| {
        if client.handle.order(cx) == Order::Close {
            return Poll::Ready(None);
        }
        if let Poll::Ready(response) = answer.as_mut().poll(cx) {
            return Poll::Ready(Some(response));
        }
        stream.poll_gone(cx).map(|()| None)
    })
    .await
}

/// Writes an answer, after which the connection ends if it is the last.
async fn write(
    response: Response<ResponseBody>,
    framing: Framing,
    last: bool,
    stream: &mut ClientStream,
    client: &Client,
) -> io::Result<()> {
    let mut writer = Writer::new(response, framing, last, &client.worker);
    let written = poll_fn(|cx| {
        if client.handle.order(cx) == Order::Close {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if let Poll::Ready(written) = writer.poll(stream, cx) {
            return Poll::Ready(written);
        }
        let gone = stream.poll_gone(cx);
        gone.map(|()| Err(io::ErrorKind::ConnectionReset.into()))
    })
    .await;
    writer.give_back(&client.worker);
    written
}

/// Waits for a request.
fn poll_request(
    stream: &mut ClientStream,
    client: &Client,
    cx: &mut Context<'_>,
) -> Poll<Result<(Parts, usize), Turn>> {
    let handle = &client.handle;
    loop {
        match handle.order(cx) {
            Order::Serve => {}
            // What has begun to come in is still answered.
            Order::Finish if !stream.read().is_empty() => {}
            Order::Finish | Order::Close => return Poll::Ready(Err(Turn::Over)),
        }
        if handle.rejection().is_some() {
            return Poll::Ready(Err(Turn::Hyper(None)));
        }
        if !stream.read().is_empty() {
            match parse(stream.read(), &client.worker) {
                Ok(Some(request)) => return Poll::Ready(Ok(request)),
                Ok(None) if stream.read().len() < MAX_HEAD => {
                    handle.head_began(client.worker.now());
                }
                Ok(None) | Err(Unusual) => return Poll::Ready(Err(Turn::Hyper(None))),
            }
        }
        match ready!(stream.poll_more(cx)) {
            Ok(true) => {}
            // It knows what to do about half a head.
            Ok(false) if !stream.read().is_empty() => return Poll::Ready(Err(Turn::Hyper(None))),
            Ok(false) | Err(_) => return Poll::Ready(Err(Turn::Over)),
        }
    }
}

/// A request, and how long its head is; none if that isn't whole.
fn parse(read: &Bytes, worker: &Worker) -> Result<Option<(Parts, usize)>, Unusual> {
    let mut fields = [const { mem::MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(read, &mut fields) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Unusual),
    };
    let (Some(method), Some(target), Some(1)) = (request.method, request.path, request.version)
    else {
        return Err(Unusual);
    };
    let Ok(method) = Method::from_bytes(method.as_bytes()) else {
        return Err(Unusual);
    };
    // Whether a target may have a fragment is for others to say.
    let plain = target.starts_with('/') && memchr::memchr(b'#', target.as_bytes()).is_none();
    if !plain || matches!(method, Method::HEAD | Method::CONNECT) || asks_more(request.headers) {
        return Err(Unusual);
    }
    let at = target.as_ptr().addr() - read.as_ptr().addr();
    let Ok(target) = PathAndQuery::from_maybe_shared(read.slice(at..at + target.len())) else {
        return Err(Unusual);
    };
    let Some(headers) = head::collect(request.headers, read, worker.take_headers()) else {
        return Err(Unusual);
    };
    let mut parts = Request::new(()).into_parts().0;
    parts.method = method;
    parts.uri = Uri::from(target);
    parts.headers = headers;
    Ok(Some((parts, length)))
}

/// Whether there may be a body, or the connection is to become something else or to end.
fn asks_more(fields: &[httparse::Header<'_>]) -> bool {
    fields.iter().any(|field| {
        let is = |name: &HeaderName| field.name.eq_ignore_ascii_case(name.as_str());
        // Most names are told apart by their lengths.
        match field.name.len() {
            6 => is(&EXPECT),
            7 => is(&UPGRADE),
            10 => is(&CONNECTION) && !field.value.eq_ignore_ascii_case(b"keep-alive"),
            14 => is(&CONTENT_LENGTH),
            17 => is(&TRANSFER_ENCODING),
            _ => false,
        }
    })
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// By what is left of its length.
    Length(u64),
    /// By a last chunk (RFC 9112, section 7.1).
    Chunked,
    /// There is none, whatever the head says of the length that it would have (RFC 9110, section
    /// 15.4.5). hyper wouldn't say that.
    Unmodified,
}

/// How an ordinary answer's end is told. None if the answer is another one.
fn framing(response: &Response<ResponseBody>) -> Option<Framing> {
    let status = response.status();
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        return None;
    }
    let unmodified = status == StatusCode::NOT_MODIFIED;
    let length = response.body().size_hint().exact();
    let mut said = false;
    let ordinary = response.headers().iter().all(|(name, value)| {
        if *name == CONTENT_LENGTH {
            let again = mem::replace(&mut said, true);
            let value = value.to_str().ok().and_then(|value| value.parse().ok());
            return !again && value.is_some() && (unmodified || value == length);
        }
        *name != CONNECTION && *name != TRANSFER_ENCODING
    });
    ordinary.then_some(match length {
        _ if unmodified => Framing::Unmodified,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    })
}

/// An answer on its way to a client.
#[derive(Debug)]
struct Writer {
    body: ResponseBody,
    framing: Framing,
    /// Whether all of the body has come.
    ended: bool,
    /// The head, and what leaves together with it; then chunks.
    buffer: Vec<u8>,
    /// How much of that has left.
    at: usize,
    /// What leaves behind it.
    piece: Bytes,
    /// Whether anything may leave. Before, the body may have something for the same write.
    begun: bool,
    /// The headers' memory.
    headers: HeaderMap,
}

impl Writer {
    fn new(
        response: Response<ResponseBody>,
        framing: Framing,
        last: bool,
        worker: &Worker,
    ) -> Self {
        let (parts, body) = response.into_parts();
        let mut buffer = worker.take_buffer();
        let status = parts.status;
        buffer.extend_from_slice(b"HTTP/1.1 ");
        buffer.extend_from_slice(status.as_str().as_bytes());
        buffer.push(b' ');
        buffer.extend_from_slice(status.canonical_reason().unwrap_or("<none>").as_bytes());
        buffer.extend_from_slice(b"\r\n");
        let (mut says_length, mut says_date) = (false, false);
        for (name, value) in &parts.headers {
            says_length |= *name == CONTENT_LENGTH;
            says_date |= *name == DATE;
            head::put(&mut buffer, name.as_str(), value.as_bytes());
        }
        match framing {
            Framing::Length(_) if says_length => {}
            Framing::Length(length) => {
                let length = length.to_string();
                head::put(&mut buffer, "content-length", length.as_bytes());
            }
            Framing::Chunked => head::put(&mut buffer, "transfer-encoding", b"chunked"),
            Framing::Unmodified => {}
        }
        if last {
            head::put(&mut buffer, "connection", b"close");
        }
        if !says_date {
            head::put(&mut buffer, "date", &worker.date());
        }
        buffer.extend_from_slice(b"\r\n");
        Self {
            body,
            ended: matches!(framing, Framing::Length(0) | Framing::Unmodified),
            framing,
            buffer,
            at: 0,
            piece: Bytes::new(),
            begun: false,
            headers: parts.headers,
        }
    }

    /// Writes all of it.
    fn poll(&mut self, stream: &mut ClientStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.begun || self.ended {
                self.begun = true;
                ready!(self.poll_flush(stream, cx))?;
                if self.ended {
                    return Poll::Ready(Ok(()));
                }
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending if self.begun => return Poll::Pending,
                Poll::Pending => {}
                // Trailers don't come here.
                Poll::Ready(Some(Ok(frame))) => self.add(frame.into_data().unwrap_or_default()),
                Poll::Ready(None) if self.framing == Framing::Chunked => self.add_last(),
                Poll::Ready(None | Some(Err(_))) => return self.break_off(stream, cx),
            }
            self.begun = true;
        }
    }

    /// Takes a piece of the body.
    fn add(&mut self, piece: Bytes) {
        match &mut self.framing {
            Framing::Length(left) => {
                *left = left.saturating_sub(piece.len() as u64);
                self.ended = *left == 0;
                if piece.len() <= TOGETHER {
                    self.buffer.extend_from_slice(&piece);
                } else {
                    self.piece = piece;
                }
            }
            // It has ended.
            Framing::Unmodified => {}
            Framing::Chunked => {
                // An empty chunk would be the last.
                if !piece.is_empty() {
                    // Writing to memory doesn't fail.
                    let _ = write!(self.buffer, "{:x}\r\n", piece.len());
                    self.buffer.extend_from_slice(&piece);
                    self.buffer.extend_from_slice(b"\r\n");
                }
                if self.body.is_end_stream() {
                    self.add_last();
                }
            }
        }
    }

    fn add_last(&mut self) {
        self.buffer.extend_from_slice(b"0\r\n\r\n");
        self.ended = true;
    }

    /// Writes what there is.
    fn poll_flush(
        &mut self,
        stream: &mut ClientStream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.at < self.buffer.len() {
            self.at += ready!(stream.poll_put(cx, &self.buffer[self.at..]))?;
        }
        self.buffer.clear();
        self.at = 0;
        while !self.piece.is_empty() {
            let written = ready!(stream.poll_put(cx, &self.piece))?;
            self.piece.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// The body ends before its end, and so does the connection: that is how the client knows.
    fn break_off(&self, stream: &mut ClientStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.begun {
            // At least the head, if there is room for it.
            let _ = stream.poll_put(cx, &self.buffer);
        }
        Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()))
    }

    /// Leaves what can be used again.
    fn give_back(self, worker: &Worker) {
        worker.give_back(self.headers, self.buffer);
    }
}
