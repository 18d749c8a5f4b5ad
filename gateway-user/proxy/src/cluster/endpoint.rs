//! An endpoint of a cluster.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering},
    time::Instant,
};

use super::outlier::Health;

/// An endpoint and how it is doing.
#[derive(Debug)]
pub(crate) struct EndpointState {
    pub(crate) address: SocketAddr,
    /// Requests and connections that it is at work on.
    pub(super) active: AtomicU32,
    /// Since when it has been an endpoint of the cluster.
    pub(super) since: Instant,
    pub(super) health: Health,
}

impl EndpointState {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self {
            address,
            active: AtomicU32::new(0),
            since: Instant::now(),
            health: Health::default(),
        }
    }

    /// How many requests and connections it is at work on.
    pub(super) fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// It is put to work on one more.
    pub(super) fn begin(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    /// It has done with one.
    pub(super) fn end(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }
}
