//! Conditions of HTTP routes, ready to be evaluated.

mod cover;

use http::HeaderName;
use nodegate_values::{pattern::Pattern, pseudo_header::PseudoHeader};
use serde::{Serialize, Serializer};

/// What a request must look like for a route to apply (Envoy's `RouteMatch`). All of it must hold.
///
/// `match.port`, `match.gateways`, `match.sourceLabels` and `match.sourceNamespace` are not here:
/// they are about the proxy, and a route for another proxy is left out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteMatch {
    /// The path, without the query.
    pub path: PathMatch,
    /// Whether the letters `a` to `z` of the path count as `A` to `Z`. Never with a regex.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ignore_case: bool,
    /// The method, such as `GET`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<ValueMatch>,
    /// `http` or `https`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<ValueMatch>,
    /// The host as the client sent it: upper and lower case differ, and a port belongs to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<ValueMatch>,
    /// Sorted by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
    /// Sorted by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<QueryMatch>,
}

/// What the path of a request (without its query) must look like.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PathMatch {
    /// Starts with this string: a raw prefix, which does not stop at slashes. `/` matches all.
    Prefix(String),
    /// Equals this string.
    Exact(String),
    /// Matches as a whole.
    Regex(Pattern),
}

/// What a value must look like.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueMatch {
    /// It is there; its content doesn't matter.
    Present,
    /// Equals this string.
    Exact(String),
    /// Starts with this string.
    Prefix(String),
    /// Matches as a whole.
    Regex(Pattern),
}

/// What a header must look like. Where a header occurs more than once, each of its values is compared
/// by itself: one that matches is enough, and where the match is inverted, one is too many (Envoy's
/// `HeaderUtility` since 1.38; before, it compared all values joined with `,`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct HeaderMatch {
    /// Whose value it is.
    pub name: MatchedHeader,
    /// What its value must look like.
    pub value: ValueMatch,
    /// Whether it must *not* look like that (`withoutHeaders`). A missing header counts as an empty
    /// one then, except for [`ValueMatch::Present`].
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub invert: bool,
}

/// Whose value is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MatchedHeader {
    /// A header, in lower case.
    Field(HeaderName),
    /// What stands beside headers.
    Pseudo(PseudoHeader),
}

/// What a parameter of the query must look like: the first of that name, without percent-decoding.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct QueryMatch {
    /// Name of the parameter.
    pub name: String,
    /// What its value must look like. `?name` and `?name=` have the empty value.
    pub value: ValueMatch,
}

// === impl MatchedHeader ===

impl MatchedHeader {
    /// Its name.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Field(name) => name.as_str(),
            Self::Pseudo(pseudo) => pseudo.name(),
        }
    }
}

impl Serialize for MatchedHeader {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

// === impl RouteMatch ===

impl RouteMatch {
    /// Nothing but a path.
    pub fn path(path: PathMatch) -> Self {
        Self {
            path,
            ignore_case: false,
            method: None,
            scheme: None,
            authority: None,
            headers: Vec::new(),
            query: Vec::new(),
        }
    }

    /// Whether it holds for every request that has a path (`IsCatchAllRoute` of istio's
    /// pilot/pkg/networking/core/route).
    pub fn is_catch_all(&self) -> bool {
        let any_path = match &self.path {
            PathMatch::Prefix(prefix) => prefix == "/",
            PathMatch::Exact(_) => false,
            PathMatch::Regex(pattern) => pattern.as_str() == ".*",
        };
        any_path
            && self.headers.is_empty()
            && self.query.is_empty()
            && self.method.is_none()
            && self.scheme.is_none()
            && self.authority.is_none()
    }
}
