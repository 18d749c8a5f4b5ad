//! `rewrite.uri`: what becomes of the path on its way to the endpoint.

use std::fmt::Write as _;

use http::uri::PathAndQuery;
use nodegate_model::gateway::{HttpRoute, PathMatch, PathRewrite};
use nodegate_values::pattern::{Pattern, Substitution};

/// The new path is no path, or longer than a URI may be.
#[derive(Debug, thiserror::Error)]
#[error("the rewritten path is longer than a URI may be")]
pub struct RewriteError;

/// A route's change of the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite(Replacement);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Replacement {
    Matched {
        /// How many bytes of the path are replaced; none: the whole path, without the query.
        replaced: Option<usize>,
        /// By what. Only characters that a URI may have.
        replacement: String,
    },
    Regex {
        pattern: Pattern,
        substitution: Substitution,
    },
}

impl Rewrite {
    /// What a route does to the path, if anything.
    pub fn of(route: &HttpRoute) -> Option<Self> {
        Some(Self(match route.action.forward()?.rewrite.as_ref()? {
            PathRewrite::Matched(replacement) => Replacement::Matched {
                replaced: match &route.matches.path {
                    PathMatch::Prefix(prefix) => Some(prefix.len()),
                    PathMatch::Exact(_) | PathMatch::Regex(_) => None,
                },
                replacement: percent_encode(replacement.as_bytes()),
            },
            PathRewrite::Regex {
                pattern,
                substitution,
            } => Replacement::Regex {
                pattern: pattern.clone(),
                substitution: substitution.clone(),
            },
        }))
    }

    /// Applies it to a path that the route matches. The query is kept.
    ///
    /// Slashes are neither merged nor added in between: prefix `/p` rewritten to `/` makes `//x` of
    /// `/p/x`. A result that would not be a path gets a slash in front.
    ///
    /// # Errors
    ///
    /// If the result is longer than a URI may be.
    // Envoy: RouteEntryImplBase::finalizePathHeader; the prefix_rewrite documentation tells users to
    // match `/p/` and `/p` apart because of the double slash.
    pub fn apply(&self, original: &PathAndQuery) -> Result<PathAndQuery, RewriteError> {
        let path = original.path();
        let query = original.query();
        let mut target = match &self.0 {
            Replacement::Matched {
                replaced,
                replacement,
            } => {
                let rest = replaced
                    .and_then(|length| path.get(length..))
                    .unwrap_or_default();
                let mut target = String::with_capacity(
                    1 + replacement.len() + rest.len() + query.map_or(0, |query| 1 + query.len()),
                );
                target.push_str(replacement);
                target.push_str(rest);
                target
            }
            Replacement::Regex {
                pattern,
                substitution,
            } => percent_encode(&pattern.replace_all(path.as_bytes(), substitution)),
        };
        if !target.starts_with('/') {
            target.insert(0, '/');
        }
        if let Some(query) = query {
            target.push('?');
            target.push_str(query);
        }
        PathAndQuery::from_maybe_shared(bytes::Bytes::from(target)).map_err(|_| RewriteError)
    }
}

/// Encodes what a request target may not have (RFC 3986, section 2), and `#`, which would end it.
/// `%` stays: the author may have encoded already.
fn percent_encode(text: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len());
    for &byte in text {
        if byte.is_ascii_alphanumeric() || b"-._~:/?[]@!$&'()*+,;=%".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String doesn't fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::route;
    use nodegate_model::gateway::{HttpAction, RouteMatch};

    fn with(path: PathMatch, to: PathRewrite) -> Rewrite {
        let mut route = route(RouteMatch::path(path));
        let HttpAction::Forward(forward) = &mut route.action else {
            panic!("made as forwarding");
        };
        forward.rewrite = Some(to);
        Rewrite::of(&route).unwrap()
    }

    fn rewrite(path: PathMatch, to: &str) -> Rewrite {
        with(path, PathRewrite::Matched(to.into()))
    }

    fn applied(rewrite: &Rewrite, target: &str) -> String {
        rewrite
            .apply(&target.parse().unwrap())
            .unwrap()
            .as_str()
            .to_owned()
    }

    #[test]
    fn prefix_is_spliced() {
        for (prefix, to, target, wanted) in [
            ("/simple/nginx", "/", "/simple/nginx", "/"),
            ("/simple/nginx", "/", "/simple/nginx/x", "//x"),
            ("/simple/nginx", "/", "/simple/nginxfoo", "/foo"),
            (
                "/simple/nginx",
                "/",
                "/simple/nginx?a=/simple/nginx",
                "/?a=/simple/nginx",
            ),
            ("/simple/nginx/", "/", "/simple/nginx/x?a=1", "/x?a=1"),
            ("/a", "/", "/ab", "/b"),
            ("/a", "/new", "/a/b", "/new/b"),
            ("/", "/api/", "/x", "/api/x"),
            // Not a path without help.
            ("/simple/", "", "/simple/", "/"),
            ("/simple/", "", "/simple/x", "/x"),
            ("/a", "new", "/a/b", "/new/b"),
            ("/a", "", "/a?b", "/?b"),
            // Characters that a URI may not have.
            ("/a", "/b c", "/a/d", "/b%20c/d"),
            ("/a", "/ü#", "/a?q", "/%C3%BC%23?q"),
            ("/a", "/b%20c", "/a", "/b%20c"),
            ("/a", "/b?x=1", "/a?y=2", "/b?x=1?y=2"),
        ] {
            let rewrite = rewrite(PathMatch::Prefix(prefix.into()), to);
            assert_eq!(applied(&rewrite, target), wanted, "{prefix} {to} {target}");
        }
    }

    #[test]
    fn exact_replaces_the_whole_path() {
        let rewrite = rewrite(PathMatch::Exact("/simple/httpserver".into()), "/hello");
        assert_eq!(applied(&rewrite, "/simple/httpserver"), "/hello");
        assert_eq!(applied(&rewrite, "/simple/httpserver?a=1"), "/hello?a=1");
    }

    #[test]
    fn a_regex_match_replaces_the_whole_path() {
        let pattern = Pattern::new("/a.*").unwrap();
        let rewrite = rewrite(PathMatch::Regex(pattern), "/b");
        assert_eq!(applied(&rewrite, "/abc?x"), "/b?x");
    }

    #[test]
    fn a_regex_rewrite_is_about_the_path_without_the_query() {
        for (pattern, to, target, wanted) in [
            (
                "^/service/([^/]+)(/.*)$",
                r"\2/instance/\1",
                "/service/foo/v1?one",
                "/v1/instance/foo?one",
            ),
            ("one", "two", "/one/one?one", "/two/two?one"),
            ("/x", "", "/x", "/"),
            ("x", "ü ", "/x", "/%C3%BC%20"),
            ("none", "y", "/x", "/x"),
        ] {
            let pattern = Pattern::new(pattern).unwrap();
            let substitution = Substitution::new(to, &pattern).unwrap();
            let rewrite = with(
                PathMatch::Prefix("/".into()),
                PathRewrite::Regex {
                    pattern,
                    substitution,
                },
            );
            assert_eq!(applied(&rewrite, target), wanted, "{target} {to}");
        }
    }

    #[test]
    fn too_long_is_an_error() {
        let rewrite = rewrite(PathMatch::Prefix("/a".into()), &"/b".repeat(100));
        let target = format!("/a{}", "x".repeat(65_500));
        assert!(rewrite.apply(&target.parse().unwrap()).is_err());
    }
}
