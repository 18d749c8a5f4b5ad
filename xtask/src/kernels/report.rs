//! What is printed about the kernels that were tried.

use std::fmt::Write as _;

use serde_json::Value;

use super::machine::{Outcome, Report};
use crate::{results::Counts, table};

/// Names of steps.
pub(super) const PREFLIGHT: &str = "preflight";
pub(super) const PROGRAMS: &str = "programs";
pub(super) const PACKETS: &str = "packets";
/// All others are end to end: this, and a number.
pub(super) const TRIALS: &str = "trials";

/// Prints the tables, and what has failed; whether nothing has.
pub(super) fn print(reports: &[Report]) -> bool {
    for report in reports {
        for outcome in &report.outcomes {
            if outcome.status != Some(0) {
                println!(
                    "--- {}: {}: {}",
                    report.release,
                    outcome.name,
                    ended(outcome)
                );
                println!("{}", tail(&outcome.output, 60));
            }
        }
    }
    let header = [
        "KERNEL",
        "PREFLIGHT",
        "PACKET HOOKS",
        "PACKET TESTS",
        "END TO END",
        "MINUTES",
    ];
    table::print(&header, reports.iter().map(row));
    println!();
    let programs: Vec<_> = reports.iter().map(instructions).collect();
    let mut names: Vec<_> = programs
        .iter()
        .flatten()
        .map(|(name, _)| name.clone())
        .collect();
    names.sort();
    names.dedup();
    let mut header = vec!["VERIFIED INSTRUCTIONS"];
    header.extend(reports.iter().map(|report| report.release.as_str()));
    let rows = names.into_iter().map(|name| {
        let counts = programs.iter().map(|programs| {
            let count = programs.iter().find(|program| program.0 == name);
            count.map_or_else(|| "-".into(), |(_, count)| count.to_string())
        });
        std::iter::once(name.clone()).chain(counts).collect()
    });
    table::print(&header, rows);
    reports.iter().all(is_good)
}

fn is_good(report: &Report) -> bool {
    report.complete
        && report
            .outcomes
            .iter()
            .all(|outcome| outcome.status == Some(0))
}

fn row(report: &Report) -> Vec<String> {
    let step = |name: &str| report.outcomes.iter().find(|outcome| outcome.name == name);
    let checks = step(PREFLIGHT).map(checks).unwrap_or_default();
    let trials: Vec<_> = report
        .outcomes
        .iter()
        .filter(|outcome| outcome.name.starts_with(TRIALS))
        .collect();
    let seconds: u64 = report
        .outcomes
        .iter()
        .map(|outcome| outcome.time.as_secs())
        .sum();
    vec![
        report.release.clone(),
        summary(&checks),
        hooks(&checks),
        tests(step(PACKETS).as_slice()),
        tests(&trials),
        format!("{:.1}", seconds as f64 / 60.0),
    ]
}

/// What `nodegate preflight -o json` has printed.
fn checks(outcome: &Outcome) -> Vec<Value> {
    serde_json::from_str(&outcome.output).unwrap_or_default()
}

/// How many checks went how, and the names of those that are not well.
fn summary(checks: &[Value]) -> String {
    let with = |outcome: &str| -> Vec<&str> {
        checks
            .iter()
            .filter(|check| check["outcome"] == outcome)
            .filter_map(|check| check["name"].as_str())
            .collect()
    };
    let mut parts = vec![format!("{} ok", with("ok").len())];
    for (outcome, word) in [("warning", "warning"), ("failed", "FAILED")] {
        let names = with(outcome);
        if !names.is_empty() {
            parts.push(format!("{} {word} ({})", names.len(), names.join(", ")));
        }
    }
    parts.join(", ")
}

fn hooks(checks: &[Value]) -> String {
    let found = checks
        .iter()
        .find(|check| check["name"] == "packet hooks")
        .and_then(|check| check["found"].as_str())
        .unwrap_or_default();
    let has = |word: &&&str| found.contains(**word);
    // "no tcx: clsact filters"
    let word = ["clsact", "tcx"].iter().find(has).copied();
    word.unwrap_or("none").into()
}

/// The sum of what test programs say at their end.
fn tests(outcomes: &[&Outcome]) -> String {
    if outcomes.is_empty() {
        return "-".into();
    }
    let mut all = Counts::default();
    let mut unfinished = 0;
    for outcome in outcomes {
        match outcome.output.lines().rev().find_map(Counts::parse) {
            Some(counts) => all.add(counts),
            None => unfinished += 1,
        }
    }
    let mut text = format!("{} passed", all.passed);
    for (count, word) in [
        (all.failed, "FAILED"),
        (all.skipped, "skipped"),
        (unfinished, "not finished"),
    ] {
        if count > 0 {
            // Writing to a String cannot fail.
            let _ = write!(text, ", {count} {word}");
        }
    }
    text
}

/// Programs and how many instructions the verifier has gone through for each.
fn instructions(report: &Report) -> Vec<(String, u64)> {
    let outcome = report
        .outcomes
        .iter()
        .find(|outcome| outcome.name == PROGRAMS);
    let output = outcome.map_or("", |outcome| &outcome.output);
    let program = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            [name, _, "B", _, "B", count] => Some((name.to_owned(), count.parse().ok()?)),
            _ => None,
        }
    };
    output.lines().filter_map(program).collect()
}

fn ended(outcome: &Outcome) -> String {
    match outcome.status {
        // busybox' timeout(1)
        Some(124 | 137 | 143) => "took too long".into(),
        Some(status) => format!("exit status {status}"),
        None => "the machine ended meanwhile".into(),
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(name: &str, status: i32, output: &str) -> Outcome {
        Outcome {
            name: name.into(),
            status: Some(status),
            output: output.into(),
            ..Outcome::default()
        }
    }

    #[test]
    fn a_row_says_what_went_how() {
        let preflight = r#"[{"name":"kernel","outcome":"ok","found":"6.1"},
            {"name":"packet hooks","outcome":"warning","found":"no tcx: clsact filters on eth0"}]"#;
        let passed = "\ntest result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 9 filtered out";
        let report = Report {
            release: "6.1".into(),
            outcomes: vec![
                outcome(PREFLIGHT, 0, preflight),
                outcome(PACKETS, 0, passed),
                outcome("trials1", 0, passed),
                outcome("trials2", 143, "running 3 tests"),
            ],
            complete: true,
        };
        assert_eq!(
            row(&report)[..5],
            [
                "6.1",
                "1 ok, 1 warning (packet hooks)",
                "clsact",
                "3 passed, 1 skipped",
                "3 passed, 1 skipped, 1 not finished"
            ]
        );
        assert!(!is_good(&report));
    }

    #[test]
    fn instructions_are_read_from_the_sizes() {
        let output = "PROGRAM BYTECODE MACHINE CODE VERIFIED INSTRUCTIONS\n\
                      connect4         9000 B       5000 B      12345\n";
        let report = Report {
            outcomes: vec![outcome(PROGRAMS, 0, output)],
            ..Report::default()
        };
        assert_eq!(instructions(&report), [("connect4".to_owned(), 12345)]);
    }
}
