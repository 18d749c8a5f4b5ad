//! Whether the conditions of a route hold: the one place that decides it.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, Method, header::HOST};

use crate::model::gateway::{HeaderMatch, PathMatch, QueryMatch, RouteMatch, ValueMatch};

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

/// Checks all conditions; an error names the first that does not hold. Nothing is allocated unless a
/// header occurs more than once.
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

/// A missing header fails, and counts as an empty one where it is about what must not be
/// (Envoy: `HeaderUtility::matchHeaders`, `treat_missing_header_as_empty`, which Istio sets on
/// `withoutHeaders`).
fn header(matches: &HeaderMatch, query: &Query<'_>) -> bool {
    let found = joined(query, &matches.name);
    let holds = match (&found, &matches.value) {
        (found, ValueMatch::Present) => found.is_some(),
        (Some(found), wanted) => value(wanted, found),
        (None, wanted) => matches.invert && value(wanted, b""),
    };
    holds != matches.invert
}

/// The header's value; several are joined with `,` (Envoy: `HeaderUtility::getAllOfHeaderAsString`).
/// `Host` is what the request is for, wherever it says so.
pub(super) fn joined<'a>(query: &Query<'a>, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    if name == HOST {
        return Some(Cow::Borrowed(query.host.as_bytes()));
    }
    let mut values = query.headers.get_all(name).iter();
    let first = values.next()?.as_bytes();
    let Some(second) = values.next() else {
        return Some(Cow::Borrowed(first));
    };
    let mut all = first.to_vec();
    for value in std::iter::once(second).chain(values) {
        all.push(b',');
        all.extend_from_slice(value.as_bytes());
    }
    Some(Cow::Owned(all))
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
