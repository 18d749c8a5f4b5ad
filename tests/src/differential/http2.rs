//! HTTP/2 of the comparison's own, for clients and endpoints: nothing tidies what they say and hear.

pub(super) mod client;
pub(crate) mod hpack;
mod huffman;
pub(crate) mod link;
mod message;
pub(super) mod server;
