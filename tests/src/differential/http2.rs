//! HTTP/2 of the comparison's own, for clients and endpoints: nothing tidies what they say and hear.

pub(super) mod client;
mod hpack;
mod huffman;
pub(super) mod link;
mod message;
pub(super) mod server;
