//! Where each field of a document stands.

use std::{collections::BTreeMap, mem};

use saphyr_parser::{Event, Parser};

/// Line of each field, by its path (`spec.ports[0].port`). Of an object without a text, all are 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines {
    /// Where the document or list item begins.
    first: usize,
    by_path: BTreeMap<String, usize>,
}

/// Why a document has no lines: it is not YAML, or says one thing twice.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadDocument {
    pub(super) line: usize,
    pub(super) message: String,
    pub(super) fix: Option<String>,
}

/// How deeply a document may nest: as deeply as the decoder follows, and far more than any object
/// does.
const DEPTH: usize = 100;

/// What the parser says of a line between brackets that begins too far to the left.
const TOO_FAR_OUT: &str = "invalid indentation";

/// As many such lines as a document may have.
const MOVED: usize = 64;

/// By how much they are moved: further than objects nest.
const INWARDS: usize = 2 * DEPTH;

/// A mapping or sequence that the walk is inside of.
enum Open {
    /// The key whose value comes next, if it has been read; else a key comes next.
    Mapping {
        path: String,
        key: Option<String>,
    },
    Sequence {
        path: String,
        next: usize,
    },
}

// === impl Lines ===

impl Lines {
    /// Walks the document `text`, whose first line is line `first` of the file.
    ///
    /// Between brackets kubectl's parser, and the decoder's, let a line begin anywhere, as `]` below the key;
    /// YAML 1.2 wants it further in than the key (section 7.4.1). Such lines are moved in a copy. Whether the
    /// text is YAML at all, the decoder says.
    pub(super) fn of(text: &str, first: usize) -> Result<Self, BadDocument> {
        let mut copy = None;
        for _ in 0..MOVED {
            let error = match Self::walked(copy.as_deref().unwrap_or(text), first) {
                Err(error) if error.message.ends_with(TOO_FAR_OUT) => error,
                outcome => return outcome,
            };
            let mut lines: Vec<_> = copy.as_deref().unwrap_or(text).split('\n').collect();
            let Some(line) = lines.get_mut(error.line - first) else {
                return Err(error);
            };
            let moved = format!("{:INWARDS$}{line}", "");
            *line = &moved;
            copy = Some(lines.join("\n"));
        }
        Self::walked(copy.as_deref().unwrap_or(text), first)
    }

    fn walked(text: &str, first: usize) -> Result<Self, BadDocument> {
        let mut walk = Walk {
            lines: Self::default(),
            open: Vec::new(),
        };
        let mut parser = Parser::new_from_str(text);
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|error| BadDocument {
                line: first + error.marker().line().saturating_sub(1),
                message: format!("not YAML: {}", error.info()),
                fix: Some(super::SYNTAX_FIX.into()),
            })?;
            walk.event(event, first + span.start.line().saturating_sub(1))?;
        }
        Ok(walk.lines)
    }

    /// The line of the field at `path`, or of its nearest parent that is written out.
    pub fn line(&self, path: &str) -> usize {
        let mut path = path;
        loop {
            if let Some(line) = self.by_path.get(path) {
                return *line;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return self.first,
            }
        }
    }

    /// The lines of the part at `path`, as if that were the document.
    pub(super) fn within(&self, path: &str) -> Self {
        let prefix = format!("{path}.");
        Self {
            first: self.line(path),
            by_path: self
                .by_path
                .range(prefix.clone()..)
                .map_while(|(path, line)| Some((path.strip_prefix(&prefix)?.to_owned(), *line)))
                .collect(),
        }
    }
}

// === impl Walk ===

struct Walk {
    lines: Lines,
    open: Vec<Open>,
}

impl Walk {
    fn event(&mut self, event: Event<'_>, line: usize) -> Result<(), BadDocument> {
        if self.open.len() > DEPTH {
            return Err(BadDocument {
                line,
                message: format!("nests more than {DEPTH} levels deep"),
                fix: None,
            });
        }
        match event {
            Event::Scalar(text, ..) => match self.open.last_mut() {
                Some(Open::Mapping {
                    path,
                    key: key @ None,
                }) => {
                    let field = join(path, &text);
                    if let Some(first) = self.lines.by_path.insert(field, line) {
                        return Err(BadDocument {
                            line,
                            message: format!("`{text}` is given twice, first on line {first}"),
                            fix: Some("remove one of them".into()),
                        });
                    }
                    *key = Some(text.into_owned());
                }
                _ => drop(self.value(line)),
            },
            Event::Alias(_) => drop(self.value(line)),
            Event::MappingStart(..) => {
                let path = self.value(line);
                self.open.push(Open::Mapping { path, key: None });
            }
            Event::SequenceStart(..) => {
                let path = self.value(line);
                self.open.push(Open::Sequence { path, next: 0 });
            }
            Event::MappingEnd | Event::SequenceEnd => drop(self.open.pop()),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => {}
        }
        Ok(())
    }

    /// Takes note of a value that begins on `line`; returns its path.
    fn value(&mut self, line: usize) -> String {
        let path = match self.open.last_mut() {
            None => {
                self.lines.first = line;
                return String::new();
            }
            // A mapping as a key is nothing that Kubernetes knows; the decoder refuses it.
            Some(Open::Mapping { path, key }) => {
                let key = mem::take(key).unwrap_or_else(|| "?".into());
                join(path, &key)
            }
            Some(Open::Sequence { path, next }) => {
                let item = format!("{path}[{next}]");
                *next += 1;
                item
            }
        };
        self.lines.by_path.entry(path.clone()).or_insert(line);
        path
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "---\nkind: Service\nspec:\n  ports:\n  - name: http\n    port: 80\n  - {name: x,\n     port: 1}\n  note: |\n    a\n    b\n";

    #[test]
    fn every_field_has_its_line() {
        let lines = Lines::of(SERVICE, 10).unwrap();
        for (path, line) in [
            ("", 11),
            ("kind", 11),
            ("spec.ports", 13),
            ("spec.ports[0]", 14),
            ("spec.ports[0].port", 15),
            ("spec.ports[1].name", 16),
            ("spec.ports[1].port", 17),
            ("spec.note", 18),
            // Not there: the nearest parent.
            ("spec.ports[0].nodePort", 14),
            ("spec.type", 12),
            ("status.x[3].y", 11),
        ] {
            assert_eq!(lines.line(path), line, "{path}");
        }
    }

    #[test]
    fn a_part_has_its_own_paths() {
        let lines = Lines::of(SERVICE, 1).unwrap().within("spec.ports[1]");
        assert_eq!(lines.line(""), 7);
        assert_eq!(lines.line("port"), 8);
        assert_eq!(lines.line("nothing"), 7);
    }

    #[test]
    fn what_is_given_twice_is_refused() {
        let error = Lines::of("a: 1\nb:\n  c: 1\n  c: 2\n", 5).unwrap_err();
        assert_eq!(error.line, 8);
        assert_eq!(error.message, "`c` is given twice, first on line 7");
    }

    #[test]
    fn what_nests_without_end_is_refused() {
        for text in ["- ".repeat(5000), "[".repeat(5000), "{a: ".repeat(5000)] {
            let error = Lines::of(&text, 1).unwrap_err();
            assert_eq!(error.line, 1);
        }
    }

    #[test]
    fn between_brackets_a_line_may_begin_anywhere() {
        let text =
            "spec:\n  externalIPs: [\n    \"10.0.0.1\",\n  ]\n  more: {\n  a: 1,\n  }\n  type: x\n";
        let lines = Lines::of(text, 3).unwrap();
        assert_eq!(lines.line("spec.externalIPs[0]"), 5);
        assert_eq!(lines.line("spec.more.a"), 8);
        assert_eq!(lines.line("spec.type"), 10);
    }

    #[test]
    fn what_is_no_yaml_names_its_line() {
        let error = Lines::of("a: 1\n  b: 2\n", 5).unwrap_err();
        assert_eq!(error.line, 6);
        assert_eq!(
            error.message,
            "not YAML: mapping values are not allowed in this context"
        );
    }
}
