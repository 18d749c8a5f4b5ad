//! What HTTP routes do with requests.

use std::time::Duration;

use http::HeaderName;
use nodegate_values::{
    format::Format,
    pattern::{Pattern, Substitution},
    percentage::Percentage,
    retry::RetryOn,
};
use serde::Serialize;

use super::{condition::ValueMatch, serial};

/// What a route does with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum HttpAction {
    /// Pass it on.
    Forward(Box<Forward>),
    /// Send the client elsewhere.
    Redirect(Redirect),
    /// Answer it.
    DirectResponse(DirectResponse),
}

/// Passing a request on (Envoy's `RouteAction`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Forward {
    /// Where to; never empty.
    pub destinations: Vec<Destination>,
    /// Whether the route has several destinations, even if only one of them has a weight.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub weighted: bool,
    /// What becomes of the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<PathRewrite>,
    /// The new `Host`. It wins over that of the destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// How long the whole exchange may take, all tries together, counted from the end of the
    /// request; none: for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// When to try again; none: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
    /// Who else gets a copy.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<Mirror>,
}

/// A share of a route's traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    /// Key of [`Gateway::clusters`](super::Gateway::clusters).
    pub cluster: String,
    /// Share of the sum of weights. Destinations of weight 0 are left out, unless there is only one
    /// destination: that one gets all, whatever its weight.
    pub weight: u32,
    /// Changes of headers, made *before* those of the route. Empty for a single destination: its
    /// changes are among those of the route, after the route's own.
    #[serde(skip_serializing_if = "HeaderOperations::is_empty")]
    pub headers: HeaderOperations,
    /// The new `Host`, unless the route has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
}

/// What becomes of the path. The query is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PathRewrite {
    /// The part that `match.uri` matched is replaced: the prefix, or for an exact match and a regex
    /// the whole path.
    Matched(String),
    /// All matches of a pattern are replaced.
    Regex {
        /// What is replaced.
        pattern: Pattern,
        /// By what.
        substitution: Substitution,
    },
}

/// Changes of headers at one level. What is removed goes first (Envoy:
/// `HeaderParser::evaluateHeaders`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderOperations {
    /// Of requests.
    #[serde(skip_serializing_if = "HeaderChanges::is_empty")]
    pub request: HeaderChanges,
    /// Of responses, those of our own among them.
    #[serde(skip_serializing_if = "HeaderChanges::is_empty")]
    pub response: HeaderChanges,
}

/// Changes of headers in one direction: first `remove`, then `add` in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderChanges {
    /// Names to remove.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        serialize_with = "serial::header_names"
    )]
    pub remove: Vec<HeaderName>,
    /// Headers to set or to add.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<HeaderAdd>,
}

/// A header to set or to add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderAdd {
    /// Lower case.
    #[serde(serialize_with = "serial::header_name")]
    pub name: HeaderName,
    /// Its value. If that turns out empty, nothing happens.
    pub value: Format,
    /// Whether values that are there already stay (`add`), or not (`set`).
    pub append: bool,
}

/// When to try again (Envoy's `RetryPolicy`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryPolicy {
    /// How often to try *again*; at least 1.
    pub attempts: u32,
    /// How long one try may take; none: as long as all may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<Duration>,
    /// After what.
    pub on: RetryOn,
    /// After which statuses, if `on` has [`RetryOn::RETRIABLE_STATUS_CODES`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub status_codes: Vec<u16>,
    /// The first pause is a random one up to this; at least 1 ms. See
    /// [`RetryPolicy::max_backoff`].
    pub base_backoff: Duration,
    /// Whether to avoid endpoints that have been tried. Without effect on consistent hashing.
    pub ignore_previous_hosts: bool,
}

/// Where copies of requests go, whose responses are thrown away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mirror {
    /// Key of [`Gateway::clusters`](super::Gateway::clusters).
    pub cluster: String,
    /// Of how many requests; never 0.
    pub percentage: Percentage,
}

/// Sending the client elsewhere (Envoy's `RedirectAction`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// `http` or `https`; none: that of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// Host, with or without port; none: that of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// Port; none: that of the authority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The path, with or without query; none: that of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What becomes of the request's path, where `path` is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<PrefixChange>,
}

/// Another beginning for a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PrefixChange {
    /// How many bytes are replaced; none: the whole path.
    pub length: Option<usize>,
    /// By what.
    pub replacement: String,
}

/// Answering a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: u16,
    /// The body; at most 1 MiB. `content-type` is `text/plain` unless the route's response headers
    /// say otherwise.
    #[serde(serialize_with = "serial::text")]
    pub body: Vec<u8>,
}

/// Failing on purpose (Envoy's `HTTPFault`). Delay and abort are drawn independently, the delay
/// first. With a fault policy, `timeout` and `retry` do not apply.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// Waiting before the request is passed on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<FaultDelay>,
    /// Answering instead of passing on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort: Option<FaultAbort>,
}

/// Waiting before a request is passed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultDelay {
    /// Of how many requests.
    pub percentage: Percentage,
    /// How long.
    pub duration: Duration,
}

/// Answering instead of passing on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FaultAbort {
    /// Of how many requests.
    pub percentage: Percentage,
    /// With what.
    pub status: AbortStatus,
}

/// What a fault answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum AbortStatus {
    /// An HTTP status, 200 to 599.
    Http(u16),
    /// A gRPC status, of gRPC requests. The HTTP status is 200.
    Grpc(u32),
}

/// Who may use the answers in a browser (Envoy's `CorsPolicy`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CorsPolicy {
    /// Origins: any of these.
    pub allow_origins: Vec<ValueMatch>,
    /// `access-control-allow-methods`; empty: none.
    pub allow_methods: String,
    /// `access-control-allow-headers`; empty: none.
    pub allow_headers: String,
    /// `access-control-expose-headers`; empty: none.
    pub expose_headers: String,
    /// `access-control-max-age`, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u64>,
    /// `access-control-allow-credentials`
    pub allow_credentials: bool,
    /// Whether a preflight of an origin that isn't allowed is passed on; else it is answered.
    pub forward_unmatched_preflights: bool,
}

// === impl HttpAction ===

impl HttpAction {
    /// The forwarding, if it is one.
    pub fn forward(&self) -> Option<&Forward> {
        match self {
            Self::Forward(forward) => Some(forward),
            Self::Redirect(_) | Self::DirectResponse(_) => None,
        }
    }
}

// === impl Destination ===

impl Destination {
    /// A cluster that gets its share of requests as they are.
    pub fn new(cluster: impl Into<String>, weight: u32) -> Self {
        Self {
            cluster: cluster.into(),
            weight,
            headers: HeaderOperations::default(),
            authority: None,
        }
    }
}

// === impl HeaderOperations ===

impl HeaderOperations {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.request.is_empty() && self.response.is_empty()
    }

    /// Adds the changes of `after`: removals go together, additions come after those that are there.
    pub fn append(&mut self, after: Self) {
        for (changes, after) in [
            (&mut self.request, after.request),
            (&mut self.response, after.response),
        ] {
            changes.remove.extend(after.remove);
            changes.add.extend(after.add);
        }
    }
}

// === impl HeaderChanges ===

impl HeaderChanges {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }
}

// === impl AbortStatus ===

impl AbortStatus {
    /// The HTTP status, and for a request of gRPC the gRPC status if that is what is given. Others
    /// get a 200 then, as from Envoy.
    pub fn for_request(self, is_grpc: bool) -> (u16, Option<u32>) {
        match self {
            Self::Http(status) => (status, None),
            Self::Grpc(status) => (200, Some(status).filter(|_| is_grpc)),
        }
    }
}

// === impl RetryPolicy ===

impl RetryPolicy {
    /// Envoy's `upstream.base_retry_backoff_ms`.
    pub const DEFAULT_BASE_BACKOFF: Duration = Duration::from_millis(25);

    /// No pause is longer: ten times the first (Envoy: `RetryStateImpl`).
    pub fn max_backoff(&self) -> Duration {
        self.base_backoff.saturating_mul(10)
    }
}

impl Default for RetryPolicy {
    /// Istio's where nothing is said: two retries, of requests that cannot have reached anybody
    /// (`DefaultPolicy` of istio's pilot/pkg/networking/core/route/retry).
    fn default() -> Self {
        Self {
            attempts: 2,
            per_try_timeout: None,
            on: RetryOn::CONNECT_FAILURE
                .union(RetryOn::REFUSED_STREAM)
                .union(RetryOn::UNAVAILABLE)
                .union(RetryOn::CANCELLED)
                .union(RetryOn::RETRIABLE_STATUS_CODES),
            status_codes: Vec::new(),
            base_backoff: Self::DEFAULT_BASE_BACKOFF,
            ignore_previous_hosts: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_status_is_for_grpc_alone() {
        assert_eq!(AbortStatus::Grpc(14).for_request(true), (200, Some(14)));
        assert_eq!(AbortStatus::Grpc(14).for_request(false), (200, None));
        assert_eq!(AbortStatus::Http(418).for_request(true), (418, None));
    }
}
