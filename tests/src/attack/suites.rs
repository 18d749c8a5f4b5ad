//! Suites that nobody here wrote: h2spec asks a server of HTTP/2 for everything that RFC 7540 and RFC 7541 say of
//! clients that do what they must not.

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};
use nodegate_programs::own;

use super::{
    neighbour::is_served,
    outcome::{Outcome, Reach},
    target::Target,
};

/// The suite's name, and its program's.
pub const NAME: &str = "h2spec";
/// What it does.
pub(super) const ABOUT: &str = "a public suite for servers of HTTP/2";

/// What it wants and does not get.
const KNOWN: [(&str, &str, &str); 1] = [(
    "http2/3.5",
    "Sends invalid connection preface",
    "what is no preface is HTTP/1.1 on a port that speaks both, and answered as such",
)];

/// Runs it against a proxy.
pub(super) fn run(target: &mut Target, h2spec: &Path) -> anyhow::Result<Outcome> {
    let directory = tempfile::tempdir()?;
    let report = directory.path().join("report.xml");
    let mut command = own(h2spec);
    command
        .args(["--host", "127.0.0.1", "--path", "/a", "--port"])
        .arg(target.plain.port().to_string())
        .args([
            "--timeout",
            &target.patience.as_secs().to_string(),
            "--junit-report",
        ])
        .arg(&report);
    // It ends with 1 if one of its tests fails, which the report says, too.
    let output = crate::process::output(command)?;
    let text = fs::read_to_string(&report).with_context(|| {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        format!("it has written no report: {said}")
    })?;
    let results = results(&text);
    ensure!(!results.is_empty(), "its report has no tests: {text}");
    let failed: Vec<_> = results.iter().filter(|result| !result.passed).collect();
    let told = format!("{} of {} pass", results.len() - failed.len(), results.len());
    let mut outcome = Outcome::new(Reach::Bounded, told);
    for Result { section, test, .. } in failed {
        let is_known = KNOWN
            .iter()
            .any(|(known, name, _)| known == section && name == test);
        if !is_known {
            outcome.broken.push(format!("{section}: {test}"));
        }
    }
    let broken = target.broken(is_served(target.plain))?;
    outcome.broken.extend(broken);
    Ok(outcome)
}

/// A test of the suite.
#[derive(Debug, PartialEq, Eq)]
struct Result<'r> {
    section: &'r str,
    test: &'r str,
    passed: bool,
}

/// The tests of a report in JUnit's format, as h2spec writes it.
fn results(report: &str) -> Vec<Result<'_>> {
    let attribute = |case: &'_ str, name: &str| -> Option<(usize, usize)> {
        let begin = case.find(name)? + name.len();
        Some((begin, begin + case[begin..].find('"')?))
    };
    let cases = report.split("<testcase ").skip(1);
    let cases = cases.filter_map(|case| {
        let section = attribute(case, "package=\"")?;
        let test = attribute(case, "classname=\"")?;
        let end = case.find("</testcase>").unwrap_or(case.len());
        Some(Result {
            section: &case[section.0..section.1],
            test: &case[test.0..test.1],
            passed: !case[..end].contains("<failure") && !case[..end].contains("<error"),
        })
    });
    cases.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read() {
        let report = "<testsuites><testsuite name=\"a\">\n\
            <testcase package=\"http2/3.5\" classname=\"One\" time=\"0.1\"></testcase>\n\
            <testcase package=\"http2/4\" classname=\"Two\" time=\"0.1\">\n<failure>x</failure></testcase>\n\
            </testsuite></testsuites>";
        let result = |section, test, passed| Result {
            section,
            test,
            passed,
        };
        assert_eq!(
            results(report),
            [
                result("http2/3.5", "One", true),
                result("http2/4", "Two", false)
            ]
        );
    }
}
