//! What the tasks of one worker share. Nothing on the request path is shared between workers but the
//! configuration and what it counts.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use arc_swap::{ArcSwap, Guard};
use http::HeaderMap;
use nodegate_observe::Tap;

use crate::{
    clock::{Clock, Tick},
    config::Config,
    connections::Connections,
    counters::WorkerIndex,
    deadlines::Deadlines,
    options::Options,
    pipes::Pipes,
};

/// Spare memory: how many pieces of each kind are kept, and how large a piece may be.
const MAX_SPARE: usize = 64;
const MAX_SPARE_HEADERS: usize = 64;
const MAX_SPARE_BUFFER: usize = 16 * 1024;

/// What a worker's tasks share.
#[derive(Debug)]
pub(crate) struct Worker {
    /// Which of the workers this is.
    pub(crate) index: WorkerIndex,
    config: Arc<ArcSwap<Config>>,
    pub(crate) options: Arc<Options>,
    pub(crate) tap: Tap,
    pub(crate) connections: Rc<Connections>,
    pub(crate) deadlines: Rc<Deadlines>,
    pub(crate) clock: Clock,
    /// For bytes that go from one socket to another.
    pub(crate) pipes: Pipes,
    spare: RefCell<Spare>,
}

/// Memory that the next request can use.
#[derive(Debug, Default)]
struct Spare {
    headers: Vec<HeaderMap>,
    buffers: Vec<Vec<u8>>,
}

impl Worker {
    pub(crate) fn new(
        index: WorkerIndex,
        config: Arc<ArcSwap<Config>>,
        options: Arc<Options>,
        tap: Tap,
    ) -> Self {
        Self {
            index,
            config,
            options,
            tap,
            connections: Rc::default(),
            deadlines: Rc::default(),
            clock: Clock::default(),
            pipes: Pipes::default(),
            spare: RefCell::default(),
        }
    }

    /// The configuration that is in force. Not to be held over an await.
    pub(crate) fn config(&self) -> Guard<Arc<Config>> {
        self.config.load()
    }

    /// The current tick.
    pub(crate) fn now(&self) -> Tick {
        self.clock.now()
    }

    /// An empty map of headers, with room for some.
    pub(crate) fn take_headers(&self) -> HeaderMap {
        self.spare.borrow_mut().headers.pop().unwrap_or_default()
    }

    /// An empty buffer.
    pub(crate) fn take_buffer(&self) -> Vec<u8> {
        self.spare.borrow_mut().buffers.pop().unwrap_or_default()
    }

    /// Takes memory back for the next request.
    pub(crate) fn give_back(&self, mut headers: HeaderMap, buffer: Vec<u8>) {
        self.give_back_buffer(buffer);
        let mut spare = self.spare.borrow_mut();
        if spare.headers.len() < MAX_SPARE && (1..=MAX_SPARE_HEADERS).contains(&headers.capacity())
        {
            headers.clear();
            spare.headers.push(headers);
        }
    }

    /// Takes a buffer back.
    pub(crate) fn give_back_buffer(&self, mut buffer: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        if spare.buffers.len() < MAX_SPARE && buffer.capacity() <= MAX_SPARE_BUFFER {
            buffer.clear();
            spare.buffers.push(buffer);
        }
    }
}
