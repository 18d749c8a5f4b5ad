//! Which domain a host is, and what each route says to a request: the matcher's answer, in words.

use std::{borrow::Cow, cmp::Reverse};

use http::header::HOST;

use super::{Host, Tried};
use nodegate_model::gateway::{
    HeaderMatch, MatchedHeader, PathMatch, RouteMatch, ValueMatch, VirtualHost,
};
use nodegate_route::{Explanation, Failed, Query, Tried as Attempt, is_in_domain, pseudo_value};

/// Which of the virtual host's domains the request's host is.
pub(super) fn host(virtual_host: &VirtualHost, query: &Query<'_>) -> Host {
    let is_it = |domain: &&String| is_in_domain(query.host, domain);
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

/// The routes that were tried, and of those that don't match the nearest, if none does.
pub(super) fn tried(explanation: &Explanation<'_>, query: &Query<'_>) -> Vec<Tried> {
    let attempts = &explanation.tried;
    let mut tried: Vec<_> = attempts
        .iter()
        .map(|attempt| Tried {
            name: attempt.route.name.clone(),
            origin: attempt.route.origin.clone(),
            condition: condition(&attempt.route.matches),
            misses: attempt.failed.map(|failed| misses(failed, query)),
            nearest: false,
        })
        .collect();
    if explanation.found().is_none() {
        let alike = |index: &usize| likeness(&attempts[*index], query);
        // Of two that are as near, the first.
        let nearest = (0..attempts.len()).rev().max_by_key(alike);
        if let Some(nearest) = nearest {
            tried[nearest].nearest = true;
        }
    }
    tried
}

/// All that must hold: `a path that begins with /api, method GET, header x-user = jason`.
fn condition(matches: &RouteMatch) -> String {
    let case = if matches.ignore_case {
        " in any case"
    } else {
        ""
    };
    let mut all = vec![match &matches.path {
        PathMatch::Prefix(prefix) if prefix == "/" => "any path".to_owned(),
        PathMatch::Prefix(prefix) => format!("a path that begins with {prefix}{case}"),
        PathMatch::Exact(path) => format!("the path {path}{case}"),
        PathMatch::Regex(pattern) => format!("a path that matches {pattern}"),
    }];
    let fields = [
        ("method", &matches.method),
        ("scheme", &matches.scheme),
        ("authority", &matches.authority),
    ];
    for (name, value) in fields {
        all.extend(value.as_ref().map(|value| wanted(name, value, false)));
    }
    for header in &matches.headers {
        all.push(wanted(
            &format!("header {}", header.name.as_str()),
            &header.value,
            header.invert,
        ));
    }
    for parameter in &matches.query {
        all.push(wanted(
            &format!("query parameter {}", parameter.name),
            &parameter.value,
            false,
        ));
    }
    all.join(", ")
}

/// `header x-user = jason`
fn wanted(what: &str, value: &ValueMatch, invert: bool) -> String {
    match (value, invert) {
        (ValueMatch::Present, false) => format!("a {what}"),
        (ValueMatch::Present, true) => format!("no {what}"),
        (ValueMatch::Exact(text), false) => format!("{what} = {text}"),
        (ValueMatch::Exact(text), true) => format!("{what} other than {text}"),
        (ValueMatch::Prefix(text), false) => format!("{what} = {text}…"),
        (ValueMatch::Prefix(text), true) => format!("{what} other than {text}…"),
        (ValueMatch::Regex(pattern), false) => format!("{what} that matches {pattern}"),
        (ValueMatch::Regex(pattern), true) => format!("{what} that does not match {pattern}"),
    }
}

/// What does not hold of a route that does not match.
fn misses(failed: Failed<'_>, query: &Query<'_>) -> String {
    match failed {
        Failed::Path(wanted) => path_misses(wanted, query.path),
        Failed::Method(_) => format!("the method is {}", query.method),
        Failed::Scheme(_) => format!("the scheme is {}", query.scheme),
        Failed::Authority(_) => format!("the authority is {}", query.host),
        Failed::Header(header) => header_misses(header, query),
        Failed::Query(parameter) => {
            let mut parameters = query.query.into_iter().flat_map(|query| query.split('&'));
            let found = parameters.find_map(|text| {
                let (name, value) = text.split_once('=').unwrap_or((text, ""));
                (name == parameter.name).then_some(value)
            });
            said(&format!("query parameter {}", parameter.name), found)
        }
    }
}

fn path_misses(wanted: &PathMatch, path: &str) -> String {
    match wanted {
        PathMatch::Prefix(_) | PathMatch::Regex(_) => format!("{path} does not"),
        PathMatch::Exact(wanted) if wanted.eq_ignore_ascii_case(path) => {
            format!("{path} differs in upper and lower case")
        }
        PathMatch::Exact(wanted) if path.starts_with(wanted.as_str()) => {
            format!("{path} goes on after it")
        }
        PathMatch::Exact(_) => format!("{path} is another"),
    }
}

fn header_misses(header: &HeaderMatch, query: &Query<'_>) -> String {
    let values: Vec<Cow<'_, str>> = match &header.name {
        MatchedHeader::Pseudo(pseudo) => pseudo_value(query, *pseudo).into_iter().collect(),
        MatchedHeader::Field(name) if name == HOST => vec![query.host.into()],
        MatchedHeader::Field(name) => {
            let values = query.headers.get_all(name).iter();
            values
                .map(|value| String::from_utf8_lossy(value.as_bytes()))
                .collect()
        }
    };
    let joined = (!values.is_empty()).then(|| values.join(", "));
    said(
        &format!("header {}", header.name.as_str()),
        joined.as_deref(),
    )
}

/// `header x-user is bob`
fn said(what: &str, value: Option<&str>) -> String {
    match value {
        None => format!("there is no {what}"),
        Some("") => format!("{what} is empty"),
        Some(value) => format!("{what} is {value}"),
    }
}

/// How near the request is to what the route wants: whether the path is right; if not, for how many
/// bytes it is the same, then how little would have to be changed.
fn likeness(attempt: &Attempt<'_>, query: &Query<'_>) -> (bool, usize, Reverse<usize>) {
    let Some(Failed::Path(wanted)) = attempt.failed else {
        return (true, 0, Reverse(0));
    };
    let wanted = match wanted {
        PathMatch::Prefix(wanted) | PathMatch::Exact(wanted) => wanted.as_str(),
        // The text of a pattern is as like a path as its letters are.
        PathMatch::Regex(pattern) => pattern.as_str(),
    };
    let pairs = wanted.bytes().zip(query.path.bytes());
    let same = pairs.take_while(|(a, b)| a.eq_ignore_ascii_case(b)).count();
    (
        false,
        same,
        Reverse(strsim::osa_distance(wanted, query.path)),
    )
}
