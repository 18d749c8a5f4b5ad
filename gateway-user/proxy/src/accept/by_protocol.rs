//! The acceptor of a worker's ports: the listener's configuration says what is spoken there.

use super::acceptor::{Acceptor, Arrival};
use crate::config::Protocol;

/// Hands each connection on to the acceptor of its listener's protocol.
#[derive(Debug)]
pub(crate) struct ByProtocol<H, T> {
    pub(crate) http: H,
    pub(crate) tcp: T,
}

impl<S, H: Acceptor<S>, T: Acceptor<S>> Acceptor<S> for ByProtocol<H, T> {
    fn accept(&self, arrival: Arrival<S>) {
        match arrival.listener.protocol {
            Protocol::Http(_) => self.http.accept(arrival),
            Protocol::Tcp(_) => self.tcp.accept(arrival),
        }
    }
}
