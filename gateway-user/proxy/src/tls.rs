//! TLS with clients and with endpoints: which certificates are shown, and which of theirs are good.
//!
//! Certificates and keys are read when the first connection needs them. Files are looked at again
//! with new connections, at most once a second, and read again when they have changed; open connections
//! go on. While a file can't be read, what was read before stays in use.

mod acceptor;
mod client_certificate;
mod hello;
mod material;
mod peer;
mod reload;
mod server;
mod upstream;
mod verify;

pub(crate) use acceptor::TlsAcceptor;
pub(crate) use material::TlsError;
pub(crate) use server::ServerTls;
pub(crate) use upstream::{ClientTls, Inner, reason};
