//! `VirtualService.spec.http[].match[]` → conditions (`TranslateRouteMatch` of istio's
//! pilot/pkg/networking/core/route).

use std::collections::BTreeMap;

use nodegate_model::gateway::{
    HeaderMatch, MatchedHeader, PathMatch, QueryMatch, RouteMatch, ValueMatch,
};
use nodegate_resources::istio::{
    HttpMatch, StringMatch,
    reading::{StringCondition, header_name},
};
use nodegate_values::pseudo_header::PseudoHeader;

use super::error::Unreadable;

pub(in crate::front::istio) fn compile(
    matches: Option<&HttpMatch>,
) -> Result<RouteMatch, Unreadable> {
    let Some(matches) = matches else {
        return Ok(RouteMatch::path(PathMatch::Prefix("/".into())));
    };
    let optional = |wanted: &Option<StringMatch>| match wanted {
        Some(wanted) => Ok::<_, Unreadable>(Some(value(wanted.read_optional()?))),
        None => Ok(None),
    };
    let mut headers = of_headers(&matches.headers, false)?;
    headers.extend(of_headers(&matches.without_headers, true)?);
    headers.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
    let path = path(matches)?;
    Ok(RouteMatch {
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
                Ok(QueryMatch {
                    name: name.clone(),
                    value: value(wanted.read_optional()?),
                })
            })
            .collect::<Result<_, Unreadable>>()?,
    })
}

fn path(matches: &HttpMatch) -> Result<PathMatch, Unreadable> {
    let Some(uri) = &matches.uri else {
        return Ok(PathMatch::Prefix("/".into()));
    };
    Ok(match uri.read()? {
        StringCondition::Exact(path) => PathMatch::Exact(path.to_owned()),
        StringCondition::Prefix(path) => PathMatch::Prefix(path.to_owned()),
        StringCondition::Regex(pattern) => PathMatch::Regex(pattern),
        StringCondition::Anything => PathMatch::Prefix("/".into()),
    })
}

/// A value that is compared.
pub(super) fn value(condition: StringCondition<'_>) -> ValueMatch {
    match condition {
        StringCondition::Exact(value) => ValueMatch::Exact(value.to_owned()),
        StringCondition::Prefix(value) => ValueMatch::Prefix(value.to_owned()),
        StringCondition::Regex(pattern) => ValueMatch::Regex(pattern),
        StringCondition::Anything => ValueMatch::Present,
    }
}

fn of_headers(
    wanted: &BTreeMap<String, StringMatch>,
    invert: bool,
) -> Result<Vec<HeaderMatch>, Unreadable> {
    let header = |(name, wanted): (&String, &StringMatch)| {
        Ok(HeaderMatch {
            name: match PseudoHeader::named(name) {
                Some(pseudo) => MatchedHeader::Pseudo(pseudo),
                None => MatchedHeader::Field(header_name(name)?),
            },
            value: value(wanted.read_optional()?),
            invert,
        })
    };
    wanted.iter().map(header).collect()
}
