//! `retryOn`: conditions and status codes, with commas between.

use http::StatusCode;
use serde::Serialize;

/// After what to try again: a set (Envoy's `x-envoy-retry-on` and `x-envoy-retry-grpc-on`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RetryOn(u32);

/// What a `retryOn` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// After what to try again.
    pub on: RetryOn,
    /// After which statuses, if `on` has [`RetryOn::RETRIABLE_STATUS_CODES`].
    pub status_codes: Vec<u16>,
}

/// Words of a `retryOn` that are neither conditions nor statuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither conditions nor statuses: {}", .0.join(", "))]
pub struct UnknownWords(pub Vec<String>);

/// Reads a `retryOn`, in which empty entries do not count (`parseRetryOn` of istio's
/// pilot/pkg/networking/core/route/retry: numbers are statuses if HTTP has a name for them).
///
/// # Errors
///
/// With all the words that are neither conditions nor statuses.
pub fn parse(text: &str) -> Result<Conditions, UnknownWords> {
    let mut conditions = Conditions::default();
    let mut unknown = Vec::new();
    let words = text.split(',').map(str::trim);
    for word in words.filter(|word| !word.is_empty()) {
        let status = StatusCode::from_bytes(word.as_bytes()).ok();
        if let Some(status) = status.filter(|status| status.canonical_reason().is_some()) {
            conditions.status_codes.push(status.as_u16());
            conditions.on = conditions.on.union(RetryOn::RETRIABLE_STATUS_CODES);
        } else if let Some(condition) = RetryOn::named(word) {
            conditions.on = conditions.on.union(condition);
        } else {
            unknown.push(word.to_owned());
        }
    }
    if unknown.is_empty() {
        Ok(conditions)
    } else {
        Err(UnknownWords(unknown))
    }
}

// === impl RetryOn ===

macro_rules! retry_on {
    ($($(#[$doc:meta])* $constant:ident = $bit:literal, $name:literal;)*) => {
        impl RetryOn {
            $($(#[$doc])* pub const $constant: Self = Self(1 << $bit);)*

            /// The one that has this name.
            pub fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$constant),)*
                    _ => None,
                }
            }

            /// The names of all.
            pub const NAMES: [&str; [$($name),*].len()] = [$($name),*];

            /// The names of what is in the set.
            pub fn names(self) -> impl Iterator<Item = &'static str> {
                [$((Self::$constant, $name)),*]
                    .into_iter()
                    .filter(move |(one, _)| self.contains(*one))
                    .map(|(_, name)| name)
            }
        }
    };
}

retry_on! {
    /// Any 5xx, and no answer at all (disconnect, reset, per-try timeout).
    SERVER_ERROR = 0, "5xx";
    /// 502, 503 and 504, and no answer at all.
    GATEWAY_ERROR = 1, "gateway-error";
    /// No answer at all.
    RESET = 2, "reset";
    /// No answer, and nothing of the request was sent.
    RESET_BEFORE_REQUEST = 3, "reset-before-request";
    /// The endpoint could not be reached.
    CONNECT_FAILURE = 4, "connect-failure";
    /// The `x-envoy-ratelimited` header.
    ENVOY_RATELIMITED = 5, "envoy-ratelimited";
    /// 409.
    RETRIABLE_4XX = 6, "retriable-4xx";
    /// The endpoint refused the stream before it did anything.
    REFUSED_STREAM = 7, "refused-stream";
    /// One of the policy's status codes.
    RETRIABLE_STATUS_CODES = 8, "retriable-status-codes";
    /// Headers that the policy names, which Istio has no words for.
    RETRIABLE_HEADERS = 9, "retriable-headers";
    /// Without effect: there is no HTTP/3.
    HTTP3_POST_CONNECT_FAILURE = 10, "http3-post-connect-failure";
    /// gRPC status 1 in the headers of the response.
    CANCELLED = 11, "cancelled";
    /// gRPC status 4 in the headers of the response.
    DEADLINE_EXCEEDED = 12, "deadline-exceeded";
    /// gRPC status 13 in the headers of the response.
    INTERNAL = 13, "internal";
    /// gRPC status 8 in the headers of the response.
    RESOURCE_EXHAUSTED = 14, "resource-exhausted";
    /// gRPC status 14 in the headers of the response.
    UNAVAILABLE = 15, "unavailable";
}

impl RetryOn {
    /// Whether all of `other` is in the set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` is in the set.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is nothing in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Both together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Serialize for RetryOn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_statuses_only_if_they_have_a_name() {
        let on = RetryOn::SERVER_ERROR
            .union(RetryOn::RETRIABLE_4XX)
            .union(RetryOn::RETRIABLE_STATUS_CODES);
        let status_codes = vec![503];
        assert_eq!(
            parse("5xx, 503,,retriable-4xx"),
            Ok(Conditions { on, status_codes })
        );
        assert_eq!(
            parse("5xx,299 ,gateway_error"),
            Err(UnknownWords(vec!["299".into(), "gateway_error".into()]))
        );
        assert_eq!(parse(""), Ok(Conditions::default()));
    }
}
