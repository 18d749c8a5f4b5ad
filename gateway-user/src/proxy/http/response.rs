//! The response's phase: what the client sees of an endpoint's answer.

use std::time::Duration;

use http::{
    HeaderMap, HeaderValue, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, SERVER, SET_COOKIE, TRANSFER_ENCODING, UPGRADE},
};
use hyper::body::Incoming;

use super::{
    body::ResponseBody,
    cors,
    exchange::Exchange,
    format::Facts,
    headers::{X_ENVOY_UPSTREAM_SERVICE_TIME, strip_hop_by_hop},
    reply::Context,
};
use crate::{
    model::gateway::{HeaderChanges, HeaderOperations},
    proxy::config::Routed,
};

/// Istio's gateways call themselves that, whatever the endpoint says.
pub(super) const SERVER_NAME: HeaderValue = HeaderValue::from_static("istio-envoy");

/// What else there is to say about a response.
#[derive(Debug, Default)]
pub(super) struct Extras {
    /// How long the endpoint took.
    pub(super) service_time: Duration,
    /// A cookie that keeps the client with its endpoint.
    pub(super) cookie: Option<HeaderValue>,
    /// What the connection becomes.
    pub(super) upgrade: Option<HeaderValue>,
}

/// Passes the head of a response on.
pub(super) fn head(
    response: Response<Incoming>,
    exchange: &mut Exchange,
    context: Context<'_>,
    extras: Extras,
) -> (Response<()>, Incoming) {
    let (mut parts, incoming) = response.into_parts();
    exchange.answered();
    exchange.note_answer(parts.status.as_u16(), "via_upstream");
    exchange.note(|record| record.upstream_service_time = Some(extras.service_time));

    // hyper answers in the client's version; an endpoint's HTTP/1.0 ends here.
    parts.version = if exchange.is_http2() {
        Version::HTTP_2
    } else {
        Version::HTTP_11
    };
    parts.extensions.clear();
    strip_hop_by_hop(&mut parts.headers);
    if let Some(protocol) = extras.upgrade {
        parts
            .headers
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, protocol);
    }
    if let Some(cookie) = extras.cookie {
        parts.headers.append(SET_COOKIE, cookie);
    }
    if let Some(routed) = context.routed {
        if let (Some(policy), Some(origin)) = (&routed.route().cors, context.origin) {
            cors::expose(policy, origin, &mut parts.headers);
        }
        change_headers(
            &mut parts.headers,
            parts.status,
            routed,
            context.destination,
            exchange,
        );
    }
    parts.headers.insert(SERVER, SERVER_NAME);
    let elapsed = extras.service_time.as_millis() as u64;
    parts
        .headers
        .insert(X_ENVOY_UPSTREAM_SERVICE_TIME, HeaderValue::from(elapsed));
    (Response::from_parts(parts, ()), incoming)
}

/// Passes a response on.
pub(super) fn finish(
    response: Response<Incoming>,
    mut exchange: Exchange,
    context: Context<'_>,
    extras: Extras,
) -> Response<ResponseBody> {
    let (head, incoming) = head(response, &mut exchange, context, extras);
    head.map(|()| ResponseBody::upstream(incoming, exchange))
}

/// Makes the changes of the destination and then those of the route.
// Envoy: RouteEntryImplBase::WeightedClusterEntry::finalizeResponseHeaders, which calls the route's.
pub(super) fn change_headers(
    headers: &mut HeaderMap,
    status: StatusCode,
    routed: &Routed,
    destination: Option<usize>,
    exchange: &Exchange,
) {
    let before = before(routed, destination).map(|operations| &operations.response);
    let own = &routed.route().headers.response;
    for changes in before.into_iter().chain([own]) {
        if changes.is_empty() {
            continue;
        }
        for name in &changes.remove {
            headers.remove(name);
        }
        for change in &changes.add {
            let facts = Facts {
                exchange,
                request: exchange.request.as_deref(),
                response: Some((status, headers)),
                route: &routed.route().name,
                cluster: exchange
                    .engaged()
                    .map(|engaged| engaged.cluster().model.name.as_str()),
            };
            let value = facts.value(&change.value);
            put(headers, &change.name, value, change.append);
        }
    }
}

/// The changes of a destination.
pub(super) fn before(routed: &Routed, destination: Option<usize>) -> Option<&HeaderOperations> {
    let destination = routed.route().destinations().get(destination?)?;
    Some(&destination.headers)
}

/// Makes the changes of requests, which are made from nothing but the request.
pub(super) fn apply(changes: &HeaderChanges, headers: &mut HeaderMap, facts: Facts<'_>) {
    for name in &changes.remove {
        headers.remove(name);
    }
    for change in &changes.add {
        put(
            headers,
            &change.name,
            facts.value(&change.value),
            change.append,
        );
    }
}

fn put(headers: &mut HeaderMap, name: &http::HeaderName, value: Option<HeaderValue>, append: bool) {
    // Where a message ends is not for configuration to say.
    if [CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION].contains(name) {
        return;
    }
    match value {
        Some(value) if append => {
            headers.append(name, value);
        }
        Some(value) => {
            headers.insert(name, value);
        }
        None => {}
    }
}
