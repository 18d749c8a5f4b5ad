//! The body of a request, from the client to the endpoint.

use std::{
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{
    error::BodyError, gate::Gate, progress::Progress, source::Source, store::Store,
    streamed::Streamed,
};
use crate::connections::Handle;

/// The body of a request, from the client to the endpoint. The default is none.
#[derive(Debug, Default)]
pub(crate) struct RequestBody(RequestSource);

/// Where a body comes from.
#[derive(Debug, Default)]
enum RequestSource {
    /// There is no body.
    #[default]
    Nothing,
    Client(Box<Streamed>),
    /// From what is kept, and from the client from there on.
    Store {
        store: Rc<Store>,
        /// How many pieces this copy has had.
        at: usize,
    },
}

impl RequestBody {
    /// No body.
    pub(crate) const EMPTY: Self = Self(RequestSource::Nothing);

    /// Wraps the client's body, unless there is none.
    pub(crate) fn new(
        incoming: Incoming,
        version: Version,
        client: &Rc<Handle>,
    ) -> (Self, Option<Rc<Progress>>) {
        if incoming.is_end_stream() {
            return (Self::EMPTY, None);
        }
        let progress = Progress::new(Source::new(incoming, version), client);
        let body = Streamed::new(Rc::clone(&progress));
        (Self(RequestSource::Client(Box::new(body))), Some(progress))
    }

    /// A copy of a body that is kept, from its beginning; none if that is gone.
    pub(crate) fn copy_of(store: &Rc<Store>) -> Option<Self> {
        store.has_beginning().then(|| {
            Self(RequestSource::Store {
                store: Rc::clone(store),
                at: 0,
            })
        })
    }

    /// Holds the body back; none if there is none.
    pub(crate) fn hold(&mut self) -> Option<Arc<Gate>> {
        match &mut self.0 {
            RequestSource::Client(body) => Some(body.hold()),
            RequestSource::Nothing | RequestSource::Store { .. } => None,
        }
    }

    /// Whether there is no body at all.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.0, RequestSource::Nothing)
    }

    /// Keeps the body from now on; it comes back if there is none to keep.
    pub(crate) fn store(self) -> Result<Rc<Store>, Self> {
        match self.0 {
            RequestSource::Client(body) => Ok(Rc::new(Store::new(*body))),
            other => Err(Self(other)),
        }
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
            RequestSource::Nothing => Poll::Ready(None),
            RequestSource::Client(body) => body.poll_frame(cx),
            RequestSource::Store { store, at } => store.poll_frame(at, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            RequestSource::Nothing => true,
            RequestSource::Client(body) => body.is_end_stream(),
            RequestSource::Store { store, at } => store.ends_at(*at),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            RequestSource::Client(body) => body.size_hint(),
            RequestSource::Store { store, at: 0 } => store.length(),
            // A length of 0 would be said of nothing in HTTP/2, where Envoy says nothing; and of what is kept,
            // senders ask at the beginning only.
            RequestSource::Nothing | RequestSource::Store { .. } => SizeHint::default(),
        }
    }
}
