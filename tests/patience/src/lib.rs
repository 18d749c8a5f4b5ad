//! How long tests wait, and what they may hold against a busy machine.
//!
//! A test waits for a condition, with [`until`] or up to a [`Deadline`], and never for a number of seconds
//! of its own: [`limit`] is the one number, so long that only what never comes takes longer. Where the
//! time that something takes is what a test is about, a [`Stopwatch`] tells how much of it the machine
//! has taken.

mod delays;
mod stopwatch;

use std::{
    fmt,
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

pub use delays::{mine as held_up, wait};
pub use stopwatch::{Lap, Stopwatch, Untimely};

/// The variable that [`factor`] reads. Not `NODEGATE_…`: the testbed takes those away.
pub const VARIABLE: &str = "TESTBED_PATIENCE";

/// Long enough for everything that comes at all.
const LIMIT: Duration = Duration::from_mins(3);
/// Less than a second: then TCP sends its SYN again (RFC 6298, 2.1), and gets another answer.
const SILENCE: Duration = Duration::from_millis(600);
/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(10);

/// How many times longer than on other machines everything may take, a whole number: for machines that
/// are emulated.
pub fn factor() -> u32 {
    static FACTOR: LazyLock<u32> = LazyLock::new(|| {
        let value = std::env::var(VARIABLE).ok();
        let value = value.and_then(|value| value.parse().ok());
        value.unwrap_or(1).max(1)
    });
    *FACTOR
}

/// How long a test waits for what must come.
pub fn limit() -> Duration {
    LIMIT * factor()
}

/// How long to wait for somebody who waits for the [`limit`], and then says for what.
pub fn outer_limit() -> Duration {
    2 * limit()
}

/// How long a test waits for what must not come. No verdict depends on what comes later.
pub const fn silence() -> Duration {
    SILENCE
}

/// When a wait that begins now has taken too long.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// The [`limit`] from now.
    #[expect(clippy::new_without_default, reason = "it is another one each time")]
    pub fn new() -> Self {
        Self(Instant::now() + limit())
    }

    /// The [`outer_limit`] from now.
    pub fn outer() -> Self {
        Self(Instant::now() + outer_limit())
    }

    /// For what takes a limit of its own, like a channel's `recv_timeout`.
    pub fn left(&self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether nothing is left.
    pub fn passed(&self) -> bool {
        self.left().is_zero()
    }
}

/// It has not come within the [`limit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late;

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "not within {:?} ({VARIABLE}=N waits N times three minutes)",
            limit()
        )
    }
}

impl std::error::Error for Late {}

/// Asks again and again until there is an answer.
///
/// # Errors
///
/// If there is none within the limit.
pub fn until<T>(mut ask: impl FnMut() -> Option<T>) -> Result<T, Late> {
    try_until(|| Ok(ask()))
}

/// As [`until`], with a question that may fail; that is its end.
///
/// # Errors
///
/// The question's own, or that there is no answer within the limit.
pub fn try_until<T, E: From<Late>>(ask: impl FnMut() -> Result<Option<T>, E>) -> Result<T, E> {
    by(Deadline::new(), ask)
}

fn by<T, E: From<Late>>(
    deadline: Deadline,
    mut ask: impl FnMut() -> Result<Option<T>, E>,
) -> Result<T, E> {
    loop {
        // A machine that slept through all of it looks once more after it.
        let last = deadline.passed();
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if last {
            return Err(Late.into());
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_waited_for() {
        let mut asked = 0;
        let answer = until(|| {
            asked += 1;
            (asked == 3).then_some("three")
        });
        assert_eq!(answer, Ok("three"));
    }

    #[test]
    fn what_does_not_come_is_late_and_was_asked_for_after_the_deadline() {
        let mut asked = 0;
        let never = || {
            asked += 1;
            Ok::<Option<()>, Late>(None)
        };
        assert_eq!(by(Deadline(Instant::now()), never), Err(Late));
        assert_eq!(asked, 1);
    }

    #[test]
    fn a_question_that_fails_is_the_end() {
        let failing = try_until(|| Err::<Option<()>, Box<dyn std::error::Error>>("no".into()));
        assert_eq!(failing.unwrap_err().to_string(), "no");
    }
}
