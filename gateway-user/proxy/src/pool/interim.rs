//! An endpoint that sends interim answers (1xx) without end: hyper reads all that come, one after the other, and
//! nobody else on the worker is served meanwhile.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// So many an exchange may have. One or two are usual; a long job may say now and then that it goes on.
const MOST: u32 = 100;

/// How an interim answer begins, but for the last two digits of its status.
const BEGINS: &[u8] = b"HTTP/1.1 1";

/// The end of a head.
const END: &[u8] = b"\r\n\r\n";

/// A connection to an endpoint that breaks off at too many interim answers.
#[derive(Debug)]
pub(super) struct Bounded<S> {
    stream: S,
    heads: Heads,
}

/// Follows interim answers, of which there is one after the other before the answer proper.
#[derive(Clone, Copy, Debug, Default)]
struct Heads {
    place: Place,
    interim: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In what an interim answer begins with; so much of it has come.
    Beginning(usize),
    /// In an interim answer; so much of its end has come.
    Interim(usize),
    /// In the answer proper.
    Answer,
}

// === impl Place ===

impl Default for Place {
    fn default() -> Self {
        Self::Beginning(0)
    }
}

// === impl Heads ===

impl Heads {
    /// A request is sent, or more of one.
    fn asked(&mut self) {
        if self.place == Place::Answer {
            *self = Self::default();
        }
    }

    /// Whether what has come is within the bound.
    fn read(&mut self, bytes: &[u8]) -> bool {
        let mut rest = bytes.iter();
        while self.place != Place::Answer {
            let Some(&byte) = rest.next() else {
                break;
            };
            self.place = match self.place {
                Place::Answer => Place::Answer,
                Place::Beginning(matched) if byte != BEGINS[matched] => Place::Answer,
                Place::Beginning(matched) if matched + 1 == BEGINS.len() => {
                    self.interim += 1;
                    Place::Interim(0)
                }
                Place::Beginning(matched) => Place::Beginning(matched + 1),
                Place::Interim(matched) => {
                    let matched = match byte {
                        _ if byte == END[matched] => matched + 1,
                        b'\r' => 1,
                        _ => 0,
                    };
                    if matched == END.len() {
                        Place::Beginning(0)
                    } else {
                        Place::Interim(matched)
                    }
                }
            };
        }
        self.interim <= MOST
    }
}

// === impl Bounded ===

impl<S> Bounded<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            heads: Heads::default(),
        }
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if self.heads.read(&buffer.filled()[before..]) {
            return polled;
        }
        let error = format!("more than {MOST} interim answers");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.heads.asked();
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EARLY_HINTS: &str = "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n";

    /// How many pieces are within the bound.
    fn within(heads: &mut Heads, text: &str, piece: usize) -> usize {
        let mut pieces = text.as_bytes().chunks(piece);
        pieces
            .by_ref()
            .take_while(|piece| heads.read(piece))
            .count()
    }

    #[test]
    fn interim_answers_are_counted_however_they_come() {
        for piece in [1, 2, 7, 39, 1000] {
            let mut heads = Heads::default();
            let text = EARLY_HINTS.repeat(MOST as usize);
            let pieces = text.len().div_ceil(piece);
            assert_eq!(within(&mut heads, &text, piece), pieces);
            assert!(!heads.read(EARLY_HINTS.as_bytes()), "one more, {piece}");
        }
    }

    #[test]
    fn a_body_may_look_like_anything() {
        let mut heads = Heads::default();
        assert!(heads.read(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"));
        let body = EARLY_HINTS.repeat(1000);
        assert!(heads.read(body.as_bytes()));
        // The next exchange has a count of its own.
        heads.asked();
        assert!(heads.read(EARLY_HINTS.repeat(MOST as usize).as_bytes()));
        heads.asked();
        assert!(!heads.read(EARLY_HINTS.as_bytes()), "of the same exchange");
    }
}
