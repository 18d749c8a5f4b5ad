//! What values of headers are made from, and the changes that are made with them.

use http::{
    HeaderMap, Method, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
};

use super::exchange::Exchange;
use crate::{
    model::gateway::{HeaderChanges, HeaderOperations},
    proxy::{
        cluster::{ClusterState, Engaged},
        config::Routed,
    },
    resources::format::{Format, Segment, Variable},
    route::headers::{Direction, Facts, apply},
};

/// A request as it came, kept for headers that are made from it.
#[derive(Clone, Debug)]
pub(super) struct RequestFacts {
    pub(super) method: Method,
    pub(super) authority: String,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
}

/// Whether the changes that a route and its destination make are made from the request.
pub(super) fn need_request(routed: &Routed, destination: usize) -> bool {
    levels(routed, Some(destination))
        .flat_map(|operations| [&operations.request, &operations.response])
        .flat_map(|changes| &changes.add)
        .any(|change| is_made_from_request(&change.value))
}

fn is_made_from_request(format: &Format) -> bool {
    format.segments().iter().any(|segment| {
        matches!(
            segment,
            Segment::Variable {
                variable: Variable::RequestHeader(_),
                ..
            }
        )
    })
}

/// Makes the changes of the destination and then those of the route; the status is that of a
/// response, if these are its headers.
// Envoy: RouteEntryImplBase::WeightedClusterEntry::finalizeRequestHeaders and
// finalizeResponseHeaders, which call the route's.
pub(super) fn change_headers(
    headers: &mut HeaderMap,
    status: Option<StatusCode>,
    routed: &Routed,
    destination: Option<usize>,
    exchange: &Exchange,
) {
    let direction = match status {
        Some(_) => Direction::Response,
        None => Direction::Request,
    };
    for operations in levels(routed, destination) {
        let changes = match direction {
            Direction::Request => &operations.request,
            Direction::Response => &operations.response,
        };
        if !changes.is_empty() {
            change(changes, headers, direction, status, routed, exchange);
        }
    }
}

/// The places where changes are described, in order.
fn levels(routed: &Routed, destination: Option<usize>) -> impl Iterator<Item = &HeaderOperations> {
    let route = routed.route();
    destination
        .and_then(|destination| route.destinations().get(destination))
        .map(|destination| &destination.headers)
        .into_iter()
        .chain([&route.headers])
}

fn change(
    changes: &HeaderChanges,
    headers: &mut HeaderMap,
    direction: Direction,
    status: Option<StatusCode>,
    routed: &Routed,
    exchange: &Exchange,
) {
    let client = &exchange.client;
    let request = exchange.request.as_deref();
    let engaged = exchange.engaged();
    let flags = exchange.flags.to_string();
    let host = nix::unistd::gethostname().ok();
    let facts = Facts {
        client: Some(client.address),
        peer: Some(client.address),
        local: Some(client.local),
        endpoint: engaged.map(Engaged::address),
        endpoint_local: exchange.upstream_local(),
        cluster: engaged
            .map(Engaged::cluster)
            .map(|cluster: &std::sync::Arc<ClusterState>| cluster.model.name.as_str()),
        route: Some(&routed.route().name),
        protocol: Some(exchange.protocol()),
        hostname: host.as_ref().and_then(|host| host.to_str()),
        start: Some(exchange.time()),
        server_name: None,
        method: request.map(|request| request.method.as_str()),
        path: request.map(|request| request.path.as_str()),
        authority: request.map(|request| request.authority.as_str()),
        scheme: Some("http"),
        request: request.map(|request| &request.headers),
        status: status.map(|status| status.as_u16()),
        details: None,
        flags: Some(&flags),
        attempt: Some(exchange.attempts),
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
}
