//! What decides which ports a gateway pod listens on, and where requests go: one module for each API
//! that says so.

pub(crate) mod istio;
