//! A worker's listening sockets: a task for each accepts from it and hands on what has come in.

use std::{
    collections::HashMap,
    io,
    net::{self, SocketAddr},
    rc::Rc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::{self, JoinHandle},
    time,
};
use tokio_util::sync::CancellationToken;

use super::acceptor::{Acceptor, Arrival, Peers};
use crate::{
    overload::{self, Refusal},
    worker::Worker,
};

/// How long accepting waits when the process has no file descriptors left.
const OUT_OF_FILES: Duration = Duration::from_millis(100);

/// The sockets that a worker accepts from, by port.
pub(crate) struct Sockets {
    door: Rc<Door>,
    accepting: HashMap<u16, Accepting>,
}

/// Where all connections of a worker come in.
struct Door {
    worker: Rc<Worker>,
    acceptor: Box<dyn Acceptor>,
}

/// A socket that is being accepted from.
#[derive(Debug)]
struct Accepting {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Sockets {
    /// No sockets yet. What comes in through them goes to the acceptor.
    pub(crate) fn new(worker: Rc<Worker>, acceptor: Box<dyn Acceptor>) -> Self {
        Self {
            door: Rc::new(Door { worker, acceptor }),
            accepting: HashMap::new(),
        }
    }

    /// Accepts from a socket from now on.
    pub(crate) fn open(&mut self, port: u16, socket: net::TcpListener) {
        let listener = match TcpListener::from_std(socket) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(port, %error, "a worker can't watch its listening socket");
                return;
            }
        };
        let stop = CancellationToken::new();
        let task = task::spawn_local(Rc::clone(&self.door).watch(port, listener, stop.clone()));
        self.accepting.insert(port, Accepting { stop, task });
    }

    /// Closes the socket of a port, once everything that waits there has been accepted.
    pub(crate) async fn close(&mut self, port: u16) {
        if let Some(Accepting { stop, task }) = self.accepting.remove(&port) {
            stop.cancel();
            // The task can only end in the way that it was told to.
            let _ = task.await;
        }
    }

    /// Closes all sockets.
    pub(crate) async fn close_all(&mut self) {
        let ports: Vec<u16> = self.accepting.keys().copied().collect();
        for port in ports {
            self.close(port).await;
        }
    }
}

impl Door {
    async fn watch(self: Rc<Self>, port: u16, listener: TcpListener, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, client)) => self.enter(port, stream, client),
                Err(error) => wait_for_files(port, &error).await,
            }
        }
        // The kernel has finished handshakes for this socket that no other one can take over: closing
        // it would reset them.
        let Ok(listener) = listener.into_std() else {
            return;
        };
        while let Ok((stream, client)) = listener.accept() {
            if stream.set_nonblocking(true).is_ok()
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                self.enter(port, stream, client);
            }
        }
    }

    /// Registers a connection and hands it on.
    fn enter(&self, port: u16, stream: TcpStream, client: SocketAddr) {
        let Some(listener) = self.worker.config().listener(port).cloned() else {
            return;
        };
        let place = match overload::admit(&stream, port, &self.worker.options.max_connections) {
            Ok(place) => place,
            Err(refusal) => {
                refusal.note();
                // A client that hears at once can go elsewhere. If the kernel refuses, it hears a FIN.
                let _ = stream.set_zero_linger();
                return;
            }
        };
        // Nagle's algorithm would hold small messages back. The connection works either way.
        let _ = stream.set_nodelay(true);
        let Ok(local) = stream.local_addr() else {
            return;
        };
        // A socket for both families shows an IPv4 client as an IPv6 address.
        let canonical =
            |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let peers = Peers {
            client: canonical(client),
            local: canonical(local),
        };
        // Before the connection's task first runs: an order to end the port's connections that comes
        // until then reaches this one, too.
        let connections = &self.worker.connections;
        let registration = connections.register(port, self.worker.now(), Some(place));
        self.acceptor.accept(Arrival {
            stream,
            peers,
            listener,
            registration,
            security: None,
        });
    }
}

/// Waits if accepting has failed because the process has no file descriptors left.
async fn wait_for_files(port: u16, error: &io::Error) {
    use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    // Any other error is about the one connection that was to be accepted (accept(2)).
    if let Some(EMFILE | ENFILE | ENOBUFS | ENOMEM) = error.raw_os_error() {
        Refusal::Descriptors.note();
        tracing::debug!(port, %error, "connections wait");
        time::sleep(OUT_OF_FILES).await;
    }
}
