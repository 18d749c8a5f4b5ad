//! From a port to a connection that is served: sockets, and who takes what is accepted over.

mod acceptor;
mod bind;
mod by_protocol;
mod sockets;

pub(crate) use acceptor::{Acceptor, Arrival, Peers, Transport};
pub use bind::BindError;
pub(crate) use bind::listen;
pub(crate) use by_protocol::ByProtocol;
pub(crate) use sockets::Sockets;
