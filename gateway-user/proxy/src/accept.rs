//! From a port to a connection that is served: listening sockets, and acceptors that take over the
//! connections that come in.

mod acceptor;
mod bind;
mod by_protocol;
mod sockets;

pub(crate) use acceptor::{Acceptor, Arrival, Peers, Security, Transport};
pub use bind::BindError;
pub(crate) use bind::listen;
pub(crate) use by_protocol::ByProtocol;
pub(crate) use sockets::Sockets;
