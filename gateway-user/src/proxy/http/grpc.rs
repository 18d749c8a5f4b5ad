//! gRPC's way to say what went wrong: in trailers, which stand in the head when there is no body.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::CONTENT_TYPE};

pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Whether a request is one of gRPC's.
// Envoy: Grpc::Common::hasGrpcContentType.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// How long the client itself would wait.
pub(super) fn timeout(headers: &HeaderMap) -> Option<std::time::Duration> {
    use std::time::Duration;
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.saturating_mul(3600)),
        "M" => Duration::from_secs(number.saturating_mul(60)),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Makes the head of an answer of our own.
pub(super) fn reply(headers: &mut HeaderMap, status: u32, message: &[u8]) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(status));
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

/// The gRPC status for an HTTP status (gRPC's http-grpc-status-mapping.md).
pub(super) const fn status_of(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

/// The HTTP status for a gRPC status.
// Envoy: Grpc::Utility::grpcToHttpStatus.
pub(super) fn http_status(status: u32) -> StatusCode {
    let code = match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    };
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn grpc_has_its_content_types() {
        for (value, wanted) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(is_grpc(&headers("content-type", value)), wanted, "{value}");
        }
    }

    #[test]
    fn timeouts_have_units() {
        for (value, wanted) in [
            ("2S", Some(Duration::from_secs(2))),
            ("100m", Some(Duration::from_millis(100))),
            ("1H", Some(Duration::from_hours(1))),
            ("S", None),
            ("5", None),
            ("", None),
        ] {
            assert_eq!(timeout(&headers("grpc-timeout", value)), wanted, "{value}");
        }
    }

    #[test]
    fn messages_are_encoded() {
        let mut headers = HeaderMap::new();
        reply(&mut headers, 14, b"100% no\n");
        assert_eq!(headers[GRPC_STATUS], "14");
        assert_eq!(headers[GRPC_MESSAGE], "100%25 no%0A");
    }
}
