//! The client's end of a body. It belongs to whoever takes the body, and the request's log looks at it when the
//! client has left.

use std::{
    cell::{Cell, RefCell},
    error::Error as _,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::Version;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

/// The client's end of a body.
#[derive(Debug)]
pub(super) struct Source {
    /// Until nobody takes any more of it.
    incoming: RefCell<Option<Incoming>>,
    /// Whether it is a stream of HTTP/2.
    is_stream: bool,
    /// Whether h2 has ended the stream for what came on it: another length than was announced, or trailers that are
    /// none.
    malformed: Cell<bool>,
}

impl Source {
    pub(super) fn new(incoming: Incoming, version: Version) -> Self {
        Self {
            incoming: RefCell::new(Some(incoming)),
            is_stream: version == Version::HTTP_2,
            malformed: Cell::new(false),
        }
    }

    /// Whether it is a stream of HTTP/2.
    pub(super) fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// Whether all of it has come.
    pub(super) fn is_end_stream(&self) -> bool {
        let incoming = self.incoming.borrow();
        incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    /// What the client has said of its length.
    pub(super) fn size_hint(&self) -> SizeHint {
        let incoming = self.incoming.borrow();
        incoming
            .as_ref()
            .map_or_else(SizeHint::default, Incoming::size_hint)
    }

    /// The next piece of it.
    pub(super) fn poll_frame(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut incoming = self.incoming.borrow_mut();
        let Some(incoming) = incoming.as_mut() else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(incoming).poll_frame(cx);
        if let Poll::Ready(Some(Err(error))) = &polled
            && is_malformed(error)
        {
            self.malformed.set(true);
        }
        polled
    }

    /// Nobody takes any more of it.
    pub(super) fn close(&self) {
        self.look();
        // Dropped when it is no longer borrowed.
        let incoming = self.incoming.take();
        drop(incoming);
    }

    /// Whether its stream has ended for what came on it. What has come and has not been taken is lost.
    pub(super) fn is_malformed(&self) -> bool {
        self.look();
        self.malformed.get()
    }

    /// Looks how a stream ends, if it has ended.
    fn look(&self) {
        if !self.is_stream {
            return;
        }
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(Ok(_))) = self.poll_frame(&mut cx) {}
    }
}

/// Whether h2 has ended a stream itself.
fn is_malformed(error: &hyper::Error) -> bool {
    let source = error.source();
    let source = source.and_then(|source| source.downcast_ref::<h2::Error>());
    source.is_some_and(h2::Error::is_library)
}
