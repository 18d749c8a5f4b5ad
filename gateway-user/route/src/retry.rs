//! Trying again: whether, and after what pause. A state machine without a clock.

use std::time::Duration;

use http::{HeaderMap, HeaderName, StatusCode};
use nodegate_model::gateway::{RetryOn, RetryPolicy};

const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// How a try ended, before anything of a response was passed on.
#[derive(Clone, Copy, Debug)]
pub enum TryOutcome<'a> {
    /// With the head of a response.
    Response {
        /// Its status.
        status: StatusCode,
        /// Its headers.
        headers: &'a HeaderMap,
    },
    /// Without one.
    Reset {
        /// Why.
        reason: ResetReason,
        /// Whether anything of the request may have reached the endpoint.
        request_started: bool,
    },
}

/// Why a try ended without a response (Envoy's `StreamResetReason`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetReason {
    /// A limit of the cluster was reached, and no endpoint was asked.
    Overflow,
    /// The endpoint could not be reached, or not in time.
    ConnectFailure,
    /// The endpoint refused the stream before it did anything (HTTP/2 `REFUSED_STREAM`).
    RefusedStream,
    /// The endpoint reset the stream, closed the connection, or did not speak HTTP.
    Remote,
    /// The try took too long.
    PerTryTimeout,
}

/// What to do after a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryDecision {
    /// Let it stand.
    No,
    /// Let it stand, because this was the last try (flag `URX`).
    LimitExceeded,
    /// Try again after this pause.
    After(Duration),
}

/// The tries of one request.
#[derive(Clone, Debug)]
pub struct RetryState<'p> {
    policy: &'p RetryPolicy,
    remaining: u32,
    /// Bound of the next pause, in milliseconds.
    next: u64,
    despite_overload: bool,
}

impl<'p> RetryState<'p> {
    /// Before the first try.
    pub fn new(policy: &'p RetryPolicy) -> Self {
        Self {
            policy,
            remaining: policy.attempts,
            next: milliseconds(policy.base_backoff).max(1),
            despite_overload: false,
        }
    }

    /// Whether to try again also after an answer that says `x-envoy-overloaded`.
    #[must_use]
    pub fn despite_overload(self, despite_overload: bool) -> Self {
        Self {
            despite_overload,
            ..self
        }
    }

    /// Decides after a try; `random` is any number, evenly spread.
    // Envoy: RetryStateImpl::shouldRetry.
    pub fn decide(&mut self, outcome: TryOutcome<'_>, random: u64) -> RetryDecision {
        if !is_retriable(self.policy, outcome, self.despite_overload) {
            return RetryDecision::No;
        }
        if self.remaining == 0 {
            return RetryDecision::LimitExceeded;
        }
        self.remaining -= 1;
        RetryDecision::After(self.pause(random))
    }

    /// Full jitter, the bound doubled each time.
    // Envoy: JitteredExponentialBackOffStrategy::nextBackOffMs.
    fn pause(&mut self, random: u64) -> Duration {
        let bound = self.next;
        let most = milliseconds(self.policy.max_backoff()).max(1);
        self.next = bound.saturating_mul(2).min(most);
        Duration::from_millis(random % bound)
    }
}

/// Whether a try with this outcome is one that the policy is about.
fn is_retriable(policy: &RetryPolicy, outcome: TryOutcome<'_>, despite_overload: bool) -> bool {
    match outcome {
        TryOutcome::Response { status, headers } => {
            after_response(policy, status, headers, despite_overload)
        }
        TryOutcome::Reset {
            reason,
            request_started,
        } => after_reset(policy.on, reason, request_started),
    }
}

// Envoy: RetryStateImpl::wouldRetryFromHeaders.
fn after_response(
    policy: &RetryPolicy,
    status: StatusCode,
    headers: &HeaderMap,
    despite_overload: bool,
) -> bool {
    // One look at all names is cheaper than looking for each of them.
    if status.is_success() && !headers.keys().any(tells_of_failure) {
        return policy.on.contains(RetryOn::RETRIABLE_STATUS_CODES)
            && policy.status_codes.contains(&status.as_u16());
    }
    if !despite_overload && headers.contains_key(OVERLOADED) {
        return false;
    }
    // It is from another proxy: only if that is what the policy is about.
    if headers.contains_key(RATE_LIMITED) {
        return policy.on.contains(RetryOn::ENVOY_RATELIMITED);
    }
    let code = status.as_u16();
    let by_status = [
        (RetryOn::SERVER_ERROR, status.is_server_error()),
        (RetryOn::GATEWAY_ERROR, matches!(code, 502..=504)),
        (RetryOn::RETRIABLE_4XX, code == 409),
        (
            RetryOn::RETRIABLE_STATUS_CODES,
            policy.status_codes.contains(&code),
        ),
    ];
    by_status
        .iter()
        .any(|(on, holds)| *holds && policy.on.contains(*on))
        || grpc_condition(headers).is_some_and(|on| policy.on.contains(on))
}

/// Whether a header may make a failure of a success.
fn tells_of_failure(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "x-envoy-overloaded" | "x-envoy-ratelimited" | "grpc-status"
    )
}

/// gRPC's status, where a response is nothing but a head.
fn grpc_condition(headers: &HeaderMap) -> Option<RetryOn> {
    match headers.get(GRPC_STATUS)?.to_str().ok()? {
        "1" => Some(RetryOn::CANCELLED),
        "4" => Some(RetryOn::DEADLINE_EXCEEDED),
        "8" => Some(RetryOn::RESOURCE_EXHAUSTED),
        "13" => Some(RetryOn::INTERNAL),
        "14" => Some(RetryOn::UNAVAILABLE),
        _ => None,
    }
}

/// No answer is a 5xx, too: it would become one.
// Envoy: RetryStateImpl::wouldRetryFromReset.
fn after_reset(on: RetryOn, reason: ResetReason, request_started: bool) -> bool {
    let always = RetryOn::SERVER_ERROR
        .union(RetryOn::GATEWAY_ERROR)
        .union(RetryOn::RESET);
    match reason {
        ResetReason::Overflow => return false,
        _ if on.intersects(always) => return true,
        ResetReason::RefusedStream if on.contains(RetryOn::REFUSED_STREAM) => return true,
        ResetReason::ConnectFailure if on.contains(RetryOn::CONNECT_FAILURE) => return true,
        _ => {}
    }
    on.contains(RetryOn::RESET_BEFORE_REQUEST) && !request_started
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
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

    fn reset(reason: ResetReason) -> TryOutcome<'static> {
        TryOutcome::Reset {
            reason,
            request_started: true,
        }
    }

    fn response(status: u16, headers: &HeaderMap) -> TryOutcome<'_> {
        TryOutcome::Response {
            status: StatusCode::from_u16(status).unwrap(),
            headers,
        }
    }

    #[test]
    fn the_default_of_istio_retries_only_what_reached_nobody() {
        let on = RetryOn::CONNECT_FAILURE
            .union(RetryOn::REFUSED_STREAM)
            .union(RetryOn::UNAVAILABLE)
            .union(RetryOn::CANCELLED)
            .union(RetryOn::RETRIABLE_STATUS_CODES);
        let mut policy = policy(on);
        policy.status_codes.clear();
        let none = HeaderMap::new();
        for (outcome, wanted) in [
            (reset(ResetReason::ConnectFailure), true),
            (reset(ResetReason::RefusedStream), true),
            (reset(ResetReason::Remote), false),
            (reset(ResetReason::PerTryTimeout), false),
            (reset(ResetReason::Overflow), false),
            (response(503, &none), false),
            (response(500, &none), false),
        ] {
            assert_eq!(is_retriable(&policy, outcome, false), wanted, "{outcome:?}");
        }
        let unavailable = HeaderMap::from_iter([(GRPC_STATUS, "14".parse().unwrap())]);
        assert!(is_retriable(&policy, response(200, &unavailable), false));
    }

    #[test]
    fn who_says_that_it_has_enough_may_be_asked_again_all_the_same() {
        let overloaded = HeaderMap::from_iter([(OVERLOADED, "true".parse().unwrap())]);
        let policy = policy(RetryOn::SERVER_ERROR);
        for (despite, wanted) in [
            (false, RetryDecision::No),
            (true, RetryDecision::After(Duration::ZERO)),
        ] {
            let mut state = RetryState::new(&policy).despite_overload(despite);
            assert_eq!(state.decide(response(503, &overloaded), 0), wanted);
        }
    }

    #[test]
    fn each_condition_has_its_outcomes() {
        let none = HeaderMap::new();
        let overloaded = HeaderMap::from_iter([(OVERLOADED, "true".parse().unwrap())]);
        let limited = HeaderMap::from_iter([(RATE_LIMITED, "true".parse().unwrap())]);
        let early = TryOutcome::Reset {
            reason: ResetReason::Remote,
            request_started: false,
        };
        for (on, outcome, wanted) in [
            (RetryOn::SERVER_ERROR, response(500, &none), true),
            (RetryOn::SERVER_ERROR, response(500, &overloaded), false),
            (RetryOn::SERVER_ERROR, response(503, &limited), false),
            (RetryOn::ENVOY_RATELIMITED, response(429, &limited), true),
            (
                RetryOn::SERVER_ERROR,
                reset(ResetReason::PerTryTimeout),
                true,
            ),
            (RetryOn::GATEWAY_ERROR, response(500, &none), false),
            (RetryOn::GATEWAY_ERROR, response(503, &none), true),
            (RetryOn::GATEWAY_ERROR, reset(ResetReason::Remote), true),
            (RetryOn::RETRIABLE_4XX, response(409, &none), true),
            (RetryOn::RETRIABLE_4XX, response(404, &none), false),
            (RetryOn::RETRIABLE_STATUS_CODES, response(418, &none), true),
            (RetryOn::RETRIABLE_STATUS_CODES, response(503, &none), false),
            (RetryOn::RESET, reset(ResetReason::PerTryTimeout), true),
            (RetryOn::RESET, reset(ResetReason::Overflow), false),
            (RetryOn::RESET, response(503, &none), false),
            (RetryOn::RESET_BEFORE_REQUEST, early, true),
            (
                RetryOn::RESET_BEFORE_REQUEST,
                reset(ResetReason::Remote),
                false,
            ),
        ] {
            assert_eq!(
                is_retriable(&policy(on), outcome, false),
                wanted,
                "{on:?} {outcome:?}"
            );
        }
    }

    #[test]
    fn after_the_last_try_it_stands() {
        let policy = policy(RetryOn::RESET);
        let mut state = RetryState::new(&policy);
        let outcome = reset(ResetReason::Remote);
        assert!(matches!(state.decide(outcome, 7), RetryDecision::After(_)));
        assert!(matches!(state.decide(outcome, 7), RetryDecision::After(_)));
        assert_eq!(state.decide(outcome, 7), RetryDecision::LimitExceeded);
        let none = HeaderMap::new();
        assert_eq!(state.decide(response(200, &none), 7), RetryDecision::No);
    }

    #[test]
    fn pauses_double_up_to_ten_times_the_first() {
        let mut policy = policy(RetryOn::RESET);
        policy.attempts = 10;
        let mut state = RetryState::new(&policy);
        let bounds: Vec<u64> = (0..6)
            .map(|_| {
                // One below every bound up to 5000, the least common multiple.
                match state.decide(reset(ResetReason::Remote), 4_999_999_999) {
                    RetryDecision::After(pause) => pause.as_millis() as u64 + 1,
                    other => panic!("{other:?}"),
                }
            })
            .collect();
        assert_eq!(bounds, [25, 50, 100, 200, 250, 250]);
    }
}
