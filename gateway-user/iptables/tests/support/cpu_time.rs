//! What work costs, beside other work: no machine is too slow or too busy for that.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// How often both are tried again while the ratio is too large: something else may have been in the way.
const TRIES: usize = 3;

/// CPU time of this thread, so that others' work doesn't count.
fn cpu_time(work: impl FnOnce()) -> Duration {
    let now = || {
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
            .map(Duration::from)
            .expect("a clock")
    };
    let before = now();
    work();
    now().saturating_sub(before)
}

/// How many times what the one takes the other takes. They take turns, and the least of each counts; it is
/// over with the first turn after which the ratio is as `wanted`.
pub(crate) fn times_as_dear(mut one: impl FnMut(), mut other: impl FnMut(), wanted: f64) -> f64 {
    let (mut least_one, mut least_other) = (Duration::MAX, Duration::MAX);
    let mut ratio = f64::INFINITY;
    for _ in 0..TRIES {
        least_one = least_one.min(cpu_time(&mut one));
        least_other = least_other.min(cpu_time(&mut other));
        ratio = least_other.as_secs_f64() / least_one.as_secs_f64();
        if ratio <= wanted {
            break;
        }
    }
    ratio
}
