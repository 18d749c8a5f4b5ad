//! The response's phase: what the client sees of an endpoint's answer.

use std::time::Duration;

use http::{
    HeaderValue, Response, Version,
    header::{CONNECTION, SERVER, SET_COOKIE, UPGRADE},
};
use nodegate_route::{cors, edge::leave_endpoint};

use super::{
    body::RequestBody,
    changes::change_headers,
    context::AnswerContext,
    exchange::Exchange,
    headers::{SERVER_NAME, X_ENVOY_UPSTREAM_SERVICE_TIME},
    response_body::ResponseBody,
};
use crate::{counters::Counted, pool::UpstreamBody};

/// What is to be added to an endpoint's answer.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    /// How long the endpoint took, from the end of the request on; none: it answered before that.
    pub(crate) service_time: Option<Duration>,
    /// A cookie that keeps the client with its endpoint.
    pub(crate) cookie: Option<HeaderValue>,
    /// The protocol that the connection becomes, if it does.
    pub(crate) upgrade: Option<HeaderValue>,
}

/// Passes the head of a response on.
pub(crate) fn head(
    response: Response<UpstreamBody<RequestBody>>,
    exchange: &mut Exchange,
    context: AnswerContext<'_>,
    extras: Extras,
) -> (Response<()>, UpstreamBody<RequestBody>) {
    let (mut parts, body) = response.into_parts();
    exchange.answered();
    exchange.note_answer(parts.status.as_u16(), "via_upstream");
    let began = exchange.started;
    exchange.note(|record| {
        record.response_duration = Some(began.elapsed());
    });

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
    leave_endpoint(&mut parts.headers);
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
    // The time of a connection that becomes something else isn't over yet (Envoy:
    // Filter::onUpstreamHeaders).
    if let Some(time) = extras.service_time.filter(|_| !switches) {
        let elapsed = milliseconds(time);
        parts.headers.insert(X_ENVOY_UPSTREAM_SERVICE_TIME, elapsed);
    }
    if let Some(routed) = context.routed {
        let counted = Counted::Status(parts.status.as_u16());
        routed
            .state()
            .counters
            .add(exchange.client.worker.index, counted);
        change_headers(
            &mut parts.headers,
            Some((parts.status.as_u16(), "via_upstream")),
            routed,
            context.destination,
            exchange,
        );
        // The filter stands before the router, and so comes after it on the way back.
        if let (Some(policy), Some(origin)) = (&routed.route().cors, context.origin) {
            cors::annotate(policy, origin.clone(), &mut parts.headers);
        }
    }
    // The log has what the client is told.
    if parts.headers.contains_key(X_ENVOY_UPSTREAM_SERVICE_TIME) {
        exchange.note(|record| record.upstream_service_time = extras.service_time);
    }
    parts.headers.insert(SERVER, SERVER_NAME);
    (Response::from_parts(parts, ()), body)
}

/// A time as a value. Short times, which most are, need no memory.
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
    response: Response<UpstreamBody<RequestBody>>,
    mut exchange: Box<Exchange>,
    context: AnswerContext<'_>,
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
