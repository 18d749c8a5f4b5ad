//! The response's phase: what the client sees of an endpoint's answer.

use std::time::Instant;

use http::{HeaderValue, Response, StatusCode, Version, header::SERVER};
use hyper::body::Incoming;

use super::{
    body::ResponseBody,
    exchange::Exchange,
    forward::Failure,
    headers::{X_ENVOY_UPSTREAM_SERVICE_TIME, strip_hop_by_hop},
    reply::LocalReply,
};

/// Istio's gateways call themselves that, whatever the endpoint says.
pub(super) const SERVER_NAME: HeaderValue = HeaderValue::from_static("istio-envoy");

/// Passes a response on.
pub(super) fn finish(
    response: Response<Incoming>,
    started: Instant,
    mut exchange: Exchange,
) -> Response<ResponseBody> {
    let (mut parts, incoming) = response.into_parts();
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        // Nobody asked for it: requests for an upgrade are not passed on.
        exchange.abandon_upstream();
        return LocalReply::from(Failure::Protocol).into_response(exchange);
    }
    exchange.answered();
    exchange.note_answer(parts.status.as_u16(), None, "via_upstream");

    // hyper answers in the client's version; an endpoint's HTTP/1.0 ends here.
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    strip_hop_by_hop(&mut parts.headers);
    parts.headers.insert(SERVER, SERVER_NAME);
    let elapsed = started.elapsed().as_millis() as u64;
    parts
        .headers
        .insert(X_ENVOY_UPSTREAM_SERVICE_TIME, HeaderValue::from(elapsed));
    Response::from_parts(parts, ResponseBody::upstream(incoming, exchange))
}
