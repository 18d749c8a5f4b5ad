//! When a request is sent again: what the policy has to know of a try, and whether the request has to
//! be kept for that.

use http::Response;
use nodegate_model::gateway::{RetryOn, RetryPolicy};
use nodegate_route::retry::{ResetReason, TryOutcome};

use super::failure::Failure;

/// How a try ended, if that is anything that another one might do better.
pub(crate) fn outcome<'a, B>(
    result: Result<&'a Response<B>, &'a Failure>,
) -> Option<TryOutcome<'a>> {
    let (reason, request_started) = match result {
        Ok(response) => {
            return Some(TryOutcome::Response {
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
    Some(TryOutcome::Reset {
        reason,
        request_started,
    })
}

/// After which answers a request may have to be sent again, so that it must be kept until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeats {
    /// After none: only if no connection comes about.
    Never,
    /// After answers that tell a gRPC status in their head. Which content the request has does not matter.
    // Envoy: RetryStateImpl::wouldRetryFromHeaders looks at the response alone.
    AfterGrpcStatus,
    /// After others, too, or after none at all.
    AfterAny,
}

impl Repeats {
    /// What the policy is about, with an endpoint that speaks HTTP/2 or not.
    pub(crate) fn of(policy: &RetryPolicy, http2: bool) -> Self {
        let mut any = RetryOn::SERVER_ERROR
            .union(RetryOn::GATEWAY_ERROR)
            .union(RetryOn::RESET)
            .union(RetryOn::RETRIABLE_4XX)
            .union(RetryOn::ENVOY_RATELIMITED);
        if http2 {
            any = any.union(RetryOn::REFUSED_STREAM);
        }
        let grpc = RetryOn::CANCELLED
            .union(RetryOn::DEADLINE_EXCEEDED)
            .union(RetryOn::INTERNAL)
            .union(RetryOn::RESOURCE_EXHAUSTED)
            .union(RetryOn::UNAVAILABLE);
        let by_status =
            policy.on.contains(RetryOn::RETRIABLE_STATUS_CODES) && !policy.status_codes.is_empty();
        if policy.on.intersects(any) || by_status {
            Self::AfterAny
        } else if policy.on.intersects(grpc) {
            Self::AfterGrpcStatus
        } else {
            Self::Never
        }
    }

    /// Whether it may be sent again after an answer with these header fields.
    pub(crate) fn after(self, fields: &[httparse::Header<'_>]) -> bool {
        let tells = |field: &httparse::Header<'_>| field.name.eq_ignore_ascii_case("grpc-status");
        match self {
            Self::Never => false,
            Self::AfterGrpcStatus => fields.iter().any(tells),
            Self::AfterAny => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_grpc_statuses_lead_to_another_try() {
        let policy = RetryPolicy::default();
        assert_eq!(Repeats::of(&policy, false), Repeats::AfterGrpcStatus);
        assert_eq!(Repeats::of(&policy, true), Repeats::AfterAny);
        let field = |name| [httparse::Header { name, value: b"14" }];
        assert!(Repeats::AfterGrpcStatus.after(&field("Grpc-Status")));
        assert!(!Repeats::AfterGrpcStatus.after(&field("x-grpc-status")));
    }
}
