//! Changes of headers, with the values of format strings.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, header::HOST};
use jiff::{Timestamp, fmt::strtime, tz::TimeZone};
use nodegate_model::gateway::HeaderChanges;
use nodegate_values::{
    format::{FieldName, Format, HeaderReference, Segment, Variable},
    grpc,
    pseudo_header::PseudoHeader,
    query,
};

use crate::{edge::X_REQUEST_ID, timeout::is_grpc};

const X_ENVOY_ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

/// What is known of a request, for the variables of format strings. What is none reads as nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct FormatFacts<'a> {
    /// Who the client is.
    pub client: Option<SocketAddr>,
    /// Who connected to us.
    pub peer: Option<SocketAddr>,
    /// Where the client connected to.
    pub local: Option<SocketAddr>,
    /// The endpoint.
    pub endpoint: Option<SocketAddr>,
    /// Where we connected to the endpoint from.
    pub endpoint_local: Option<SocketAddr>,
    /// The cluster.
    pub cluster: Option<&'a str>,
    /// The route.
    pub route: Option<&'a str>,
    /// `HTTP/1.1`
    pub protocol: Option<&'a str>,
    /// This machine's name.
    pub hostname: Option<&'a str>,
    /// When the request came.
    pub start: Option<Timestamp>,
    /// What TLS asked for.
    pub server_name: Option<&'a str>,
    /// The method.
    pub method: Option<&'a str>,
    /// Path and query.
    pub path: Option<&'a str>,
    /// `Host`
    pub authority: Option<&'a str>,
    /// `http` or `https`
    pub scheme: Option<&'a str>,
    /// The request's headers, if they are not the ones that are changed.
    pub request: Option<&'a HeaderMap>,
    /// The status.
    pub status: Option<u16>,
    /// Why it is that status.
    pub details: Option<&'a str>,
    /// Envoy's letters.
    pub flags: Option<&'a str>,
    /// Number of the try, from 1.
    pub attempt: Option<u32>,
    /// Number of the client's connection.
    pub connection: Option<u64>,
    /// Bytes of the request's body that have come.
    pub received: Option<u64>,
    /// Since the request began.
    pub duration: Option<Duration>,
    /// From there until the whole request had come.
    pub request_duration: Option<Duration>,
    /// From there until an endpoint's response began.
    pub response_duration: Option<Duration>,
}

/// Which headers are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Those of the request.
    Request,
    /// Those of the response.
    Response,
}

/// Makes the changes of one level: what is to be removed goes, then what is set replaces what is
/// there, then what is added comes beside it. All values are those of before any is set.
// Envoy: HeaderParser::evaluateHeaders.
pub fn apply(
    changes: &HeaderChanges,
    headers: &mut HeaderMap,
    direction: Direction,
    facts: &FormatFacts<'_>,
) {
    for name in &changes.remove {
        headers.remove(name);
    }
    if changes.add.is_empty() {
        return;
    }
    let values: Vec<_> = changes
        .add
        .iter()
        .map(|change| value(&change.value, headers, direction, facts))
        .collect();
    let both = || changes.add.iter().zip(&values);
    for append in [false, true] {
        for (change, value) in both().filter(|(change, _)| change.append == append) {
            let Some(value) = value else {
                continue;
            };
            if append {
                add(headers, &change.name, value, direction);
            } else {
                headers.insert(change.name.clone(), value.clone());
            }
        }
    }
}

/// Makes one value of the lines of each header that Envoy keeps one value of, as its parser does for
/// what a client sends.
// Envoy: HeaderMapImpl::insertByKey, appendToHeader.
pub fn join_lines(headers: &mut HeaderMap) {
    if headers.len() == headers.keys_len() {
        return;
    }
    let several = |name: &&HeaderName| headers.get_all(*name).iter().nth(1).is_some();
    let names = headers.keys().filter(several);
    let names = names.filter(|name| has_one_value(name, Direction::Request));
    for name in names.cloned().collect::<Vec<_>>() {
        join(headers, &name, None);
    }
}

/// Adds a value: to the one that is there of headers that have one, else beside those that are there.
fn add(headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue, direction: Direction) {
    if !has_one_value(name, direction) || !headers.contains_key(name) {
        headers.append(name.clone(), value.clone());
        return;
    }
    join(headers, name, Some(value));
}

/// Puts all values of a header that say something, and one more, into one.
fn join(headers: &mut HeaderMap, name: &HeaderName, more: Option<&HeaderValue>) {
    let there = headers.get_all(name).iter().chain(more);
    let there = there.map(HeaderValue::as_bytes);
    let values: Vec<_> = there.filter(|value| !value.is_empty()).collect();
    // Joining valid values makes a valid value.
    if let Ok(joined) = HeaderValue::from_bytes(&values.join(&b',')) {
        headers.insert(name, joined);
    }
}

/// Whether Envoy keeps one value of the header and joins others to it (the inline headers of
/// envoy/http/header_map.h).
fn has_one_value(name: &HeaderName, direction: Direction) -> bool {
    let name = name.as_str();
    if let Some(kind) = name.strip_prefix("x-") {
        return matches!(
            kind,
            "client-trace-id"
                | "forwarded-client-cert"
                | "forwarded-for"
                | "forwarded-host"
                | "forwarded-port"
                | "forwarded-proto"
                | "request-id"
        ) || kind.starts_with("envoy-");
    }
    match name {
        "content-type" | "via" => true,
        "accept" | "accept-encoding" | "authorization" | "expect" | "grpc-timeout" | "referer"
        | "te" | "user-agent" => direction == Direction::Request,
        "date" | "grpc-message" | "grpc-status" | "location" | "server" => {
            direction == Direction::Response
        }
        _ => false,
    }
}

/// The value of a format string; none if it is empty, or nothing that a header may hold.
fn value(
    format: &Format,
    headers: &HeaderMap,
    direction: Direction,
    facts: &FormatFacts<'_>,
) -> Option<HeaderValue> {
    if let Some(literal) = format.literal() {
        return HeaderValue::from_str(literal)
            .ok()
            .filter(|value| !value.is_empty());
    }
    let mut text = Vec::new();
    for segment in format.segments() {
        match segment {
            Segment::Literal(literal) => text.extend_from_slice(literal.as_bytes()),
            Segment::Variable {
                variable,
                max_length,
            } => {
                let value = variable_value(variable, headers, direction, facts);
                let length = max_length.unwrap_or(usize::MAX).min(value.len());
                text.extend_from_slice(&value[..length]);
            }
        }
    }
    HeaderValue::from_bytes(&text)
        .ok()
        .filter(|value| !value.is_empty())
}

fn variable_value(
    variable: &Variable,
    headers: &HeaderMap,
    direction: Direction,
    facts: &FormatFacts<'_>,
) -> Vec<u8> {
    let (request, response) = match direction {
        Direction::Request => (Some(headers), None),
        Direction::Response => (facts.request, Some(headers)),
    };
    let text = |text: Option<&str>| text.unwrap_or_default().as_bytes().to_vec();
    match variable {
        Variable::DownstreamRemoteAddress => whole(facts.client),
        Variable::DownstreamRemoteAddressWithoutPort => address(facts.client),
        Variable::DownstreamRemotePort => port(facts.client),
        Variable::DownstreamDirectRemoteAddress => whole(facts.peer),
        Variable::DownstreamDirectRemoteAddressWithoutPort => address(facts.peer),
        Variable::DownstreamLocalAddress => whole(facts.local),
        Variable::DownstreamLocalAddressWithoutPort => address(facts.local),
        Variable::DownstreamLocalPort => port(facts.local),
        Variable::UpstreamRemoteAddress => whole(facts.endpoint),
        Variable::UpstreamRemoteAddressWithoutPort => address(facts.endpoint),
        Variable::UpstreamRemotePort => port(facts.endpoint),
        Variable::UpstreamLocalAddress => whole(facts.endpoint_local),
        // The name that Istio has it counted under (`DelimitedStatsPrefix` of pilot/pkg/networking/util).
        Variable::UpstreamCluster => facts
            .cluster
            .map_or_else(Vec::new, |name| format!("{name};").into_bytes()),
        Variable::UpstreamClusterRaw => text(facts.cluster),
        Variable::RouteName => text(facts.route),
        Variable::Unknown | Variable::Unserved(_) => Vec::new(),
        Variable::Protocol => text(facts.protocol),
        Variable::Hostname => text(facts.hostname),
        Variable::StartTime(format) => start_time(facts.start, format.as_deref()),
        Variable::RequestedServerName => text(facts.server_name),
        Variable::ResponseCode => number(facts.status),
        Variable::ResponseCodeDetails => text(facts.details),
        Variable::ResponseFlags => text(facts.flags),
        Variable::AttemptCount => number(facts.attempt),
        Variable::ConnectionId => number(facts.connection),
        Variable::StreamId => request
            .and_then(|request| first(request, &X_REQUEST_ID))
            .unwrap_or_default(),
        Variable::Environment(value) => value.as_bytes().to_vec(),
        Variable::BytesReceived => number(facts.received),
        // Headers go before the body.
        Variable::BytesSent => b"0".to_vec(),
        Variable::GrpcStatus => grpc_status(request, response, facts.status),
        Variable::Duration => milliseconds(facts.duration),
        Variable::RequestDuration => milliseconds(facts.request_duration),
        Variable::ResponseDuration => milliseconds(facts.response_duration),
        Variable::AccessLogType => b"NotSet".to_vec(),
        Variable::QueryParameter(name) => {
            query::parameter(facts.path.unwrap_or_default(), name).unwrap_or_default()
        }
        Variable::Path { query } => path(request, facts.path, *query),
        Variable::EmitTime(format) => start_time(Some(Timestamp::now()), format.as_deref()),
        Variable::RequestHeadersBytes => number(request.map(|headers| bytes_of(headers, facts))),
        Variable::RequestHeader(reference) => field(reference, request, facts),
        Variable::ResponseHeader(reference) => field(reference, response, facts),
    }
}

fn whole(address: Option<SocketAddr>) -> Vec<u8> {
    address.map_or_else(Vec::new, |address| address.to_string().into_bytes())
}

fn address(address: Option<SocketAddr>) -> Vec<u8> {
    address.map_or_else(Vec::new, |address| address.ip().to_string().into_bytes())
}

fn port(address: Option<SocketAddr>) -> Vec<u8> {
    number(address.map(|address| address.port()))
}

fn number<N: ToString>(number: Option<N>) -> Vec<u8> {
    number.map_or_else(Vec::new, |number| number.to_string().into_bytes())
}

fn milliseconds(time: Option<Duration>) -> Vec<u8> {
    number(time.map(|time| time.as_millis()))
}

/// The status of a gRPC request's response, in words; nothing of other requests.
// Envoy: GrpcStatusFormatter; Grpc::Common::getGrpcStatus.
fn grpc_status(
    request: Option<&HeaderMap>,
    response: Option<&HeaderMap>,
    status: Option<u16>,
) -> Vec<u8> {
    let (Some(_), Some(response)) = (request.filter(|headers| is_grpc(headers)), response) else {
        return Vec::new();
    };
    let said = response.get("grpc-status").map(HeaderValue::as_bytes);
    let said = said.map(|said| std::str::from_utf8(said).ok()?.parse().ok());
    let code = match said {
        Some(code) => code,
        None => status.filter(|status| *status != 0).map(grpc::of_http),
    };
    let name = code.and_then(grpc::camel_name);
    name.unwrap_or_default().as_bytes().to_vec()
}

/// The path that the client asked for.
fn path(request: Option<&HeaderMap>, path: Option<&str>, query: bool) -> Vec<u8> {
    let original = request.and_then(|request| first(request, &X_ENVOY_ORIGINAL_PATH));
    let mut path = original.unwrap_or_else(|| path.unwrap_or_default().as_bytes().to_vec());
    if !query && let Some(end) = path.iter().position(|byte| *byte == b'?') {
        path.truncate(end);
    }
    path
}

/// Names and values, with what stands beside headers (Envoy: `HeaderMap::byteSize`).
fn bytes_of(headers: &HeaderMap, facts: &FormatFacts<'_>) -> usize {
    let others = headers.iter().filter(|(name, _)| *name != HOST);
    let others = others.map(|(name, value)| name.as_str().len() + value.len());
    let beside = [
        (PseudoHeader::Authority, facts.authority),
        (PseudoHeader::Method, facts.method),
        (PseudoHeader::Path, facts.path),
        (PseudoHeader::Scheme, facts.scheme),
    ];
    let beside = beside.map(|(name, value)| name.name().len() + value.unwrap_or_default().len());
    others.chain(beside).sum()
}

/// strftime's format; `2026-03-01T10:00:00.123Z` without one.
fn start_time(start: Option<Timestamp>, format: Option<&str>) -> Vec<u8> {
    let Some(start) = start else {
        return Vec::new();
    };
    let mut text = String::new();
    let Some(format) = format else {
        // Writing to a String doesn't fail.
        let _ = write!(text, "{start:.3}");
        return text.into_bytes();
    };
    let zoned = start.to_zoned(TimeZone::UTC);
    // A format that is none leaves the value empty.
    strtime::format(format, &zoned)
        .unwrap_or_default()
        .into_bytes()
}

fn field(
    reference: &HeaderReference,
    headers: Option<&HeaderMap>,
    facts: &FormatFacts<'_>,
) -> Vec<u8> {
    let names = [Some(&reference.name), reference.otherwise.as_ref()];
    let mut values = names.into_iter().flatten().filter_map(|name| match name {
        FieldName::Authority => facts.authority.map(|text| text.as_bytes().to_vec()),
        FieldName::Method => facts.method.map(|text| text.as_bytes().to_vec()),
        FieldName::Path => facts.path.map(|text| text.as_bytes().to_vec()),
        FieldName::Scheme => facts.scheme.map(|text| text.as_bytes().to_vec()),
        FieldName::Status => facts.status.map(|status| status.to_string().into_bytes()),
        FieldName::Header(name) => first(headers?, name),
    });
    values.next().unwrap_or_default()
}

/// The first value: Envoy's formatter looks at no other.
fn first(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    Some(headers.get(name)?.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nodegate_model::gateway::HeaderAdd;

    fn change(name: &'static str, value: &str, append: bool) -> HeaderAdd {
        HeaderAdd {
            name: HeaderName::from_static(name),
            value: Format::new(value).unwrap(),
            append,
        }
    }

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    fn listed(map: &HeaderMap) -> Vec<String> {
        let mut all: Vec<_> = map
            .iter()
            .map(|(name, value)| format!("{name}={}", value.to_str().unwrap()))
            .collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn removed_then_set_then_added() {
        let changes = HeaderChanges {
            remove: vec![HeaderName::from_static("a"), HeaderName::from_static("d")],
            add: vec![
                change("a", "added", true),
                change("b", "set", false),
                change("c", "added", true),
                change("c", "set", false),
                change("e", "%REQ(b)%", false),
                change("f", "%REQ(d)%", false),
            ],
        };
        let mut headers = map(&[
            ("a", "1"),
            ("b", "1"),
            ("b", "2"),
            ("c", "1"),
            ("d", "1"),
            ("f", "1"),
        ]);
        apply(
            &changes,
            &mut headers,
            Direction::Request,
            &FormatFacts::default(),
        );
        assert_eq!(
            listed(&headers),
            // `e` is the `b` of before; `f` would be empty, and stays.
            ["a=added", "b=set", "c=added", "c=set", "e=1", "f=1"]
        );
    }

    #[test]
    fn lines_of_a_header_of_one_value_become_one() {
        let mut headers = map(&[
            ("user-agent", "a"),
            ("user-agent", ""),
            ("user-agent", "b"),
            ("x-mine", "a"),
            ("x-mine", "b"),
            // Of answers alone.
            ("server", "a"),
            ("server", "b"),
        ]);
        join_lines(&mut headers);
        assert_eq!(
            listed(&headers),
            [
                "server=a",
                "server=b",
                "user-agent=a,b",
                "x-mine=a",
                "x-mine=b"
            ]
        );
    }

    /// As a real Envoy does.
    #[test]
    fn headers_of_one_value_keep_one() {
        let changes = HeaderChanges {
            remove: Vec::new(),
            add: vec![
                change("user-agent", "0", true),
                change("x-request-id", "vv", true),
                change("cookie", "c=d", true),
                change("x-mine", "b", true),
                change("accept", "z", true),
            ],
        };
        let mut headers = map(&[
            ("user-agent", ""),
            ("x-request-id", "id"),
            ("cookie", "a=b"),
            ("x-mine", "a"),
        ]);
        apply(
            &changes,
            &mut headers,
            Direction::Request,
            &FormatFacts::default(),
        );
        assert_eq!(
            listed(&headers),
            [
                "accept=z",
                "cookie=a=b",
                "cookie=c=d",
                "user-agent=0",
                "x-mine=a",
                "x-mine=b",
                "x-request-id=id,vv"
            ]
        );
    }

    #[test]
    fn variables_have_their_values() {
        let facts = FormatFacts {
            client: Some("10.0.0.9:51034".parse().unwrap()),
            local: Some("[fd00::1]:8080".parse().unwrap()),
            cluster: Some("outbound|80||a"),
            authority: Some("a.x:80"),
            start: Some("2026-03-01T10:00:00.1234Z".parse().unwrap()),
            status: Some(404),
            connection: Some(7),
            received: Some(3),
            duration: Some(Duration::from_millis(1500)),
            path: Some("/p?x&q=a%20b"),
            ..FormatFacts::default()
        };
        let headers = map(&[
            ("x-name", "abcdef"),
            ("x-request-id", "id"),
            ("host", "a.x:80"),
        ]);
        for (format, wanted) in [
            ("%DOWNSTREAM_REMOTE_ADDRESS%", Some("10.0.0.9:51034")),
            (
                "<%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%>",
                Some("<10.0.0.9>"),
            ),
            ("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", Some("fd00::1")),
            ("%DOWNSTREAM_LOCAL_PORT%", Some("8080")),
            ("%REQ(X-NAME):3%", Some("abc")),
            ("%REQ(gone?x-name)%", Some("abcdef")),
            ("%REQ(gone?:authority)%", Some("a.x:80")),
            ("%REQ(gone)%", None),
            ("%UPSTREAM_HOST%", None),
            ("up:%UPSTREAM_HOST%", Some("up:")),
            (
                "%UPSTREAM_CLUSTER% %RESPONSE_CODE%",
                Some("outbound|80||a; 404"),
            ),
            ("%UPSTREAM_CLUSTER_RAW%", Some("outbound|80||a")),
            ("%START_TIME%", Some("2026-03-01T10:00:00.123Z")),
            ("%START_TIME(%Y/%m)%", Some("2026/03")),
            ("50%%", Some("50%")),
            ("%CONNECTION_ID%.%STREAM_ID%", Some("7.id")),
            ("%ENVIRONMENT(NODEGATE_SURELY_NOT_SET)%", Some("-")),
            ("%BYTES_RECEIVED%/%BYTES_SENT%", Some("3/0")),
            ("%DURATION% %REQUEST_DURATION%", Some("1500 ")),
            ("%QUERY_PARAM(q)%%QUERY_PARAM(none)%", Some("a b")),
            (
                "%PATH(WQ)% %PATH(NQ)% %PATH%",
                Some("/p?x&q=a%20b /p /p?x&q=a%20b"),
            ),
            ("%ACCESS_LOG_TYPE%", Some("NotSet")),
            ("%DOWNSTREAM_DIRECT_LOCAL_ADDRESS%", Some("[fd00::1]:8080")),
            ("%REQ(x-name?)% %REQ(none?)%", Some("abcdef ")),
            ("%REQUEST_HEADERS_BYTES%", Some("73")),
            ("%UPSTREAM_PROTOCOL%%GRPC_STATUS%", None),
        ] {
            let found = value(
                &Format::new(format).unwrap(),
                &headers,
                Direction::Request,
                &facts,
            );
            let found = found.map(|value| value.to_str().unwrap().to_owned());
            assert_eq!(found.as_deref(), wanted, "{format}");
        }
    }

    #[test]
    fn responses_know_the_request() {
        let request = map(&[("x", "asked")]);
        let facts = FormatFacts {
            request: Some(&request),
            ..FormatFacts::default()
        };
        let changes = HeaderChanges {
            remove: Vec::new(),
            add: vec![change("y", "%REQ(x)% %RESP(x)%", true)],
        };
        let mut response = map(&[("x", "answered")]);
        apply(&changes, &mut response, Direction::Response, &facts);
        assert_eq!(response["y"], "asked answered");
    }

    #[test]
    fn a_grpc_status_has_a_name() {
        let grpc = map(&[("content-type", "application/grpc")]);
        let name = |request: &HeaderMap, response: &[(&'static str, &'static str)], status| {
            let status = grpc_status(Some(request), Some(&map(response)), Some(status));
            String::from_utf8(status).unwrap()
        };
        assert_eq!(name(&grpc, &[("grpc-status", "14")], 200), "Unavailable");
        assert_eq!(name(&grpc, &[("grpc-status", "0")], 200), "OK");
        assert_eq!(name(&grpc, &[], 404), "Unimplemented");
        assert_eq!(name(&HeaderMap::new(), &[("grpc-status", "14")], 200), "");
    }
}
