//! Which domain a host is, and what each route says to a request: the matcher's answer, in words.

use std::cmp::Reverse;

use super::{Host, Tried};
use crate::{
    model::gateway::{HttpRoute, HttpRoutes, PathMatch, VirtualHost},
    route::{Query, Table},
};

/// Which of the virtual host's domains the request's host is.
pub(super) fn host(virtual_host: &VirtualHost, query: Query<'_>) -> Host {
    // The matcher itself says so: a table with this domain only finds it, or not.
    let is_it = |domain: &&String| {
        let only = VirtualHost {
            domains: vec![(*domain).clone()],
            ..virtual_host.clone()
        };
        let table = Table::new(HttpRoutes {
            name: String::new(),
            virtual_hosts: vec![only],
        });
        match table.find(query) {
            Ok(_) => true,
            Err(miss) => miss.virtual_host().is_some(),
        }
    };
    let best = |domain: &&String| (!domain.starts_with('*'), domain.len());
    let domain = virtual_host.domains.iter().filter(is_it).max_by_key(best);
    let domain = domain.cloned().unwrap_or_default();
    let why = match domain.strip_prefix('*') {
        None => format!("`{}` is its domain {domain}", query.host),
        Some("") => format!("no other is for `{}`", query.host),
        Some(_) => format!(
            "`{}` is in its domain {domain}, and in no longer one",
            query.host
        ),
    };
    Host {
        name: virtual_host.name.clone(),
        domain,
        why,
    }
}

/// The routes up to the one that was found, or all.
pub(super) fn tried(
    virtual_host: &VirtualHost,
    query: Query<'_>,
    found: Option<usize>,
) -> Vec<Tried> {
    let count = found.map_or(virtual_host.routes.len(), |found| found + 1);
    let routes = &virtual_host.routes[..count];
    let mut tried: Vec<_> = routes
        .iter()
        .enumerate()
        .map(|(index, route)| Tried {
            name: route.name.clone(),
            origin: route.origin.clone(),
            condition: condition(route),
            misses: (found != Some(index)).then(|| misses(route, query)),
            nearest: false,
        })
        .collect();
    if found.is_none() {
        let alike = |index: &usize| likeness(&routes[*index], query);
        // Of two that are as near, the first.
        let nearest = (0..count).rev().max_by_key(alike);
        if let Some(nearest) = nearest {
            tried[nearest].nearest = true;
        }
    }
    tried
}

fn condition(route: &HttpRoute) -> String {
    match &route.path {
        PathMatch::Prefix(prefix) if prefix == "/" => "any path".to_owned(),
        PathMatch::Prefix(prefix) => format!("a path that begins with {prefix}"),
        PathMatch::Exact(path) => format!("the path {path}"),
    }
}

/// What does not hold of a route that does not match.
fn misses(route: &HttpRoute, query: Query<'_>) -> String {
    let path = query.path;
    match &route.path {
        PathMatch::Prefix(_) => format!("{path} does not"),
        PathMatch::Exact(wanted) if wanted.eq_ignore_ascii_case(path) => {
            format!("{path} differs in upper and lower case")
        }
        PathMatch::Exact(wanted) if path.starts_with(wanted.as_str()) => {
            format!("{path} goes on after it")
        }
        PathMatch::Exact(_) => format!("{path} is another"),
    }
}

/// How near the path is to what the route wants: for how many bytes it is the same, then how little
/// would have to be changed.
fn likeness(route: &HttpRoute, query: Query<'_>) -> (usize, Reverse<usize>) {
    let (PathMatch::Prefix(wanted) | PathMatch::Exact(wanted)) = &route.path;
    let pairs = wanted.bytes().zip(query.path.bytes());
    let same = pairs.take_while(|(a, b)| a.eq_ignore_ascii_case(b)).count();
    (same, Reverse(strsim::osa_distance(wanted, query.path)))
}
