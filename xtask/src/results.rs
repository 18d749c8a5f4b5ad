//! What `cargo test` prints, read: suites, their counts, and why tests were skipped.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::phases::Clock;

/// What a test program prints before the reason why it can't run its tests.
const REASON: &str = "skipped: ";

/// Numbers of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
}

impl Counts {
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    /// Of `test result: ok. 3 passed; 0 failed; 0 ignored; …`.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let line = line.trim().strip_prefix("test result: ")?;
        let words: Vec<_> = line.split([' ', ';']).collect();
        let count = |word: &str| {
            let at = words.iter().position(|other| *other == word)?;
            words.get(at.checked_sub(1)?)?.parse().ok()
        };
        Some(Self {
            passed: count("passed")?,
            failed: count("failed")?,
            skipped: count("ignored")?,
        })
    }
}

impl fmt::Display for Counts {
    /// A form that tools know, too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// A test program, or the examples in a crate's documentation.
#[derive(Debug, Default, PartialEq)]
struct Suite {
    name: String,
    /// None if it has not come to its end.
    counts: Option<Counts>,
    took: Duration,
    failed: Vec<String>,
    /// Why tests were skipped, and how many for that reason.
    reasons: BTreeMap<String, u32>,
    /// What the program said before its tests, which holds for all that it skips.
    reason: Option<String>,
}

/// What has been read so far.
#[derive(Debug, Default)]
pub(crate) struct Results(Vec<Suite>);

impl Results {
    /// Takes a line of the two streams together.
    pub(crate) fn line(&mut self, line: &str) {
        let line = plain(line);
        let line = line.trim();
        if let Some(name) = suite(line) {
            self.0.push(Suite {
                name,
                ..Suite::default()
            });
            return;
        }
        let Some(suite) = self.0.last_mut() else {
            return;
        };
        if let Some(counts) = Counts::parse(line) {
            suite.counts = Some(counts);
            suite.took = duration(line).unwrap_or_default();
            suite.give_reason(counts);
        } else if let Some(reason) = line.strip_prefix(REASON) {
            suite.reason = Some(reason.to_owned());
        } else if let Some((name, outcome)) = test(line) {
            if outcome == "FAILED" {
                suite.failed.push(name.to_owned());
            } else if let Some(reason) = outcome.strip_prefix("ignored, ") {
                *suite.reasons.entry(reason.to_owned()).or_default() += 1;
            }
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        let mut all = Counts::default();
        for suite in &self.0 {
            // What has no end has failed.
            all.add(suite.counts.unwrap_or(Counts {
                failed: 1,
                ..Counts::default()
            }));
        }
        all
    }
}

impl Suite {
    /// What was skipped without a word of its own was skipped for the program's reason.
    fn give_reason(&mut self, counts: Counts) {
        let known: u32 = self.reasons.values().sum();
        let rest = counts.skipped.saturating_sub(known);
        if rest > 0 {
            let reason = self.reason.clone();
            let reason = reason.unwrap_or_else(|| "no reason given".into());
            *self.reasons.entry(reason).or_default() += rest;
        }
    }
}

impl fmt::Display for Results {
    /// A line for each suite that has tests, then what failed, then why tests were skipped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with_tests = |suite: &&Suite| suite.counts != Some(Counts::default());
        let suites: Vec<_> = self.0.iter().filter(with_tests).collect();
        let width = suites.iter().map(|suite| suite.name.len()).max();
        let width = width.unwrap_or_default();
        for suite in &suites {
            let Suite { name, took, .. } = suite;
            write!(f, "{name:<width$}  {:>11}  ", Clock(*took))?;
            match suite.counts {
                Some(counts) => writeln!(f, "{counts}")?,
                None => writeln!(f, "not finished")?,
            }
        }
        for suite in &suites {
            for test in &suite.failed {
                writeln!(f, "FAILED   {}: {test}", suite.name)?;
            }
        }
        for suite in &suites {
            for (reason, count) in &suite.reasons {
                writeln!(f, "skipped  {}: {count}: {reason}", suite.name)?;
            }
        }
        Ok(())
    }
}

/// The name of the suite that begins: `Running unittests src/lib.rs (target/debug/deps/nodegate-0123)`,
/// `Doc-tests nodegate`.
fn suite(line: &str) -> Option<String> {
    if let Some(name) = line.strip_prefix("Doc-tests ") {
        return Some(format!("{name} (documentation)"));
    }
    let (what, file) = line.strip_prefix("Running ")?.rsplit_once(" (")?;
    let file = file.strip_suffix(')')?.rsplit('/').next()?;
    let (name, _hash) = file.rsplit_once('-')?;
    let name = name.to_owned();
    Some(if what.starts_with("unittests") {
        format!("{name} (unit)")
    } else {
        name
    })
}

/// Of `test NAME ... OUTCOME`.
fn test(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix("test ")?.split_once(" ... ")
}

/// Of `…; finished in 1.23s`.
fn duration(line: &str) -> Option<Duration> {
    let (_, seconds) = line.rsplit_once("finished in ")?;
    let seconds = seconds.strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// Without a terminal's colours.
fn plain(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        text.push_str(before);
        rest = after.split_once('m').map_or("", |(_, rest)| rest);
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Results {
        let mut results = Results::default();
        text.lines().for_each(|line| results.line(line));
        results
    }

    const UNIT: &str =
        "\x1b[1m\x1b[32m     Running\x1b[0m unittests src/lib.rs (target/debug/deps/xtask-01ab)
running 2 tests
test a ... ok
test b ... FAILED
test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 2.50s
";

    #[test]
    fn suites_are_counted_and_failures_named() {
        let results = read(UNIT);
        assert_eq!(
            results.counts().to_string(),
            "1 passed, 1 failed, 0 skipped"
        );
        let text = results.to_string();
        assert!(text.starts_with("xtask (unit)"), "{text}");
        assert!(text.contains("2.5 s"), "{text}");
        assert!(text.contains("FAILED   xtask (unit): b"), "{text}");
    }

    #[test]
    fn reasons_are_the_tests_own_or_the_programs() {
        let results = read(
            "     Running tests/e2e/main.rs (target/debug/deps/e2e-99)\n\
             skipped: this needs root\n\
             test a ... ignored, no SCTP in this kernel\n\
             test b ... ignored\n\
             test result: ok. 0 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        );
        let text = results.to_string();
        assert!(
            text.contains("skipped  e2e: 1: no SCTP in this kernel\n"),
            "{text}"
        );
        assert!(
            text.contains("skipped  e2e: 1: this needs root\n"),
            "{text}"
        );
    }

    #[test]
    fn a_suite_that_breaks_off_has_failed() {
        let text = "     Running tests/swap.rs (target/debug/deps/swap-99)\ntest a ... ok\n";
        let results = read(text);
        assert_eq!(results.counts().failed, 1);
        assert!(results.to_string().contains("not finished"));
    }

    #[test]
    fn suites_without_tests_are_left_out() {
        let text = "   Doc-tests nodegate\n\
                    test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        assert_eq!(read(text).to_string(), "");
    }
}
