//! What stands in front of the proxy and says whose connection it is, in the PROXY protocol.

mod acceptor;
mod header;

pub(crate) use acceptor::FrontsAcceptor;
