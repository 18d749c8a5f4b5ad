//! Changes of headers, with the values of format strings.

use std::{fmt::Write as _, net::SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::{Timestamp, fmt::strtime, tz::TimeZone};
use nodegate_model::gateway::HeaderChanges;
use nodegate_values::format::{FieldName, Format, HeaderReference, Segment, Variable};

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
                headers.append(change.name.clone(), value.clone());
            } else {
                headers.insert(change.name.clone(), value.clone());
            }
        }
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
        Variable::UpstreamCluster => text(facts.cluster),
        Variable::RouteName => text(facts.route),
        Variable::Unknown => Vec::new(),
        Variable::Protocol => text(facts.protocol),
        Variable::Hostname => text(facts.hostname),
        Variable::StartTime(format) => start_time(facts.start, format.as_deref()),
        Variable::RequestedServerName => text(facts.server_name),
        Variable::ResponseCode => number(facts.status),
        Variable::ResponseCodeDetails => text(facts.details),
        Variable::ResponseFlags => text(facts.flags),
        Variable::AttemptCount => number(facts.attempt),
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
    fn variables_have_their_values() {
        let facts = FormatFacts {
            client: Some("10.0.0.9:51034".parse().unwrap()),
            local: Some("[fd00::1]:8080".parse().unwrap()),
            cluster: Some("outbound|80||a"),
            authority: Some("a.x:80"),
            start: Some("2026-03-01T10:00:00.1234Z".parse().unwrap()),
            status: Some(404),
            ..FormatFacts::default()
        };
        let headers = map(&[("x-name", "abcdef")]);
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
                Some("outbound|80||a 404"),
            ),
            ("%START_TIME%", Some("2026-03-01T10:00:00.123Z")),
            ("%START_TIME(%Y/%m)%", Some("2026/03")),
            ("50%%", Some("50%")),
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
}
