//! Requests written down, as `.http` files have them:
//!
//! ```text
//! ### 200 /hello?a=1 # what stands before the query is replaced
//! GET /simple/httpserver?a=1 HTTP/1.1
//! Host: simple.example
//!
//! ### 404
//! ```
//!
//! The line with `###` says what both must answer: the status, the target that the endpoint must see
//! (or its name, as `@v1`), `port:NAME` for another port than `port`, `differs:NAME` for a known
//! difference, and after `#` a remark. Every line ends as HTTP wants it; a body ends with the last
//! character that is no line break. `\xNN` is a byte, `\r` and `\n` are themselves.

use anyhow::{Context as _, bail};

/// A request and what is expected.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Where it stands: `file:line`.
    pub place: String,
    /// Status of Envoy's answer.
    pub status: u16,
    /// Target that the endpoint sees.
    pub target: Option<String>,
    /// Name of the endpoint.
    pub endpoint: Option<String>,
    /// Name of the port that is connected to.
    pub port: String,
    /// Names of known differences.
    pub differs: Vec<String>,
    /// What is sent, but for `{{name}}`.
    pub request: String,
}

/// Reads a script.
///
/// # Errors
///
/// If it does not begin with `###`, or a line that does says no status.
pub fn parse(file: &str, text: &str) -> anyhow::Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let place = format!("{file}:{}", index + 1);
        if let Some(expected) = line.strip_prefix("###") {
            steps.push(expectation(expected, &place).with_context(|| place.clone())?);
            continue;
        }
        let Some(step) = steps.last_mut() else {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            bail!("{place}: a script begins with `###`");
        };
        step.request += line;
        step.request += "\r\n";
    }
    for step in &mut steps {
        let request = step.request.trim_end_matches("\r\n");
        let body = request.contains("\r\n\r\n");
        step.request = format!("{request}{}", if body { "" } else { "\r\n\r\n" });
    }
    Ok(steps)
}

fn expectation(text: &str, place: &str) -> anyhow::Result<Step> {
    let text = text.split(" # ").next().unwrap_or_default();
    let mut words = text.split_whitespace();
    let status = words.next().context("no status")?;
    let mut step = Step {
        place: place.to_owned(),
        status: status
            .parse()
            .with_context(|| format!("`{status}` is no status"))?,
        port: "port".to_owned(),
        ..Step::default()
    };
    for word in words {
        if let Some(name) = word.strip_prefix("differs:") {
            step.differs.push(name.to_owned());
        } else if let Some(name) = word.strip_prefix("port:") {
            name.clone_into(&mut step.port);
        } else if let Some(name) = word.strip_prefix('@') {
            step.endpoint = Some(name.to_owned());
        } else {
            step.target = Some(word.to_owned());
        }
    }
    Ok(step)
}

/// The bytes that are meant.
pub fn bytes(request: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = request;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let byte = after
            .strip_prefix('x')
            .and_then(|hex| u8::from_str_radix(hex.get(..2)?, 16).ok());
        if let Some(byte) = byte {
            bytes.push(byte);
            rest = &after[3..];
        } else if let Some(after) = after.strip_prefix('r') {
            bytes.push(b'\r');
            rest = after;
        } else if let Some(after) = after.strip_prefix('n') {
            bytes.push(b'\n');
            rest = after;
        } else {
            bytes.push(b'\\');
            rest = after;
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}
