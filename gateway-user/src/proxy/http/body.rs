//! Bodies on their way through: streamed, counted, never collected.

use std::{
    cell::Cell,
    mem,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::exchange::Exchange;
use crate::proxy::connections::Handle;

/// How far the body of a request has come.
#[derive(Debug)]
pub(in crate::proxy) struct Progress {
    bytes: Cell<u64>,
    client: Rc<Handle>,
}

/// Holds a body back until the endpoint wants it (RFC 9110, section 10.1.1). The client is told to
/// go on when the body is asked for.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: AtomicU8,
    waker: AtomicWaker,
}

/// From the client to the endpoint.
#[derive(Debug)]
pub(in crate::proxy) struct RequestBody(Option<Request>);

#[derive(Debug)]
struct Request {
    incoming: Incoming,
    progress: Rc<Progress>,
    gate: Option<Arc<Gate>>,
}

/// Why a body ends before its end.
#[derive(Debug, thiserror::Error)]
pub(in crate::proxy) enum BodyError {
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    /// The endpoint has answered without asking for the body.
    #[error("the endpoint does not want the body")]
    Unwanted,
}

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

impl Gate {
    const OPEN: u8 = 1;
    const CLOSED_FOR_GOOD: u8 = 2;

    /// The endpoint wants the body, or might.
    pub(super) fn open(&self) {
        self.settle(Self::OPEN);
    }

    /// The endpoint has answered; if it hasn't asked for the body, it doesn't get it.
    pub(super) fn close(&self) {
        self.settle(Self::CLOSED_FOR_GOOD);
    }

    fn settle(&self, state: u8) {
        // The first to say so is right.
        let _ = self
            .state
            .compare_exchange(0, state, Ordering::AcqRel, Ordering::Acquire);
        self.waker.wake();
    }

    fn poll_open(&self, cx: &Context<'_>) -> Poll<Result<(), BodyError>> {
        self.waker.register(cx.waker());
        match self.state.load(Ordering::Acquire) {
            Self::OPEN => Poll::Ready(Ok(())),
            Self::CLOSED_FOR_GOOD => Poll::Ready(Err(BodyError::Unwanted)),
            _ => Poll::Pending,
        }
    }
}

impl RequestBody {
    /// No body.
    pub(super) const EMPTY: Self = Self(None);

    /// Wraps the client's body, unless there is none.
    pub(super) fn new(incoming: Incoming, client: &Rc<Handle>) -> (Self, Option<Rc<Progress>>) {
        if incoming.is_end_stream() {
            return (Self::EMPTY, None);
        }
        client.set_body_open(true);
        let progress = Rc::new(Progress {
            bytes: Cell::new(0),
            client: Rc::clone(client),
        });
        let body = Request {
            incoming,
            progress: Rc::clone(&progress),
            gate: None,
        };
        (Self(Some(body)), Some(progress))
    }

    /// Holds the body back; none if there is none.
    pub(super) fn hold(&mut self) -> Option<Arc<Gate>> {
        let body = self.0.as_mut()?;
        let gate = Arc::new(Gate::default());
        body.gate = Some(Arc::clone(&gate));
        Some(gate)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(body) = &mut self.0 else {
            return Poll::Ready(None);
        };
        if let Some(gate) = &body.gate {
            if let Err(error) = ready!(gate.poll_open(cx)) {
                return Poll::Ready(Some(Err(error)));
            }
            body.gate = None;
        }
        let frame = ready!(Pin::new(&mut body.incoming).poll_frame(cx));
        let progress = &body.progress;
        if let Some(Ok(frame)) = &frame {
            let length = frame.data_ref().map_or(0, Bytes::len) as u64;
            progress.bytes.set(progress.bytes.get() + length);
        }
        if frame.is_none() || body.incoming.is_end_stream() {
            progress.client.set_body_open(false);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|body| body.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0
            .as_ref()
            .map_or(SizeHint::with_exact(0), |body| body.incoming.size_hint())
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
