//! Regular expressions, in RE2's dialect, as Envoy has it: values and expressions are bytes (RE2's Latin-1), so that
//! a `.` is one byte, whether or not that is a character.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
    hash::{Hash, Hasher},
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
};

use regex::bytes::{Captures, Regex, RegexBuilder};
use serde::Serialize;

/// A regular expression that is compiled.
#[derive(Clone)]
pub struct Pattern(Arc<CompiledPattern>);

struct CompiledPattern {
    text: Box<str>,
    /// For the whole of a value.
    whole: Regex,
    /// For a part of a value.
    part: Regex,
}

/// Why a text is no regular expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a regular expression as RE2 has them: {reason}")]
pub struct PatternError {
    text: String,
    reason: String,
}

/// A replacement for what a pattern matched, with RE2's `\0` to `\9` for groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Substitution {
    text: String,
    pieces: Vec<SubstitutionPiece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum SubstitutionPiece {
    Literal(Vec<u8>),
    Group(usize),
}

/// Why a text is no replacement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubstitutionError {
    /// The pattern has not so many groups.
    #[error("`\\{group}` is about a group that the pattern does not have; it has {groups}")]
    NoGroup {
        /// The group that was asked for.
        group: usize,
        /// Groups of the pattern, the whole match not counted.
        groups: usize,
    },
    /// A backslash with something else behind it.
    #[error("a backslash must be followed by a digit or by another backslash")]
    Backslash,
}

/// The expressions in use.
static IN_USE: LazyLock<Mutex<InUse>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct InUse {
    patterns: HashMap<Box<str>, Weak<CompiledPattern>>,
    /// How many there may be until those that are not in use any more are dropped.
    sweep_at: usize,
}

impl InUse {
    fn insert(&mut self, text: &str, pattern: &Arc<CompiledPattern>) {
        self.patterns.insert(text.into(), Arc::downgrade(pattern));
        if self.patterns.len() > self.sweep_at {
            self.patterns
                .retain(|_, pattern| pattern.strong_count() > 0);
            self.sweep_at = 64.max(self.patterns.len() * 2);
        }
    }
}

/// Memory that one compiled expression may take: as much as Istio's bootstrap lets RE2 have
/// (`re2.max_program_size.error_level`, 32768 instructions), about.
const SIZE_LIMIT: usize = 1 << 20;

// === impl Pattern ===

impl Pattern {
    /// Compiles an expression, unless it is in use already: then it is that one.
    ///
    /// # Errors
    ///
    /// If RE2 would not take the expression, or it needs more memory than Istio lets one have.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        // Compiling takes longer than all else that a change of a route makes necessary.
        let in_use = || IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = in_use().patterns.get(text).and_then(Weak::upgrade) {
            return Ok(Self(known));
        }
        let new = Self::compile(text)?;
        in_use().insert(text, &new.0);
        Ok(new)
    }

    fn compile(text: &str) -> Result<Self, PatternError> {
        let error = |reason: String| PatternError {
            text: text.into(),
            reason,
        };
        let here = dialect(text).map_err(|reason| error(reason.into()))?;
        let compile = |text: &str| {
            RegexBuilder::new(text)
                .unicode(false)
                .size_limit(SIZE_LIMIT)
                .build()
                .map_err(|failure| error(reason(&failure)))
        };
        // By itself first: `a)(b` is none, even though it is one in parentheses.
        let part = compile(&here)?;
        let whole = compile(&format!(r"\A(?:{here})\z"))?;
        Ok(Self(Arc::new(CompiledPattern {
            text: text.into(),
            whole,
            part,
        })))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// Whether all of `value` matches.
    pub fn is_match(&self, value: impl AsRef<[u8]>) -> bool {
        self.0.whole.is_match(value.as_ref())
    }

    /// Replaces all parts of `value` that match.
    // Envoy: CompiledGoogleReMatcher::replaceAll, which is RE2::GlobalReplace.
    pub fn replace_all(&self, value: &[u8], by: &Substitution) -> Vec<u8> {
        let replaced = self.0.part.replace_all(value, |found: &Captures<'_>| {
            let mut replacement = Vec::new();
            for piece in &by.pieces {
                match piece {
                    SubstitutionPiece::Literal(text) => replacement.extend_from_slice(text),
                    SubstitutionPiece::Group(group) => {
                        let group = found.get(*group).map(|group| group.as_bytes());
                        replacement.extend_from_slice(group.unwrap_or_default());
                    }
                }
            }
            replacement
        });
        replaced.into_owned()
    }

    /// Number of groups, the whole match not counted.
    fn groups(&self) -> usize {
        self.0.part.captures_len() - 1
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.text.hash(state);
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.0.text).finish()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.text)
    }
}

/// The crate's messages quote the expression over several lines; the last line says what is wrong.
fn reason(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(_) => "it is too big".into(),
        error => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            last.trim().trim_start_matches("error: ").to_owned()
        }
    }
}

// === impl Substitution ===

impl Substitution {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Reads a replacement for what `pattern` matches (RE2's `Rewrite`).
    ///
    /// # Errors
    ///
    /// If it asks for a group that the pattern does not have, or has a backslash that RE2 does not know.
    pub fn new(text: &str, pattern: &Pattern) -> Result<Self, SubstitutionError> {
        let groups = pattern.groups();
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            if byte != b'\\' {
                literal.push(byte);
                continue;
            }
            match bytes.next() {
                Some(b'\\') => literal.push(b'\\'),
                Some(digit @ b'0'..=b'9') => {
                    let group = usize::from(digit - b'0');
                    if group > groups {
                        return Err(SubstitutionError::NoGroup { group, groups });
                    }
                    if !literal.is_empty() {
                        pieces.push(SubstitutionPiece::Literal(std::mem::take(&mut literal)));
                    }
                    pieces.push(SubstitutionPiece::Group(group));
                }
                _ => return Err(SubstitutionError::Backslash),
            }
        }
        if !literal.is_empty() {
            pieces.push(SubstitutionPiece::Literal(literal));
        }
        Ok(Self {
            text: text.into(),
            pieces,
        })
    }
}

impl Serialize for Substitution {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// The expression in the `regex` crate's dialect: where the two read the same text differently, what
/// RE2 means; where only the crate can read it, an error.
///
/// RE2 (doc/syntax.txt) has ASCII `\d`, `\w`, `\s` and `\b`, `\C`, `\Q…\E`, and no operators inside
/// of classes; it has no flags but `i`, `m`, `s` and `U`. Characters beyond ASCII are the bytes that they are
/// written in, each by itself.
fn dialect(text: &str) -> Result<String, &'static str> {
    let mut here = String::with_capacity(text.len() + 8);
    let mut rest = text;
    let mut class = false;
    while let Some(next) = rest.chars().next() {
        if next == '\\' {
            rest = escape(rest, class, &mut here)?;
            continue;
        }
        rest = &rest[next.len_utf8()..];
        match next {
            '[' if !class => {
                class = true;
                here.push('[');
                if let Some(after) = rest.strip_prefix('^') {
                    here.push('^');
                    rest = after;
                }
                // First in a class, the bracket is itself.
                if let Some(after) = rest.strip_prefix(']') {
                    here.push_str(r"\]");
                    rest = after;
                }
            }
            '[' if rest.starts_with(':') => {
                let end = rest
                    .find(":]")
                    .ok_or("a class such as `[:alpha:]` has no end")?;
                here.push('[');
                here.push_str(&rest[..end + 2]);
                rest = &rest[end + 2..];
            }
            ']' if class => {
                class = false;
                here.push(']');
            }
            // `[[`, `&&` and `~~` are operators of the crate, and `--` if not first or last.
            '[' | '&' | '~' if class => {
                here.push('\\');
                here.push(next);
            }
            '(' if !class && rest.starts_with('?') => {
                flags(&rest[1..])?;
                here.push('(');
            }
            _ => push_bytes(next, &mut here),
        }
    }
    Ok(here)
}

/// A character, or its bytes where those are several.
fn push_bytes(character: char, here: &mut String) {
    if character.is_ascii() {
        return here.push(character);
    }
    for byte in character.encode_utf8(&mut [0; 4]).bytes() {
        push_byte(byte, here);
    }
}

fn push_byte(byte: u8, here: &mut String) {
    // Writing to a String doesn't fail.
    let _ = write!(here, r"\x{byte:02X}");
}

/// One escape at the start of `rest`; returns what comes after it.
fn escape<'t>(rest: &'t str, class: bool, here: &mut String) -> Result<&'t str, &'static str> {
    let after = &rest[1..];
    let escaped = after.chars().next().ok_or("a backslash at the end")?;
    let after = &after[escaped.len_utf8()..];
    match escaped {
        'd' => here.push_str("[0-9]"),
        'D' => here.push_str("[^0-9]"),
        'w' => here.push_str("[0-9A-Za-z_]"),
        'W' => here.push_str("[^0-9A-Za-z_]"),
        's' => here.push_str(r"[\t\n\f\r ]"),
        'S' => here.push_str(r"[^\t\n\f\r ]"),
        'b' if !class => here.push_str(r"(?-u:\b)"),
        'B' if !class => here.push_str(r"(?-u:\B)"),
        'C' if !class => here.push_str("(?s:.)"),
        'x' if after.starts_with('{') => {
            let (digits, after) = after[1..].split_once('}').ok_or("a `{` without a `}`")?;
            let number = u32::from_str_radix(digits, 16);
            match number.ok().map(u8::try_from) {
                Some(Ok(byte)) => push_byte(byte, here),
                // No byte is as large as that.
                Some(Err(_)) if !class => here.push_str(NOTHING),
                _ => return Err(r"`\x{…}` is a byte: values are compared byte by byte"),
            }
            return Ok(after);
        }
        'p' | 'P' => return property(after, escaped == 'P', here),
        'Q' if !class => {
            let (quoted, after) = after.split_once(r"\E").unwrap_or((after, ""));
            for character in regex::escape(quoted).chars() {
                push_bytes(character, here);
            }
            return Ok(after);
        }
        'u' | 'U' => return Err(r"RE2 writes `\x{10FFFF}`"),
        '<' | '>' => here.push(escaped),
        _ if !escaped.is_ascii() => push_bytes(escaped, here),
        _ => {
            here.push('\\');
            here.push(escaped);
        }
    }
    Ok(after)
}

/// A class of Unicode, such as `L` or `{Greek}` at the start of `rest`: what it has among the first 256
/// characters, which are the bytes.
fn property<'t>(rest: &'t str, negated: bool, here: &mut String) -> Result<&'t str, &'static str> {
    const NONE: &str = "a class of Unicode that RE2 does not have";
    let length = match rest.strip_prefix('{') {
        Some(named) => named.find('}').ok_or(NONE)? + 2,
        None => rest.chars().next().ok_or(NONE)?.len_utf8(),
    };
    let (name, after) = rest.split_at(length);
    let known = regex::Regex::new(&format!(r"\p{name}")).map_err(|_| NONE)?;
    let has = |byte: &u8| known.is_match(char::from(*byte).encode_utf8(&mut [0; 4])) != negated;
    let mut bytes = (0..=u8::MAX).filter(has).peekable();
    if bytes.peek().is_none() {
        here.push_str(NOTHING);
        return Ok(after);
    }
    here.push('[');
    for byte in bytes {
        push_byte(byte, here);
    }
    here.push(']');
    Ok(after)
}

/// What no byte matches.
const NOTHING: &str = r"[^\x00-\xFF]";

/// Looks at what follows `(?`.
fn flags(group: &str) -> Result<(), &'static str> {
    if group.starts_with(['P', '<']) {
        return Ok(());
    }
    let end = group.find([':', ')']).unwrap_or(group.len());
    if group[..end].chars().all(|flag| "imsU-".contains(flag)) {
        Ok(())
    } else {
        Err("after `(?` RE2 has the flags i, m, s and U, and no look-around")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text).unwrap()
    }

    #[test]
    fn the_whole_value_must_match() {
        for (text, value, wanted) in [
            ("/a.*", "/abc", true),
            ("/a", "/abc", false),
            ("/a|/abc", "/abc", true),
            ("a$|b", "b", true),
            ("(?i)/a", "/A", true),
            ("/a", "/a\n", false),
            (".", "\n", false),
            ("(?s).", "\n", true),
            ("", "", true),
        ] {
            assert_eq!(pattern(text).is_match(value), wanted, "{text} {value:?}");
        }
    }

    /// As a real Envoy answers.
    #[test]
    fn a_value_is_bytes_and_not_characters() {
        for (text, value, wanted) in [
            (".*", &b"a\xE9"[..], true),
            (".*", b"\xFF\xFE", true),
            (".", b"\xE9", true),
            (".", "é".as_bytes(), false),
            ("a.", b"a\xE9", true),
            ("a.", "aé".as_bytes(), false),
            ("[^x]*", b"a\xE9", true),
            (r"\xe9", b"\xE9", true),
            (r"\x{e9}", b"\xE9", true),
            (r"\x{e9}", "é".as_bytes(), false),
            (r"\x{100}", "Ā".as_bytes(), false),
            ("é", b"\xE9", false),
            ("é", "é".as_bytes(), true),
            ("é*", b"\xC3\xA9\xA9", true),
            ("[é]", b"\xA9", true),
            ("[é]", "é".as_bytes(), false),
            (r"\Qé\E", "é".as_bytes(), true),
            (r"\pL", b"\xE9", true),
            (r"\pL", b"1", false),
            (r"\PL", b"1", true),
            (r"[\p{Lu}_]+", b"A_\xC9", true),
            (r"\p{Greek}", "α".as_bytes(), false),
            (r"\W", b"\xE9", true),
        ] {
            assert_eq!(pattern(text).is_match(value), wanted, "{text} {value:?}");
        }
    }

    #[test]
    fn what_is_read_differently_is_read_as_re2_does() {
        for (text, value, wanted) in [
            (r"\d", "٣", false),
            (r"\w+", "ab_1", true),
            (r"\w", "ü", false),
            (r"[\d.]+", "1.2", true),
            (r"[^\s]", "x", true),
            (r"\S", "\t", false),
            (r"a\b.*", "a b", true),
            (r"\C", "x", true),
            (r"\Qa.b\E.", "a.bc", true),
            (r"\Qa.b", "axb", false),
            ("[[a]", "[", true),
            ("[[:alpha:]_]+", "ab_", true),
            ("[]a]+", "]a", true),
            ("[^]a]", "]", false),
            ("[a&&b]+", "&ab", true),
            ("[~~]", "~", true),
            (r"\<", "<", true),
            ("(?P<x>a)", "a", true),
            ("(?:a)(?i:b)", "aB", true),
        ] {
            assert_eq!(pattern(text).is_match(value), wanted, "{text} {value:?}");
        }
    }

    #[test]
    fn what_re2_does_not_have_is_refused() {
        for text in [
            "(",
            "a)(b",
            "(?=a)",
            "(?<!a)",
            r"(a)\1",
            "*",
            "[a",
            "(?x) a",
            "(?u)a",
            "[[:alpha]",
            "a{1001}{1001}",
            "\\",
            r"\u00fc",
            r"\p{Nope}",
            r"[\x{100}]",
            r"\x{zz}",
        ] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
        let error = Pattern::new("a)(b").unwrap_err().to_string();
        assert_eq!(
            error,
            "`a)(b` is not a regular expression as RE2 has them: unopened group"
        );
    }

    #[test]
    fn an_expression_in_use_is_not_compiled_again() {
        let (one, two) = (pattern("/in/use/[0-9]+"), pattern("/in/use/[0-9]+"));
        assert!(Arc::ptr_eq(&one.0, &two.0));
        let text = one.as_str().to_owned();
        let mut in_use = InUse::default();
        in_use.insert(&text, &one.0);
        drop((one, two));
        in_use.sweep_at = 0;
        let other = pattern("other");
        in_use.insert("other", &other.0);
        assert_eq!(in_use.patterns.len(), 1);
    }

    #[test]
    fn all_matches_are_replaced_by_groups() {
        for (text, by, value, wanted) in [
            (
                r"^/service/([^/]+)(/.*)$",
                r"\2/instance/\1",
                "/service/foo/v1/api",
                "/v1/api/instance/foo",
            ),
            ("one", "two", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz"),
            (
                "^(.*?)one(.*)$",
                r"\1two\2",
                "/xxx/one/yyy/one/zzz",
                "/xxx/two/yyy/one/zzz",
            ),
            ("(?i)/xxx/", "/yyy/", "/aaa/XxX/bbb", "/aaa/yyy/bbb"),
            ("a(b)?", r"[\1\0\\]", "aab", r"[a\][bab\]"),
        ] {
            let pattern = pattern(text);
            let by = Substitution::new(by, &pattern).unwrap();
            let found = pattern.replace_all(value.as_bytes(), &by);
            assert_eq!(String::from_utf8(found).unwrap(), wanted, "{text}");
        }
        let one = pattern("(a)");
        assert_eq!(
            Substitution::new(r"\2", &one),
            Err(SubstitutionError::NoGroup {
                group: 2,
                groups: 1
            })
        );
        assert_eq!(
            Substitution::new(r"\x", &one),
            Err(SubstitutionError::Backslash)
        );
        assert_eq!(
            Substitution::new("$1\\", &one),
            Err(SubstitutionError::Backslash)
        );
    }
}
