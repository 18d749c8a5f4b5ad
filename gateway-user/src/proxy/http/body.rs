//! Bodies on their way through: streamed, counted, never collected.

use std::{
    cell::Cell,
    mem,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::exchange::Exchange;

/// How far the body of a request has come.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Progress {
    bytes: Cell<u64>,
}

/// From the client to the endpoint.
#[derive(Debug)]
pub(in crate::proxy) struct RequestBody(Option<(Incoming, Rc<Progress>)>);

/// From the endpoint, or from us, to the client.
#[derive(Debug)]
pub(in crate::proxy) struct ResponseBody {
    source: Source,
    exchange: Exchange,
}

#[derive(Debug)]
enum Source {
    Upstream(Incoming),
    Fixed(Bytes),
}

impl Progress {
    /// Bytes that went to the endpoint.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.get()
    }
}

impl RequestBody {
    /// No body.
    pub(super) const EMPTY: Self = Self(None);

    /// Wraps the client's body, unless there is none.
    pub(super) fn new(incoming: Incoming) -> (Self, Option<Rc<Progress>>) {
        if incoming.is_end_stream() {
            return (Self::EMPTY, None);
        }
        let progress = Rc::new(Progress::default());
        (Self(Some((incoming, Rc::clone(&progress)))), Some(progress))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some((incoming, progress)) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            let length = frame.data_ref().map_or(0, Bytes::len) as u64;
            progress.bytes.set(progress.bytes.get() + length);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|(incoming, _)| incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0
            .as_ref()
            .map_or(SizeHint::with_exact(0), |(incoming, _)| {
                incoming.size_hint()
            })
    }
}

impl ResponseBody {
    /// The endpoint's body.
    pub(super) fn upstream(incoming: Incoming, mut exchange: Exchange) -> Self {
        if incoming.is_end_stream() {
            exchange.complete();
        }
        Self {
            source: Source::Upstream(incoming),
            exchange,
        }
    }

    /// A body of our own.
    pub(super) fn fixed(body: Bytes, mut exchange: Exchange) -> Self {
        if body.is_empty() {
            exchange.complete();
        }
        Self {
            source: Source::Fixed(body),
            exchange,
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let (frame, end) = match &mut this.source {
            Source::Upstream(incoming) => {
                let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
                (frame, incoming.is_end_stream())
            }
            Source::Fixed(body) if body.is_empty() => (None, true),
            Source::Fixed(body) => (Some(Ok(Frame::data(mem::take(body)))), true),
        };
        match &frame {
            Some(Ok(frame)) => {
                this.exchange
                    .sent(frame.data_ref().map_or(0, Bytes::len) as u64);
                // With a known length nobody asks for the frame after the last.
                if end {
                    this.exchange.complete();
                }
            }
            Some(Err(_)) => this.exchange.upstream_failed(),
            None => this.exchange.complete(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Upstream(incoming) => incoming.is_end_stream(),
            Source::Fixed(body) => body.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Upstream(incoming) => incoming.size_hint(),
            Source::Fixed(body) => SizeHint::with_exact(body.len() as u64),
        }
    }
}
