//! What was found: a case and a request that the two sides answer otherwise, as a file.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{
    case::Case,
    compare::{Divergence, Outcome},
    log::Line,
    request::Request,
    stage::Pair,
    wire::Message,
};

/// The name that a case has in files.
const NAME: &str = "case";

/// A case that differs, and in what.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The case's number, which with the seed makes it again.
    pub number: u64,
    /// As small as it has become; its requests are those that were generated.
    pub case: Case,
    /// The request that differs.
    pub request: Request,
    /// What differs and is not known.
    pub divergences: Vec<Divergence>,
    /// What became of the request.
    pub(super) pair: Pair,
}

impl Finding {
    /// What differs, by which findings are told apart.
    pub fn aspects(&self) -> BTreeSet<&str> {
        let aspects = self.divergences.iter();
        aspects.map(|one| one.aspect.as_str()).collect()
    }

    /// Writes it to a directory, as the so-manieth of a seed, in a file that says what it is about.
    pub fn write(&self, seed: u64, index: usize, directory: &Path) -> anyhow::Result<PathBuf> {
        let first = self.aspects().first().map_or_else(String::new, |aspect| {
            aspect.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-")
        });
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        let file = directory.join(format!("{seed}-{index}-{first}.yaml"));
        fs::write(&file, self.text(seed)?)
            .with_context(|| format!("writing {}", file.display()))?;
        Ok(file)
    }

    /// YAML that can be applied, with all else as comments.
    pub(super) fn text(&self, seed: u64) -> anyhow::Result<String> {
        let mut notes = format!("seed {seed}, case {}\n", self.number);
        for one in &self.divergences {
            // Writing to a String cannot fail.
            let _ = writeln!(
                notes,
                "{}: {} with Istio, {} with nodegate",
                one.aspect, one.istio, one.nodegate
            );
        }
        let request = self.request.head(NAME);
        if let Some(port) = self.request.port {
            let _ = writeln!(notes, "port {port}");
        }
        let body = self.request.body.as_deref().unwrap_or_default();
        let _ = write!(notes, "\nRequest:\n{}{body}", indented(&request));
        for (name, value) in &self.request.trailers {
            let _ = write!(notes, "\n  {name}: {value} (trailer)");
        }
        if let Some(odd) = self.request.odd {
            let _ = write!(notes, "\n  (odd: {odd:?})");
        }
        let [istio, nodegate] = &self.pair;
        let _ = write!(notes, "\nIstio:\n{}", outcome(istio));
        let _ = write!(notes, "\nnodegate:\n{}", outcome(nodegate));
        let mut text = String::new();
        for line in notes.lines() {
            let _ = writeln!(text, "{}", format!("# {line}").trim_end());
        }
        for object in self.case.objects(NAME) {
            text += "---\n";
            text += &serde_yaml::to_string(&object)?;
        }
        Ok(text)
    }
}

fn outcome(outcome: &Outcome) -> String {
    let mut text = message(&outcome.answer);
    if let Some(lost) = outcome.lost {
        let _ = writeln!(text, "  (lost: {lost:?})");
    }
    let marks = [
        ("reset", outcome.reset.map(|code| code.to_string())),
        ("away", outcome.away.map(|code| code.to_string())),
        ("kept", outcome.kept.map(|kept| kept.to_string())),
    ];
    for (name, value) in marks {
        if let Some(value) = value {
            let _ = writeln!(text, "  ({name}: {value})");
        }
    }
    for (name, value) in outcome.line.iter().flat_map(Line::fields) {
        if value != "-" {
            let _ = writeln!(text, "  (log {name}: {value})");
        }
    }
    for report in &outcome.reports {
        let _ = write!(
            text,
            "  {} got:\n{}",
            report.endpoint,
            indented(&message(&report.message))
        );
    }
    text
}

fn message(message: &Message) -> String {
    if message.start.is_empty() {
        return "  (nothing)\n".into();
    }
    let headers = message.headers.iter();
    let headers = headers.map(|(name, value)| format!("{name}: {value}"));
    let mut lines = vec![message.start.clone()];
    lines.extend(headers);
    if !message.body.is_empty() {
        lines.push(format!("{:?}", String::from_utf8_lossy(&message.body)));
    }
    let trailers = message.trailers.iter();
    lines.extend(trailers.map(|(name, value)| format!("{name}: {value} (trailer)")));
    if message.cut {
        lines.push("(cut off)".into());
    }
    indented(&lines.join("\n"))
}

fn indented(text: &str) -> String {
    let lines = text.lines().map(|line| format!("  {line}\n"));
    lines.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_file_can_be_applied_and_says_what_was_asked_and_answered() {
        let answer = |status: &str| Outcome {
            answer: Message {
                start: format!("HTTP/1.1 {status}"),
                ..Message::default()
            },
            ..Outcome::default()
        };
        let finding = Finding {
            number: 4,
            case: Case {
                objects: vec![json!({"kind": "VirtualService", "spec": {"hosts": ["CASE.test"]}})],
                requests: Vec::new(),
            },
            request: Request {
                method: "GET".into(),
                target: "/".into(),
                version: "HTTP/1.1",
                host: "CASE.test".into(),
                ..Request::default()
            },
            divergences: vec![Divergence {
                aspect: "status".into(),
                istio: "200".into(),
                nodegate: "404".into(),
            }],
            pair: [answer("200 OK"), answer("404 Not Found")],
        };
        let directory = tempfile::tempdir().unwrap();
        let file = finding.write(7, 2, directory.path()).unwrap();
        assert!(file.ends_with("7-2-status.yaml"), "{}", file.display());
        let text = fs::read_to_string(file).unwrap();
        assert_eq!(
            text,
            "# seed 7, case 4\n# status: 200 with Istio, 404 with nodegate\n#\n# Request:\n\
             #   GET / HTTP/1.1\n#   Host: case.test\n#\n# Istio:\n#   HTTP/1.1 200 OK\n#\n# nodegate:\n\
             #   HTTP/1.1 404 Not Found\n---\nkind: VirtualService\nspec:\n  hosts:\n  - case.test\n"
        );
    }
}
