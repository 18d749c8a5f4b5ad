//! The seam between a connection that has come in and the protocol that is spoken over it.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use http::HeaderValue;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::{config::Listener, connections::Registration};

/// Takes connections over, and decides what they are.
///
/// What an acceptor doesn't serve itself, it hands on to another one, perhaps with another stream:
/// one that ends TLS hands on what is inside. Hence it is generic over the stream that it takes.
pub(crate) trait Acceptor<S = TcpStream> {
    /// Serves a connection until it ends, in a task of its own. Returns at once: what is to be known
    /// of the connection before its task first runs is noted in its registration here.
    fn accept(&self, arrival: Arrival<S>);
}

/// A connection that has come in.
#[derive(Debug)]
pub(crate) struct Arrival<S = TcpStream> {
    pub(crate) stream: S,
    pub(crate) peers: Peers,
    /// As it was when the connection was accepted.
    pub(crate) listener: Arc<Listener>,
    /// Keeps the connection among those of the worker until it is dropped.
    pub(crate) registration: Registration,
    /// What is known of the client from TLS; none of a connection in the clear.
    pub(crate) security: Option<Rc<Security>>,
}

/// What is known of a client from its TLS.
#[derive(Debug)]
pub(crate) struct Security {
    /// The name of the listener's chain that took the connection.
    pub(crate) chain: Arc<str>,
    /// The name that the client asked for (SNI).
    pub(crate) server_name: Option<String>,
    /// What endpoints are told of the client's certificate, if it has shown one.
    pub(crate) certificate: Option<HeaderValue>,
}

/// Both ends of a client's connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peers {
    /// The client's address.
    pub(crate) client: SocketAddr,
    /// The address that the client connected to.
    pub(crate) local: SocketAddr,
}

/// Bytes to a client and from it, whatever is below.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin + 'static {
    /// The TCP connection below.
    fn tcp(&self) -> &TcpStream;

    /// What has been read of it already, and the connection itself, if bytes are passed on as they are; none of a
    /// stream in TLS that is ended here. What has been read is given once.
    fn clear(&mut self) -> Option<(Vec<u8>, &TcpStream)>;
}

impl Transport for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }

    fn clear(&mut self) -> Option<(Vec<u8>, &TcpStream)> {
        Some((Vec::new(), self))
    }
}
