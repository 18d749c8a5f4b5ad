//! Rewritten paths.

use arbitrary::{Arbitrary, Unstructured};
use http::uri::PathAndQuery;
use nodegate_model::gateway::{HttpAction, PathMatch, PathRewrite, RouteMatch};
use nodegate_route::Rewrite;
use nodegate_values::pattern::{Pattern, Substitution};

use super::matcher::route;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    kind: Kind,
    matched: &'a str,
    replacement: &'a str,
    rest: &'a str,
}

#[derive(Clone, Copy, Debug, Arbitrary)]
enum Kind {
    Prefix,
    Exact,
    Regex,
}

/// Rewrites a path that matches: the result is a path, and the query stays.
pub fn run(input: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(input)) else {
        return;
    };
    // Expressions of any length would only measure how long compiling takes.
    if input.matched.len() > 64 {
        return;
    }
    let (path, rewrite, target) = match input.kind {
        Kind::Prefix => (
            PathMatch::Prefix(input.matched.to_owned()),
            PathRewrite::Matched(input.replacement.to_owned()),
            format!("{}{}", input.matched, input.rest),
        ),
        Kind::Exact => (
            PathMatch::Exact(input.matched.to_owned()),
            PathRewrite::Matched(input.replacement.to_owned()),
            input.matched.to_owned(),
        ),
        Kind::Regex => {
            let Ok(pattern) = Pattern::new(input.matched) else {
                return;
            };
            let Ok(substitution) = Substitution::new(input.replacement, &pattern) else {
                return;
            };
            let rewrite = PathRewrite::Regex {
                pattern,
                substitution,
            };
            let any = PathMatch::Prefix("/".to_owned());
            (any, rewrite, input.rest.to_owned())
        }
    };
    let Ok(original) = PathAndQuery::try_from(target) else {
        return;
    };
    // Paths are in normal form before they are rewritten.
    if !original.path().starts_with('/') || !original.as_str().is_ascii() {
        return;
    }
    let mut route = route(RouteMatch::path(path));
    let HttpAction::Forward(forward) = &mut route.action else {
        return;
    };
    forward.rewrite = Some(rewrite);
    let Some(rewrite) = Rewrite::of(&route) else {
        panic!("a route with a rewrite has none");
    };
    let Ok(rewritten) = rewrite.apply(&original) else {
        return;
    };
    assert!(rewritten.path().starts_with('/'), "{rewritten}");
    assert!(
        rewritten
            .as_str()
            .bytes()
            .all(|byte| byte.is_ascii_graphic())
    );
    // What was written into the configuration may have a query of its own.
    if !input.replacement.contains('?') && !matches!(input.kind, Kind::Regex) {
        assert_eq!(rewritten.query(), original.query());
    }
}
