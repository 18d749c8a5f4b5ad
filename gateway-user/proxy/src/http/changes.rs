//! The changes of headers that a route and its destination make.

use http::{
    HeaderMap,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
    request::Parts,
};
use nodegate_model::gateway::{HeaderChanges, HeaderOperations};
use nodegate_route::{
    edge,
    headers::{Direction, FormatFacts, apply},
};
use nodegate_values::format::{Format, Segment, Variable};

use super::{exchange::Exchange, facts::RequestFacts, own_headers::OwnHeaders};
use crate::{cluster::Engaged, config::Routed};

/// The status with which a connection becomes something else.
const SWITCHING: u16 = 101;

/// Whether a route or its destination makes headers from the request.
fn need_request(routed: &Routed, destination: Option<usize>) -> bool {
    levels(routed, destination)
        .flat_map(|(operations, _)| [&operations.request, &operations.response])
        .flat_map(|changes| &changes.add)
        .any(|change| is_made_from_request(&change.value))
}

/// Keeps the request, with what the gateway says itself of it, if the route or its destination makes
/// headers from it.
pub(crate) fn keep_facts(
    parts: &mut Parts,
    own: &mut OwnHeaders,
    routed: &Routed,
    destination: Option<usize>,
    exchange: &mut Exchange,
) {
    if exchange.request.is_none() && need_request(routed, destination) {
        own.identify(&mut parts.headers);
        exchange.request = Some(Box::new(RequestFacts::new(parts)));
    }
}

/// Whether a route and its destination change anything about the headers of requests.
pub(crate) fn change_request(routed: &Routed, destination: Option<usize>) -> bool {
    levels(routed, destination).any(|(operations, _)| !operations.request.is_empty())
}

fn is_made_from_request(format: &Format) -> bool {
    format.segments().iter().any(|segment| {
        matches!(
            segment,
            Segment::Variable {
                variable: Variable::RequestHeader(_)
                    | Variable::StreamId
                    | Variable::GrpcStatus
                    | Variable::QueryParameter(_)
                    | Variable::Path { .. }
                    | Variable::RequestHeadersBytes,
                ..
            }
        )
    })
}

/// Makes the changes of the destination and then those of the route. `answer` is given for the headers of
/// a response: its status and its details; a status of 0 isn't known yet.
// Envoy: RouteEntryImplBase::WeightedClusterEntry::finalizeRequestHeaders and
// finalizeResponseHeaders, which call the route's.
pub(crate) fn change_headers(
    headers: &mut HeaderMap,
    answer: Option<(u16, &str)>,
    routed: &Routed,
    destination: Option<usize>,
    exchange: &Exchange,
) {
    let direction = match answer {
        Some(_) => Direction::Response,
        None => Direction::Request,
    };
    for (operations, host) in levels(routed, destination) {
        let changes = match direction {
            Direction::Request => &operations.request,
            Direction::Response => &operations.response,
        };
        if !changes.is_empty() {
            let place = (routed, destination, host);
            change(changes, headers, direction, answer, place, exchange);
        }
    }
}

/// The places where changes are described, in order, each with the host that was put into the request before it.
fn levels(
    routed: &Routed,
    destination: Option<usize>,
) -> impl Iterator<Item = (&HeaderOperations, Option<&str>)> {
    let route = routed.route();
    let destination = destination.and_then(|destination| route.destinations().get(destination));
    let host = destination.and_then(|destination| destination.authority.as_deref());
    let first = destination.map(|destination| (&destination.headers, None));
    first.into_iter().chain([(&route.headers, host)])
}

fn change(
    changes: &HeaderChanges,
    headers: &mut HeaderMap,
    direction: Direction,
    answer: Option<(u16, &str)>,
    (routed, destination, host): (&Routed, Option<usize>, Option<&str>),
    exchange: &Exchange,
) {
    let client = &exchange.client;
    let request = exchange.request.as_deref();
    let engaged = exchange.engaged();
    let flags = exchange.flags.to_string();
    let hostname = nix::unistd::gethostname().ok();
    let asked = request.map(|request| request.authority.as_str());
    let authority = match direction {
        Direction::Request => host.or(asked),
        // What the endpoint was asked for is in the request by now.
        Direction::Response => asked,
    };
    let facts = FormatFacts {
        client: Some(client.address),
        peer: Some(client.address),
        local: Some(client.local),
        endpoint: engaged.map(Engaged::address),
        endpoint_local: exchange.upstream_local(),
        // Of one that does not exist Envoy has no name.
        cluster: destination
            .map(|destination| routed.state().target.chosen(destination))
            .filter(|chosen| chosen.cluster.is_some())
            .map(|chosen| chosen.name),
        route: Some(&routed.route().name),
        protocol: Some(exchange.protocol()),
        hostname: hostname.as_ref().and_then(|name| name.to_str()),
        start: Some(exchange.time()),
        server_name: exchange.client.server_name(),
        method: request.map(|request| request.method.as_str()),
        path: request.map(|request| request.path.as_str()),
        authority,
        scheme: Some(exchange.client.scheme()),
        request: request.map(|request| &request.headers),
        status: Some(answer.map_or(0, |(status, _)| status)),
        details: answer.map(|(_, details)| details),
        flags: Some(if flags.is_empty() { "-" } else { &flags }),
        // What a request is changed for is the first try, which is not counted yet.
        attempt: Some(match direction {
            Direction::Request => exchange.attempts.max(1),
            Direction::Response => exchange.attempts,
        }),
        connection: Some(client.number),
        received: Some(exchange.request_body().map_or(0, |body| body.bytes())),
        duration: Some(exchange.started.elapsed()),
        request_duration: exchange.request_duration(),
        response_duration: engaged
            .filter(|_| answer.is_some())
            .map(|_| exchange.started.elapsed()),
    };
    // Where a message ends is not for configuration to say.
    let framing = [CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION];
    let before = framing.map(|name| (headers.get(&name).cloned(), name));
    apply(changes, headers, direction, &facts);
    for (value, name) in before {
        match value {
            Some(value) => headers.insert(name, value),
            None => headers.remove(name),
        };
    }
    match answer {
        Some((status, _)) => edge::leave_route(headers, status == SWITCHING),
        None => edge::leave_router(headers),
    }
}
