//! Which route a request takes.

use std::sync::Arc;

use http::{request::Parts, uri::PathAndQuery};
use nodegate_route::{
    Miss, Query,
    redirect::{self, Requested},
};

use super::{authority::authority, exchange::Exchange, reply::LocalReply};
use crate::{
    config::{HttpListener, Routed},
    parity::Difference,
};

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
        scheme: exchange.client.scheme(),
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
                    LocalReply::redirect(301, &redirect::https_location(requested(parts, exchange)))
                }
                Miss::NoVirtualHost if is_misdirected(parts, exchange) => LocalReply::misdirected(),
                Miss::NoVirtualHost | Miss::NoRoute { .. } => LocalReply::no_route(),
            })
        }
    }
}

/// What redirections are made from.
pub(crate) fn requested<'p>(parts: &'p Parts, exchange: &Exchange) -> Requested<'p> {
    Requested {
        scheme: exchange.client.scheme(),
        authority: authority(parts).unwrap_or_default(),
        target: parts.uri.path_and_query().map_or("/", PathAndQuery::as_str),
    }
}

/// Whether the host is served at this port, but over connections that ask for its own name: a client that takes
/// one connection for all names of a certificate should make another one (RFC 9110, section 15.5.20).
fn is_misdirected(parts: &Parts, exchange: &Exchange) -> bool {
    let client = &exchange.client;
    let host = authority(parts).unwrap_or_default();
    let config = client.worker.config();
    let tls = config
        .listener(client.listener.port)
        .and_then(|listener| listener.tls());
    let Some((tls, chain)) = tls.zip(client.chain()) else {
        return false;
    };
    !client.worker.options.parity.has(Difference::Misdirected) && tls.is_served_beside(chain, host)
}
