//! `VirtualService.spec.http[].match[]` → conditions (`TranslateRouteMatch` of istio's
//! pilot/pkg/networking/core/route).

use std::collections::BTreeMap;

use nodegate_model::gateway::{HeaderMatch, PathMatch, QueryMatch, RouteMatch, ValueMatch};
use nodegate_resources::istio::{HttpMatch, StringMatch};
use nodegate_values::pattern::Pattern;

/// None if something cannot be read, which validation has told.
pub(super) fn compile(matches: Option<&HttpMatch>) -> Option<RouteMatch> {
    let Some(matches) = matches else {
        return Some(RouteMatch::path(PathMatch::Prefix("/".into())));
    };
    let optional = |wanted: &Option<StringMatch>| match wanted {
        Some(wanted) => value(wanted).map(Some),
        None => Some(None),
    };
    let mut headers = of_headers(&matches.headers, false)?;
    headers.extend(of_headers(&matches.without_headers, true)?);
    headers.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
    let path = path(matches)?;
    Some(RouteMatch {
        // Of a regex the expression says it itself.
        ignore_case: matches.ignore_uri_case && !matches!(path, PathMatch::Regex(_)),
        path,
        method: optional(&matches.method)?,
        scheme: optional(&matches.scheme)?,
        authority: optional(&matches.authority)?,
        headers,
        query: matches
            .query_params
            .iter()
            .map(|(name, wanted)| {
                Some(QueryMatch {
                    name: name.clone(),
                    value: value(wanted)?,
                })
            })
            .collect::<Option<_>>()?,
    })
}

fn path(matches: &HttpMatch) -> Option<PathMatch> {
    let Some(uri) = &matches.uri else {
        return Some(PathMatch::Prefix("/".into()));
    };
    Some(match (&uri.exact, &uri.prefix, &uri.regex) {
        (Some(exact), _, _) => PathMatch::Exact(exact.clone()),
        (_, Some(prefix), _) => PathMatch::Prefix(prefix.clone()),
        (_, _, Some(regex)) => PathMatch::Regex(Pattern::new(regex).ok()?),
        _ => PathMatch::Prefix("/".into()),
    })
}

/// Nothing at all, and the regex `*`, stand for any value (`canBeConvertedToPresentMatch`).
pub(super) fn value(wanted: &StringMatch) -> Option<ValueMatch> {
    Some(match (&wanted.exact, &wanted.prefix, &wanted.regex) {
        (Some(exact), _, _) => ValueMatch::Exact(exact.clone()),
        (_, Some(prefix), _) => ValueMatch::Prefix(prefix.clone()),
        (_, _, Some(regex)) if regex != "*" => ValueMatch::Regex(Pattern::new(regex).ok()?),
        _ => ValueMatch::Present,
    })
}

fn of_headers(wanted: &BTreeMap<String, StringMatch>, invert: bool) -> Option<Vec<HeaderMatch>> {
    let header = |(name, wanted): (&String, &StringMatch)| {
        Some(HeaderMatch {
            name: name.parse().ok()?,
            value: value(wanted)?,
            invert,
        })
    };
    wanted.iter().map(header).collect()
}
