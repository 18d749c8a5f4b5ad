//! Which route a request takes.

use std::sync::Arc;

use http::{request::Parts, uri::PathAndQuery};
use nodegate_route::{
    Miss, Query,
    redirect::{self, Requested},
};

use super::{authority::authority, exchange::Exchange, reply::LocalReply};
use crate::config::{HttpListener, Routed};

/// Finds the route.
pub(crate) fn find(
    http: &Arc<HttpListener>,
    parts: &Parts,
    exchange: &mut Exchange,
) -> Result<Routed, LocalReply> {
    let query = Query {
        host: authority(parts).unwrap_or_default(),
        path: parts.uri.path(),
        query: parts.uri.query(),
        method: &parts.method,
        scheme: "http",
        headers: &parts.headers,
    };
    match http.table.find(&query) {
        Ok(found) => {
            let routed = http.routed(found);
            exchange.note_decision(|decision| {
                let route = routed.route();
                decision.virtual_host = Some(routed.virtual_host().name.clone());
                decision.route = Some(route.name.clone()).filter(|name| !name.is_empty());
                decision.origin = Some(route.origin.clone());
            });
            Ok(routed)
        }
        Err(miss) => {
            exchange.note_decision(|decision| {
                decision.virtual_host = miss
                    .virtual_host()
                    .map(|index| http.table.virtual_host(index).name.clone());
            });
            Err(match miss {
                Miss::TlsRequired { .. } => {
                    LocalReply::redirect(301, &redirect::https_location(requested(parts)))
                }
                Miss::NoVirtualHost | Miss::NoRoute { .. } => LocalReply::no_route(),
            })
        }
    }
}

/// What redirections are made from.
pub(crate) fn requested(parts: &Parts) -> Requested<'_> {
    Requested {
        scheme: "http",
        authority: authority(parts).unwrap_or_default(),
        target: parts.uri.path_and_query().map_or("/", PathAndQuery::as_str),
    }
}
