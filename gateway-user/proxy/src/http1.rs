//! HTTP/1 as it stands on the wire (RFC 9112): heads, where a body ends, and how large anything may be.
//! Pure functions, decided here once for clients and for endpoints, and for what hyper is configured
//! with.
//!
//! Most messages are *ordinary*, and are read and written here directly: requests without a body that
//! want nothing but an answer, and answers that say in one `content-length` how long their body is.
//! Everything else is read by hyper. A parser here never corrects anything: what it isn't sure of is
//! [`Unusual`].

mod boundary;
mod codec;
mod fault;
mod fields;
mod framing;
mod limits;
pub mod request;
pub mod response;

pub use boundary::{Requests, Taken};
pub use codec::{client_builder, server_builder};
pub use fault::{HeadFault, HeadScan};
pub(crate) use fields::{join, put};
pub use framing::{Coding, Framing, Length};
pub(crate) use limits::{
    FIRST_READ, MAX_CONNECTION_OPTIONS, MAX_REQUEST_HEAD, MAX_REQUEST_HEADERS,
};
pub use limits::{MAX_DIRECT_HEAD, MAX_DIRECT_HEADERS};

/// A head that is not ordinary: it may be a proper one for hyper, or none at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unusual;
