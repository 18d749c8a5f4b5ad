//! Somebody else, who wants to be served all the while.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(5);

/// A client that asks again and again, on one connection as long as that lives.
#[derive(Debug)]
pub(super) struct Neighbour {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Served>,
}

/// How a neighbour was served.
#[derive(Clone, Debug, Default)]
pub(super) struct Served {
    pub(super) requests: usize,
    /// Requests that were not answered as they must be; the first says how.
    pub(super) failures: Vec<String>,
    /// What the slowest took: shown, and never judged.
    pub(super) slowest: Duration,
}

// === impl Served ===

impl Served {
    /// Whether all requests were answered as they must be.
    pub(super) fn verdict(&self) -> Result<(), String> {
        match self.failures.first() {
            None => Ok(()),
            Some(first) => {
                let (failed, all) = (self.failures.len(), self.requests);
                Err(format!("{failed} of {all} requests, {first}"))
            }
        }
    }
}

// === impl Neighbour ===

impl Neighbour {
    /// Begins to ask; it has been answered once when this returns.
    pub(super) fn start(address: SocketAddr) -> io::Result<Self> {
        let mut stream = Some(connect(address)?);
        ask(&mut stream, address, "/neighbour/first").map_err(io::Error::other)?;
        let stop = Arc::<AtomicBool>::default();
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut served = Served::default();
            while !told.load(Ordering::Relaxed) {
                served.requests += 1;
                let path = format!("/neighbour/{}", served.requests);
                let began = Instant::now();
                let answer = ask(&mut stream, address, &path);
                served.slowest = served.slowest.max(began.elapsed());
                if let Err(failure) = answer {
                    stream = None;
                    served.failures.push(failure);
                }
                thread::sleep(PAUSE);
            }
            served
        });
        Ok(Self { stop, thread })
    }

    /// How it was served until now.
    pub(super) fn stop(self) -> Served {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| Served {
            failures: vec!["the neighbour panicked".into()],
            ..Served::default()
        })
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience::limit()))?;
    Ok(stream)
}

/// Asks for a path, and wants to hear it.
fn ask(stream: &mut Option<TcpStream>, address: SocketAddr, path: &str) -> Result<(), String> {
    let failed = |error: io::Error| format!("{path}: {error}");
    let stream = match stream {
        Some(stream) => stream,
        None => stream.insert(connect(address).map_err(failed)?),
    };
    let request = format!("GET {path} HTTP/1.1\r\nhost: neighbour\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let answer = answer(stream).map_err(failed)?;
    if answer.starts_with("HTTP/1.1 200") && answer.ends_with(&format!("\r\n\r\n{path}")) {
        return Ok(());
    }
    Err(format!(
        "{path}: it got {:?}",
        answer.lines().next().unwrap_or("nothing")
    ))
}

/// An answer whose length is given.
pub(super) fn answer(stream: &mut TcpStream) -> io::Result<String> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
            if body.len() > length {
                let more = format!("more than one answer: {text:?}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, more));
            }
            if body.len() == length {
                return Ok(text);
            }
        }
        match stream.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => bytes.extend(&chunk[..read]),
        }
    }
}

/// Whether a client on a connection of its own gets its own answer, three times.
pub(super) fn is_served(address: SocketAddr) -> Result<(), String> {
    let mut stream = None;
    (0..3).try_for_each(|number| ask(&mut stream, address, &format!("/health/{number}")))
}
