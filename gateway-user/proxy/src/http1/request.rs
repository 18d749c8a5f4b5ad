//! Heads of requests: read from clients, written to endpoints.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{
    HeaderMap, Method, Request, Uri,
    header::{EXPECT, TRANSFER_ENCODING, UPGRADE},
    request::Parts,
    uri::PathAndQuery,
};

use super::{
    Unusual,
    fields::{collect, put},
    framing::{Framing, is_connection_option},
    limits::MAX_DIRECT_HEADERS,
};

/// Reads the head of an ordinary request: one in HTTP/1.1 for a path, without a body, that doesn't want
/// the connection to become something else or to end. Says how long the head is; none if it isn't
/// whole. `spare` gives a map of headers: its memory is used.
///
/// # Errors
///
/// If this is something else than the head of an ordinary request, or its beginning.
pub fn parse(
    read: &Bytes,
    spare: impl FnOnce() -> HeaderMap,
) -> Result<Option<(Parts, usize)>, Unusual> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_DIRECT_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(read, &mut fields) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Unusual),
    };
    let (Some(method), Some(target), Some(1)) = (request.method, request.path, request.version)
    else {
        return Err(Unusual);
    };
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Unusual)?;
    // hyper drops a fragment, as Envoy does with Istio's runtime flags (`http_reject_path_with_fragment`).
    let plain = target.starts_with('/') && memchr::memchr(b'#', target.as_bytes()).is_none();
    if !plain || matches!(method, Method::HEAD | Method::CONNECT) || asks_more(request.headers) {
        return Err(Unusual);
    }
    let at = target.as_ptr().addr() - read.as_ptr().addr();
    let target = PathAndQuery::from_maybe_shared(read.slice(at..at + target.len()));
    let target = target.map_err(|_| Unusual)?;
    let headers = collect(request.headers, read, spare()).ok_or(Unusual)?;
    let mut parts = Request::new(()).into_parts().0;
    parts.method = method;
    parts.uri = Uri::from(target);
    parts.headers = headers;
    Ok(Some((parts, length)))
}

/// Whether there may be a body, or the connection is to become something else or to end.
fn asks_more(fields: &[httparse::Header<'_>]) -> bool {
    fields.iter().any(|field| {
        Framing::default().take(field)
            || is_connection_option(field)
            || match field.name.len() {
                6 => field.name.eq_ignore_ascii_case(EXPECT.as_str()),
                7 => field.name.eq_ignore_ascii_case(UPGRADE.as_str()),
                _ => false,
            }
    })
}

/// Whether the head of a request without a body can be written here, and its answer may be an ordinary
/// one.
pub(crate) fn is_ordinary(request: &Parts) -> bool {
    let target = request.uri.path_and_query().map(PathAndQuery::as_str);
    request.method != Method::HEAD
        && request.method != Method::CONNECT
        && request.uri.authority().is_none()
        && target.is_some_and(|target| target.starts_with('/'))
        && !request.headers.contains_key(TRANSFER_ENCODING)
}

/// Whether a request without a body says so in a `content-length`: methods that usually have one do
/// (RFC 9110, section 8.6).
// Envoy: Http1::RequestEncoderImpl, `bodiless_request`.
pub(crate) fn says_empty(method: &Method) -> bool {
    !matches!(
        *method,
        Method::GET | Method::HEAD | Method::DELETE | Method::TRACE | Method::CONNECT
    )
}

/// Writes the head of a request into a buffer, whose content is gone then. `more` adds further header
/// lines.
pub(crate) fn write(request: &Parts, more: impl FnOnce(&mut Vec<u8>), head: &mut Vec<u8>) {
    let target = request.uri.path_and_query();
    head.clear();
    head.extend_from_slice(request.method.as_str().as_bytes());
    head.push(b' ');
    head.extend_from_slice(target.map_or("/", PathAndQuery::as_str).as_bytes());
    head.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in &request.headers {
        put(head, name.as_str(), value.as_bytes());
    }
    more(head);
    head.extend_from_slice(b"\r\n");
}
