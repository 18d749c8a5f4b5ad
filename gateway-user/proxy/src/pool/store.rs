//! Connections by endpoint: idle ones, and ones that requests share.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    hash::{Hash, Hasher},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
};

use bytes::Bytes;
use nodegate_model::gateway::ConnectionLimits;
use rustc_hash::FxHashMap;
use rustls::pki_types::ServerName;
use tokio::{
    sync::{Mutex, oneshot},
    task,
};

use super::{
    dial::{ConnectError, connect, secure},
    direct::Direct,
    peer_stream::PeerStream,
    sender::{SendBody, handshake_http1, start_http1, start_http2},
    upstream::{Http1Connection, Http2Connection, Http2Share, Session, Upstream},
};
use crate::{
    clock::Tick,
    tls::{ClientTls, Inner},
};

/// Idle connections kept per endpoint and worker.
const MAX_IDLE: usize = 128;
/// Ticks after which an idle connection is closed, unless the cluster's policy says sooner.
const IDLE_LIMIT: Tick = 60;

/// Connections by endpoint.
#[derive(Debug)]
pub(crate) struct Pool<B> {
    idle: RefCell<FxHashMap<SocketAddr, Vec<Idle<B>>>>,
    shared: RefCell<HashMap<SocketAddr, Vec<Rc<Http2Connection<B>>>>>,
    /// Held by the request that is connecting in HTTP/2: the others wait for that connection instead of
    /// making their own.
    connecting: RefCell<HashMap<SocketAddr, Rc<Mutex<()>>>>,
    /// How connections of this pool begin TLS; none: they are in the clear.
    tls: Option<Secure>,
    /// Pools of connections in TLS, by how that begins. Empty in a pool that is one of those.
    secure: RefCell<HashMap<Secure, Rc<Pool<B>>>>,
}

/// How a connection in TLS begins. Requests whose connections differ in it can't share any.
#[derive(Clone, Debug)]
struct Secure {
    tls: Arc<ClientTls>,
    name: ServerName<'static>,
}

#[derive(Debug)]
struct Idle<B> {
    connection: Box<Http1Connection<B>>,
    since: Tick,
    limit: Tick,
}

/// A connection that has become something else than HTTP.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) stream: PeerStream,
    /// What has been read already.
    pub(crate) read: Bytes,
}

impl<B> Default for Pool<B> {
    /// An empty pool of connections in the clear.
    fn default() -> Self {
        Self {
            idle: RefCell::default(),
            shared: RefCell::default(),
            connecting: RefCell::default(),
            tls: None,
            secure: RefCell::default(),
        }
    }
}

impl<B> Pool<B> {
    /// Takes a connection if there is a living one with room.
    pub(crate) fn take(
        &self,
        endpoint: SocketAddr,
        http2: bool,
        limits: &ConnectionLimits,
    ) -> Option<Upstream<B>> {
        if http2 {
            return self.share(endpoint, limits).map(Upstream::Http2);
        }
        let mut pool = self.idle.borrow_mut();
        let idle = pool.get_mut(&endpoint)?;
        while let Some(Idle { connection, .. }) = idle.pop() {
            if connection.is_ready() {
                return Some(Upstream::Http1(connection));
            }
        }
        None
    }

    /// The pool of connections to an endpoint that is spoken to in TLS.
    ///
    /// # Errors
    ///
    /// If the host of the request is no name that a certificate may have.
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

    /// Closes what has been idle for too long.
    pub(crate) fn sweep(&self, now: Tick) {
        self.idle.borrow_mut().retain(|_, idle| {
            idle.retain(|idle| {
                idle.connection.is_ready() && now.wrapping_sub(idle.since) < idle.limit
            });
            !idle.is_empty()
        });
        self.shared.borrow_mut().retain(|_, connections| {
            connections
                .retain(|shared| shared.idle(now) < IDLE_LIMIT && !shared.sender.is_closed());
            !connections.is_empty()
        });
        self.connecting
            .borrow_mut()
            .retain(|_, turn| Rc::strong_count(turn) > 1);
        self.secure.borrow_mut().retain(|_, pool| {
            pool.sweep(now);
            // A request that uses one of its connections, or is connecting, holds on to the pool.
            !pool.is_empty() || Rc::strong_count(pool) > 1
        });
    }

    /// Closes idle connections to endpoints that are in no cluster any more.
    pub(crate) fn forget(&self, endpoints: &HashSet<SocketAddr>) {
        for endpoint in endpoints {
            self.idle.borrow_mut().remove(endpoint);
            self.shared.borrow_mut().remove(endpoint);
        }
        for pool in self.secure.borrow().values() {
            pool.forget(endpoints);
        }
    }

    fn is_empty(&self) -> bool {
        self.idle.borrow().is_empty() && self.shared.borrow().is_empty()
    }

    fn share(&self, endpoint: SocketAddr, limits: &ConnectionLimits) -> Option<Http2Share<B>> {
        let connections = self.shared.borrow();
        let streams = limits.max_concurrent_streams.unwrap_or(u32::MAX).max(1);
        let requests = limits.max_requests_per_connection.unwrap_or(u32::MAX);
        let mut connections = connections.get(&endpoint)?.iter();
        connections
            .find(|shared| shared.has_room(streams, requests))
            .map(Http2Connection::share)
    }

    fn put(&self, connection: Box<Http1Connection<B>>, now: Tick, limits: &ConnectionLimits) {
        let limit = Tick::try_from(limits.idle_timeout.as_secs()).unwrap_or(Tick::MAX);
        let mut pool = self.idle.borrow_mut();
        let idle = pool.entry(connection.endpoint).or_default();
        if idle.len() < MAX_IDLE {
            idle.push(Idle {
                connection,
                since: now,
                limit: limit.clamp(1, IDLE_LIMIT),
            });
        }
    }
}

impl<B: SendBody> Pool<B> {
    /// Makes a connection; in HTTP/2 waits for the one that another request is making.
    ///
    /// # Errors
    ///
    /// If the endpoint can't be connected to, or doesn't speak the cluster's TLS.
    pub(crate) async fn connect(
        &self,
        endpoint: SocketAddr,
        http2: bool,
        limits: &ConnectionLimits,
    ) -> Result<Upstream<B>, ConnectError> {
        if !http2 {
            let stream = self.open(endpoint, Inner::Http1, limits).await?;
            let local = stream.tcp().local_addr().ok();
            let session = match stream {
                PeerStream::Clear(stream) => Session::Direct(Direct::new(stream)),
                PeerStream::Secure(stream) => Session::Hyper(start_http1(stream).await?),
            };
            return Ok(Upstream::Http1(Http1Connection::new(
                endpoint, local, session,
            )));
        }
        let turn = Rc::clone(self.connecting.borrow_mut().entry(endpoint).or_default());
        // A request that has waited in vain doesn't take its turn: failures must not queue up.
        let own_turn = turn.try_lock().ok();
        if own_turn.is_none() {
            drop(turn.lock().await);
        }
        if let Some(share) = self.share(endpoint, limits) {
            return Ok(Upstream::Http2(share));
        }
        let stream = self.open(endpoint, Inner::Http2, limits).await?;
        let local = stream.tcp().local_addr().ok();
        let sender = match stream {
            PeerStream::Clear(stream) => start_http2(stream).await?,
            PeerStream::Secure(stream) => start_http2(stream).await?,
        };
        let shared = Http2Connection::new(sender, local);
        let share = shared.share();
        let mut connections = self.shared.borrow_mut();
        connections.entry(endpoint).or_default().push(shared);
        Ok(Upstream::Http2(share))
    }

    /// Makes a connection that may become something else: it comes through the channel then.
    ///
    /// # Errors
    ///
    /// If the endpoint can't be connected to, or doesn't speak the cluster's TLS.
    pub(crate) async fn connect_for_upgrade(
        &self,
        endpoint: SocketAddr,
        limits: &ConnectionLimits,
    ) -> Result<(Upstream<B>, oneshot::Receiver<Raw>), ConnectError> {
        let stream = self.open(endpoint, Inner::Http1, limits).await?;
        let local = stream.tcp().local_addr().ok();
        let (sender, mut connection) = handshake_http1(stream).await?;
        let (give, raw) = oneshot::channel();
        task::spawn_local(async move {
            let ended = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
            if ended.is_ok() {
                let parts = connection.into_parts();
                // There is no receiver any more if it was an ordinary answer after all.
                let _ = give.send(Raw {
                    stream: parts.io.into_inner().into_inner(),
                    read: parts.read_buf,
                });
            }
        });
        let connection = Http1Connection::new(endpoint, local, Session::Hyper(sender));
        Ok((Upstream::Http1(connection), raw))
    }

    /// Takes a connection back when the answer is over.
    pub(crate) fn give_back(
        self: &Rc<Self>,
        upstream: Upstream<B>,
        now: Tick,
        limits: &ConnectionLimits,
    ) {
        let Upstream::Http1(connection) = upstream else {
            // Other requests have it already.
            return;
        };
        if !connection.may_stay(limits.max_requests_per_connection) {
            return;
        }
        match &connection.session {
            Session::Direct(_) => self.put(connection, now, limits),
            Session::Hyper(sender) if sender.is_ready() => self.put(connection, now, limits),
            Session::Hyper(sender) if !sender.is_closed() => {
                // The endpoint answered before it had read the whole request, which is still on its
                // way; or the connection's task has not had its turn since.
                let pool = Rc::clone(self);
                let limits = limits.clone();
                task::spawn_local(async move {
                    let mut connection = connection;
                    if let Session::Hyper(sender) = &mut connection.session
                        && sender.ready().await.is_ok()
                    {
                        pool.put(connection, now, &limits);
                    }
                });
            }
            Session::Hyper(_) | Session::Gone => {}
        }
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
