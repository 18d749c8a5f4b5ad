//! Heads of HTTP/1.1 as they are read directly, from clients and from endpoints.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Most of a message that is read at first.
pub(crate) const FIRST_READ: usize = 16 * 1024;
/// Heads that are longer are not ordinary.
pub(crate) const MAX_HEAD: usize = 16 * 1024;
/// Heads with more headers are not ordinary.
pub(crate) const MAX_HEADERS: usize = 64;

/// Puts what has been parsed of a head into the memory of other headers, which are gone then. The
/// values share the head's bytes. None if there is a name that is none.
pub(crate) fn collect(
    fields: &[httparse::Header<'_>],
    head: &Bytes,
    mut headers: HeaderMap,
) -> Option<HeaderMap> {
    headers.clear();
    // Two more will come.
    headers.reserve(fields.len() + 2);
    let start = head.as_ptr().addr();
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        let at = field.value.as_ptr().addr().wrapping_sub(start);
        // An empty value need not be of these bytes.
        let value = if field.value.is_empty() {
            Bytes::new()
        } else {
            head.slice(at..at + field.value.len())
        };
        debug_assert!(HeaderValue::from_maybe_shared(value.clone()).is_ok());
        // SAFETY: httparse takes for a value only what is one: tabs, spaces, visible ASCII, obs-text
        // (its HEADER_VALUE_MAP; RFC 9110, section 5.5). hyper relies on that, too.
        let value = unsafe { HeaderValue::from_maybe_shared_unchecked(value) };
        headers.append(name, value);
    }
    Some(headers)
}

/// One after the other.
pub(crate) fn join(first: &Bytes, second: &[u8]) -> Bytes {
    if first.is_empty() {
        return Bytes::copy_from_slice(second);
    }
    [first, second].concat().into()
}

/// Writes a header.
pub(crate) fn put(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    // Room for all of it at once.
    head.reserve(name.len() + value.len() + 4);
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}
