//! A file's text → the texts of its documents, so that one that is broken does not take the others
//! down.

/// The text of one document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Document<'t> {
    /// 1-based line of the file on which the text begins.
    pub(super) line: usize,
    /// Including the `---` line that begins it, if there is one.
    pub(super) text: &'t str,
}

impl Document<'_> {
    /// 1-based line of the file on which the text ends. Parsers of YAML see one more where the last
    /// line doesn't end.
    pub(super) fn last(&self) -> usize {
        self.line + self.text.lines().count().saturating_sub(1)
    }
}

/// Splits at the lines that begin with the marker `---`, which cannot occur inside a document, not
/// even in a block scalar (YAML 1.2.2 §9.1.2, `c-forbidden`). Documents without content are left out.
pub(super) fn documents(text: &str) -> Vec<Document<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = Vec::new();
    let (mut start, mut start_line) = (0, 1);
    let mut offset = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        if is_marker(line) && offset > start && !only_directives(&text[start..offset]) {
            documents.push(Document {
                line: start_line,
                text: &text[start..offset],
            });
            (start, start_line) = (offset, index + 1);
        }
        offset += line.len();
    }
    documents.push(Document {
        line: start_line,
        text: &text[start..],
    });
    documents.retain(|document| has_content(document.text));
    documents
}

fn is_marker(line: &str) -> bool {
    line.strip_prefix("---")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

/// `%YAML 1.2` and the marker after it belong together.
fn only_directives(text: &str) -> bool {
    text.lines().any(|line| line.starts_with('%')) && !has_content(text)
}

/// Whether there is more than comments, markers and directives.
fn has_content(text: &str) -> bool {
    text.lines().any(|line| {
        let line = if is_marker(line) { &line[3..] } else { line };
        let line = line.trim();
        !(line.is_empty() || line.starts_with('#') || line.starts_with('%') || line == "...")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<(usize, &str)> {
        documents(text)
            .into_iter()
            .map(|document| (document.line, document.text))
            .collect()
    }

    #[test]
    fn documents_keep_the_line_they_start_on() {
        let text = "a: 1\n---\n# only a comment\n---\nb: |\n  x\n  ---\n--- # c\nc: 3\n";
        assert_eq!(
            split(text),
            [
                (1, "a: 1\n"),
                (4, "---\nb: |\n  x\n  ---\n"),
                (8, "--- # c\nc: 3\n")
            ]
        );
    }

    #[test]
    fn nothing_gives_no_document() {
        assert_eq!(split(""), []);
        assert_eq!(split("---\n---\n\n# x\n...\n"), []);
        assert_eq!(split("\u{feff}---\r\na: 1\r\n"), [(1, "---\r\na: 1\r\n")]);
    }

    #[test]
    fn directives_stay_with_their_document() {
        assert_eq!(
            split("%YAML 1.2\n---\na: 1\n"),
            [(1, "%YAML 1.2\n---\na: 1\n")]
        );
    }
}
