//! When a request is sent again: what the policy has to know of a try, and whether the request has to
//! be kept for that.

use http::Response;
use nodegate_model::gateway::{RetryOn, RetryPolicy};
use nodegate_route::retry::{Outcome, ResetReason};

use super::failure::Failure;

/// How a try ended, if that is anything that another one might do better.
pub(crate) fn outcome<'a, B>(result: Result<&'a Response<B>, &'a Failure>) -> Option<Outcome<'a>> {
    let (reason, request_started) = match result {
        Ok(response) => {
            return Some(Outcome::Response {
                status: response.status(),
                headers: response.headers(),
            });
        }
        Err(Failure::NoEndpoint | Failure::BadBody | Failure::ClientGone | Failure::Timeout) => {
            return None;
        }
        Err(Failure::Overflow) => (ResetReason::Overflow, false),
        Err(Failure::Connect(_) | Failure::Tls(_) | Failure::ConnectTimeout) => {
            (ResetReason::ConnectFailure, false)
        }
        Err(Failure::Reset { refused: true }) => (ResetReason::RefusedStream, true),
        Err(Failure::Reset { refused: false } | Failure::Terminated(_) | Failure::Protocol) => {
            (ResetReason::Remote, true)
        }
        Err(Failure::TryTimeout) => (ResetReason::PerTryTimeout, true),
    };
    Some(Outcome::Reset {
        reason,
        request_started,
    })
}

/// Whether anything but failing to connect can lead to another try, so that the request must be kept.
pub(crate) fn needs_copy(policy: &RetryPolicy, http2: bool, grpc: bool) -> bool {
    let mut any = RetryOn::SERVER_ERROR
        .union(RetryOn::GATEWAY_ERROR)
        .union(RetryOn::RESET)
        .union(RetryOn::RETRIABLE_4XX)
        .union(RetryOn::ENVOY_RATELIMITED);
    if http2 {
        any = any.union(RetryOn::REFUSED_STREAM);
    }
    if grpc {
        any = any
            .union(RetryOn::CANCELLED)
            .union(RetryOn::DEADLINE_EXCEEDED)
            .union(RetryOn::INTERNAL)
            .union(RetryOn::RESOURCE_EXHAUSTED)
            .union(RetryOn::UNAVAILABLE);
    }
    policy.on.intersects(any)
        || (policy.on.contains(RetryOn::RETRIABLE_STATUS_CODES) && !policy.status_codes.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_istio_does_by_default_needs_no_copy() {
        let policy = RetryPolicy::default();
        assert!(!needs_copy(&policy, false, false));
        assert!(needs_copy(&policy, true, false));
        assert!(needs_copy(&policy, false, true));
    }
}
