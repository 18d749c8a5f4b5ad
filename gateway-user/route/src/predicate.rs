//! Whether the conditions of a route hold: the one place that decides it.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header::HOST};
use nodegate_model::gateway::{
    HeaderMatch, MatchedHeader, PathMatch, QueryMatch, RouteMatch, ValueMatch,
};
use nodegate_values::pseudo_header::PseudoHeader;

/// What is asked of a request.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// `Host` as the client sent it, or the authority of an absolute target; with or without port.
    pub host: &'a str,
    /// Path without the query, normalized.
    pub path: &'a str,
    /// What follows the `?`, if there is one.
    pub query: Option<&'a str>,
    /// The method.
    pub method: &'a Method,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The headers, before anything is changed.
    pub headers: &'a HeaderMap,
}

/// A condition of a route that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed<'r> {
    /// [`RouteMatch::path`]
    Path(&'r PathMatch),
    /// [`RouteMatch::method`]
    Method(&'r ValueMatch),
    /// [`RouteMatch::scheme`]
    Scheme(&'r ValueMatch),
    /// [`RouteMatch::authority`]
    Authority(&'r ValueMatch),
    /// One of [`RouteMatch::headers`].
    Header(&'r HeaderMatch),
    /// One of [`RouteMatch::query`].
    Query(&'r QueryMatch),
}

/// Checks all conditions; an error names the first that does not hold. Nothing is allocated, but for a condition
/// on `:path` and a request with a query.
// Envoy: RouteEntryImplBase::matchRoute, and then the path.
pub(super) fn check<'r>(matches: &'r RouteMatch, query: &Query<'_>) -> Result<(), Failed<'r>> {
    if !path(matches, query.path) {
        return Err(Failed::Path(&matches.path));
    }
    if let Some(method) = &matches.method
        && !value(method, query.method.as_str().as_bytes())
    {
        return Err(Failed::Method(method));
    }
    if let Some(scheme) = &matches.scheme
        && !value(scheme, query.scheme.as_bytes())
    {
        return Err(Failed::Scheme(scheme));
    }
    if let Some(authority) = &matches.authority
        && !value(authority, query.host.as_bytes())
    {
        return Err(Failed::Authority(authority));
    }
    if let Some(failed) = matches.headers.iter().find(|wanted| !header(wanted, query)) {
        return Err(Failed::Header(failed));
    }
    match matches
        .query
        .iter()
        .find(|wanted| !parameter(wanted, query))
    {
        Some(failed) => Err(Failed::Query(failed)),
        None => Ok(()),
    }
}

fn path(matches: &RouteMatch, path: &str) -> bool {
    match &matches.path {
        // A raw prefix, which does not stop at slashes (Istio: TranslateRouteMatch).
        PathMatch::Prefix(prefix) if matches.ignore_case => path
            .as_bytes()
            .get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes())),
        PathMatch::Prefix(prefix) => path.starts_with(prefix.as_str()),
        PathMatch::Exact(exact) if matches.ignore_case => path.eq_ignore_ascii_case(exact),
        PathMatch::Exact(exact) => path == exact,
        PathMatch::Regex(pattern) => pattern.is_match(path),
    }
}

pub(super) fn value(matches: &ValueMatch, value: &[u8]) -> bool {
    match matches {
        ValueMatch::Present => true,
        ValueMatch::Exact(exact) => value == exact.as_bytes(),
        ValueMatch::Prefix(prefix) => value.starts_with(prefix.as_bytes()),
        ValueMatch::Regex(pattern) => pattern.is_match(value),
    }
}

/// One value of the header is enough, and one too many for what must not be. A missing header fails,
/// and counts as an empty one where it is about what must not be (Envoy: `HeaderUtility`, which joins
/// values before it compares up to 1.37 and not after; `treat_missing_header_as_empty`, which Istio
/// sets on `withoutHeaders`).
fn header(matches: &HeaderMatch, query: &Query<'_>) -> bool {
    let name = match &matches.name {
        MatchedHeader::Field(name) => name,
        MatchedHeader::Pseudo(pseudo) => return pseudo_header(matches, *pseudo, query),
    };
    let mut found = values(query, name).peekable();
    let holds = match &matches.value {
        ValueMatch::Present => found.peek().is_some(),
        wanted if found.peek().is_none() => matches.invert && value(wanted, b""),
        wanted => found.any(|found| value(wanted, found)),
    };
    holds != matches.invert
}

/// The same of what stands beside headers, which every request has one of.
fn pseudo_header(matches: &HeaderMatch, pseudo: PseudoHeader, query: &Query<'_>) -> bool {
    let found = pseudo_value(query, pseudo);
    let holds = match (&matches.value, found) {
        (ValueMatch::Present, found) => found.is_some(),
        (wanted, Some(found)) => value(wanted, found.as_bytes()),
        (wanted, None) => matches.invert && value(wanted, b""),
    };
    holds != matches.invert
}

/// What stands beside headers under that name. The path has the query with it (Envoy's `:path`), which is
/// put together only for a route that asks for it.
pub fn pseudo_value<'a>(query: &Query<'a>, pseudo: PseudoHeader) -> Option<Cow<'a, str>> {
    Some(match pseudo {
        PseudoHeader::Authority => query.host.into(),
        PseudoHeader::Method => query.method.as_str().into(),
        PseudoHeader::Path => match query.query {
            Some(text) => format!("{}?{text}", query.path).into(),
            None => query.path.into(),
        },
        PseudoHeader::Scheme => query.scheme.into(),
        PseudoHeader::Status => return None,
    })
}

/// The values of a header. `Host` is what the request is for, wherever it says so.
pub(super) fn values<'a>(query: &Query<'a>, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let host = (name == HOST).then_some(query.host.as_bytes());
    let others = (name != HOST).then(|| query.headers.get_all(name));
    let others = others.into_iter().flatten().map(HeaderValue::as_bytes);
    host.into_iter().chain(others)
}

/// The first parameter of the name counts, as it stands: nothing is decoded (Envoy:
/// `QueryParamsMulti::parseQueryString`).
fn parameter(matches: &QueryMatch, query: &Query<'_>) -> bool {
    let mut parameters = query.query.into_iter().flat_map(|query| query.split('&'));
    let found = parameters.find_map(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        (name == matches.name).then_some(value)
    });
    found.is_some_and(|found| value(&matches.value, found.as_bytes()))
}
