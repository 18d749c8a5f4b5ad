//! How long a request may take.

use std::time::Duration;

use http::{HeaderMap, header::CONTENT_TYPE};

/// Whether a request is of gRPC: `application/grpc`, with or without a suffix.
// Envoy: Grpc::Common::hasGrpcContentType.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let rest = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// How long a request may take, all tries together: what the route says. For gRPC it is what the
/// client asks for with `grpc-timeout`, up to what the route says.
// Envoy: FilterUtility::finalTimeout; Istio sets max_grpc_timeout to the route's timeout.
pub fn of_request(route: Option<Duration>, headers: &HeaderMap) -> Option<Duration> {
    if !is_grpc(headers) {
        return route;
    }
    match (grpc_timeout(headers), route) {
        (Some(asked), Some(most)) => Some(asked.min(most)),
        (asked, route) => asked.or(route),
    }
}

/// `grpc-timeout`: up to eight digits and a unit (gRPC over HTTP2, "Timeout"). What is finer than a
/// millisecond is rounded up; 0 is none.
// Envoy: Grpc::Common::getGrpcTimeout.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let unit = value.chars().last()?;
    let digits = value.strip_suffix(unit)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    let milliseconds = match unit {
        'H' => number * 3_600_000,
        'M' => number * 60_000,
        'S' => number * 1_000,
        'm' => number,
        'u' => number.div_ceil(1_000),
        'n' => number.div_ceil(1_000_000),
        _ => return None,
    };
    (milliseconds != 0).then_some(Duration::from_millis(milliseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grpc(timeout: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, "application/grpc+proto".parse().unwrap());
        headers.insert("grpc-timeout", timeout.parse().unwrap());
        headers
    }

    #[test]
    fn grpc_asks_for_its_own() {
        let route = Some(Duration::from_secs(2));
        for (asked, route, wanted) in [
            ("500m", route, Some(500)),
            ("5S", route, Some(2_000)),
            ("5S", None, Some(5_000)),
            ("1u", None, Some(1)),
            ("1H", None, Some(3_600_000)),
            ("0m", route, Some(2_000)),
            ("123456789m", None, None),
            ("5", None, None),
            ("x", route, Some(2_000)),
        ] {
            let found = of_request(route, &grpc(asked)).map(|timeout| timeout.as_millis());
            assert_eq!(found, wanted, "{asked}");
        }
        let mut other = grpc("1m");
        other.insert(CONTENT_TYPE, "application/grpcx".parse().unwrap());
        assert_eq!(of_request(route, &other), route);
    }
}
