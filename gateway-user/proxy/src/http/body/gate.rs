//! The gate in front of a body that the client sends only when it is asked for it.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;

use super::error::BodyError;

/// Holds a body back until the endpoint wants it. hyper tells the client to go on when it is asked for
/// the body.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: AtomicU8,
    waker: AtomicWaker,
}

impl Gate {
    const OPEN: u8 = 1;
    const CLOSED: u8 = 2;

    /// The endpoint wants the body, or may be waiting for it.
    pub(crate) fn open(&self) {
        self.settle(Self::OPEN);
    }

    /// The endpoint has answered; if it hasn't asked for the body, it doesn't get it.
    pub(crate) fn close(&self) {
        self.settle(Self::CLOSED);
    }

    /// Waits until it is clear whether the body is wanted.
    pub(crate) fn poll_open(&self, cx: &Context<'_>) -> Poll<Result<(), BodyError>> {
        self.waker.register(cx.waker());
        match self.state.load(Ordering::Acquire) {
            Self::OPEN => Poll::Ready(Ok(())),
            Self::CLOSED => Poll::Ready(Err(BodyError::Unwanted)),
            _ => Poll::Pending,
        }
    }

    fn settle(&self, state: u8) {
        // The first decision holds.
        let _ = self
            .state
            .compare_exchange(0, state, Ordering::AcqRel, Ordering::Acquire);
        self.waker.wake();
    }
}
