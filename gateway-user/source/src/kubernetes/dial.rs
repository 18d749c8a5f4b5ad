//! Connections to one of several API servers.
//!
//! All of them serve one state, so any will do: the first that answers, and the next one in turn when it no
//! longer does.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::Uri;
use hyper_util::rt::TokioIo;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{SockRef, TcpKeepalive};
use tokio::{net::TcpStream, time::timeout};
use tower::Service;

use super::server::Server;

/// How long one server has for an answer to a SYN.
const PATIENCE: Duration = Duration::from_secs(3);

/// For how long a connection without an answer is taken to be alive: a watch that is silent for minutes is
/// told from a server that is gone by TCP's own probes.
const SILENCE: Duration = Duration::from_secs(15);

/// A connection that is followed by another one this soon has not been of use: the next server is due.
const USE: Duration = Duration::from_secs(1);

/// Dials servers, whatever host a request names.
#[derive(Clone, Debug)]
pub(super) struct Dialer(Arc<Mutex<Servers>>);

#[derive(Debug)]
struct Servers {
    given: Vec<Server>,
    /// The endpoints of the Service `default/kubernetes`.
    learned: Vec<Server>,
    /// Counts on through both.
    next: usize,
    /// When a connection was made last, and to whom.
    last: Option<(Instant, Server)>,
}

// === impl Dialer ===

impl Dialer {
    pub(super) fn new(given: Vec<Server>) -> Self {
        Self(Arc::new(Mutex::new(Servers {
            given,
            learned: Vec::new(),
            next: 0,
            last: None,
        })))
    }

    /// Takes note of where else the API server is reached.
    pub(super) fn learn(&self, addresses: impl Iterator<Item = SocketAddr>) {
        let mut servers = self.servers();
        let learned = addresses.map(|address| Server {
            host: address.ip().to_string(),
            port: address.port(),
        });
        servers.learned = learned.collect();
    }

    /// The one that was reached last.
    pub(super) fn server(&self) -> Option<Server> {
        self.servers()
            .last
            .as_ref()
            .map(|(_, server)| server.clone())
    }

    fn servers(&self) -> MutexGuard<'_, Servers> {
        // A list of names is whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(self) -> io::Result<TokioIo<TcpStream>> {
        let candidates = self.servers().candidates();
        let mut failures = Vec::new();
        for (number, server) in candidates {
            match dial(&server).await {
                Ok(stream) => {
                    let mut servers = self.servers();
                    servers.next = number;
                    servers.last = Some((Instant::now(), server));
                    return Ok(TokioIo::new(stream));
                }
                Err(error) => failures.push(format!("{server}: {error}")),
            }
        }
        Err(io::Error::other(failures.join(", ")))
    }
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<TcpStream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

async fn dial(server: &Server) -> io::Result<TcpStream> {
    let connect = TcpStream::connect((server.host.as_str(), server.port));
    let stream = timeout(PATIENCE, connect).await.map_err(|_| {
        let told = format!("no answer within {} s", PATIENCE.as_secs());
        io::Error::new(io::ErrorKind::TimedOut, told)
    })??;
    stream.set_nodelay(true)?;
    let probes = TcpKeepalive::new()
        .with_time(SILENCE / 3)
        .with_interval(SILENCE / 3);
    SockRef::from(&stream).set_tcp_keepalive(&probes)?;
    // With it the kernel gives up after this time, and not after a number of probes: tcp(7).
    let silence = u32::try_from(SILENCE.as_millis()).unwrap_or(u32::MAX);
    setsockopt(&stream, sockopt::TcpUserTimeout, &silence)?;
    Ok(stream)
}

// === impl Servers ===

impl Servers {
    /// All servers with their numbers, the one first whose turn it is.
    fn candidates(&mut self) -> Vec<(usize, Server)> {
        let known = self.given.iter().chain(&self.learned);
        let mut all: Vec<Server> = Vec::new();
        for server in known {
            if !all.contains(server) {
                all.push(server.clone());
            }
        }
        let was_of_no_use = self
            .last
            .as_ref()
            .is_some_and(|(when, _)| when.elapsed() < USE);
        let first = self.next + usize::from(was_of_no_use);
        let count = all.len();
        let numbers = (0..count).map(|step| (first + step) % count);
        numbers
            .map(|number| (number, all[number].clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn server(address: SocketAddr) -> Server {
        Server {
            host: address.ip().to_string(),
            port: address.port(),
        }
    }

    async fn listener() -> (TcpListener, Server) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, server(address))
    }

    #[tokio::test]
    async fn a_server_that_refuses_is_passed_over() {
        let (gone, dead) = listener().await;
        drop(gone);
        let (_open, alive) = listener().await;
        let dialer = Dialer::new(vec![dead, alive.clone()]);
        dialer.clone().connect().await.unwrap();
        assert_eq!(dialer.server(), Some(alive));
    }

    #[tokio::test]
    async fn all_that_fail_are_named() {
        let (gone, dead) = listener().await;
        drop(gone);
        let dialer = Dialer::new(vec![dead.clone()]);
        let error = dialer.clone().connect().await.unwrap_err();
        assert!(error.to_string().starts_with(&dead.to_string()), "{error}");
        assert_eq!(dialer.server(), None);
    }

    #[tokio::test]
    async fn the_next_one_is_dialled_where_a_connection_was_of_no_use() {
        let (_first, one) = listener().await;
        let (_second, two) = listener().await;
        let dialer = Dialer::new(vec![one.clone()]);
        dialer.clone().connect().await.unwrap();
        assert_eq!(dialer.server(), Some(one.clone()));
        dialer.learn([format!("127.0.0.1:{}", two.port).parse().unwrap()].into_iter());
        dialer.clone().connect().await.unwrap();
        assert_eq!(dialer.server(), Some(two));
        dialer.clone().connect().await.unwrap();
        assert_eq!(dialer.server(), Some(one));
    }
}
