//! A worker's connections to endpoints.
//!
//! HTTP/1.1: the last one given back is the first one taken, so that the surplus grows cold and is
//! closed. HTTP/2: requests share one connection for as long as it has room.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    hash::{Hash, Hasher},
    io, mem,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
};

use bytes::Bytes;
use http::{Method, Request, Response, Version};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
    rt::Executor,
};
use hyper_util::rt::TokioIo;
use rustc_hash::FxHashMap;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Mutex, oneshot},
    task, time,
};

use super::{
    connections::Tick,
    http::body::RequestBody,
    tls::{ClientTls, Inner, TlsError},
};
use crate::model::gateway::{ConnectionLimits, Keepalive};

mod direct;
mod stream;

pub(crate) use direct::{Asked, Direct};
pub(crate) use stream::PeerStream;

/// Idle connections kept per endpoint and worker.
const MAX_IDLE: usize = 128;
/// Ticks after which an idle connection is closed, unless the cluster's policy says sooner.
const IDLE_LIMIT: Tick = 60;
/// Largest head, and most that is read ahead of the client. The default of about 400 KiB makes many
/// slow readers expensive.
pub(crate) const MAX_BUFFER: usize = 64 * 1024;
/// What an endpoint may send on an HTTP/2 stream, and on all of a connection, before the client has
/// taken it.
pub(crate) const STREAM_WINDOW: u32 = 256 * 1024;
pub(crate) const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Connections by endpoint.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: RefCell<FxHashMap<SocketAddr, Vec<Idle>>>,
    shared: RefCell<HashMap<SocketAddr, Vec<Rc<Shared>>>>,
    /// Who connects in HTTP/2: the others wait for that connection instead of making their own.
    connecting: RefCell<HashMap<SocketAddr, Rc<Mutex<()>>>>,
    /// How its connections begin; none: with HTTP, in the clear.
    tls: Option<Secure>,
    /// Connections in TLS, by how that begins. Empty in a pool that is one of those.
    secure: RefCell<HashMap<Secure, Rc<Pool>>>,
}

/// How a connection in TLS begins. What differs in it can't share connections.
#[derive(Clone, Debug)]
struct Secure {
    tls: Arc<ClientTls>,
    name: ServerName<'static>,
}

/// A connection in use, or a share of one. Give it back with [`Upstream::release`] when the response
/// is over; dropped, it is closed, or its stream is.
#[derive(Debug)]
pub(crate) struct Upstream {
    endpoint: SocketAddr,
    /// Where it goes back to, unless that is the pool of connections in the clear.
    home: Option<Rc<Pool>>,
    local: Option<SocketAddr>,
    protocol: Protocol,
    /// How many requests it has had.
    served: u32,
    /// Whether the endpoint has answered in HTTP/1.0: hyper would ask in kind from then on.
    outdated: bool,
}

#[derive(Debug)]
enum Protocol {
    /// HTTP/1.1 without hyper, for as long as that goes.
    Direct(Direct),
    Http1(http1::SendRequest<RequestBody>),
    Http2(Stream),
    /// It ended while it was changing hands.
    Gone,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum SendError {
    /// None of the request was written: it comes back, if it was given away.
    Unsent(Option<Box<Request<RequestBody>>>),
    /// The connection has ended.
    Ended,
    /// For hyper's reason.
    Failed(hyper::Error),
}

/// A connection that requests share.
#[derive(Debug)]
struct Shared {
    sender: http2::SendRequest<RequestBody>,
    local: Option<SocketAddr>,
    streams: Cell<u32>,
    served: Cell<u32>,
    /// Since when it has been idle, as far as is known.
    since: Cell<Option<Tick>>,
}

/// A request's share of a connection.
#[derive(Debug)]
struct Stream(Rc<Shared>);

#[derive(Debug)]
struct Idle {
    upstream: Upstream,
    since: Tick,
    limit: Tick,
}

/// What is left of a connection when it has become something else than HTTP.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) stream: PeerStream,
    /// Read already.
    pub(crate) read: Bytes,
}

/// Why there is no connection to an endpoint.
#[derive(Debug)]
pub(crate) enum ConnectError {
    Io(io::Error),
    Tls(TlsError),
    Timeout,
}

/// Puts tasks on the worker's own runtime.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Local;

impl Pool {
    /// Takes a connection if there is one that lives and has room.
    pub(crate) fn take(
        &self,
        endpoint: SocketAddr,
        http2: bool,
        limits: &ConnectionLimits,
    ) -> Option<Upstream> {
        if http2 {
            return self.share(endpoint, limits);
        }
        let mut pool = self.idle.borrow_mut();
        let idle = pool.get_mut(&endpoint)?;
        while let Some(Idle { upstream, .. }) = idle.pop() {
            if upstream.is_ready() {
                return Some(upstream);
            }
        }
        None
    }

    /// The pool of connections to an endpoint that is spoken to in TLS.
    pub(crate) fn secured(
        &self,
        tls: &Arc<ClientTls>,
        host: Option<&str>,
        endpoint: SocketAddr,
    ) -> Result<Rc<Self>, ConnectError> {
        let key = Secure {
            tls: Arc::clone(tls),
            name: tls.name(host, endpoint).map_err(ConnectError::Tls)?,
        };
        let mut secure = self.secure.borrow_mut();
        let pool = secure.entry(key).or_insert_with_key(|key| {
            Rc::new(Self {
                tls: Some(key.clone()),
                ..Self::default()
            })
        });
        Ok(Rc::clone(pool))
    }

    /// Makes a connection; in HTTP/2 waits for the one that somebody else is making.
    pub(crate) async fn connect(
        self: &Rc<Self>,
        endpoint: SocketAddr,
        http2: bool,
        limits: &ConnectionLimits,
    ) -> Result<Upstream, ConnectError> {
        if !http2 {
            let stream = self.open(endpoint, Inner::Http1, limits).await?;
            let local = stream.tcp().local_addr().ok();
            let protocol = match stream {
                PeerStream::Clear(stream) => Protocol::Direct(Direct::new(stream)),
                PeerStream::Secure(stream) => Protocol::Http1(start_http1(stream).await?),
            };
            return Ok(Upstream::http1(endpoint, self.home(), local, protocol));
        }
        let turn = Rc::clone(self.connecting.borrow_mut().entry(endpoint).or_default());
        // Whoever has waited in vain connects by itself: failures must not queue up.
        let own_turn = turn.try_lock().ok();
        if own_turn.is_none() {
            drop(turn.lock().await);
        }
        if let Some(upstream) = self.share(endpoint, limits) {
            return Ok(upstream);
        }
        let stream = self.open(endpoint, Inner::Http2, limits).await?;
        let local = stream.tcp().local_addr().ok();
        let sender = match stream {
            PeerStream::Clear(stream) => start_http2(stream).await?,
            PeerStream::Secure(stream) => start_http2(stream).await?,
        };
        let shared = Rc::new(Shared {
            sender,
            local,
            streams: Cell::new(0),
            served: Cell::new(0),
            since: Cell::new(None),
        });
        let mut connections = self.shared.borrow_mut();
        connections
            .entry(endpoint)
            .or_default()
            .push(Rc::clone(&shared));
        Ok(Upstream::http2(endpoint, shared))
    }

    /// Makes a connection that may become something else: it comes through the channel then.
    pub(crate) async fn connect_for_upgrade(
        self: &Rc<Self>,
        endpoint: SocketAddr,
        limits: &ConnectionLimits,
    ) -> Result<(Upstream, oneshot::Receiver<Raw>), ConnectError> {
        let stream = self.open(endpoint, Inner::Http1, limits).await?;
        let local = stream.tcp().local_addr().ok();
        let (sender, mut connection) = handshake_http1(stream).await?;
        let (give, raw) = oneshot::channel();
        task::spawn_local(async move {
            let ended = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
            if ended.is_ok() {
                let parts = connection.into_parts();
                // Nobody waits: it was an ordinary response after all.
                let _ = give.send(Raw {
                    stream: parts.io.into_inner(),
                    read: parts.read_buf,
                });
            }
        });
        let upstream = Upstream::http1(endpoint, self.home(), local, Protocol::Http1(sender));
        Ok((upstream, raw))
    }

    /// Opens a connection as the cluster's policy wants it, up to where HTTP begins.
    async fn open(
        &self,
        endpoint: SocketAddr,
        inner: Inner,
        limits: &ConnectionLimits,
    ) -> Result<PeerStream, ConnectError> {
        let Some(Secure { tls, name }) = &self.tls else {
            return connect(endpoint, limits).await.map(PeerStream::Clear);
        };
        secure(endpoint, tls, name.clone(), inner, limits).await
    }

    /// Where connections go back to that don't go to the pool of those in the clear.
    fn home(self: &Rc<Self>) -> Option<Rc<Self>> {
        self.tls.is_some().then(|| Rc::clone(self))
    }

    /// Closes what has been idle for too long.
    pub(crate) fn sweep(&self, now: Tick) {
        self.idle.borrow_mut().retain(|_, idle| {
            idle.retain(|idle| {
                idle.upstream.is_ready() && now.wrapping_sub(idle.since) < idle.limit
            });
            !idle.is_empty()
        });
        self.shared.borrow_mut().retain(|_, connections| {
            connections.retain(|shared| {
                let idle = shared.streams.get() == 0;
                let since = shared.since.get().filter(|_| idle).unwrap_or(now);
                shared.since.set(Some(since));
                !shared.sender.is_closed() && now.wrapping_sub(since) < IDLE_LIMIT
            });
            !connections.is_empty()
        });
        self.connecting
            .borrow_mut()
            .retain(|_, turn| Rc::strong_count(turn) > 1);
        self.secure.borrow_mut().retain(|_, pool| {
            pool.sweep(now);
            // Whoever uses one of its connections, or makes one, holds on to it.
            !pool.is_empty() || Rc::strong_count(pool) > 1
        });
    }

    fn is_empty(&self) -> bool {
        self.idle.borrow().is_empty() && self.shared.borrow().is_empty()
    }

    /// Closes idle connections to endpoints that no route leads to.
    pub(crate) fn retain(&self, endpoints: &HashSet<SocketAddr>) {
        self.idle
            .borrow_mut()
            .retain(|endpoint, _| endpoints.contains(endpoint));
        self.shared
            .borrow_mut()
            .retain(|endpoint, _| endpoints.contains(endpoint));
        for pool in self.secure.borrow().values() {
            pool.retain(endpoints);
        }
    }

    fn share(&self, endpoint: SocketAddr, limits: &ConnectionLimits) -> Option<Upstream> {
        let connections = self.shared.borrow();
        let streams = limits.max_concurrent_streams.unwrap_or(u32::MAX).max(1);
        let requests = limits.max_requests_per_connection.unwrap_or(u32::MAX);
        connections
            .get(&endpoint)?
            .iter()
            .find(|shared| {
                !shared.sender.is_closed()
                    && shared.streams.get() < streams
                    && shared.served.get() < requests
            })
            .map(|shared| Upstream::http2(endpoint, Rc::clone(shared)))
    }

    fn put(&self, upstream: Upstream, now: Tick, limits: &ConnectionLimits) {
        let limit = Tick::try_from(limits.idle_timeout.as_secs()).unwrap_or(Tick::MAX);
        let mut pool = self.idle.borrow_mut();
        let idle = pool.entry(upstream.endpoint).or_default();
        if idle.len() < MAX_IDLE {
            idle.push(Idle {
                upstream,
                since: now,
                limit: limit.clamp(1, IDLE_LIMIT),
            });
        }
    }
}

impl Upstream {
    fn http1(
        endpoint: SocketAddr,
        home: Option<Rc<Pool>>,
        local: Option<SocketAddr>,
        protocol: Protocol,
    ) -> Self {
        Self {
            endpoint,
            home,
            local,
            protocol,
            served: 0,
            outdated: false,
        }
    }

    fn http2(endpoint: SocketAddr, shared: Rc<Shared>) -> Self {
        shared.streams.set(shared.streams.get() + 1);
        Self {
            endpoint,
            home: None,
            local: shared.local,
            protocol: Protocol::Http2(Stream(shared)),
            served: 0,
            outdated: false,
        }
    }

    /// Where we connected from.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        self.local
    }

    /// Whether requests go in HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self.protocol, Protocol::Http2(_))
    }

    /// Sends a request.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, SendError> {
        self.served = self.served.saturating_add(1);
        if let Some(direct) = self.take_direct() {
            let sender = start_http1(direct.into_stream()).await;
            self.protocol = Protocol::Http1(sender.map_err(|_| SendError::Ended)?);
        }
        let response = match &mut self.protocol {
            Protocol::Http1(sender) => sender.try_send_request(request).await,
            Protocol::Http2(stream) => {
                let shared = &stream.0;
                shared.served.set(shared.served.get().saturating_add(1));
                let mut sender = shared.sender.clone();
                Box::pin(sender.try_send_request(request)).await
            }
            Protocol::Direct(_) | Protocol::Gone => return Err(SendError::Ended),
        };
        let response = response?;
        self.outdated = response.version() < Version::HTTP_11;
        Ok(response)
    }

    /// Lets hyper read the answer to a request that has been asked directly.
    pub(crate) async fn read_unusual(
        &mut self,
        method: &Method,
    ) -> Result<Response<Incoming>, SendError> {
        let direct = self.take_direct().ok_or(SendError::Ended)?;
        let sender = start_http1(direct.adopt()).await;
        let mut sender = sender.map_err(|_| SendError::Ended)?;
        // How an answer is read depends on the method and on nothing else.
        let mut request = Request::new(RequestBody::EMPTY);
        request.method_mut().clone_from(method);
        let response = sender.try_send_request(request).await;
        self.protocol = Protocol::Http1(sender);
        let response = response.map_err(|mut error| match error.take_message() {
            // It has been sent long since, whatever hyper thinks.
            Some(_) => SendError::Ended,
            None => SendError::Failed(error.into_error()),
        })?;
        self.outdated = response.version() < Version::HTTP_11;
        Ok(response)
    }

    /// The connection, if it is read directly.
    pub(crate) fn reading(&mut self) -> Option<&mut Direct> {
        match &mut self.protocol {
            Protocol::Direct(direct) => Some(direct),
            _ => None,
        }
    }

    fn take_direct(&mut self) -> Option<Direct> {
        match mem::replace(&mut self.protocol, Protocol::Gone) {
            Protocol::Direct(direct) => Some(direct),
            other => {
                self.protocol = other;
                None
            }
        }
    }

    /// The connection, if requests can be asked directly.
    pub(crate) fn direct(&mut self) -> Option<&mut Direct> {
        match &mut self.protocol {
            Protocol::Direct(direct) => {
                self.served = self.served.saturating_add(1);
                Some(direct)
            }
            _ => None,
        }
    }

    /// Gives it back when the response is over: to `pool`, which is the worker's, or to where it is
    /// from.
    pub(crate) fn release(mut self, pool: &Rc<Pool>, now: Tick, limits: &ConnectionLimits) {
        let home = self.home.take();
        let pool = home.as_ref().unwrap_or(pool);
        let spent = limits
            .max_requests_per_connection
            .is_some_and(|max| self.served >= max);
        if spent || self.outdated {
            return;
        }
        match &self.protocol {
            Protocol::Direct(_) => pool.put(self, now, limits),
            Protocol::Http1(sender) if sender.is_ready() => pool.put(self, now, limits),
            Protocol::Http1(sender) if !sender.is_closed() => {
                // The endpoint answered before it had read the whole request, which is still on its
                // way; or the connection's task has not had its turn since.
                let pool = Rc::clone(pool);
                let limits = limits.clone();
                task::spawn_local(async move {
                    let mut upstream = self;
                    if let Protocol::Http1(sender) = &mut upstream.protocol
                        && sender.ready().await.is_ok()
                    {
                        pool.put(upstream, now, &limits);
                    }
                });
            }
            Protocol::Http1(_) | Protocol::Http2(_) | Protocol::Gone => {}
        }
    }

    fn is_ready(&self) -> bool {
        match &self.protocol {
            Protocol::Direct(direct) => direct.is_alive(),
            Protocol::Http1(sender) => sender.is_ready(),
            Protocol::Http2(stream) => !stream.0.sender.is_closed(),
            Protocol::Gone => false,
        }
    }
}

impl From<TrySendError<Request<RequestBody>>> for SendError {
    fn from(mut error: TrySendError<Request<RequestBody>>) -> Self {
        match error.take_message() {
            Some(request) => Self::Unsent(Some(Box::new(request))),
            None => Self::Failed(error.into_error()),
        }
    }
}

impl PartialEq for Secure {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.tls, &other.tls) && self.name == other.name
    }
}

impl Eq for Secure {}

impl Hash for Secure {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.tls).hash(state);
        self.name.hash(state);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let streams = &self.0.streams;
        streams.set(streams.get().saturating_sub(1));
    }
}

impl<F> Executor<F> for Local
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        task::spawn_local(future);
    }
}

type Http1<S> = (
    http1::SendRequest<RequestBody>,
    http1::Connection<TokioIo<S>, RequestBody>,
);

async fn handshake_http1<S>(stream: S) -> Result<Http1<S>, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    http1::Builder::new()
        // One flat write of head and small body is cheaper than a gathering one.
        .writev(false)
        .max_buf_size(MAX_BUFFER)
        // A gateway may make one line of it (RFC 9112, section 5.2).
        .allow_obsolete_multiline_headers_in_responses(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| ConnectError::Io(io::Error::other(error)))
}

/// The connection is driven by a task of its own, which also sees when the endpoint closes it while
/// nobody uses it. Errors reach whoever waits for the response.
async fn start_http1<S>(stream: S) -> Result<http1::SendRequest<RequestBody>, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (sender, connection) = handshake_http1(stream).await?;
    task::spawn_local(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

async fn start_http2<S>(stream: S) -> Result<http2::SendRequest<RequestBody>, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (sender, connection) = http2::Builder::new(Local)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| ConnectError::Io(io::Error::other(error)))?;
    task::spawn_local(async move {
        let _ = connection.await;
    });
    Ok(sender)
}

/// Opens a connection in TLS as the cluster's policy wants it. Shaking hands is a part of connecting,
/// and may not take longer than that.
pub(crate) async fn secure(
    endpoint: SocketAddr,
    tls: &ClientTls,
    name: ServerName<'static>,
    inner: Inner,
    limits: &ConnectionLimits,
) -> Result<PeerStream, ConnectError> {
    let connecting = async {
        let stream = connect(endpoint, limits).await?;
        let stream = tls.connect(stream, name, inner).await;
        stream.map_err(ConnectError::Tls)
    };
    let stream = time::timeout(limits.connect_timeout, connecting)
        .await
        .map_err(|_| ConnectError::Timeout)??;
    Ok(PeerStream::Secure(Box::new(stream)))
}

/// Opens a TCP connection as the cluster's policy wants it.
pub(crate) async fn connect(
    endpoint: SocketAddr,
    limits: &ConnectionLimits,
) -> Result<TcpStream, ConnectError> {
    let stream = time::timeout(limits.connect_timeout, TcpStream::connect(endpoint))
        .await
        .map_err(|_| ConnectError::Timeout)?
        .map_err(ConnectError::Io)?;
    // Without it small messages would only wait longer; the connection works either way.
    let _ = stream.set_nodelay(true);
    if let Some(keepalive) = &limits.keepalive {
        keep_alive(&stream, keepalive);
    }
    Ok(stream)
}

fn keep_alive(stream: &TcpStream, policy: &Keepalive) {
    let mut keepalive = socket2::TcpKeepalive::new();
    if let Some(time) = policy.time {
        keepalive = keepalive.with_time(time);
    }
    if let Some(interval) = policy.interval {
        keepalive = keepalive.with_interval(interval);
    }
    if let Some(probes) = policy.probes {
        keepalive = keepalive.with_retries(probes);
    }
    // A value that the kernel doesn't take leaves its own in force.
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&keepalive) {
        tracing::debug!(%error, "TCP keepalive");
    }
}
