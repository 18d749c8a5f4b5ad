//! What is to be done to get an answer to a request.

use std::{sync::Arc, time::Duration};

use nodegate_model::gateway::RetryPolicy;

use crate::cluster::ClusterState;

/// Which cluster is asked, how often, and how long that may take.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says something else about the request"
)]
#[derive(Debug)]
pub(crate) struct Errand<'a> {
    pub(crate) cluster: &'a Arc<ClusterState>,
    /// The hash of the request, for consistent hashing
    pub(crate) hash: Option<u64>,
    pub(crate) retry: Option<&'a RetryPolicy>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) try_timeout: Option<Duration>,
    /// Whether the connection may become something else than HTTP
    pub(crate) upgrade: bool,
    /// Whether mirrors get a copy of the body
    pub(crate) keep_body: bool,
    /// Whether the request is one of gRPC
    pub(crate) grpc: bool,
    /// Whether the client expects anything before it sends the body
    pub(crate) expects: bool,
}
