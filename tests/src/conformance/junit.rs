//! A report in the format that CI servers read.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::Context as _;

use super::report::{Report, Verdict};

/// Writes the report into a file.
///
/// # Errors
/// If it can't be written.
pub fn write(report: &Report, file: &Path) -> anyhow::Result<()> {
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    }
    fs::write(file, text(report)).with_context(|| format!("writing {}", file.display()))
}

fn text(report: &Report) -> String {
    let results = report.results();
    let seconds: f64 = results.iter().map(|result| result.took.as_secs_f64()).sum();
    let failures = report.count(Verdict::Failed) + report.count(Verdict::Surprise);
    let skipped = report.count(Verdict::Known) + report.count(Verdict::Skipped);
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <testsuite name=\"conformance\" tests=\"{}\" failures=\"{failures}\" skipped=\"{skipped}\" time=\"{seconds:.1}\">\n",
        results.len()
    );
    for result in &results {
        let why = escape(&result.why);
        let inside = match result.verdict {
            Verdict::Passed => String::new(),
            Verdict::Failed => format!("<failure>{why}</failure>"),
            Verdict::Surprise => format!("<failure>passes, although: {why}</failure>"),
            Verdict::Known | Verdict::Skipped => format!("<skipped message=\"{why}\"/>"),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  <testcase classname=\"sig-network\" name=\"{}\" time=\"{:.1}\">{inside}</testcase>",
            escape(&result.name),
            result.took.as_secs_f64()
        );
    }
    text + "</testsuite>\n"
}

/// Text as XML has it. Control characters, which XML can't have, are left out.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            c if c.is_control() => {}
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::conformance::{
        known::Known,
        suite::{Ended, State},
    };

    #[test]
    fn failures_have_their_reasons() {
        let mut report = Report::new(&["a<b>".to_owned()], Known::new());
        report.end(Ended {
            name: "a<b>".into(),
            state: State::Failed,
            took: Duration::from_millis(1500),
            message: "\"x\" & y\n\u{1b}[0m".into(),
        });
        let text = text(&report);
        assert!(
            text.contains("tests=\"1\" failures=\"1\" skipped=\"0\""),
            "{text}"
        );
        assert!(text.contains("name=\"a&lt;b&gt;\" time=\"1.5\""), "{text}");
        assert!(
            text.contains("<failure>&quot;x&quot; &amp; y&#10;[0m</failure>"),
            "{text}"
        );
    }
}
