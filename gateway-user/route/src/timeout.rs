//! How long a request may take.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Eight digits.
const MAX_GRPC_TIMEOUT: u128 = 99_999_999;

/// Whether a request is of gRPC: `application/grpc`, with or without a suffix.
// Envoy: Grpc::Common::hasGrpcContentType.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(CONTENT_TYPE).iter();
    let first = lines.next().map(HeaderValue::as_bytes);
    let rest = first.and_then(|value| value.strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| match rest.first() {
        // Several lines are one value, in which a comma follows.
        None => lines.next().is_none(),
        Some(next) => matches!(next, b'+' | b';'),
    })
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
    let value = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
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

/// Tells the endpoint in `grpc-timeout` how long the request may take, in the finest unit that holds
/// it from milliseconds on.
// Envoy: Grpc::Common::toGrpcTimeout.
pub fn set_grpc(headers: &mut HeaderMap, timeout: Duration) {
    let mut number = timeout.as_millis();
    let mut unit = 'm';
    for (factor, next) in [(1000, 'S'), (60, 'M'), (60, 'H')] {
        if number <= MAX_GRPC_TIMEOUT {
            break;
        }
        number /= factor;
        unit = next;
    }
    let text = format!("{}{unit}", number.min(MAX_GRPC_TIMEOUT));
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(GRPC_TIMEOUT, value);
    }
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
        for (timeout, wanted) in [
            (300, "300m"),
            (99_999_999, "99999999m"),
            (100_000_000, "100000S"),
        ] {
            let mut headers = grpc("1S");
            set_grpc(&mut headers, Duration::from_millis(timeout));
            assert_eq!(headers[GRPC_TIMEOUT], wanted);
        }
        let mut other = grpc("1m");
        other.insert(CONTENT_TYPE, "application/grpcx".parse().unwrap());
        assert_eq!(of_request(route, &other), route);
        // Several lines are one value with commas.
        for (second, first, is) in [
            ("application/grpc", "application/grpc", false),
            ("text/plain", "application/grpc+proto", true),
        ] {
            let mut several = HeaderMap::new();
            several.append(CONTENT_TYPE, HeaderValue::from_static(first));
            several.append(CONTENT_TYPE, HeaderValue::from_static(second));
            assert_eq!(is_grpc(&several), is, "{first}, {second}");
        }
    }
}
