//! When a request is sent again, and after how long.

use std::time::Duration;

use http::Response;

use super::{
    failure::Failure,
    grpc::GRPC_STATUS,
    headers::{X_ENVOY_OVERLOADED, X_ENVOY_RATELIMITED},
};
use crate::model::gateway::{RetryOn, RetryPolicy};

/// After no answer.
// Envoy: RetryStateImpl::wouldRetryFromReset. A try that took too long is a reset of our own making.
pub(super) fn after_failure(policy: &RetryPolicy, failure: &Failure) -> bool {
    let on = policy.on;
    match failure {
        Failure::NoEndpoint | Failure::Overflow | Failure::Timeout => return false,
        Failure::Connect(_) | Failure::ConnectTimeout => {
            if on.intersects(RetryOn::CONNECT_FAILURE.union(RetryOn::RESET_BEFORE_REQUEST)) {
                return true;
            }
        }
        Failure::Reset { refused: true } if on.contains(RetryOn::REFUSED_STREAM) => return true,
        Failure::Reset { .. } | Failure::Terminated | Failure::Protocol | Failure::TryTimeout => {}
    }
    let any = RetryOn::SERVER_ERROR
        .union(RetryOn::GATEWAY_ERROR)
        .union(RetryOn::RESET);
    on.intersects(any)
}

/// After an answer.
// Envoy: RetryStateImpl::wouldRetryFromHeaders.
pub(super) fn after_response<B>(policy: &RetryPolicy, response: &Response<B>) -> bool {
    let (on, status, headers) = (policy.on, response.status().as_u16(), response.headers());
    if headers.contains_key(X_ENVOY_OVERLOADED) {
        return false;
    }
    if headers.contains_key(X_ENVOY_RATELIMITED) {
        return on.contains(RetryOn::ENVOY_RATELIMITED);
    }
    let by_status = match status {
        502..=504 => on.intersects(RetryOn::SERVER_ERROR.union(RetryOn::GATEWAY_ERROR)),
        500.. => on.contains(RetryOn::SERVER_ERROR),
        409 => on.contains(RetryOn::RETRIABLE_4XX),
        _ => false,
    };
    let listed =
        on.contains(RetryOn::RETRIABLE_STATUS_CODES) && policy.status_codes.contains(&status);
    let by_grpc = headers
        .get(GRPC_STATUS)
        .and_then(|value| value.to_str().ok()?.parse::<u32>().ok())
        .is_some_and(|status| {
            on.contains(match status {
                1 => RetryOn::CANCELLED,
                4 => RetryOn::DEADLINE_EXCEEDED,
                8 => RetryOn::RESOURCE_EXHAUSTED,
                13 => RetryOn::INTERNAL,
                14 => RetryOn::UNAVAILABLE,
                _ => return false,
            })
        });
    by_status || listed || by_grpc
}

/// Whether anything but failing to connect can lead to another try, so that the request must be kept.
pub(super) fn needs_copy(policy: &RetryPolicy, http2: bool, grpc: bool) -> bool {
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

/// The pause before a retry; the first is number 1.
// Envoy's router filter documentation: "a fully jittered exponential back-off", below
// (2^N - 1) times the base, and below ten times the base.
pub(super) fn pause(policy: &RetryPolicy, retry: u32) -> Duration {
    let factor = 2_u32.saturating_pow(retry).saturating_sub(1);
    let longest = policy
        .base_backoff
        .saturating_mul(factor)
        .min(policy.max_backoff());
    longest.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn policy(on: RetryOn) -> RetryPolicy {
        RetryPolicy {
            attempts: 2,
            per_try_timeout: None,
            on,
            status_codes: vec![418],
            base_backoff: RetryPolicy::DEFAULT_BASE_BACKOFF,
            ignore_previous_hosts: true,
        }
    }

    fn istio_default() -> RetryPolicy {
        policy(
            RetryOn::CONNECT_FAILURE
                .union(RetryOn::REFUSED_STREAM)
                .union(RetryOn::UNAVAILABLE)
                .union(RetryOn::CANCELLED),
        )
    }

    fn response(status: u16, header: Option<(&'static str, &'static str)>) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        if let Some((name, value)) = header {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        response
    }

    #[test]
    fn by_default_only_what_never_began_is_repeated() {
        let policy = istio_default();
        let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        for (failure, wanted) in [
            (Failure::Connect(refused()), true),
            (Failure::ConnectTimeout, true),
            (Failure::Reset { refused: true }, true),
            (Failure::Reset { refused: false }, false),
            (Failure::Terminated, false),
            (Failure::TryTimeout, false),
            (Failure::Overflow, false),
        ] {
            assert_eq!(after_failure(&policy, &failure), wanted, "{failure:?}");
        }
        assert!(!after_response(&policy, &response(503, None)));
        let unavailable = response(200, Some(("grpc-status", "14")));
        assert!(after_response(&policy, &unavailable));
        assert!(!needs_copy(&policy, false, false));
        assert!(needs_copy(&policy, true, false) && needs_copy(&policy, false, true));
    }

    #[test]
    fn server_errors_and_timeouts_if_asked_for() {
        let all = policy(RetryOn::SERVER_ERROR);
        assert!(after_failure(&all, &Failure::TryTimeout));
        assert!(!after_failure(&all, &Failure::Timeout));
        assert!(after_response(&all, &response(500, None)));
        let overloaded = response(503, Some(("x-envoy-overloaded", "true")));
        assert!(!after_response(&all, &overloaded));
        let gateway = policy(RetryOn::GATEWAY_ERROR);
        assert!(!after_response(&gateway, &response(500, None)));
        assert!(after_response(&gateway, &response(502, None)));
        let listed = policy(RetryOn::RETRIABLE_STATUS_CODES);
        assert!(after_response(&listed, &response(418, None)));
        assert!(!after_response(&listed, &response(500, None)));
    }

    #[test]
    fn pauses_grow_up_to_ten_times_the_base() {
        let policy = istio_default();
        for (retry, longest) in [(1, 25), (2, 75), (3, 175), (4, 250), (40, 250)] {
            for _ in 0..50 {
                assert!(pause(&policy, retry) <= Duration::from_millis(longest));
            }
        }
    }
}
