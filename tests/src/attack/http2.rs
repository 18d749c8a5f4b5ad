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
    hpack::{self, Decoder},
    link::{self, GOAWAY, HEADERS, PREFACE, SETTINGS},
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
    /// The status of the last answer; 0 before there is one.
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
    let mut decoder = Decoder::new();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload)?;
        match head[3] {
            GOAWAY => heard.away.store(true, Ordering::SeqCst),
            HEADERS => {
                let headers = decoder.decode(&payload)?;
                let status = headers.iter().find(|(name, _)| name == ":status");
                let status = status.and_then(|(_, status)| status.parse().ok());
                if let Some(status) = status {
                    heard.status.store(status, Ordering::SeqCst);
                }
            }
            _ => {}
        }
    }
}
