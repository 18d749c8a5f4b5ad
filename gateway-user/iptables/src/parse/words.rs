//! The words of a rule's line, and which of them belong together.

use std::borrow::Cow;

use super::Result;

/// A word of a line, and where it is.
#[derive(Clone, Debug)]
pub(super) struct Word<'t> {
    pub(super) text: Cow<'t, str>,
    start: usize,
    end: usize,
}

/// The words of a line, read from left to right.
pub(super) struct Words<'t> {
    line: &'t str,
    pub(super) all: Vec<Word<'t>>,
    pub(super) at: usize,
}

// === impl Words ===

impl<'t> Words<'t> {
    /// Splits as `add_param_to_argv` of iptables' xshared.c does: at white space outside of double
    /// quotes; a backslash within quotes stands for the character after it.
    pub(super) fn new(line: &'t str) -> Result<Self> {
        let bytes = line.as_bytes();
        let mut words = Vec::with_capacity(24);
        let mut at = 0;
        while at < bytes.len() {
            if bytes[at].is_ascii_whitespace() {
                at += 1;
                continue;
            }
            let word = if bytes[at] == b'"' {
                quoted(line, at)?
            } else {
                let length = bytes[at..].iter().position(u8::is_ascii_whitespace);
                let end = length.map_or(bytes.len(), |length| at + length);
                Word {
                    text: Cow::Borrowed(&line[at..end]),
                    start: at,
                    end,
                }
            };
            at = word.end;
            words.push(word);
        }
        Ok(Self {
            line,
            all: words,
            at: 0,
        })
    }

    pub(super) fn next(&mut self) -> Option<Word<'t>> {
        let word = self.all.get(self.at).cloned();
        self.at += usize::from(word.is_some());
        word
    }

    pub(super) fn peek(&self, ahead: usize) -> Option<&str> {
        self.all.get(self.at + ahead).map(|word| &*word.text)
    }

    /// Whether a new part begins here: an option with one hyphen, or `!` before one.
    fn at_part(&self) -> bool {
        let is_short = |ahead: usize| {
            // A word in quotes is longer in the line than in itself.
            self.all.get(self.at + ahead).is_some_and(|word| {
                let text = &word.text;
                word.end - word.start == 2
                    && text.starts_with('-')
                    && text.ends_with(|last: char| last.is_ascii_alphabetic())
            })
        };
        match self.peek(0) {
            Some("!") => is_short(1),
            Some(_) => is_short(0),
            None => true,
        }
    }

    /// Goes on to the next part.
    pub(super) fn skip(&mut self) -> &[Word<'t>] {
        let start = self.at;
        while !self.at_part() {
            // A comment may look like anything.
            let is_comment = self.peek(0) == Some("--comment");
            self.at = (self.at + 1 + usize::from(is_comment)).min(self.all.len());
        }
        &self.all[start..self.at]
    }

    /// The text from the word `start` up to here.
    pub(super) fn raw(&self, start: usize) -> String {
        let end = self.at.max(start + 1).min(self.all.len());
        let text = self.all[start..end]
            .first()
            .zip(self.all[start..end].last());
        text.map(|(first, last)| self.line[first.start..last.end].to_owned())
            .unwrap_or_default()
    }
}

fn quoted(line: &str, start: usize) -> Result<Word<'_>> {
    let inner = &line[start + 1..];
    let bytes = inner.as_bytes();
    let mut end = 0;
    let mut is_plain = true;
    loop {
        match bytes.get(end) {
            None => return Err("a quote without its end".into()),
            Some(b'"') => break,
            Some(b'\\') => {
                is_plain = false;
                end += 2;
            }
            Some(_) => end += 1,
        }
    }
    let text = &inner[..end];
    Ok(Word {
        text: if is_plain {
            Cow::Borrowed(text)
        } else {
            Cow::Owned(unescape(text))
        },
        start,
        end: start + 1 + end + 1,
    })
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == '\\' {
            out.extend(characters.next());
        } else {
            out.push(character);
        }
    }
    out
}
