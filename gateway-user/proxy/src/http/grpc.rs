//! gRPC's way to say what went wrong: in trailers, which stand in the head when there is no body.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The `content-type` of gRPC's answers.
pub(crate) const CONTENT: HeaderValue = HeaderValue::from_static("application/grpc");

/// Puts a status and its message into the head of an answer. A status that a route has put there stays.
pub(crate) fn reply(headers: &mut HeaderMap, status: u32, message: &[u8]) {
    headers.insert(CONTENT_TYPE, CONTENT);
    let is_there = headers
        .get(GRPC_STATUS)
        .is_some_and(|status| !status.is_empty());
    if !is_there {
        headers.insert(GRPC_STATUS, HeaderValue::from(status));
    }
    if message.is_empty() {
        return;
    }
    // PROTOCOL-HTTP2: Status-Message is percent-encoded.
    let mut encoded = String::with_capacity(message.len());
    for &byte in message {
        if (0x20..=0x7E).contains(&byte) && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String doesn't fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    if let Ok(message) = HeaderValue::try_from(encoded) {
        headers.insert(GRPC_MESSAGE, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_encoded() {
        let mut headers = HeaderMap::new();
        reply(&mut headers, 14, b"100% no\n");
        assert_eq!(headers[GRPC_STATUS], "14");
        assert_eq!(headers[GRPC_MESSAGE], "100%25 no%0A");
        reply(&mut headers, 5, b"");
        assert_eq!(headers[GRPC_STATUS], "14");
    }
}
