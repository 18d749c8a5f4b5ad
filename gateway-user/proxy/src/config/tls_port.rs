//! What is done with the connections of a port of TLS.

use std::sync::Arc;

use nodegate_model::gateway::{self as model, ChainProtocol, TlsListener};
use nodegate_route::SniTable;
use rustc_hash::FxHashMap;

use super::{
    clusters::{Changes, Clusters},
    history::History,
    http_listener::HttpListener,
    tcp_listener::TcpListener,
};
use crate::tls::ServerTls;

/// The chains of a port.
#[derive(Debug)]
pub(crate) struct TlsPort {
    table: Arc<SniTable>,
    /// The place of each chain by its name: every request looks for the routes that are in force now.
    places: Arc<FxHashMap<Arc<str>, usize>>,
    chains: Vec<Arc<Chain>>,
}

/// What is done with the connections that ask for some names.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) name: Arc<str>,
    pub(crate) inner: Inner,
}

/// What is inside TLS, or that it goes on as it is.
#[derive(Debug)]
pub(crate) enum Inner {
    Http(Arc<ServerTls>, Arc<HttpListener>),
    Tcp(Arc<ServerTls>, TcpListener),
    Passthrough(TcpListener),
}

// === impl TlsPort ===

impl TlsPort {
    /// Makes the chains, going on with what those of the same names have counted.
    pub(super) fn new(
        listener: &TlsListener,
        previous: Option<&Self>,
        clusters: &Clusters,
    ) -> Self {
        let chains = listener.chains.iter().map(|chain| {
            let old = previous.and_then(|previous| previous.named(&chain.name));
            Arc::new(Chain::new(chain, old, clusters))
        });
        let chains: Vec<_> = chains.collect();
        let names = chains.iter().map(|chain| Arc::clone(&chain.name));
        Self {
            table: Arc::new(SniTable::new(listener)),
            places: Arc::new(names.zip(0..).collect()),
            chains,
        }
    }

    /// The same with clusters as they are now; none if nothing leads to a changed cluster.
    pub(super) fn with(&self, changes: &Changes) -> Option<Self> {
        let mut chains = self.chains.clone();
        let mut is_changed = false;
        for chain in &mut chains {
            if let Some(changed) = chain.with(changes) {
                *chain = Arc::new(changed);
                is_changed = true;
            }
        }
        is_changed.then(|| Self {
            table: Arc::clone(&self.table),
            places: Arc::clone(&self.places),
            chains,
        })
    }

    /// The chain for connections that ask for this name.
    pub(crate) fn find(&self, server_name: Option<&str>) -> Option<&Arc<Chain>> {
        let place = self.table.find(server_name)?;
        self.chains.get(place)
    }

    /// The chain of this name.
    pub(crate) fn named(&self, name: &str) -> Option<&Arc<Chain>> {
        let place = *self.places.get(name)?;
        self.chains.get(place)
    }

    /// All chains.
    pub(crate) fn chains(&self) -> impl Iterator<Item = &Chain> {
        self.chains.iter().map(|chain| &**chain)
    }

    /// Whether a chain other than the one of this name has routes for a host.
    pub(crate) fn is_served_beside(&self, chain: &str, host: &str) -> bool {
        let others = self.chains().filter(|other| *other.name != *chain);
        let mut tables = others.filter_map(Chain::http).map(|http| &http.table);
        tables.any(|table| table.has_host(host))
    }
}

// === impl Chain ===

impl Chain {
    fn new(chain: &model::TlsChain, old: Option<&Arc<Self>>, clusters: &Clusters) -> Self {
        let mut history = History::default();
        match old.map(|old| &old.inner) {
            Some(Inner::Http(_, http)) => http.tell(&mut history),
            Some(Inner::Tcp(_, tcp) | Inner::Passthrough(tcp)) => tcp.tell(&mut history),
            None => {}
        }
        let previous = old.and_then(|old| old.tls());
        let inner = match &chain.protocol {
            ChainProtocol::Https { tls, routes } => Inner::Http(
                ServerTls::new(tls, previous),
                Arc::new(HttpListener::new(routes, &mut history, clusters)),
            ),
            ChainProtocol::Tls { tls, route } => Inner::Tcp(
                ServerTls::new(tls, previous),
                TcpListener::new(route, &mut history, clusters),
            ),
            ChainProtocol::Passthrough(route) => {
                Inner::Passthrough(TcpListener::new(route, &mut history, clusters))
            }
        };
        Self {
            name: chain.name.as_str().into(),
            inner,
        }
    }

    fn with(&self, changes: &Changes) -> Option<Self> {
        let inner = match &self.inner {
            Inner::Http(tls, http) => Inner::Http(Arc::clone(tls), Arc::new(http.with(changes)?)),
            Inner::Tcp(tls, tcp) => Inner::Tcp(Arc::clone(tls), tcp.with(changes)?),
            Inner::Passthrough(tcp) => Inner::Passthrough(tcp.with(changes)?),
        };
        Some(Self {
            name: Arc::clone(&self.name),
            inner,
        })
    }

    /// How TLS ends here; none where it goes on as it is.
    pub(crate) fn tls(&self) -> Option<&Arc<ServerTls>> {
        match &self.inner {
            Inner::Http(tls, _) | Inner::Tcp(tls, _) => Some(tls),
            Inner::Passthrough(_) => None,
        }
    }

    /// The routes of requests.
    pub(crate) fn http(&self) -> Option<&Arc<HttpListener>> {
        match &self.inner {
            Inner::Http(_, http) => Some(http),
            Inner::Tcp(..) | Inner::Passthrough(_) => None,
        }
    }

    /// Where connections go.
    pub(crate) fn tcp(&self) -> Option<&TcpListener> {
        match &self.inner {
            Inner::Tcp(_, tcp) | Inner::Passthrough(tcp) => Some(tcp),
            Inner::Http(..) => None,
        }
    }
}
