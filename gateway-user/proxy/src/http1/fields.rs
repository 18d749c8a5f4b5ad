//! The header lines of a head: from bytes to a map, and back to bytes.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Puts parsed headers into the memory of a map, whose own headers are gone then. The values share the
/// bytes of the head. None if one of the names is not a name.
pub(super) fn collect(
    fields: &[httparse::Header<'_>],
    head: &Bytes,
    mut headers: HeaderMap,
) -> Option<HeaderMap> {
    headers.clear();
    // Two more will be added on the way.
    headers.reserve(fields.len() + 2);
    let start = head.as_ptr().addr();
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        let at = field.value.as_ptr().addr().wrapping_sub(start);
        // An empty value need not point into these bytes.
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

/// One piece of what has been read after the other, as one.
pub(crate) fn join(first: &Bytes, second: &[u8]) -> Bytes {
    if first.is_empty() {
        return Bytes::copy_from_slice(second);
    }
    [first, second].concat().into()
}

/// Writes a header line.
pub(crate) fn put(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    // Room for all of the line at once.
    head.reserve(name.len() + value.len() + 4);
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}
