//! What became of all tests, and whether that is as it should be.

use std::{collections::BTreeMap, time::Duration};

use super::{
    known::Known,
    suite::{Ended, State},
};

/// What became of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It has failed, or it has not come to its end.
    Failed,
    /// It is known that it can't pass, and it has.
    Surprise,
    /// It has failed, as is known.
    Known,
    /// It has found that the cluster lacks what it needs.
    Skipped,
    /// It has passed.
    Passed,
}

/// A test, and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Result {
    /// Its name.
    pub name: String,
    /// What became of it.
    pub verdict: Verdict,
    /// How long it took.
    pub took: Duration,
    /// Why, where there is something to say.
    pub why: String,
}

/// What became of all tests that were to run.
#[derive(Debug)]
pub struct Report {
    known: Known,
    /// Those to come, and those that have ended.
    results: BTreeMap<String, Option<Result>>,
}

impl Report {
    /// About tests that are to run.
    pub fn new(tests: &[String], known: Known) -> Self {
        let results = tests.iter().map(|name| (name.clone(), None)).collect();
        Self { known, results }
    }

    /// Takes a test's end.
    pub fn end(&mut self, ended: Ended) -> Result {
        let Ended {
            name,
            state,
            took,
            message,
        } = ended;
        let reason = self.known.get(&name).cloned();
        let (verdict, why) = match (state, reason) {
            (State::Skipped, _) => (Verdict::Skipped, message),
            (State::Passed, None) => (Verdict::Passed, String::new()),
            (State::Passed, Some(reason)) => (Verdict::Surprise, reason),
            (State::Failed, None) => (Verdict::Failed, message),
            (State::Failed, Some(reason)) => (Verdict::Known, reason),
        };
        let result = Result {
            name: name.clone(),
            verdict,
            took,
            why,
        };
        self.results.insert(name, Some(result.clone()));
        result
    }

    /// How many tests have ended.
    pub fn ended(&self) -> usize {
        self.results.values().flatten().count()
    }

    /// How many tests there are.
    pub fn all(&self) -> usize {
        self.results.len()
    }

    /// All tests, those first that are not as they should be.
    pub fn results(&self) -> Vec<Result> {
        let unfinished = |name: &String| Result {
            name: name.clone(),
            verdict: Verdict::Failed,
            took: Duration::ZERO,
            why: "it has not come to its end".into(),
        };
        let results = self.results.iter();
        let results =
            results.map(|(name, result)| result.clone().unwrap_or_else(|| unfinished(name)));
        let mut results: Vec<_> = results.collect();
        results.sort_by_key(|result| result.verdict);
        results
    }

    /// How many tests of the kind there are.
    pub fn count(&self, verdict: Verdict) -> usize {
        let results = self.results();
        results
            .iter()
            .filter(|result| result.verdict == verdict)
            .count()
    }

    /// Whether all that should pass has passed, and nothing else.
    pub fn is_good(&self) -> bool {
        self.count(Verdict::Failed) + self.count(Verdict::Surprise) == 0
    }
}

impl Verdict {
    /// In a word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Failed => "FAILED",
            Self::Surprise => "PASSED?",
            Self::Known => "known",
            Self::Skipped => "skipped",
            Self::Passed => "passed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(name: &str, state: State) -> Ended {
        Ended {
            name: name.into(),
            state,
            took: Duration::from_secs(1),
            message: "its own".into(),
        }
    }

    fn report(ends: &[(&str, State)]) -> Report {
        let tests = ends
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect::<Vec<_>>();
        let known = Known::from([("known".into(), "no SCTP".into())]);
        let mut report = Report::new(&tests, known);
        for (name, state) in ends {
            report.end(ended(name, *state));
        }
        report
    }

    #[test]
    fn what_should_pass_must_pass() {
        assert!(report(&[("a", State::Passed), ("b", State::Skipped)]).is_good());
        let bad = report(&[("a", State::Passed), ("b", State::Failed)]);
        assert!(!bad.is_good());
        let first = bad.results().remove(0);
        assert_eq!((first.name.as_str(), first.why.as_str()), ("b", "its own"));
    }

    #[test]
    fn what_is_known_must_fail() {
        let good = report(&[("known", State::Failed)]);
        assert!(good.is_good());
        assert_eq!(good.results()[0].why, "no SCTP");
        let surprise = report(&[("known", State::Passed)]);
        assert!(!surprise.is_good());
        assert_eq!(surprise.count(Verdict::Surprise), 1);
    }

    #[test]
    fn what_has_no_end_has_failed() {
        let report = Report::new(&["a".to_owned()], Known::new());
        assert!(!report.is_good());
        assert_eq!((report.ended(), report.all()), (0, 1));
    }
}
