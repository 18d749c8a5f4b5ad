//! How far the body of a request has come: seen by everything that waits for its end.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use super::source::Source;
use crate::connections::Handle;

/// How far the body of a request has come.
#[derive(Debug)]
pub(crate) struct Progress {
    source: Source,
    bytes: Cell<u64>,
    /// Whether the client has been asked for it.
    asked: Cell<bool>,
    /// Since when it has been clear that nothing more will come.
    over: Cell<Option<Instant>>,
    /// Whether nobody takes any more of it.
    left: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
    client: Rc<Handle>,
}

impl Progress {
    pub(super) fn new(source: Source, client: &Rc<Handle>) -> Rc<Self> {
        client.body_open();
        Rc::new(Self {
            source,
            bytes: Cell::new(0),
            asked: Cell::new(false),
            over: Cell::new(None),
            left: Cell::new(false),
            waiting: RefCell::default(),
            client: Rc::clone(client),
        })
    }

    /// The endpoint's side asks for the body.
    pub(super) fn ask(&self) {
        self.asked.set(true);
    }

    /// More of the body is waited for.
    pub(super) fn awaited(&self) {
        self.client.body_awaited();
    }

    /// So many bytes have been taken, and more may come.
    pub(super) fn add(&self, bytes: usize) {
        self.client.body_open();
        self.bytes.set(self.bytes.get() + bytes as u64);
    }

    /// The last of the body has been taken.
    pub(super) fn finish(&self) {
        self.client.body_over();
        self.end();
    }

    /// Where it comes from.
    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// Whether its stream in HTTP/2 has ended because it is none that may be. Asked when the client has left.
    pub(crate) fn is_malformed(&self) -> bool {
        self.source.is_malformed()
    }

    /// Bytes that went to the endpoint.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Whether the client has been asked for it: a client may wait for that.
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.get()
    }

    /// Whether the whole body has come, or never will.
    pub(crate) fn is_over(&self) -> bool {
        self.over.get().is_some()
    }

    /// Since when the whole body has come, or has been known never to come.
    pub(crate) fn over_since(&self) -> Option<Instant> {
        self.over.get()
    }

    /// Waits until the whole body has come, or it is clear that it never will.
    pub(crate) fn poll_over(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_over() {
            return Poll::Ready(());
        }
        self.wait(cx);
        Poll::Pending
    }

    /// Waits until nobody takes any more of the body.
    pub(crate) fn poll_left(&self, cx: &Context<'_>) -> Poll<()> {
        if self.left.get() {
            return Poll::Ready(());
        }
        self.wait(cx);
        Poll::Pending
    }

    fn wait(&self, cx: &Context<'_>) {
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
    }

    /// Nobody takes any more of it.
    pub(crate) fn leave(&self) {
        self.left.set(true);
        self.end();
    }

    /// Nothing more will come.
    fn end(&self) {
        if !self.is_over() {
            self.over.set(Some(Instant::now()));
        }
        for waker in self.waiting.take() {
            waker.wake();
        }
    }
}
