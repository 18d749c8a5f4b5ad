//! Connections over HTTP/2 that do what no client should: too often, or in a way that two readers may understand
//! otherwise.

mod floods;
mod odd;

pub(super) use floods::{FLOODS, Flood};
pub(super) use odd::{ODD, Odd};

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
};

use crate::differential::http2::{
    hpack,
    link::{self, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS},
};

/// An ordinary head of a request for a path, before other headers.
fn head(method: &str, path: &str) -> Vec<u8> {
    hpack::encode([
        (":method", method),
        (":scheme", "http"),
        (":authority", "a"),
        (":path", path),
    ])
}

/// A client that writes frames, and counts what it hears.
struct Client {
    stream: TcpStream,
    heard: Arc<Heard>,
    reader: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Heard {
    /// The connection is over.
    ended: AtomicBool,
    /// Nothing more is taken: GOAWAY.
    away: AtomicBool,
    answers: AtomicU32,
    resets: AtomicU32,
    /// The status of the last answer, as far as it is indexed (RFC 7541, appendix A) or literal.
    status: AtomicU32,
}

impl Client {
    /// Says the preface, and the settings in place of ordinary ones.
    fn open(address: SocketAddr, settings: &[u8]) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        // Whoever does not read for so long is no more to be hurt.
        stream.set_write_timeout(Some(patience::silence()))?;
        let opening = [
            PREFACE.concat().as_bytes(),
            &link::write(SETTINGS, 0, 0, settings),
        ]
        .concat();
        stream.write_all(&opening)?;
        let heard = Arc::<Heard>::default();
        let (own, reading) = (Arc::clone(&heard), stream.try_clone()?);
        let reader = thread::spawn(move || {
            // Its end is what is noted.
            let _ = read(reading, &own);
            own.ended.store(true, Ordering::SeqCst);
        });
        Ok(Self {
            stream,
            heard,
            reader,
        })
    }

    /// Whether it makes sense to say more.
    fn is_over(&self) -> bool {
        self.heard.ended.load(Ordering::SeqCst) || self.heard.away.load(Ordering::SeqCst)
    }

    /// Waits a moment for the connection's end.
    fn settle(&self) {
        let began = std::time::Instant::now();
        while !self.heard.ended.load(Ordering::SeqCst) && began.elapsed() < patience::silence() {
            thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    fn close(self) {
        // It may be closed already.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        let _ = self.reader.join();
    }
}

fn read(mut stream: TcpStream, heard: &Heard) -> io::Result<()> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload)?;
        match head[3] {
            GOAWAY => heard.away.store(true, Ordering::SeqCst),
            RST_STREAM => drop(heard.resets.fetch_add(1, Ordering::SeqCst)),
            HEADERS => {
                heard.status.store(status(&payload), Ordering::SeqCst);
                heard.answers.fetch_add(1, Ordering::SeqCst);
            }
            _ => {}
        }
    }
}

/// The status that a header block begins with; 0 if it takes more to know it.
fn status(block: &[u8]) -> u32 {
    // Of the static table: 8 to 14.
    const INDEXED: [u32; 7] = [200, 204, 206, 304, 400, 404, 500];
    match block {
        // A change of the table's size comes first (section 6.3).
        [first, rest @ ..] if first & 0xe0 == 0x20 => status(rest),
        [index, ..] if (0x88..=0x8e).contains(index) => INDEXED[usize::from(index - 0x88)],
        // A literal with the name at 8, in three digits, or three digits by Huffman's code.
        [0x48 | 0x08 | 0x18, 3, digits @ ..] => {
            let digits = digits
                .get(..3)
                .and_then(|digits| std::str::from_utf8(digits).ok());
            digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read() {
        assert_eq!(status(&[0x88]), 200);
        assert_eq!(status(&[0x20, 0x8c]), 400);
        assert_eq!(status(b"\x48\x03503"), 503);
        assert_eq!(status(b"\x40\x01a"), 0);
    }
}
