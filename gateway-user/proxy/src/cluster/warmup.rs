//! How much of its share a new endpoint gets.

use std::time::Duration;

use nodegate_model::gateway::Warmup;

/// The part of its share that an endpoint of this age gets, between 0 and 1.
// Envoy: EdfLoadBalancerBase::applySlowStartFactor: max(min_weight, time_factor^(1/aggression)).
pub(crate) fn share(policy: &Warmup, age: Duration) -> f64 {
    if age >= policy.duration {
        return 1.0;
    }
    // Whole seconds, and at least one.
    let time = age.as_secs_f64().max(1.0) / policy.duration.as_secs_f64().max(1.0);
    let aggression = f64::from(policy.aggression_milli.max(1)) / 1000.0;
    let minimum = f64::from(policy.minimum_percent) / 100.0;
    time.powf(1.0 / aggression).clamp(minimum, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_grow_with_age() {
        let policy = Warmup {
            duration: Duration::from_secs(100),
            minimum_percent: 10,
            aggression_milli: 1000,
        };
        for (age, wanted) in [(0, 0.1), (5, 0.1), (50, 0.5), (100, 1.0), (1000, 1.0)] {
            let share = share(&policy, Duration::from_secs(age));
            assert!((share - wanted).abs() < 1e-9, "{age}: {share}");
        }
        let fast = Warmup {
            aggression_milli: 2000,
            ..policy
        };
        assert!((share(&fast, Duration::from_secs(25)) - 0.5).abs() < 1e-9);
    }
}
