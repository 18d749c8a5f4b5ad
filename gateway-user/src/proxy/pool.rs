//! A worker's connections to endpoints: the last one given back is the first one taken, so that the
//! surplus grows cold and is closed.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    io,
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http1::{self, SendRequest},
    },
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task, time};

use super::{connections::Tick, http::body::RequestBody};

/// Idle connections kept per endpoint and worker.
const MAX_IDLE: usize = 128;
/// Ticks after which an idle connection is closed.
const IDLE_LIMIT: Tick = 60;
/// Largest head, and most that is read ahead of the client. The default of about 400 KiB makes many
/// slow readers expensive.
pub(super) const MAX_BUFFER: usize = 64 * 1024;

/// Idle connections by endpoint.
#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: RefCell<HashMap<SocketAddr, Vec<Idle>>>,
}

/// A connection in use. Give it back with [`Upstream::release`] when the response is over; dropped,
/// it is closed.
#[derive(Debug)]
pub(super) struct Upstream {
    endpoint: SocketAddr,
    sender: SendRequest<RequestBody>,
}

#[derive(Debug)]
struct Idle {
    upstream: Upstream,
    since: Tick,
}

/// Why there is no connection to an endpoint.
#[derive(Debug)]
pub(super) enum ConnectError {
    Io(io::Error),
    Timeout,
}

impl Pool {
    /// Takes the connection that was used last, if it is still alive.
    pub(super) fn take(&self, endpoint: SocketAddr) -> Option<Upstream> {
        let mut pool = self.idle.borrow_mut();
        let idle = pool.get_mut(&endpoint)?;
        while let Some(Idle { upstream, .. }) = idle.pop() {
            if upstream.sender.is_ready() {
                return Some(upstream);
            }
        }
        None
    }

    /// Closes what has been idle for too long.
    pub(super) fn sweep(&self, now: Tick) {
        self.idle.borrow_mut().retain(|_, idle| {
            idle.retain(|idle| {
                !idle.upstream.sender.is_closed() && now.wrapping_sub(idle.since) < IDLE_LIMIT
            });
            !idle.is_empty()
        });
    }

    /// Closes idle connections to endpoints that no route leads to.
    pub(super) fn retain(&self, endpoints: &HashSet<SocketAddr>) {
        self.idle
            .borrow_mut()
            .retain(|endpoint, _| endpoints.contains(endpoint));
    }

    fn put(&self, upstream: Upstream, now: Tick) {
        let mut pool = self.idle.borrow_mut();
        let idle = pool.entry(upstream.endpoint).or_default();
        if idle.len() < MAX_IDLE {
            idle.push(Idle {
                upstream,
                since: now,
            });
        }
    }
}

impl Upstream {
    /// Opens a connection.
    pub(super) async fn connect(
        endpoint: SocketAddr,
        timeout: Duration,
    ) -> Result<Self, ConnectError> {
        let stream = time::timeout(timeout, TcpStream::connect(endpoint))
            .await
            .map_err(|_| ConnectError::Timeout)?
            .map_err(ConnectError::Io)?;
        // Without it small requests would only wait longer; the connection works either way.
        let _ = stream.set_nodelay(true);
        let (sender, connection) = http1::Builder::new()
            // One flat write of head and small body is cheaper than a gathering one.
            .writev(false)
            .max_buf_size(MAX_BUFFER)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| ConnectError::Io(io::Error::other(error)))?;
        // The connection is driven by a task of its own, which also sees when the endpoint closes
        // it while nobody uses it. Errors reach whoever waits for the response.
        task::spawn_local(async move {
            let _ = connection.await;
        });
        Ok(Self { endpoint, sender })
    }

    /// Sends a request. If none of it was written, it comes back with the error.
    pub(super) fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + use<>
    {
        self.sender.try_send_request(request)
    }

    /// Gives it back when the response is over.
    pub(super) fn release(mut self, pool: &Rc<Pool>, now: Tick) {
        if self.sender.is_ready() {
            pool.put(self, now);
        } else if !self.sender.is_closed() {
            // The endpoint answered before it had read the whole request, which is still on its way;
            // or the connection's task has not had its turn since.
            let pool = Rc::clone(pool);
            task::spawn_local(async move {
                if self.sender.ready().await.is_ok() {
                    pool.put(self, now);
                }
            });
        }
    }
}
