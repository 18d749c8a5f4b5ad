//! The request's second phase: what the endpoint sees of it.

use std::time::Duration;

use http::{
    HeaderMap, HeaderName, HeaderValue, Uri,
    header::{CONNECTION, HOST, TE, TRANSFER_ENCODING, UPGRADE},
    request::Parts,
    uri::PathAndQuery,
};
use nodegate_model::gateway::Forward;
use nodegate_route::timeout;

use super::{
    authority::authority,
    changes::{change_headers, change_request},
    client::Client,
    exchange::Exchange,
    headers::{X_ENVOY_ORIGINAL_HOST, X_ENVOY_ORIGINAL_PATH, X_FORWARDED_FOR, strip_hop_by_hop},
    own_headers::OwnHeaders,
    reply::LocalReply,
    survey::Survey,
};
use crate::{
    config::Routed,
    parity::{Difference, Parity},
};

/// How a request is to be passed on.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) routed: &'a Routed,
    pub(crate) forward: &'a Forward,
    /// Place of the destination among the route's.
    pub(crate) destination: usize,
    /// How long it may take, all in all.
    pub(crate) timeout: Option<Duration>,
    /// How long one try may take.
    pub(crate) try_timeout: Option<Duration>,
    pub(crate) upgrade: Option<HeaderValue>,
    /// What is among the request's headers.
    pub(crate) survey: Survey,
}

/// Makes the request what the endpoint sees, but for what depends on the connection. The headers that a
/// gateway adds are returned if they need not be among those of the request.
pub(crate) fn prepare(
    parts: &mut Parts,
    plan: &Plan<'_>,
    client: &Client,
    exchange: &mut Exchange,
) -> Result<Option<OwnHeaders>, LocalReply> {
    let path = match (plan.routed.rewrite(), parts.uri.path_and_query()) {
        (Some(rewrite), Some(original)) => Some(
            rewrite
                .apply(original)
                .map_err(|_| LocalReply::rewrite_too_long())?,
        ),
        _ => None,
    };
    // hyper's server side leaves extensions there that its client side would take for its own.
    parts.extensions.clear();
    let own = own_headers(parts, plan, client, exchange);
    set_host(parts);
    let destination = Some(plan.destination);
    change_headers(&mut parts.headers, None, plan.routed, destination, exchange);
    rewrite_host(&mut parts.headers, plan);
    set_target(parts, path, exchange);
    exchange.request_changed(parts);
    Ok(own)
}

/// The host that the destination wants, and then the one that the route wants, which keeps what it
/// replaces.
// Envoy: WeightedClusterEntry::finalizeRequestHeaders, RouteEntryImplBase::finalizeHostHeader.
fn rewrite_host(headers: &mut HeaderMap, plan: &Plan<'_>) {
    let destination = &plan.forward.destinations[plan.destination];
    let value = |host: &Option<String>| HeaderValue::from_str(host.as_deref()?).ok();
    if let Some(host) = value(&destination.authority) {
        headers.insert(HOST, host);
    }
    if let Some(host) = value(&plan.forward.authority)
        && let Some(original) = headers.insert(HOST, host)
    {
        headers.insert(X_ENVOY_ORIGINAL_HOST, original);
    }
}

/// Removes and adds the headers that a gateway removes and adds whatever the route says. Those that are
/// added are returned if nothing reads or changes them on the way to the endpoint.
fn own_headers(
    parts: &mut Parts,
    plan: &Plan<'_>,
    client: &Client,
    exchange: &mut Exchange,
) -> Option<OwnHeaders> {
    let headers = &mut parts.headers;
    let survey = plan.survey;
    if survey.hop_by_hop {
        // GET and others are sent without a body unless the head says that there is one.
        let chunked = headers.contains_key(TRANSFER_ENCODING);
        let trailers = accepts_trailers(headers);
        strip_hop_by_hop(headers);
        if chunked {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
    if let Some(protocol) = &plan.upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.clone());
    }
    if survey.control {
        strip_control(headers, client.worker.options.parity);
    }
    if let Some(timeout) = plan.try_timeout.or(plan.timeout)
        && survey.content
        && timeout::is_grpc(headers)
    {
        timeout::set_grpc(headers, timeout);
    }
    let operation = plan.routed.state().operation.clone();
    // The time that one try has, if that is less (Envoy: FilterUtility::setTimeoutHeaders).
    let timeout = plan.try_timeout.or(plan.timeout);
    let own = OwnHeaders::new(&client.identity, operation, timeout);
    let destination = Some(plan.destination);
    let seen = survey.own || exchange.request.is_some() || change_request(plan.routed, destination);
    if !seen {
        exchange.note_identity(own.id(), Some(own.client()));
        return Some(own);
    }
    let id = own.id().to_owned();
    own.insert(headers);
    exchange.note_identity(&id, headers.get(X_FORWARDED_FOR));
    None
}

/// Whether the client takes trailers: all that is left of `te`.
// Envoy: ConnectionManagerUtility::sanitizeTEHeader.
fn accepts_trailers(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(TE).iter();
    codings
        .filter_map(|codings| codings.to_str().ok())
        .flat_map(|codings| codings.split(','))
        .any(|coding| coding.trim() == "trailers")
}

/// Makes the `Host` header what an absolute target said.
fn set_host(parts: &mut Parts) {
    if parts.uri.authority().is_some()
        && let Some(host) = authority(parts).and_then(|host| HeaderValue::from_str(host).ok())
    {
        parts.headers.insert(HOST, host);
    }
}

/// Makes the target a path.
fn set_target(parts: &mut Parts, rewritten: Option<PathAndQuery>, exchange: &mut Exchange) {
    if let Some(path) = rewritten {
        exchange.note(|record| record.rewritten_path = Some(path.as_str().to_owned()));
        let original = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        if let Ok(original) = HeaderValue::from_str(original) {
            parts.headers.insert(X_ENVOY_ORIGINAL_PATH, original);
        }
        parts.uri = Uri::from(path);
    } else if parts.uri.authority().is_some() {
        let path = parts.uri.path_and_query().cloned();
        parts.uri = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
    }
}

/// Removes headers by which proxies of a mesh steer each other: a client is outside of the mesh and must
/// not steer this proxy or the next one (Envoy: header sanitizing of edge requests).
fn strip_control(headers: &mut HeaderMap, parity: Parity) {
    let only_known = parity.has(Difference::XEnvoyHeaders);
    let is_control = |name: &HeaderName| {
        let name = name.as_str().strip_prefix("x-envoy-");
        name.is_some_and(|name| !only_known || is_sanitized(name))
    };
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_control(name))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

/// Whether Envoy takes a header `x-envoy-…` from clients at the edge.
// Envoy: ConnectionManagerUtility::cleanInternalHeaders and mutateRequestHeaders.
fn is_sanitized(name: &str) -> bool {
    matches!(
        name,
        "attempt-count"
            | "decorator-operation"
            | "downstream-service-cluster"
            | "downstream-service-node"
            | "expected-rq-timeout-ms"
            | "external-address"
            | "force-trace"
            | "hedge-on-per-try-timeout"
            | "internal"
            | "ip-tags"
            | "max-retries"
            | "original-host"
            | "original-path"
            | "original-url"
            | "retriable-header-names"
            | "retriable-status-codes"
            | "retry-grpc-on"
            | "retry-on"
            | "upstream-alt-stat-name"
            | "upstream-rq-per-try-timeout-ms"
            | "upstream-rq-timeout-alt-response"
            | "upstream-rq-timeout-ms"
            | "upstream-stream-duration-ms"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_headers_go() {
        let mut headers = HeaderMap::new();
        for name in ["x-envoy-retry-on", "x-envoy-original-path", "x-mine"] {
            headers.insert(name, HeaderValue::from_static("1"));
        }
        let mut like_envoy = headers.clone();
        strip_control(&mut headers, Parity::default());
        assert_eq!(headers.len(), 1);
        assert!(headers.contains_key("x-mine"));
        like_envoy.insert("x-envoy-peer-metadata", HeaderValue::from_static("1"));
        strip_control(&mut like_envoy, Parity::all());
        assert_eq!(like_envoy.len(), 2);
        assert!(like_envoy.contains_key("x-envoy-peer-metadata"));
    }
}
