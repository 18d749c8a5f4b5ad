//! A client whose connection is served.

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{body::RequestBody, identity::Identity};
use crate::{
    accept::{Peers, Security},
    config::Listener,
    connections::Handle,
    pool::Pool,
    worker::Worker,
};

/// Connections to endpoints for HTTP requests.
pub(crate) type HttpPool = Pool<RequestBody>;

/// How many clients there have been.
static CLIENTS: AtomicU64 = AtomicU64::new(0);

/// A client, for as long as its connection or any of its requests is served.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) worker: Rc<Worker>,
    pub(crate) pool: Rc<HttpPool>,
    pub(crate) handle: Rc<Handle>,
    pub(crate) address: SocketAddr,
    /// Which of all clients it is.
    pub(crate) number: u64,
    /// The address that it connected to.
    pub(crate) local: SocketAddr,
    /// What endpoints are told of it.
    pub(crate) identity: Rc<Identity>,
    /// As it was when the connection was accepted: for when the port has no HTTP listener any more,
    /// but a request had already been sent.
    pub(crate) listener: Arc<Listener>,
    /// What is known of it from TLS; none of a connection in the clear.
    pub(crate) security: Option<Rc<Security>>,
}

/// How a client has come in.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) peers: Peers,
    pub(crate) listener: Arc<Listener>,
    pub(crate) security: Option<Rc<Security>>,
}

impl Client {
    pub(crate) fn new(
        worker: &Rc<Worker>,
        pool: &Rc<HttpPool>,
        handle: &Rc<Handle>,
        arrived: Arrived,
    ) -> Option<Rc<Self>> {
        let Arrived {
            peers,
            listener,
            security,
        } = arrived;
        let identity = Identity::new(peers.client.ip(), security.as_deref())?;
        Some(Rc::new(Self {
            worker: Rc::clone(worker),
            pool: Rc::clone(pool),
            handle: Rc::clone(handle),
            address: peers.client,
            number: CLIENTS.fetch_add(1, Ordering::Relaxed),
            local: peers.local,
            identity: Rc::new(identity),
            listener,
            security,
        }))
    }

    /// `http`, or `https` over TLS.
    pub(crate) fn scheme(&self) -> &'static str {
        match self.security {
            None => "http",
            Some(_) => "https",
        }
    }

    /// The name of the listener's chain that took the connection; none of a port in the clear.
    pub(crate) fn chain(&self) -> Option<&str> {
        self.security.as_ref().map(|security| &*security.chain)
    }

    /// The name that the client asked for in its TLS, if any.
    pub(crate) fn server_name(&self) -> Option<&str> {
        self.security.as_ref()?.server_name.as_deref()
    }
}
