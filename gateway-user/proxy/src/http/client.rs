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
use crate::{accept::Peers, config::Listener, connections::Handle, pool::Pool, worker::Worker};

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
}

impl Client {
    pub(crate) fn new(
        worker: &Rc<Worker>,
        pool: &Rc<HttpPool>,
        handle: &Rc<Handle>,
        peers: Peers,
        listener: Arc<Listener>,
    ) -> Option<Rc<Self>> {
        Some(Rc::new(Self {
            worker: Rc::clone(worker),
            pool: Rc::clone(pool),
            handle: Rc::clone(handle),
            address: peers.client,
            number: CLIENTS.fetch_add(1, Ordering::Relaxed),
            local: peers.local,
            identity: Rc::new(Identity::new(peers.client.ip())?),
            listener,
        }))
    }
}
