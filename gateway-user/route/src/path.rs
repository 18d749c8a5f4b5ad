//! The path as everything after this sees it: matched, logged and passed on in one form.

use std::fmt::Write as _;

use http::{Uri, uri::PathAndQuery};

/// The path has no such form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path has no normal form")]
pub struct Abnormal;

/// Brings the path of a target into normal form; none if it is in it already, which is the rule.
///
/// Dot segments are resolved (RFC 3986, section 5.2.4), also those with encoded dots; `\` becomes
/// `/`; what may not stand in a path is encoded, and what need not be encoded (section 2.3) isn't.
/// Slashes are not merged, and `%2F` and other escapes stay.
///
/// # Errors
///
/// If the path has no normal form: one with an encoded NUL, or one whose form is longer than a URI may be.
// Istio's default BASE (mesh config `pathNormalization`) is Envoy's `normalize_path`:
// PathUtil::canonicalPath.
pub fn normalize(uri: &Uri) -> Result<Option<Uri>, Abnormal> {
    let Some(target) = uri.path_and_query() else {
        return Ok(None);
    };
    let path = target.path();
    if !path.starts_with('/') || !is_suspicious(path.as_bytes()) {
        return Ok(None);
    }
    let mut normal = canonical(path)?;
    if normal == path {
        return Ok(None);
    }
    if let Some(query) = target.query() {
        normal.push('?');
        normal.push_str(query);
    }
    let mut parts = uri.clone().into_parts();
    let normal = PathAndQuery::try_from(normal).map_err(|_| Abnormal)?;
    parts.path_and_query = Some(normal);
    Uri::from_parts(parts).map(Some).map_err(|_| Abnormal)
}

/// Whether there is anything that the normal form might not have.
fn is_suspicious(path: &[u8]) -> bool {
    let mut previous = 0;
    for &byte in path {
        if byte == b'\\'
            || byte == b'%'
            || must_be_encoded(byte)
            || (byte == b'.' && previous == b'/')
        {
            return true;
        }
        previous = byte;
    }
    false
}

/// Whether a byte may not stand in a path.
// The table of Chromium's url_canon_path.cc, which Envoy uses.
const fn must_be_encoded(byte: u8) -> bool {
    matches!(
        byte,
        0..=b' ' | b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x7F..
    )
}

/// Adds a segment without dots.
///
/// A `%` that begins no escape must not begin one when what follows is decoded: `%%32%65` would become
/// `%2e`, which the next to read it takes for a dot. It is encoded then, to `%25`.
// Chromium's url_canon_path.cc: CheckForNestedEscapes.
fn push_segment(normal: &mut String, segment: &str) {
    let mut rest = segment.as_bytes();
    // Where a `%` stands that begins no escape.
    let mut stray = None;
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte == b'%' {
            match escaped(after) {
                Some(meant) if is_unreserved(meant) => {
                    normal.push(char::from(meant));
                    rest = &after[2..];
                    if let Some(stray) = stray {
                        encode_stray(normal, stray, rest.first().copied());
                    }
                    continue;
                }
                Some(_) => {}
                None => stray = Some(normal.len()),
            }
        }
        if must_be_encoded(*byte) {
            // Writing to a String doesn't fail.
            let _ = write!(normal, "%{byte:02X}");
        } else {
            normal.push(char::from(*byte));
        }
    }
}

/// Encodes the `%` at `stray` if it begins an escape together with what has just been decoded, and
/// perhaps with the byte that comes next.
fn encode_stray(normal: &mut String, stray: usize, next: Option<u8>) {
    let follows = &normal.as_bytes()[stray + 1..];
    let is_escape = match (follows, next) {
        ([first], Some(next)) => first.is_ascii_hexdigit() && next.is_ascii_hexdigit(),
        ([first, second], _) => first.is_ascii_hexdigit() && second.is_ascii_hexdigit(),
        _ => false,
    };
    if is_escape {
        normal.insert_str(stray + 1, "25");
    }
}

/// The byte whose two digits follow.
fn escaped(after: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*after.get(at)?).to_digit(16);
    Some((digit(0)? * 16 + digit(1)?) as u8)
}

/// RFC 3986, section 2.3. Dots are another matter.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~' | b'.')
}

fn canonical(path: &str) -> Result<String, Abnormal> {
    let mut normal = String::with_capacity(path.len());
    let mut segments = path[1..].split(['/', '\\']).peekable();
    while let Some(segment) = segments.next() {
        if segment.contains("%00") {
            return Err(Abnormal);
        }
        let last = segments.peek().is_none();
        match dots(segment) {
            Some(1) if last => normal.push('/'),
            Some(1) => {}
            Some(_) => {
                normal.truncate(normal.rfind('/').unwrap_or(0));
                if last {
                    normal.push('/');
                }
            }
            None => {
                normal.push('/');
                push_segment(&mut normal, segment);
            }
        }
    }
    Ok(normal)
}

/// How many dots a segment is made of, if of one or two and nothing else.
fn dots(segment: &str) -> Option<usize> {
    let mut rest = segment.as_bytes();
    let mut count = 0;
    while !rest.is_empty() {
        rest = match rest {
            [b'.', rest @ ..] | [b'%', b'2', b'e' | b'E', rest @ ..] => rest,
            _ => return None,
        };
        count += 1;
    }
    (count == 1 || count == 2).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(target: &str) -> Result<String, Abnormal> {
        let uri: Uri = target.parse().unwrap();
        normalize(&uri).map(|normal| normal.unwrap_or(uri).to_string())
    }

    #[test]
    fn dots_backslashes_and_escapes() {
        for (target, wanted) in [
            ("/xyz", "/xyz"),
            ("/a/b/../c", "/a/c"),
            ("/a/b/./c", "/a/b/c"),
            ("/a/b/../../../../c", "/c"),
            ("/a/..\\c", "/c"),
            ("/%c0%af", "/%c0%af"),
            ("/%5c%25", "/%5c%25"),
            ("/a/b/%2E%2e/c", "/a/c"),
            ("/a/b/%2E./c", "/a/c"),
            ("/a/%2F%2f/c", "/a/%2F%2f/c"),
            ("/%41%7e%2D%zz%4", "/A~-%zz%4"),
            ("/{a}|\"b\"", "/%7Ba%7D%7C%22b%22"),
            ("/%%32%65%%32%65/x", "/%252e%252e/x"),
            ("/%2%65/x", "/%252e/x"),
            ("/%%30%30/x", "/%2500/x"),
            ("/%%32e/x", "/%252e/x"),
            ("/%z%65/x", "/%ze/x"),
            ("/a//b/", "/a//b/"),
            ("/a//../b", "/a/b"),
            ("/a/..", "/"),
            ("/a/b/.", "/a/b/"),
            ("/..", "/"),
            ("/.hidden/...", "/.hidden/..."),
            ("/a/../b?c=/../d", "/b?c=/../d"),
            ("http://h/a/../b?c", "http://h/b?c"),
            ("/", "/"),
            ("*", "*"),
        ] {
            assert_eq!(normal(target).as_deref(), Ok(wanted), "{target}");
        }
    }

    #[test]
    fn encoded_nul_has_no_normal_form() {
        for target in ["/xyz/.%00../abc", "/xyz/AAAAA%%0000/abc"] {
            assert_eq!(normal(target), Err(Abnormal), "{target}");
        }
    }
}
