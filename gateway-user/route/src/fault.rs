//! Fault injection: whether a request is hit, given random numbers.

use std::time::Duration;

use nodegate_model::gateway::{AbortStatus, Fault};

/// What happens to one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultDecision {
    /// Wait so long, first.
    pub delay: Option<Duration>,
    /// Then answer with this, instead of passing it on.
    pub abort: Option<AbortStatus>,
}

/// Decides; each random number is any, evenly spread, and independent of the other.
// Envoy: FaultFilter::isDelayEnabled, isAbortEnabled.
pub fn decide(fault: &Fault, for_delay: u64, for_abort: u64) -> FaultDecision {
    let delay = fault.delay.as_ref();
    let abort = fault.abort.as_ref();
    FaultDecision {
        delay: delay
            .filter(|delay| delay.percentage.includes(for_delay))
            .map(|delay| delay.duration),
        abort: abort
            .filter(|abort| abort.percentage.includes(for_abort))
            .map(|abort| abort.status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nodegate_model::gateway::{FaultAbort, FaultDelay};
    use nodegate_values::percentage::Percentage;

    #[test]
    fn delay_and_abort_are_drawn_apart() {
        let tenth = Percentage::of_percent(10.0).unwrap();
        let fault = Fault {
            delay: Some(FaultDelay {
                percentage: tenth,
                duration: Duration::from_secs(5),
            }),
            abort: Some(FaultAbort {
                percentage: tenth,
                status: AbortStatus::Http(503),
            }),
        };
        for (for_delay, for_abort, delayed, aborted) in [
            (0, 0, true, true),
            (99_999, 100_000, true, false),
            (100_000, 99_999, false, true),
            (500_000, 500_000, false, false),
        ] {
            let decision = decide(&fault, for_delay, for_abort);
            assert_eq!(decision.delay.is_some(), delayed);
            assert_eq!(decision.abort.is_some(), aborted);
        }
        assert_eq!(decide(&Fault::default(), 0, 0), FaultDecision::default());
    }
}
