//! The suite's program: which tests it has, and how they are run.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use nodegate_programs::Program;
use serde::Deserialize;

use crate::{
    cluster::{Cluster, PAUSE_IMAGE, parts::Parts},
    process,
};

/// What the program's lines begin with that are for us (tests/parts/e2e/main.go).
const MARK: &str = "@test ";
/// More than all tests together take on a slow machine; each has limits of its own.
const LIMIT: &str = "--ginkgo.timeout=12h";
/// The API server where none is asked: without one the program looks for it.
const NOBODY: &str = "--host=localhost";
/// Tests that have to be the only ones.
const ALONE: [&str; 2] = ["[Serial]", "[Disruptive]"];

/// Which tests, by regular expressions in Go's syntax.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Those whose names match.
    pub focus: String,
    /// But not those.
    pub skip: Option<String>,
}

/// All tests of networks.
pub const ALL: &str = r"\[sig-network\]";

/// The tests of what a replacement of kube-proxy does, or what its users notice of it.
pub const SERVICES: &str = r"\[sig-network\] (Services|Service CIDRs|Service endpoints latency|API Server|EndpointSlice|Endpoints|Conntrack|Traffic Distribution|Topology Hints|Connectivity Pod Lifecycle|Networking Granular Checks: Services|\[Feature:IPv6DualStack\])";

/// Of these, the ones that need a kernel with SCTP, which few have.
pub const SCTP: &str = r"\[Feature:SCTPConnectivity\]";

/// What becomes of a test.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It has begun.
    Begun(String),
    /// It has come to its end.
    Ended(Ended),
}

/// A test that has come to its end.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// Its name.
    pub name: String,
    /// How.
    pub state: State,
    /// How long it took.
    pub took: Duration,
    /// Why it has failed, or why it skips itself.
    pub message: String,
}

/// How a test has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As it should.
    Passed,
    /// It has found that the cluster lacks what it needs.
    Skipped,
    /// In any other way.
    Failed,
}

/// A line of the program's.
#[derive(Debug, Deserialize)]
struct Line {
    name: String,
    state: String,
    seconds: f64,
    message: String,
}

impl Choice {
    /// Those whose names match.
    pub fn focus(expression: impl Into<String>) -> Self {
        Self {
            focus: expression.into(),
            skip: None,
        }
    }

    fn arguments(&self) -> Vec<String> {
        let focus = format!("--ginkgo.focus={}", self.focus);
        let skip = self.skip.iter();
        let skip = skip.map(|expression| format!("--ginkgo.skip={expression}"));
        [focus].into_iter().chain(skip).collect()
    }
}

/// The names of the tests that are chosen, in their order.
///
/// # Errors
/// If the expressions are none.
pub fn list(parts: &Parts, choice: &Choice) -> anyhow::Result<Vec<String>> {
    let mut suite = parts.command(Program::E2e);
    suite.args(["--list", NOBODY]).args(choice.arguments());
    let said = process::run(suite).with_context(|| format!("`{}`", choice.focus))?;
    let lines = said.lines().filter_map(read);
    let mut names: Vec<_> = lines.map(|line| line.name).collect();
    names.sort();
    Ok(names)
}

/// Lets all nodes have the images that these tests use, made of what is here. The image with agnhost has
/// all that they call in the one with busybox.
///
/// # Errors
/// If a node does not take one.
pub fn images(cluster: &Cluster) -> anyhow::Result<()> {
    let mut suite = cluster.suite()?;
    suite.args(["--list-images", NOBODY]);
    let said = process::run(suite)?;
    let agnhost = cluster.agnhost()?;
    for name in said.lines() {
        if name.contains("/busybox:") {
            cluster.name_image(&agnhost, name)?;
        } else if name.contains("/pause:") {
            cluster.name_image(PAUSE_IMAGE, name)?;
        } else if name.contains("/regression-issue-74839:") {
            cluster.load(&cluster.server_image(name)?)?;
        }
    }
    Ok(())
}

/// Runs tests to their end, so many at a time, and tells what becomes of each. What the suite says goes into
/// logs in a directory.
///
/// # Errors
/// If the suite does not start, or says what can't be understood; not if a test fails.
pub fn run(
    cluster: &Cluster,
    tests: &[String],
    jobs: usize,
    logs: &Path,
    tell: &mut (dyn FnMut(Event) + Send),
) -> anyhow::Result<()> {
    fs::create_dir_all(logs).with_context(|| format!("making {}", logs.display()))?;
    let (alone, together): (Vec<_>, Vec<_>) = tests.iter().partition(|test| is_alone(test));
    let tell = std::sync::Mutex::new(tell);
    let tell = |event| {
        // Another thread's panic is that thread's.
        let mut tell = tell
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        tell(event);
    };
    let part = |name: String, tests: Vec<&String>| {
        let log = logs.join(name);
        follow(cluster.suite()?, &tests, &log, &tell)
            .with_context(|| format!("Kubernetes' tests; see {}", log.display()))
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = deal(&together, jobs)
            .into_iter()
            .enumerate()
            .map(|(index, tests)| {
                scope.spawn(move || part(format!("e2e-{}.log", index + 1), tests))
            })
            .collect();
        let ends = threads.into_iter().map(|thread| match thread.join() {
            Ok(end) => end,
            Err(_) => bail!("a thread has panicked"),
        });
        // All of them, also when one fails.
        let ends: Vec<_> = ends.collect();
        ends.into_iter().collect::<anyhow::Result<()>>()
    })?;
    if alone.is_empty() {
        return Ok(());
    }
    part("e2e-alone.log".into(), alone)
}

/// One process with tests.
fn follow(
    mut suite: Command,
    tests: &[&String],
    log: &Path,
    tell: &dyn Fn(Event),
) -> anyhow::Result<()> {
    let mut file = File::create(log).with_context(|| format!("making {}", log.display()))?;
    // Its complaints, and its report of each failed test, stand in one file.
    let complaints = OpenOptions::new().append(true).open(log)?;
    let focus = tests
        .iter()
        .map(|test| format!("--ginkgo.focus={}$", escape(test)));
    suite
        .args([
            "--provider=skeleton",
            "--node-os-distro=custom",
            "--disable-log-dump",
        ])
        .args(["--ginkgo.no-color", LIMIT])
        .args(focus)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(complaints);
    let mut child = suite.spawn().context("starting them")?;
    let mut lines = BufReader::new(child.stdout.take().context("their output")?);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        match read(&text) {
            Some(line) => tell(line.into()),
            None => file.write_all(&line)?,
        }
        line.clear();
    }
    let status = child.wait()?;
    // 1 if a test has failed.
    ensure!(
        matches!(status.code(), Some(0 | 1)),
        "they have ended: {status}"
    );
    Ok(())
}

fn read(line: &str) -> Option<Line> {
    serde_json::from_str(line.strip_prefix(MARK)?).ok()
}

impl From<Line> for Event {
    fn from(line: Line) -> Self {
        let Line {
            name,
            state,
            seconds,
            message,
        } = line;
        let state = match state.as_str() {
            "begun" => return Self::Begun(name),
            "passed" => State::Passed,
            "skipped" | "pending" => State::Skipped,
            _ => State::Failed,
        };
        let took = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        Self::Ended(Ended {
            name,
            state,
            took,
            message,
        })
    }
}

/// Whether other tests at the same time would disturb it.
fn is_alone(test: &str) -> bool {
    ALONE.iter().any(|word| test.contains(word))
}

/// Tests for so many processes, one after the other to each: the slow ones stand side by side.
fn deal<'a>(tests: &[&'a String], processes: usize) -> Vec<Vec<&'a String>> {
    let processes = processes.clamp(1, tests.len().max(1));
    let mut dealt = vec![Vec::new(); processes];
    for (index, test) in tests.iter().enumerate() {
        dealt[index % processes].push(*test);
    }
    dealt.retain(|tests| !tests.is_empty());
    dealt
}

/// A regular expression for exactly this text.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_us_are_told_from_others() {
        let line =
            r#"@test {"name":"[sig-network] A","state":"timedout","seconds":1.5,"message":"why"}"#;
        let Event::Ended(ended) = read(line).unwrap().into() else {
            panic!("it has ended");
        };
        assert_eq!(
            (ended.state, ended.took),
            (State::Failed, Duration::from_millis(1500))
        );
        assert_eq!(ended.message, "why");
        assert!(read("Ran 3 of 200 Specs").is_none());
        assert!(read("@test {").is_none());
    }

    #[test]
    fn names_are_no_regular_expressions() {
        let name = "[sig-network] Services (a: true) x.y=z?";
        assert_eq!(
            escape(name),
            r"\[sig-network\] Services \(a: true\) x\.y=z\?"
        );
    }

    #[test]
    fn every_test_is_dealt_once() {
        let tests: Vec<_> = (0..5).map(|number| number.to_string()).collect();
        let tests: Vec<_> = tests.iter().collect();
        assert_eq!(deal(&tests, 2), [vec!["0", "2", "4"], vec!["1", "3"]]);
        assert_eq!(deal(&tests[..1], 8).len(), 1);
        assert!(deal(&[], 2).is_empty());
    }
}
