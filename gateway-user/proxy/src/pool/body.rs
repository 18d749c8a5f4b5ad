//! The body of an endpoint's answer, with the connection that it comes over.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use nodegate_model::gateway::ConnectionLimits;

use super::{sender::SendBody, store::Pool, upstream::Upstream};
use crate::clock::Tick;

/// The body of an endpoint's answer. It owns the connection that it comes over: once all of it has come
/// the connection can be given back, and dropped before, it closes the connection.
#[derive(Debug)]
pub(crate) struct UpstreamBody<B> {
    rest: Rest,
    /// None once it has been given back or closed.
    upstream: Option<Upstream<B>>,
    /// Where the connection belongs.
    pool: Rc<Pool<B>>,
}

/// What is still to come of a body.
#[derive(Debug)]
pub(crate) enum Rest {
    /// What hyper reads.
    Hyper(Incoming),
    /// What hyper reads, of which there may be nothing.
    Nothing(Incoming),
    /// So many bytes, read directly.
    Direct(u64),
}

/// Why the body of an answer ends before its end.
#[derive(Debug)]
pub(crate) enum UpstreamError {
    Hyper(hyper::Error),
    /// The connection broke while it was read directly.
    Io(io::Error),
    /// The endpoint has reset the stream and called that no error.
    Abandoned,
    /// The endpoint sends a body where there is none.
    Unexpected,
}

impl<B> UpstreamBody<B> {
    pub(crate) fn new(rest: Rest, upstream: Upstream<B>, pool: Rc<Pool<B>>) -> Self {
        Self {
            rest,
            upstream: Some(upstream),
            pool,
        }
    }

    /// Whether all of it has come.
    pub(crate) fn is_end_stream(&self) -> bool {
        match &self.rest {
            Rest::Hyper(incoming) | Rest::Nothing(incoming) => incoming.is_end_stream(),
            Rest::Direct(left) => *left == 0,
        }
    }

    /// How much of it is still to come.
    pub(crate) fn size_hint(&self) -> SizeHint {
        match &self.rest {
            Rest::Hyper(incoming) => incoming.size_hint(),
            Rest::Nothing(_) => SizeHint::with_exact(0),
            Rest::Direct(left) => SizeHint::with_exact(*left),
        }
    }

    /// The next piece of it.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamError>>> {
        let is_nothing = matches!(self.rest, Rest::Nothing(_));
        match &mut self.rest {
            Rest::Hyper(incoming) | Rest::Nothing(incoming) => {
                let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
                // hyper takes a stream that is reset with NO_ERROR for one that ends, which is so for requests
                // alone (RFC 9113, section 8.1).
                let is_http2 = || self.upstream.as_ref().is_some_and(Upstream::is_http2);
                if frame.is_none() && !incoming.is_end_stream() && is_http2() {
                    return Poll::Ready(Some(Err(UpstreamError::Abandoned)));
                }
                let is_data =
                    |frame: &Frame<Bytes>| frame.data_ref().is_some_and(|data| !data.is_empty());
                Poll::Ready(frame.map(|frame| match frame {
                    Ok(frame) if is_nothing && is_data(&frame) => Err(UpstreamError::Unexpected),
                    frame => frame.map_err(UpstreamError::Hyper),
                }))
            }
            Rest::Direct(0) => Poll::Ready(None),
            Rest::Direct(left) => {
                let piece = match self.upstream.as_mut().and_then(Upstream::reading) {
                    Some(direct) => ready!(direct.poll_body(cx, left)),
                    None => Err(io::ErrorKind::NotConnected.into()),
                };
                Poll::Ready(Some(piece.map(Frame::data).map_err(UpstreamError::Io)))
            }
        }
    }

    /// Closes the connection: no more of the body is wanted.
    pub(crate) fn close(&mut self) {
        self.upstream = None;
    }
}

impl<B: SendBody> UpstreamBody<B> {
    /// Gives the connection back: all of the body has come.
    pub(crate) fn release(&mut self, now: Tick, limits: &ConnectionLimits) {
        if let Some(upstream) = self.upstream.take() {
            self.pool.give_back(upstream, now, limits);
        }
    }
}
