//! What is kept of a request for headers that are made from it.

use http::{HeaderMap, Method, request::Parts};

use super::authority::authority;

/// A request, kept for headers that are made from it: as it came for those of the request, as the
/// endpoint sees it for those of the response.
#[derive(Clone, Debug)]
pub(crate) struct RequestFacts {
    pub(crate) method: Method,
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
}

impl RequestFacts {
    pub(crate) fn new(parts: &Parts) -> Self {
        let path = parts.uri.path_and_query();
        Self {
            method: parts.method.clone(),
            authority: authority(parts).unwrap_or_default().to_owned(),
            path: path.map_or_else(String::new, ToString::to_string),
            headers: parts.headers.clone(),
        }
    }
}
