//! Routes and requests made by hand, for tests.

use std::sync::LazyLock;

use http::{HeaderMap, Method};
use nodegate_model::gateway::{Destination, HttpRoute, RouteMatch, RouteOrigin};

use super::Query;

/// A route to one cluster.
pub(super) fn route(matches: RouteMatch) -> HttpRoute {
    let origin = RouteOrigin::virtual_service("default", "web", 0);
    let destination = Destination::new("outbound|80||web.default.svc.cluster.local", 1);
    HttpRoute::forwarding(origin, matches, vec![destination])
}

/// A GET without headers.
pub(super) fn query<'a>(host: &'a str, target: &'a str) -> Query<'a> {
    static NONE: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    Query {
        host,
        path,
        query,
        method: &Method::GET,
        scheme: "http",
        headers: &NONE,
    }
}
