//! A worker's connections to endpoints, whatever the body of a request is.
//!
//! HTTP/1.1: the last connection given back is the first one taken, so that the surplus grows cold and
//! is closed. HTTP/2: requests share one connection for as long as it has room.

mod adopted;
mod body;
mod dial;
mod direct;
mod interim;
mod peer_stream;
mod sender;
mod store;
mod upstream;

pub(crate) use body::{Rest, UpstreamBody, UpstreamError};
pub(crate) use dial::{ConnectError, connect, secure};
pub(crate) use direct::{DirectAnswer, Unsent};
pub(crate) use peer_stream::PeerStream;
pub(crate) use store::{Pool, Raw};
pub(crate) use upstream::{SendError, Upstream};
