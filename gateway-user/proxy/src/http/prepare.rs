//! The request's second phase: what the endpoint sees of it.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Uri, header::HOST, request::Parts, uri::PathAndQuery};
use nodegate_model::gateway::Forward;
use nodegate_route::timeout;

use super::{
    authority::authority,
    changes::{change_headers, change_request},
    exchange::Exchange,
    headers::{X_ENVOY_ORIGINAL_HOST, X_ENVOY_ORIGINAL_PATH},
    own_headers::OwnHeaders,
    reply::LocalReply,
    survey::Survey,
};
use crate::config::Routed;

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
    /// What is among the request's headers.
    pub(crate) survey: Survey,
}

/// Makes the request what the endpoint sees, but for what depends on the connection. The headers that a
/// gateway adds are returned if they need not be among those of the request.
pub(crate) fn prepare(
    parts: &mut Parts,
    plan: &Plan<'_>,
    own: OwnHeaders,
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
    let own = own_headers(parts, plan, own, exchange);
    set_host(parts);
    let destination = Some(plan.destination);
    change_headers(&mut parts.headers, None, plan.routed, destination, exchange);
    if own.is_none() {
        exchange.note_identity(&parts.headers);
    }
    rewrite_host(&mut parts.headers, plan);
    exchange.note_changes(&parts.headers);
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

/// Adds the headers that a gateway adds whatever the route says. They are returned if nothing reads or
/// changes them on the way to the endpoint.
fn own_headers(
    parts: &mut Parts,
    plan: &Plan<'_>,
    mut own: OwnHeaders,
    exchange: &Exchange,
) -> Option<OwnHeaders> {
    let headers = &mut parts.headers;
    // The time that one try has, if that is less (Envoy: FilterUtility::setTimeoutHeaders).
    let timeout = plan.try_timeout.or(plan.timeout);
    if let Some(timeout) = timeout
        && plan.survey.content
        && timeout::is_grpc(headers)
    {
        timeout::set_grpc(headers, timeout);
    }
    own.set_route(plan.routed.state().operation.clone(), timeout);
    let destination = Some(plan.destination);
    let seen = own.is_identified()
        || plan.survey.own
        || exchange.request.is_some()
        || change_request(plan.routed, destination);
    if !seen {
        return Some(own);
    }
    own.insert(headers);
    None
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
