//! Bytes from one socket to another.
//!
//! What comes in small pieces is read and written, with memory of the worker's: a connection that waits has none
//! of its own. What comes in bulk goes through a pipe (splice(2)), and is never in this process. A reader that is
//! slow holds one piece back, and no more is read until that is gone.

use std::{
    cell::Cell,
    io,
    net::Shutdown,
    task::{Context, Poll, ready},
};

use nodegate_observe::ResponseFlag;
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream};

use crate::{connections::Handle, pipes::Pipe, worker::Worker};

/// What is read at once. If as much is there, it is bulk.
const PIECE: usize = 16 * 1024;

/// With less than this at once it is bulk no more: splicing is two calls for reading's one.
const LITTLE: usize = 4 * 1024;

/// One side of a connection.
#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    pub(super) stream: &'a TcpStream,
    /// Where it is counted what has been read from it.
    pub(super) bytes: &'a Cell<u64>,
    /// The flag of a connection in which this side breaks.
    pub(super) broken: ResponseFlag,
}

/// What both directions share.
#[derive(Clone, Copy)]
pub(super) struct Common<'a> {
    pub(super) worker: &'a Worker,
    pub(super) handle: &'a Handle,
    /// Where it is noted which side broke.
    pub(super) blame: &'a Cell<Option<ResponseFlag>>,
}

/// Both directions of a connection.
pub(super) struct Copy<'a> {
    there: Direction<'a>,
    back: Direction<'a>,
}

/// One direction.
struct Direction<'a> {
    common: Common<'a>,
    from: Side<'a>,
    to: Side<'a>,
    held: Held,
    is_bulk: bool,
    /// Whether all has been read.
    has_ended: bool,
    /// Whether all has been written, and the end of it.
    is_over: bool,
}

/// What has been read and not been written.
enum Held {
    Nothing,
    Bytes { bytes: Vec<u8>, written: usize },
    Piped(Pipe),
}

// === impl Copy ===

impl<'a> Copy<'a> {
    /// `begun`: what has been read from the client already.
    pub(super) fn new(
        client: Side<'a>,
        endpoint: Side<'a>,
        begun: Vec<u8>,
        common: Common<'a>,
    ) -> Self {
        client.bytes.set(client.bytes.get() + begun.len() as u64);
        let begun = match begun.len() {
            0 => Held::Nothing,
            _ => Held::Bytes {
                bytes: begun,
                written: 0,
            },
        };
        Self {
            there: Direction::new(client, endpoint, begun, common),
            back: Direction::new(endpoint, client, Held::Nothing, common),
        }
    }

    /// Ready when both directions are over. The end of either is passed on, and the other goes on.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let there = self.there.poll(cx)?;
        let back = self.back.poll(cx)?;
        if there.is_ready() && back.is_ready() {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }
}

// === impl Direction ===

impl<'a> Direction<'a> {
    fn new(from: Side<'a>, to: Side<'a>, held: Held, common: Common<'a>) -> Self {
        Self {
            common,
            from,
            to,
            held,
            is_bulk: false,
            has_ended: false,
            is_over: false,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.is_over {
            if let Held::Nothing = self.held {
                if self.has_ended {
                    self.end()?;
                } else {
                    ready!(self.poll_read(cx))?;
                }
            } else {
                ready!(self.poll_write(cx))?;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once, if there is anything to read.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.from.stream;
        ready!(stream.poll_read_ready(cx)).map_err(|error| self.blamed(error, self.from))?;
        match self.read() {
            Ok(0) => self.has_ended = true,
            Ok(count) => {
                let bytes = self.from.bytes;
                bytes.set(bytes.get() + count as u64);
                self.touch();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(self.blamed(error, self.from))),
        }
        Poll::Ready(Ok(()))
    }

    fn read(&mut self) -> io::Result<usize> {
        let worker = self.common.worker;
        // Without a descriptor for a pipe it goes the other way.
        if self.is_bulk
            && let Ok(mut pipe) = worker.pipes.take()
        {
            let stream = self.from.stream;
            let moved = stream.try_io(Interest::READABLE, || pipe.fill(stream));
            if pipe.is_empty() {
                worker.pipes.give_back(pipe);
            } else {
                self.held = Held::Piped(pipe);
            }
            if let Ok(count) = moved {
                self.is_bulk = count >= LITTLE;
            }
            return moved;
        }
        let mut bytes = worker.take_buffer();
        bytes.reserve(PIECE);
        let read = self.from.stream.try_read_buf(&mut bytes);
        if let Ok(1..) = read {
            self.is_bulk = bytes.len() >= PIECE;
            self.held = Held::Bytes { bytes, written: 0 };
        } else {
            worker.give_back_buffer(bytes);
        }
        read
    }

    /// Writes once, if that can be.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.to.stream;
        ready!(stream.poll_write_ready(cx)).map_err(|error| self.blamed(error, self.to))?;
        match self.write() {
            Ok(_) => self.touch(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(self.blamed(error, self.to))),
        }
        Poll::Ready(Ok(()))
    }

    fn write(&mut self) -> io::Result<usize> {
        let (worker, stream) = (self.common.worker, self.to.stream);
        match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Nothing => Ok(0),
            Held::Piped(mut pipe) => {
                let moved = stream.try_io(Interest::WRITABLE, || pipe.drain(stream));
                if pipe.is_empty() {
                    worker.pipes.give_back(pipe);
                } else {
                    self.held = Held::Piped(pipe);
                }
                moved
            }
            Held::Bytes { bytes, mut written } => {
                let count = stream.try_write(&bytes[written..]);
                written += *count.as_ref().unwrap_or(&0);
                if written == bytes.len() {
                    worker.give_back_buffer(bytes);
                } else {
                    self.held = Held::Bytes { bytes, written };
                }
                count
            }
        }
    }

    /// Passes the end on.
    fn end(&mut self) -> io::Result<()> {
        self.is_over = true;
        match SockRef::from(self.to.stream).shutdown(Shutdown::Write) {
            // It has ended already.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            ended => ended.map_err(|error| self.blamed(error, self.to)),
        }
    }

    fn touch(&self) {
        self.common.handle.touch(self.common.worker.now());
    }

    fn blamed(&self, error: io::Error, side: Side<'_>) -> io::Error {
        self.common.blame.set(Some(side.broken));
        error
    }
}
