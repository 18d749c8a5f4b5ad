//! `retryOn`: conditions and status codes, with commas between.

use http::StatusCode;

/// Conditions (Envoy's `x-envoy-retry-on` and `x-envoy-retry-grpc-on`).
pub const CONDITIONS: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

/// One entry of `retryOn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'t> {
    /// One of [`CONDITIONS`].
    Condition(&'t str),
    /// A status.
    Status(u16),
    /// Neither.
    Unknown(&'t str),
}

/// The entries, without empty ones (`parseRetryOn` of istio's
/// pilot/pkg/networking/core/route/retry: numbers are statuses if HTTP has a name for them).
pub fn entries(text: &str) -> impl Iterator<Item = Entry<'_>> {
    let words = text
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty());
    words.map(|word| {
        let status = StatusCode::from_bytes(word.as_bytes()).ok();
        if let Some(status) = status.filter(|status| status.canonical_reason().is_some()) {
            return Entry::Status(status.as_u16());
        }
        if CONDITIONS.contains(&word) {
            Entry::Condition(word)
        } else {
            Entry::Unknown(word)
        }
    })
}

/// What is neither a condition nor a status.
pub fn unknown(text: &str) -> impl Iterator<Item = &str> {
    entries(text).filter_map(|entry| match entry {
        Entry::Unknown(word) => Some(word),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_statuses_only_if_they_have_a_name() {
        let found: Vec<_> = entries("5xx, 503,,retriable-4xx,299 ,gateway_error").collect();
        assert_eq!(
            found,
            [
                Entry::Condition("5xx"),
                Entry::Status(503),
                Entry::Condition("retriable-4xx"),
                Entry::Unknown("299"),
                Entry::Unknown("gateway_error"),
            ]
        );
        assert_eq!(unknown("5xx,x").collect::<Vec<_>>(), ["x"]);
    }
}
