//! How large a head may be, and how much is read at once.
//!
//! The limits of the two sides differ as Envoy's do: a client may be anyone, and its requests have narrow
//! limits; endpoints belong to the cluster. What is read directly has smaller limits than what hyper
//! reads: beyond them nothing is refused, but hyper reads on, with the limits of its side.

/// Largest head of a request: Envoy's `max_request_headers_kb`.
pub(crate) const MAX_REQUEST_HEAD: usize = 60 * 1024;

/// Most headers of a request: Envoy's `max_headers_count`, and hyper's own limit.
pub(crate) const MAX_REQUEST_HEADERS: usize = 100;

/// A `Connection` header that names so many headers is refused.
// Envoy: MAX_ALLOWED_NOMINATED_HEADERS of Http::Utility::sanitizeConnectionHeader.
pub(crate) const MAX_CONNECTION_OPTIONS: usize = 10;

/// Largest head of an answer, and most that hyper reads ahead of the other side. hyper's default of
/// about 400 KiB makes many slow readers expensive.
pub(super) const MAX_BUFFER: usize = 64 * 1024;

/// Largest head that is read directly, from clients and from endpoints.
pub const MAX_DIRECT_HEAD: usize = 16 * 1024;

/// Most headers of a head that is read directly: their places are kept on the stack.
pub const MAX_DIRECT_HEADERS: usize = 64;

/// Most that is read at once while a head is expected.
pub(crate) const FIRST_READ: usize = 16 * 1024;

/// Longest body that a `content-length` may announce: hyper needs the two largest numbers for itself, and
/// refuses messages with them.
pub(super) const MAX_LENGTH: u64 = u64::MAX - 2;
