//! HTTP/1.1 with a client, spoken directly: ordinary requests and ordinary answers (see
//! [`http1`](crate::http1)), and nothing else.
//!
//! As soon as something else stands in a connection, it is handed over to hyper with everything that has
//! been read of it ([`Turn::Hyper`]), so that only one parser decides about what is not ordinary. When
//! nothing has been asked for a while, the connection comes back.
//!
//! A connection on which nothing is asked has no buffers here.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, Request, Response, Version, request::Parts};
use http_body::Body as _;

use super::{
    answer::answer, body::RequestBody, client::Client, exchange::Exchange,
    response_body::ResponseBody, stream::ClientStream,
};
use crate::{
    accept::Transport,
    connections::Order,
    http1::{
        MAX_DIRECT_HEAD, Unusual, request,
        response::{self, Ending},
    },
    worker::Worker,
};

/// Bodies up to this length leave together with their head.
const TOGETHER: usize = 16 * 1024;

/// What comes after direct service.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Nothing: the connection is over.
    Over,
    /// hyper. What it has to read stands in the stream; the answer to the first request is given if the
    /// request has been passed on already.
    Hyper(Option<Box<Response<ResponseBody>>>),
}

/// Serves a connection for as long as requests and answers are ordinary.
pub(crate) async fn serve<S: Transport>(stream: &mut ClientStream<S>, client: &Rc<Client>) -> Turn {
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
        let length = response.body().size_hint().exact();
        let Some(ending) = Ending::of(response.status(), response.headers(), length) else {
            stream.put_back(&head);
            return Turn::Hyper(Some(Box::new(response)));
        };
        // hyper won't need it any more.
        drop(head);
        let last = client.handle.is_finishing();
        let written = write(response, ending, last, stream, client).await;
        if last || written.is_err() {
            return Turn::Over;
        }
    }
}

/// The answer to a request. None if the connection ends before.
async fn ask<S: Transport>(
    parts: Parts,
    stream: &mut ClientStream<S>,
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
async fn write<S: Transport>(
    response: Response<ResponseBody>,
    ending: Ending,
    last: bool,
    stream: &mut ClientStream<S>,
    client: &Client,
) -> io::Result<()> {
    let mut writer = Writer::new(response, ending, last, &client.worker);
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
fn poll_request<S: Transport>(
    stream: &mut ClientStream<S>,
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
            match request::parse(stream.read(), || client.worker.take_headers()) {
                Ok(Some(request)) => return Poll::Ready(Ok(request)),
                Ok(None) if stream.read().len() < MAX_DIRECT_HEAD => {
                    handle.head_began(client.worker.now());
                }
                Ok(None) | Err(Unusual) => return Poll::Ready(Err(Turn::Hyper(None))),
            }
        }
        match ready!(stream.poll_more(cx)) {
            Ok(true) => {}
            // hyper knows what to do about half a head.
            Ok(false) if !stream.read().is_empty() => return Poll::Ready(Err(Turn::Hyper(None))),
            Ok(false) | Err(_) => return Poll::Ready(Err(Turn::Over)),
        }
    }
}

/// An answer on its way to a client.
#[derive(Debug)]
struct Writer {
    body: ResponseBody,
    ending: Ending,
    /// Whether all of the body has come.
    ended: bool,
    /// The head, and what leaves together with it; then chunks.
    buffer: Vec<u8>,
    /// How much of the buffer has left.
    at: usize,
    /// What leaves behind the buffer.
    piece: Bytes,
    /// Whether the head may leave. Until then the body may have a piece that leaves in the same write.
    begun: bool,
    /// The headers' memory.
    headers: HeaderMap,
}

impl Writer {
    fn new(response: Response<ResponseBody>, ending: Ending, last: bool, worker: &Worker) -> Self {
        let (parts, body) = response.into_parts();
        let mut buffer = worker.take_buffer();
        response::write(&parts, ending, last, &worker.clock.date(), &mut buffer);
        Self {
            body,
            ended: ending.is_bodiless(),
            ending,
            buffer,
            at: 0,
            piece: Bytes::new(),
            begun: false,
            headers: parts.headers,
        }
    }

    /// Writes all of it.
    fn poll<S: Transport>(
        &mut self,
        stream: &mut ClientStream<S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
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
                // The answer is in HTTP/1.1, where trailers are not passed on.
                Poll::Ready(Some(Ok(frame))) => self.add(frame.into_data().unwrap_or_default()),
                Poll::Ready(None) if self.ending == Ending::Chunked => self.add_last(),
                Poll::Ready(None | Some(Err(_))) => return self.break_off(stream, cx),
            }
            self.begun = true;
        }
    }

    /// Takes a piece of the body.
    fn add(&mut self, piece: Bytes) {
        match &mut self.ending {
            Ending::Length(left) => {
                *left = left.saturating_sub(piece.len() as u64);
                self.ended = *left == 0;
                if piece.len() <= TOGETHER {
                    self.buffer.extend_from_slice(&piece);
                } else {
                    self.piece = piece;
                }
            }
            // The answer has ended with its head.
            Ending::NotModified => {}
            Ending::Chunked => {
                response::write_chunk(&piece, &mut self.buffer);
                if self.body.is_end_stream() {
                    self.add_last();
                }
            }
        }
    }

    fn add_last(&mut self) {
        response::write_last_chunk(&mut self.buffer);
        self.ended = true;
    }

    /// Writes what there is.
    fn poll_flush<S: Transport>(
        &mut self,
        stream: &mut ClientStream<S>,
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

    /// The body has broken off. The connection ends, which tells the client that the body isn't whole.
    fn break_off<S: Transport>(
        &self,
        stream: &mut ClientStream<S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.begun {
            // The head at least, if the kernel has room for it.
            let _ = stream.poll_put(cx, &self.buffer);
        }
        Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()))
    }

    /// Gives back the memory that can be used again.
    fn give_back(self, worker: &Worker) {
        worker.give_back(self.headers, self.buffer);
    }
}
