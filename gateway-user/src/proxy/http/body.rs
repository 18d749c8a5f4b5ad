//! Bodies on their way through: streamed and counted. Those of requests that may have to be sent
//! again, or to others too, are kept, up to a limit.

use std::{
    cell::{Cell, RefCell},
    io, mem,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{exchange::Exchange, expect::Gate};
use crate::proxy::connections::Handle;

/// Most of a body that is kept to be sent again (Envoy's `per_connection_buffer_limit_bytes`).
const MAX_KEPT: usize = 1 << 20;

/// How far the body of a request has come.
#[derive(Debug)]
pub(crate) struct Progress {
    bytes: Cell<u64>,
    /// Whether it has been asked for.
    asked: Cell<bool>,
    /// Since when nothing more will come.
    over: Cell<Option<Instant>>,
    waiting: RefCell<Vec<Waker>>,
    client: Rc<Handle>,
}

/// From the client to the endpoint.
#[derive(Debug)]
pub(crate) struct RequestBody(Kind);

#[derive(Debug)]
enum Kind {
    Empty,
    Streamed(Box<Streamed>),
    /// From what is kept, and from the client from there on.
    Replayed {
        store: Rc<Store>,
        at: usize,
    },
}

/// A body as it comes from the client.
#[derive(Debug)]
struct Streamed {
    incoming: Incoming,
    progress: Rc<Progress>,
    gate: Option<Arc<Gate>>,
}

/// A body that is kept while it goes through.
#[derive(Debug)]
pub(crate) struct Store {
    source: RefCell<Streamed>,
    kept: RefCell<Vec<Piece>>,
    size: Cell<usize>,
    state: Cell<Stored>,
    /// What the client has said of its length: every copy of it says the same.
    length: SizeHint,
}

#[derive(Clone, Debug)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// How much of a body is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    /// All that has come so far.
    SoFar,
    /// All of it.
    Whole,
    /// Nothing: it is too large, or broke off.
    Nothing,
}

/// Why a body ends before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    /// A connection that is read directly broke off.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The endpoint has answered without asking for the body.
    #[error("the endpoint does not want the body")]
    Unwanted,
    /// The response took too long.
    #[error("the response took too long")]
    Timeout,
}

/// The body of an endpoint's answer.
#[derive(Debug)]
pub(crate) enum UpstreamBody {
    Hyper(Incoming),
    /// Read directly, over the exchange's connection.
    Direct {
        /// How much is still to come.
        left: u64,
    },
}

/// From the endpoint, or from us, to the client.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    source: Source,
    /// None once it belongs to somebody else.
    exchange: Option<Box<Exchange>>,
    /// Whether there are trailers in both protocols.
    trailers: bool,
    /// Why no more will come.
    broken: Option<BodyError>,
}

#[derive(Debug)]
enum Source {
    Upstream(UpstreamBody),
    Fixed(Bytes),
}

// === impl Progress ===

impl Progress {
    /// Bytes that went to the endpoint.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Whether it has been asked for: a client may wait for that.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.get()
    }

    /// Whether the whole body has come, or never will.
    pub(crate) fn is_over(&self) -> bool {
        self.over.get().is_some()
    }

    /// Since when that is so.
    pub(crate) fn over_since(&self) -> Option<Instant> {
        self.over.get()
    }

    /// Waits until the whole body has come, or it is clear that it never will.
    pub(crate) fn poll_over(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_over() {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Nothing more will come.
    pub(crate) fn end(&self) {
        if !self.is_over() {
            self.over.set(Some(Instant::now()));
        }
        for waker in self.waiting.take() {
            waker.wake();
        }
    }
}

// === impl RequestBody ===

impl RequestBody {
    /// No body.
    pub(crate) const EMPTY: Self = Self(Kind::Empty);

    /// Wraps the client's body, unless there is none.
    pub(crate) fn new(incoming: Incoming, client: &Rc<Handle>) -> (Self, Option<Rc<Progress>>) {
        if incoming.is_end_stream() {
            return (Self::EMPTY, None);
        }
        client.body_open();
        let progress = Rc::new(Progress {
            bytes: Cell::new(0),
            asked: Cell::new(false),
            over: Cell::new(None),
            waiting: RefCell::default(),
            client: Rc::clone(client),
        });
        let body = Streamed {
            incoming,
            progress: Rc::clone(&progress),
            gate: None,
        };
        (Self(Kind::Streamed(Box::new(body))), Some(progress))
    }

    /// Holds the body back; none if there is none.
    pub(crate) fn hold(&mut self) -> Option<Arc<Gate>> {
        let Kind::Streamed(body) = &mut self.0 else {
            return None;
        };
        let gate = Arc::new(Gate::default());
        body.gate = Some(Arc::clone(&gate));
        Some(gate)
    }

    /// Whether there is no body at all.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.0, Kind::Empty)
    }

    /// Keeps the body from now on; none if there is none.
    pub(crate) fn store(self) -> Result<Rc<Store>, Self> {
        match self.0 {
            Kind::Streamed(body) => Ok(Rc::new(Store {
                length: body.incoming.size_hint(),
                source: RefCell::new(*body),
                kept: RefCell::default(),
                size: Cell::new(0),
                state: Cell::new(Stored::SoFar),
            })),
            other => Err(Self(other)),
        }
    }
}

impl Streamed {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(gate) = &self.gate {
            if let Err(error) = ready!(gate.poll_open(cx)) {
                return Poll::Ready(Some(Err(error)));
            }
            self.gate = None;
        }
        let progress = &self.progress;
        progress.asked.set(true);
        let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else {
            progress.client.body_awaited();
            return Poll::Pending;
        };
        progress.client.body_open();
        if let Some(Ok(frame)) = &frame {
            let length = frame.data_ref().map_or(0, Bytes::len) as u64;
            progress.bytes.set(progress.bytes.get() + length);
        }
        if !matches!(frame, Some(Ok(_))) || self.incoming.is_end_stream() {
            progress.client.body_over();
            progress.end();
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Streamed(body) => body.poll_frame(cx),
            Kind::Replayed { store, at } => store.poll_frame(at, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Streamed(body) => body.incoming.is_end_stream(),
            Kind::Replayed { store, at } => {
                store.state.get() == Stored::Whole && *at >= store.kept.borrow().len()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Streamed(body) => body.incoming.size_hint(),
            Kind::Replayed { store, at: 0 } => store.length,
            // It is asked at the beginning only.
            Kind::Replayed { .. } => SizeHint::default(),
        }
    }
}

// === impl Store ===

impl Store {
    /// The body, from its beginning; none if that is gone.
    pub(crate) fn body(self: &Rc<Self>) -> Option<RequestBody> {
        (self.state.get() != Stored::Nothing).then(|| {
            RequestBody(Kind::Replayed {
                store: Rc::clone(self),
                at: 0,
            })
        })
    }

    /// Whether all of it is here.
    pub(crate) fn is_whole(&self) -> bool {
        self.state.get() == Stored::Whole
    }

    fn poll_frame(
        &self,
        at: &mut usize,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(piece) = self.kept.borrow().get(*at) {
            *at += 1;
            return Poll::Ready(Some(Ok(piece.frame())));
        }
        if self.state.get() == Stored::Whole {
            return Poll::Ready(None);
        }
        let mut source = self.source.borrow_mut();
        let frame = ready!(source.poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                *at += 1;
                self.keep(frame);
                if source.incoming.is_end_stream() {
                    self.end();
                }
            }
            Some(Err(_)) => self.forget(),
            None => self.end(),
        }
        Poll::Ready(frame)
    }

    fn keep(&self, frame: &Frame<Bytes>) {
        if self.state.get() != Stored::SoFar {
            return;
        }
        let piece = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Piece::Data(data.clone()),
            (None, Some(trailers)) => Piece::Trailers(trailers.clone()),
            (None, None) => return,
        };
        if let Piece::Data(data) = &piece {
            self.size.set(self.size.get() + data.len());
        }
        if self.size.get() > MAX_KEPT {
            self.forget();
        } else {
            self.kept.borrow_mut().push(piece);
        }
    }

    fn end(&self) {
        if self.state.get() == Stored::SoFar {
            self.state.set(Stored::Whole);
        }
    }

    fn forget(&self) {
        self.state.set(Stored::Nothing);
        self.kept.take();
    }
}

impl Piece {
    fn frame(&self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data.clone()),
            Self::Trailers(trailers) => Frame::trailers(trailers.clone()),
        }
    }
}

// === impl UpstreamBody ===

impl UpstreamBody {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Hyper(incoming) => incoming.is_end_stream(),
            Self::Direct { left } => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Hyper(incoming) => incoming.size_hint(),
            Self::Direct { left } => SizeHint::with_exact(*left),
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &mut Exchange,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Hyper(incoming) => {
                let frame = ready!(Pin::new(incoming).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Self::Direct { left: 0 } => Poll::Ready(None),
            Self::Direct { left } => {
                let piece = ready!(exchange.poll_direct(cx, left));
                Poll::Ready(Some(piece.map(Frame::data).map_err(Into::into)))
            }
        }
    }
}

// === impl ResponseBody ===

impl ResponseBody {
    /// The body of an endpoint's answer in that version.
    pub(crate) fn upstream(
        body: UpstreamBody,
        version: Version,
        mut exchange: Box<Exchange>,
    ) -> Self {
        if body.is_end_stream() {
            exchange.complete();
        }
        Self {
            source: Source::Upstream(body),
            // Envoy: HTTP/1.1 has none on either side unless `enable_trailers` is set.
            trailers: exchange.is_http2() && version == Version::HTTP_2,
            exchange: Some(exchange),
            broken: None,
        }
    }

    /// A body of our own.
    pub(crate) fn fixed(body: Bytes, mut exchange: Box<Exchange>) -> Self {
        // Nobody asks for the body of an answer to HEAD.
        if body.is_empty() || exchange.head_only {
            exchange.complete();
        }
        Self {
            source: Source::Fixed(body),
            trailers: false,
            exchange: Some(exchange),
            broken: None,
        }
    }

    /// No body, and more to come that is none.
    pub(crate) const fn none() -> Self {
        Self {
            source: Source::Fixed(Bytes::new()),
            trailers: false,
            exchange: None,
            broken: None,
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(error) = this.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let Some(exchange) = &mut this.exchange else {
            return Poll::Ready(None);
        };
        let (frame, end) = match &mut this.source {
            Source::Upstream(body) => match body.poll_frame(cx, exchange) {
                Poll::Ready(frame) => (frame, body.is_end_stream()),
                Poll::Pending => {
                    ready!(exchange.poll_deadline(cx));
                    exchange.timed_out();
                    return Poll::Ready(Some(Err(BodyError::Timeout)));
                }
            },
            Source::Fixed(body) if body.is_empty() => (None, true),
            Source::Fixed(body) => (Some(Ok(Frame::data(mem::take(body)))), true),
        };
        match frame {
            // An error ends the client's stream or connection at once. What has come before goes out
            // first.
            Some(Err(error)) => {
                exchange.upstream_failed(&error);
                this.broken = Some(error);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            // Nobody asks for the frame after these.
            Some(Ok(ref frame)) if frame.is_trailers() => {
                exchange.complete();
                if !this.trailers {
                    return Poll::Ready(None);
                }
            }
            Some(Ok(ref frame)) => {
                exchange.sent(frame.data_ref().map_or(0, Bytes::len) as u64);
                // With a known length nobody asks for the frame after the last.
                if end {
                    exchange.complete();
                }
            }
            None => exchange.complete(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Upstream(body) => body.is_end_stream(),
            Source::Fixed(body) => body.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Upstream(body) => body.size_hint(),
            Source::Fixed(body) => SizeHint::with_exact(body.len() as u64),
        }
    }
}
