//! Which endpoints are avoided for a while because they fail.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use nodegate_model::gateway::OutlierDetection;

/// What came of asking an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Observation {
    /// The endpoint answered, with this status.
    Status(u16),
    /// The endpoint could not be reached, or broke off, or took too long.
    Failed,
    /// The endpoint was reached. Over TCP no more is known.
    Connected,
}

/// How an endpoint has been doing.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<FailureCounts>);

#[derive(Debug, Default)]
struct FailureCounts {
    server_errors: u32,
    gateway_errors: u32,
    local_failures: u32,
    /// Until when it is avoided.
    until: Option<Instant>,
    /// How often it has been avoided lately: the more often, the longer.
    ejections: u32,
}

impl Health {
    /// Whether the endpoint is avoided.
    pub(crate) fn is_ejected(&self, now: Instant) -> bool {
        self.failures().until.is_some_and(|until| now < until)
    }

    /// Counts an observation; true if that makes too many failures. Counts start over then.
    // Envoy: DetectorHostMonitorImpl::putHttpResponseCode and putResult. An endpoint that can't be
    // reached counts as 503 unless both are counted apart.
    pub(crate) fn observe(
        &self,
        policy: &OutlierDetection,
        observation: Observation,
        now: Instant,
    ) -> bool {
        let mut failures = self.failures();
        if failures.until.is_some_and(|until| now < until) {
            return false;
        }
        match observation {
            Observation::Connected => {
                failures.local_failures = 0;
                false
            }
            Observation::Failed if policy.split => reached(
                &mut failures.local_failures,
                policy.consecutive_local_failures,
            ),
            Observation::Failed => failures.status(policy, 503),
            Observation::Status(status) => {
                failures.local_failures = 0;
                failures.status(policy, status)
            }
        }
    }

    /// Avoids the endpoint from now on; says for how long.
    pub(crate) fn eject(&self, policy: &OutlierDetection, now: Instant) -> Duration {
        let mut failures = self.failures();
        // Every interval without trouble is forgiven one ejection (Envoy:
        // DetectorImpl::checkHostForUneject).
        if let Some(until) = failures.until {
            let quiet = now.saturating_duration_since(until).as_secs_f64();
            let forgiven = quiet / policy.interval.as_secs_f64().max(0.001);
            #[expect(clippy::cast_sign_loss, reason = "durations are not negative")]
            let forgiven = forgiven.min(f64::from(u32::MAX)) as u32;
            failures.ejections = failures.ejections.saturating_sub(forgiven);
        }
        failures.ejections = failures.ejections.saturating_add(1);
        let longest = policy.max_ejection.max(policy.base_ejection);
        let period = policy
            .base_ejection
            .saturating_mul(failures.ejections)
            .min(longest);
        failures.until = now.checked_add(period);
        period
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, FailureCounts> {
        // A panic of another holder leaves no number half written.
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl FailureCounts {
    fn status(&mut self, policy: &OutlierDetection, status: u16) -> bool {
        if status < 500 {
            self.server_errors = 0;
            self.gateway_errors = 0;
            return false;
        }
        let gateway = if matches!(status, 502..=504) {
            reached(&mut self.gateway_errors, policy.consecutive_gateway_errors)
        } else {
            self.gateway_errors = 0;
            false
        };
        reached(&mut self.server_errors, policy.consecutive_5xx) || gateway
    }
}

/// Counts one more; true, and from the start again, when there are enough.
fn reached(count: &mut u32, limit: Option<u32>) -> bool {
    *count += 1;
    if limit.is_some_and(|limit| *count >= limit.max(1)) {
        *count = 0;
        return true;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> OutlierDetection {
        OutlierDetection {
            consecutive_5xx: Some(3),
            consecutive_gateway_errors: Some(2),
            ..OutlierDetection::default()
        }
    }

    #[test]
    fn only_consecutive_failures_count() {
        let (health, policy, now) = (Health::default(), policy(), Instant::now());
        let see = |observation| health.observe(&policy, observation, now);
        for status in [500, 500, 200, 500, 500] {
            assert!(!see(Observation::Status(status)));
        }
        assert!(see(Observation::Status(500)));
        assert!(!see(Observation::Failed));
        assert!(see(Observation::Status(502)));
    }

    #[test]
    fn failures_may_be_counted_apart() {
        let policy = OutlierDetection {
            split: true,
            consecutive_local_failures: Some(2),
            ..policy()
        };
        let (health, now) = (Health::default(), Instant::now());
        assert!(!health.observe(&policy, Observation::Failed, now));
        assert!(!health.observe(&policy, Observation::Connected, now));
        assert!(!health.observe(&policy, Observation::Failed, now));
        assert!(health.observe(&policy, Observation::Failed, now));
    }

    #[test]
    fn every_time_it_is_avoided_for_longer() {
        let (health, policy, start) = (Health::default(), policy(), Instant::now());
        assert_eq!(health.eject(&policy, start), Duration::from_secs(30));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(health.is_ejected(at(29)) && !health.is_ejected(at(30)));
        assert_eq!(health.eject(&policy, at(31)), Duration::from_mins(1));
        // Long after: forgiven.
        assert_eq!(health.eject(&policy, at(1000)), Duration::from_secs(30));
    }
}
