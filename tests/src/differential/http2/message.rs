//! Messages of HTTP/2, as those of HTTP/1.1 are.

use super::hpack;
use crate::differential::wire::{Headers, Message};

/// A message whose first line has the pseudo-headers that every one has.
pub(super) fn message(headers: Headers) -> Message {
    let (mut method, mut path, mut status) = (None, None, None);
    let mut others = Headers::new();
    for (name, value) in headers {
        match name.as_str() {
            ":method" => method = Some(value),
            ":path" => path = Some(value),
            ":status" => status = Some(value),
            _ => others.push((name, value)),
        }
    }
    let start = match status {
        Some(status) => format!("HTTP/2 {status}"),
        None => format!(
            "{} {} HTTP/2",
            method.unwrap_or_default(),
            path.unwrap_or_default()
        ),
    };
    Message {
        start,
        headers: others,
        ..Message::default()
    }
}

/// The header block of headers.
pub(super) fn block(headers: &Headers) -> Vec<u8> {
    let headers = headers.iter();
    hpack::encode(headers.map(|(name, value)| (name.as_str(), value.as_str())))
}
