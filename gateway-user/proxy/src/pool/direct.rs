//! HTTP/1.1 with an endpoint, spoken directly: ordinary requests and ordinary answers (see
//! [`http1`]), and nothing else.
//!
//! A request that is not ordinary is sent by hyper in the first place. When an answer turns out not to
//! be ordinary, the connection is handed over to hyper with everything that has been read of it
//! ([`Adopted`]), so that only one parser decides about answers that are not ordinary.
//!
//! The connection is read in the task that waits for the answer. It has no task of its own, no message
//! is passed between tasks, and nothing but the request itself is kept for sending it again.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, request, response};
use tokio::{
    io::{AsyncRead, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
};
use tokio_util::io::poll_read_buf;

use super::adopted::Adopted;
use crate::http1::{self, FIRST_READ, MAX_DIRECT_HEAD};

/// Least of a body that is read at once.
const LEAST_READ: usize = 4 * 1024;
/// Most of a body that is read at once.
const MOST_READ: usize = 64 * 1024;

/// A connection over which one ordinary request after the other is asked.
#[derive(Debug)]
pub(crate) struct Direct {
    stream: TcpStream,
    /// What has been read and not been handed up.
    read: Bytes,
    /// The head that is sent.
    head: Vec<u8>,
}

/// What came of asking directly.
#[derive(Debug)]
pub(crate) enum DirectAnswer {
    /// An ordinary answer: its head, and how long its body is.
    Ordinary(response::Parts, u64),
    /// Another one, of which nothing has been taken.
    Unusual,
    /// The connection has ended before there was an answer.
    Ended,
}

/// What of a request has not been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsent {
    /// All of it.
    Whole,
    /// The rest.
    Rest,
}

impl Direct {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            read: Bytes::new(),
            head: Vec::new(),
        }
    }

    /// Whether an idle connection can be used: the endpoint has neither closed it nor sent anything
    /// without being asked, as far as is known. Costs a system call only if there is something to read.
    pub(super) fn is_alive(&self) -> bool {
        if !self.read.is_empty() {
            return false;
        }
        match self
            .stream
            .poll_read_ready(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Pending => true,
            Poll::Ready(_) => {
                let read = self.stream.try_read(&mut [0]);
                read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            }
        }
    }

    /// Sends an ordinary request. `more` adds header lines to those of the request.
    pub(crate) async fn send(
        &mut self,
        request: &request::Parts,
        more: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Unsent> {
        http1::request::write(request, more, &mut self.head);
        match self.stream.write(&self.head).await {
            Err(_) | Ok(0) => Err(Unsent::Whole),
            Ok(length) if length == self.head.len() => Ok(()),
            Ok(length) => {
                let rest = self.stream.write_all(&self.head[length..]).await;
                rest.map_err(|_| Unsent::Rest)
            }
        }
    }

    /// Reads the head of the answer. Its headers are put into the memory of the map that `spare` gives
    /// for an answer with them.
    pub(crate) async fn receive(
        &mut self,
        mut spare: impl FnMut(&[httparse::Header<'_>]) -> HeaderMap,
    ) -> DirectAnswer {
        std::future::poll_fn(|cx| self.poll_answer(cx, &mut spare)).await
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        spare: &mut impl FnMut(&[httparse::Header<'_>]) -> HeaderMap,
    ) -> Poll<DirectAnswer> {
        loop {
            // Read into a large place on the stack, and copied into one of the right size: a
            // connection that waits for its next use keeps no large buffer.
            let mut room = [MaybeUninit::uninit(); FIRST_READ];
            let mut room = ReadBuf::uninit(&mut room);
            let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room));
            if read.is_err() || room.filled().is_empty() {
                return Poll::Ready(DirectAnswer::Ended);
            }
            self.read = http1::join(&self.read, room.filled());
            match http1::response::parse(&mut self.read, &mut *spare) {
                Ok(Some((head, length))) => {
                    return Poll::Ready(DirectAnswer::Ordinary(head, length));
                }
                Ok(None) if self.read.len() < MAX_DIRECT_HEAD => {}
                Ok(None) | Err(http1::Unusual) => return Poll::Ready(DirectAnswer::Unusual),
            }
        }
    }

    /// The next piece of a body of which so much is left.
    pub(super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        left: &mut u64,
    ) -> Poll<io::Result<Bytes>> {
        let most = usize::try_from(*left).unwrap_or(usize::MAX);
        if self.read.is_empty() {
            let mut room = BytesMut::with_capacity(most.clamp(LEAST_READ, MOST_READ));
            let stream = Pin::new(&mut self.stream);
            if ready!(poll_read_buf(stream, cx, &mut room))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.read = room.freeze();
        }
        let piece = self.read.split_to(self.read.len().min(most));
        *left -= piece.len() as u64;
        Poll::Ready(Ok(piece))
    }

    /// The connection for hyper, with a request that has been sent and what has been read of its answer.
    pub(super) fn adopt(self) -> Adopted {
        Adopted::new(self.stream, self.read)
    }

    /// The stream of a connection that is idle.
    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
    }
}
