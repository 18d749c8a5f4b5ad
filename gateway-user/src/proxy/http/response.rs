//! The response's phase: what the client sees of an endpoint's answer.

use std::time::Duration;

use http::{
    HeaderValue, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, SERVER, SET_COOKIE, TRANSFER_ENCODING, UPGRADE},
};

use super::{
    body::{ResponseBody, UpstreamBody},
    exchange::Exchange,
    facts,
    headers::{X_ENVOY_UPSTREAM_SERVICE_TIME, strip_hop_by_hop},
    reply::Context,
};
use crate::route::cors;

/// Istio's gateways call themselves that, whatever the endpoint says.
pub(crate) const SERVER_NAME: HeaderValue = HeaderValue::from_static("istio-envoy");

/// What else there is to say about a response.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    /// How long the endpoint took.
    pub(crate) service_time: Duration,
    /// A cookie that keeps the client with its endpoint.
    pub(crate) cookie: Option<HeaderValue>,
    /// What the connection becomes.
    pub(crate) upgrade: Option<HeaderValue>,
}

/// Whether where a response ends is said in one way that can be passed on. hyper finds the end of more,
/// and leaves the headers as they are: a length that isn't that of the body, a coding that isn't undone.
// RFC 9112, section 6.3; Envoy: Http1::ConnectionImpl::onHeadersCompleteImpl, and
// ClientConnectionImpl::onHeadersCompleteBase for 204.
pub(crate) fn is_well_framed<B>(response: &Response<B>) -> bool {
    if response.version() == Version::HTTP_2 {
        return true;
    }
    let headers = response.headers();
    let bodiless = response.status() == StatusCode::NO_CONTENT;
    let length = headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes);
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    match (codings.next(), length) {
        (None, None) => true,
        (None, Some(length)) => {
            length.iter().all(u8::is_ascii_digit)
                && !(bodiless && length.iter().any(|digit| *digit != b'0'))
        }
        (Some(coding), None) => !bodiless && chunked(coding) && codings.next().is_none(),
        (Some(_), Some(_)) => false,
    }
}

/// Passes the head of a response on.
pub(crate) fn head(
    response: Response<UpstreamBody>,
    exchange: &mut Exchange,
    context: Context<'_>,
    extras: Extras,
) -> (Response<()>, UpstreamBody) {
    let (mut parts, body) = response.into_parts();
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
    let switches = extras.upgrade.is_some();
    // As the endpoint has written it.
    let connection = switches.then(|| parts.headers.get(CONNECTION).cloned());
    strip_hop_by_hop(&mut parts.headers);
    if let Some(protocol) = extras.upgrade {
        let upgrade = || HeaderValue::from_static("upgrade");
        let connection = connection.flatten().unwrap_or_else(upgrade);
        parts.headers.insert(CONNECTION, connection);
        parts.headers.insert(UPGRADE, protocol);
    }
    if exchange.leaves_body() && !exchange.is_http2() {
        let close = HeaderValue::from_static("close");
        parts.headers.insert(CONNECTION, close);
    }
    if let Some(cookie) = extras.cookie {
        parts.headers.append(SET_COOKIE, cookie);
    }
    // A request that becomes something else is not over yet (Envoy: Filter::onUpstreamHeaders).
    if !switches {
        let elapsed = milliseconds(extras.service_time);
        parts.headers.insert(X_ENVOY_UPSTREAM_SERVICE_TIME, elapsed);
    }
    if let Some(routed) = context.routed {
        if let (Some(policy), Some(origin)) = (&routed.route().cors, context.origin) {
            cors::annotate(policy, origin.clone(), &mut parts.headers);
        }
        facts::change_headers(
            &mut parts.headers,
            Some((parts.status.as_u16(), "via_upstream")),
            routed,
            context.destination,
            exchange,
        );
    }
    parts.headers.insert(SERVER, SERVER_NAME);
    (Response::from_parts(parts, ()), body)
}

/// A time as a value. Short ones, which most are, need no memory.
fn milliseconds(time: Duration) -> HeaderValue {
    const SHORT: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let time = time.as_millis() as u64;
    match SHORT.get(time as usize) {
        Some(text) => HeaderValue::from_static(text),
        None => HeaderValue::from(time),
    }
}

/// Passes a response on.
pub(crate) fn finish(
    response: Response<UpstreamBody>,
    mut exchange: Box<Exchange>,
    context: Context<'_>,
    extras: Extras,
) -> Response<ResponseBody> {
    let version = response.version();
    let (head, body) = head(response, &mut exchange, context, extras);
    head.map(|()| ResponseBody::upstream(body, version, exchange))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_whole_milliseconds() {
        for (microseconds, wanted) in [(0, "0"), (999, "0"), (9_999, "9"), (2_345_678, "2345")] {
            let time = Duration::from_micros(microseconds);
            assert_eq!(milliseconds(time), wanted);
        }
    }
}
