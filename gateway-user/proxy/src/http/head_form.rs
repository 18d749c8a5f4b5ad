//! The form of a request's head in the protocol that it is sent in.

use std::mem;

use http::{
    HeaderValue, Uri, Version,
    header::{CONNECTION, HOST, TRANSFER_ENCODING},
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};

/// The host that the endpoint is asked for. To be asked before the head is in the form of HTTP/2.
pub(crate) fn host(parts: &Parts) -> Option<&str> {
    parts.headers.get(HOST)?.to_str().ok()
}

/// Puts a head into the form of the protocol that it is sent in.
pub(crate) fn set_version(parts: &mut Parts, http2: bool) {
    if http2 {
        for_http2(parts);
    } else {
        parts.version = Version::HTTP_11;
    }
}

/// HTTP/2 says in pseudo-headers what HTTP/1.1 says in `Host` (RFC 9113, section 8.3.1).
fn for_http2(parts: &mut Parts) {
    parts.headers.remove(TRANSFER_ENCODING);
    parts.headers.remove(CONNECTION);
    let host = parts.headers.get(HOST);
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    if host.is_some() && authority.is_none() {
        // What a rule wants to be the host, and no URI has: `host` may say it alone (section 8.3.1). As a request that
        // comes from HTTP/1.1 it need have no authority.
        parts.version = Version::HTTP_11;
        return;
    }
    parts.version = Version::HTTP_2;
    parts.headers.remove(HOST);
    let mut uri = mem::take(&mut parts.uri).into_parts();
    uri.authority = authority;
    uri.scheme = uri.authority.is_some().then_some(Scheme::HTTP);
    parts.uri = Uri::from_parts(uri).unwrap_or_default();
}

/// Puts a head back into the form of HTTP/1.1.
pub(crate) fn restore(parts: &mut Parts) {
    if let Some(authority) = parts.uri.authority() {
        if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
            parts.headers.insert(HOST, host);
        }
        let path = parts.uri.path_and_query().cloned();
        parts.uri = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
    }
    parts.extensions.clear();
}
