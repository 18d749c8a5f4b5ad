//! What an answer belongs to.

use http::HeaderValue;

use crate::config::Routed;

/// What an answer belongs to: it gets the headers that the route has for its responses.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AnswerContext<'a> {
    pub(crate) routed: Option<&'a Routed>,
    /// Place of the destination among the route's.
    pub(crate) destination: Option<usize>,
    /// The origin whose pages may use the answer (CORS).
    pub(crate) origin: Option<&'a HeaderValue>,
    /// Whether the request is one of gRPC.
    pub(crate) grpc: bool,
}
