//! What is done with the connections of a port.

use std::sync::Arc;

use nodegate_model::gateway::{self as model, ListenerProtocol};

use super::{
    clusters::{Changes, Clusters},
    history::History,
    http_listener::HttpListener,
    tcp_listener::TcpListener,
    tls_port::TlsPort,
};

/// What is done with the connections of a port.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
}

/// What is spoken over the connections of a listener.
#[derive(Debug)]
pub(crate) enum Protocol {
    Http(Arc<HttpListener>),
    Tcp(TcpListener),
    Tls(TlsPort),
}

impl Listener {
    /// Makes a listener, going on with what the one of its port has counted.
    pub(super) fn new<'a>(
        listener: &'a model::Listener,
        previous: Option<&'a Self>,
        clusters: &Clusters,
    ) -> Self {
        let mut history = previous.map(Self::history).unwrap_or_default();
        let protocol = match &listener.protocol {
            ListenerProtocol::Http(routes) => {
                Protocol::Http(Arc::new(HttpListener::new(routes, &mut history, clusters)))
            }
            ListenerProtocol::Tcp(route) => {
                Protocol::Tcp(TcpListener::new(route, &mut history, clusters))
            }
            ListenerProtocol::Tls(listener) => Protocol::Tls(TlsPort::new(
                listener,
                previous.and_then(Self::tls),
                clusters,
            )),
        };
        Self {
            port: listener.port,
            protocol,
        }
    }

    /// The same with clusters as they are now. What leads to no changed cluster is shared.
    pub(super) fn with(self: &Arc<Self>, changes: &Changes) -> Arc<Self> {
        let protocol = match &self.protocol {
            Protocol::Http(http) => match http.with(changes) {
                Some(http) => Protocol::Http(Arc::new(http)),
                None => return Arc::clone(self),
            },
            Protocol::Tcp(tcp) => match tcp.with(changes) {
                Some(tcp) => Protocol::Tcp(tcp),
                None => return Arc::clone(self),
            },
            Protocol::Tls(tls) => match tls.with(changes) {
                Some(tls) => Protocol::Tls(tls),
                None => return Arc::clone(self),
            },
        };
        Arc::new(Self {
            port: self.port,
            protocol,
        })
    }

    /// What its routes have counted.
    fn history(&self) -> History<'_> {
        let mut history = History::default();
        match &self.protocol {
            Protocol::Http(http) => http.tell(&mut history),
            Protocol::Tcp(tcp) => tcp.tell(&mut history),
            // Each of its chains has a history of its own.
            Protocol::Tls(_) => {}
        }
        history
    }

    /// The routes of requests over connections of this chain; of a port in the clear there is none to name.
    pub(crate) fn http(&self, chain: Option<&str>) -> Option<&Arc<HttpListener>> {
        match (&self.protocol, chain) {
            (Protocol::Http(http), None) => Some(http),
            (Protocol::Tls(tls), Some(chain)) => tls.named(chain)?.http(),
            _ => None,
        }
    }

    /// Where connections of this chain go; of a port in the clear there is none to name.
    pub(crate) fn tcp(&self, chain: Option<&str>) -> Option<&TcpListener> {
        match (&self.protocol, chain) {
            (Protocol::Tcp(tcp), None) => Some(tcp),
            (Protocol::Tls(tls), Some(chain)) => tls.named(chain)?.tcp(),
            _ => None,
        }
    }

    /// The chains of a port of TLS.
    pub(crate) fn tls(&self) -> Option<&TlsPort> {
        match &self.protocol {
            Protocol::Tls(tls) => Some(tls),
            Protocol::Http(_) | Protocol::Tcp(_) => None,
        }
    }
}

impl Protocol {
    /// For logs.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Http(_) => "HTTP",
            Self::Tcp(_) => "TCP",
            Self::Tls(_) => "TLS",
        }
    }
}
