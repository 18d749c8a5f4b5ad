//! A body of a request that is kept while it goes through, for further tries and for mirrors.

use std::{
    cell::{Cell, RefCell},
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use super::{error::BodyError, streamed::Streamed};

/// Most of a body that is kept to be sent again (Envoy's `per_connection_buffer_limit_bytes`).
const MAX_KEPT: usize = 1 << 20;

/// A body that is kept while it goes through.
#[derive(Debug)]
pub(crate) struct Store {
    source: RefCell<Streamed>,
    kept: RefCell<Vec<Piece>>,
    size: Cell<usize>,
    state: Cell<Kept>,
    /// What the client has said of its length: every copy of it says the same.
    length: SizeHint,
    /// Who waits until it is known whether all of it is kept.
    waiting: RefCell<Vec<Waker>>,
}

#[derive(Clone, Debug)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

/// How much of a body is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// Everything that has come so far.
    SoFar,
    /// All of it.
    Whole,
    /// Nothing: it is too large, or broke off.
    Nothing,
}

impl Store {
    pub(super) fn new(source: Streamed) -> Self {
        Self {
            length: source.size_hint(),
            source: RefCell::new(source),
            kept: RefCell::default(),
            size: Cell::new(0),
            state: Cell::new(Kept::SoFar),
            waiting: RefCell::default(),
        }
    }

    /// Whether a copy can still begin at the body's beginning.
    pub(crate) fn has_beginning(&self) -> bool {
        self.state.get() != Kept::Nothing
    }

    /// Whether all of it has come and is kept.
    pub(crate) fn is_whole(&self) -> bool {
        self.state.get() == Kept::Whole
    }

    /// Whether it is not kept because there is too much of it.
    pub(crate) fn is_too_large(&self) -> bool {
        self.size.get() > MAX_KEPT
    }

    /// Waits until all of it has come and is kept, or it is clear that it never will be. That all that was announced
    /// has come is not enough: trailers may follow.
    pub(crate) fn poll_settled(&self, cx: &Context<'_>) -> Poll<()> {
        if self.state.get() != Kept::SoFar {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Nobody reads any more of it: it is whole if all that was announced has come.
    pub(crate) fn close(&self) {
        if self.source.borrow().size_hint().exact() == Some(0) {
            self.end();
        }
    }

    /// What the client has said of its length.
    pub(super) fn length(&self) -> SizeHint {
        self.length
    }

    /// Whether a copy that has had so many pieces has had all.
    pub(super) fn ends_at(&self, at: usize) -> bool {
        self.is_whole() && at >= self.kept.borrow().len()
    }

    /// The next piece for a copy that has had so many: from what is kept, or else from the client.
    pub(super) fn poll_frame(
        &self,
        at: &mut usize,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(piece) = self.kept.borrow().get(*at) {
            *at += 1;
            return Poll::Ready(Some(Ok(piece.frame())));
        }
        if self.is_whole() {
            return Poll::Ready(None);
        }
        let mut source = self.source.borrow_mut();
        let frame = ready!(source.poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                *at += 1;
                self.keep(frame);
                // Nothing comes after trailers, and nobody asks for it.
                if frame.is_trailers() || source.is_end_stream() {
                    self.end();
                }
            }
            Some(Err(_)) => self.forget(),
            None => self.end(),
        }
        Poll::Ready(frame)
    }

    fn keep(&self, frame: &Frame<Bytes>) {
        if self.state.get() != Kept::SoFar {
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
        if self.state.get() == Kept::SoFar {
            self.state.set(Kept::Whole);
        }
        self.wake();
    }

    fn forget(&self) {
        self.state.set(Kept::Nothing);
        self.kept.take();
        self.wake();
    }

    fn wake(&self) {
        for waker in self.waiting.take() {
            waker.wake();
        }
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
