//! Where the time goes: named phases and their durations.

use std::{
    fmt,
    time::{Duration, Instant},
};

/// Phases in their order, with how long each took.
#[derive(Debug, Default)]
pub(crate) struct Phases(Vec<(String, Duration)>);

impl Phases {
    /// Does something, and notes how long it took, also if it fails.
    pub(crate) fn time<T>(&mut self, name: &str, work: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let result = work();
        self.add(name, begin.elapsed());
        result
    }

    /// Notes a phase that was timed elsewhere.
    pub(crate) fn add(&mut self, name: &str, took: Duration) {
        self.0.push((name.to_owned(), took));
    }
}

impl fmt::Display for Phases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, took) in &self.0 {
            writeln!(f, "{name:<width$}  {:>9}", Clock(*took))?;
        }
        let all = self.0.iter().map(|(_, took)| *took).sum();
        writeln!(f, "{:<width$}  {:>9}", "in all", Clock(all))
    }
}

/// `1 min 05 s`, `3.2 s`
pub(crate) struct Clock(pub(crate) Duration);

impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let text = if seconds < 60 {
            format!("{:.1} s", self.0.as_secs_f64())
        } else {
            format!("{} min {:02} s", seconds / 60, seconds % 60)
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_lined_up_and_summed() {
        let mut phases = Phases::default();
        phases.add("build", Duration::from_millis(65_400));
        phases.add("all tests", Duration::from_millis(3_210));
        let expected = "build      1 min 05 s\nall tests      3.2 s\nin all     1 min 08 s\n";
        assert_eq!(phases.to_string(), expected);
    }
}
