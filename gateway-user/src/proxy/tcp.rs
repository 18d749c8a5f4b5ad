//! TCP from clients: each connection goes to one endpoint for as long as it lives.

use std::{
    cell::Cell,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use futures_util::future::OptionFuture;
use jiff::Timestamp;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes},
    net::TcpStream,
    time,
};

use super::{
    cluster::{ClusterState, Engaged, Outcome, Permit},
    config::{Config, Listener, Protocol},
    connections::{Handle, Order, Registration, Tick},
    pool::{self, ConnectError, PeerStream},
    tls::Inner,
    worker::Worker,
};
use crate::observe::{ConnectionRecord, ConnectionState, Decision, Record, ResponseFlag};

/// What is read at once, for each direction.
const BUFFER: usize = 64 * 1024;

/// Why a connection ended.
type Ending = Result<(), (Option<ResponseFlag>, String)>;

/// Serves a connection until both directions are over.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    client: TcpStream,
    addresses: (SocketAddr, SocketAddr),
    listener: Arc<Listener>,
    registration: Registration,
) {
    let mut log = Log::new(&worker, addresses, listener.port);
    let Some(cluster) = choose(&worker.config(), &listener, &mut log) else {
        reset(&client);
        return;
    };
    let Some((mut upstream, _engaged, _permit)) = connect(&cluster, &mut log).await else {
        reset(&client);
        return;
    };
    let limits = &cluster.model.policy.limits;
    let idle = limits.tcp_idle_timeout.as_secs();
    registration
        .handle
        .set_idle_limit(Tick::try_from(idle).unwrap_or(Tick::MAX).max(1));
    let mut longest = pin!(OptionFuture::from(
        limits.max_connection_duration.map(time::sleep)
    ));
    log.opened();

    let mut client = client;
    let ending = {
        let mut client = Watched {
            stream: &mut client,
            handle: &registration.handle,
            worker: &worker,
            bytes: &log.received,
            broken: ResponseFlag::DownstreamConnectionTermination,
            blame: &log.blame,
        };
        let mut upstream = Watched {
            stream: &mut upstream,
            handle: &registration.handle,
            worker: &worker,
            bytes: &log.sent,
            broken: ResponseFlag::UpstreamConnectionTermination,
            blame: &log.blame,
        };
        // It passes on the end of either direction and goes on with the other one.
        let mut copy = pin!(copy_bidirectional_with_sizes(
            &mut client,
            &mut upstream,
            BUFFER,
            BUFFER
        ));
        poll_fn(|cx| match registration.handle.order(cx) {
            Order::Serve | Order::Finish => {
                if let Poll::Ready(Some(())) = longest.as_mut().poll(cx) {
                    return Poll::Ready(Ok(()));
                }
                copy.as_mut().poll(cx).map_ok(|_| ())
            }
            Order::Close => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
        })
        .await
    };
    if let Err(error) = ending {
        log.broken(&error);
        // What one side broke off, the other should not take for a proper end.
        reset(&client);
        reset(upstream.tcp());
    }
}

/// Takes the next turn among the route's clusters.
fn choose(
    config: &Config,
    accepted_by: &Arc<Listener>,
    log: &mut Log<'_>,
) -> Option<Arc<ClusterState>> {
    let current = config.listener(accepted_by.port);
    let tcp = current
        .into_iter()
        .chain([accepted_by])
        .find_map(|listener| match &listener.protocol {
            Protocol::Tcp(tcp) => Some(tcp),
            Protocol::Http(_) => None,
        })?;
    let chosen = tcp.target.choose();
    log.note(|decision| {
        decision.origin = Some(tcp.origin.clone());
        decision.cluster = Some(chosen.name.to_owned());
    });
    if chosen.cluster.is_none() {
        log.failed(ResponseFlag::NoCluster, "cluster_not_found");
    }
    chosen.cluster.cloned()
}

/// Takes the next turn among the cluster's endpoints, and connects.
async fn connect(
    cluster: &Arc<ClusterState>,
    log: &mut Log<'_>,
) -> Option<(PeerStream, Engaged, Permit)> {
    let Ok(permit) = cluster.limits().admit_connection() else {
        log.failed(ResponseFlag::UpstreamOverflow, "overflow");
        return None;
    };
    let Some(engaged) = cluster.engage(None, &[]) else {
        log.failed(ResponseFlag::NoHealthyUpstream, "no_healthy_upstream");
        return None;
    };
    log.note(|decision| decision.endpoint = Some(engaged.address()));
    // One attempt, as Envoy's max_connect_attempts has it by default.
    let error = match open(cluster, engaged.address()).await {
        Ok(stream) => {
            engaged.observe(Outcome::Connected);
            return Some((stream, engaged, permit));
        }
        Err(ConnectError::Io(error)) => error.to_string(),
        Err(ConnectError::Tls(error)) => format!("TLS_error:|{error}:TLS_error_end"),
        Err(ConnectError::Timeout) => io::Error::from(io::ErrorKind::TimedOut).to_string(),
    };
    engaged.observe(Outcome::Failed);
    log.failed(ResponseFlag::UpstreamConnectionFailure, &error);
    None
}

async fn open(cluster: &ClusterState, endpoint: SocketAddr) -> Result<PeerStream, ConnectError> {
    let limits = &cluster.model.policy.limits;
    let Some(tls) = cluster.tls() else {
        return pool::connect(endpoint, limits).await.map(PeerStream::Clear);
    };
    let name = tls.name(None, endpoint).map_err(ConnectError::Tls)?;
    pool::secure(endpoint, tls, name, Inner::Tcp, limits).await
}

/// Lets the stream end with a reset when it is dropped.
fn reset(stream: &TcpStream) {
    // If the kernel refuses, it ends with a FIN.
    let _ = stream.set_zero_linger();
}

/// A stream that counts what is read from it and says that it is alive.
struct Watched<'a, S> {
    stream: &'a mut S,
    handle: &'a Handle,
    worker: &'a Worker,
    bytes: &'a Cell<u64>,
    /// What it means if this stream breaks.
    broken: ResponseFlag,
    /// Where to say so.
    blame: &'a Cell<Option<ResponseFlag>>,
}

impl<S> Watched<'_, S> {
    /// Notes what happened to an operation on the stream.
    fn watch<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &polled {
            Poll::Ready(Ok(_)) => self.handle.touch(self.worker.now()),
            Poll::Ready(Err(_)) => self.blame.set(Some(self.broken)),
            Poll::Pending => {}
        }
        polled
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut *self.stream).poll_read(cx, buffer);
        let read = buffer.filled().len() - before;
        self.bytes.set(self.bytes.get() + read as u64);
        self.watch(polled)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<'_, S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut *self.stream).poll_write(cx, buffer);
        self.watch(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut *self.stream).poll_shutdown(cx);
        self.watch(polled)
    }
}

/// The record of a connection, sent when it is opened and when it is over.
struct Log<'a> {
    worker: &'a Worker,
    time: Timestamp,
    started: Instant,
    client: SocketAddr,
    local: SocketAddr,
    listener: u16,
    decision: Decision,
    ending: Ending,
    /// Which side broke the connection off.
    blame: Cell<Option<ResponseFlag>>,
    /// Bytes from the client.
    received: Cell<u64>,
    /// Bytes from the endpoint.
    sent: Cell<u64>,
}

impl<'a> Log<'a> {
    fn new(worker: &'a Worker, (client, local): (SocketAddr, SocketAddr), listener: u16) -> Self {
        Self {
            worker,
            time: Timestamp::now(),
            started: Instant::now(),
            client,
            local,
            listener,
            decision: Decision::default(),
            ending: Ok(()),
            blame: Cell::new(None),
            received: Cell::new(0),
            sent: Cell::new(0),
        }
    }

    fn note(&mut self, note: impl FnOnce(&mut Decision)) {
        note(&mut self.decision);
    }

    fn failed(&mut self, flag: ResponseFlag, details: &str) {
        self.ending = Err((Some(flag), details.replace(' ', "_")));
    }

    fn broken(&mut self, error: &io::Error) {
        let details = match self.blame.get() {
            None => "idle_timeout".to_owned(),
            Some(_) => error.to_string().replace(' ', "_"),
        };
        self.ending = Err((self.blame.get(), details));
    }

    fn opened(&self) {
        self.send(ConnectionState::Opened);
    }

    fn send(&self, state: ConnectionState) {
        if !self.worker.tap.is_active() {
            return;
        }
        let (flag, details) = match &self.ending {
            Ok(()) => (None, String::new()),
            Err((flag, details)) => (*flag, details.clone()),
        };
        let record = ConnectionRecord {
            time: self.time,
            client: self.client,
            local: self.local,
            listener: self.listener,
            state,
            decision: self.decision.clone(),
            flags: flag.into(),
            details: details.into(),
            duration: self.started.elapsed(),
            bytes_received: self.received.get(),
            bytes_sent: self.sent.get(),
        };
        self.worker.tap.send(Record::Connection(Box::new(record)));
    }
}

impl Drop for Log<'_> {
    fn drop(&mut self) {
        self.send(ConnectionState::Closed);
    }
}
