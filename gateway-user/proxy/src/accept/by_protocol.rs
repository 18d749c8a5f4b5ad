//! The acceptor of a worker's ports: the listener's configuration says what is spoken there.

use super::acceptor::{Acceptor, Arrival};
use crate::config::Protocol;

/// Hands each connection on to the acceptor of its listener's protocol.
#[derive(Debug)]
pub(crate) struct ByProtocol<H, T, E> {
    pub(crate) http: H,
    pub(crate) tcp: T,
    /// Of TLS.
    pub(crate) tls: E,
}

impl<S, H: Acceptor<S>, T: Acceptor<S>, E: Acceptor<S>> Acceptor<S> for ByProtocol<H, T, E> {
    fn accept(&self, arrival: Arrival<S>) {
        match arrival.listener.protocol {
            Protocol::Http(_) => self.http.accept(arrival),
            Protocol::Tcp(_) => self.tcp.accept(arrival),
            Protocol::Tls(_) => self.tls.accept(arrival),
        }
    }
}
