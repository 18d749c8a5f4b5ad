//! Envoy's format strings, as they may stand in the values of headers: text, and variables such as
//! `%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%` or `%REQ(x-forwarded-for)%`.

use std::{env, fmt};

use http::HeaderName;
use serde::Serialize;

/// A value with variables in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    text: String,
    segments: Vec<Segment>,
}

/// A part of a [`Format`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Text, as it is.
    Literal(String),
    /// A value that the request or the response has.
    Variable {
        /// Which value.
        variable: Variable,
        /// Longest length in bytes; the rest is cut off.
        max_length: Option<usize>,
    },
}

/// A value that a request or its response has. What is unknown reads as nothing (Envoy:
/// `omit_empty_values`, which its header parser sets).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Variable {
    /// `DOWNSTREAM_REMOTE_ADDRESS`: the client's address, `10.0.0.9:51034`.
    DownstreamRemoteAddress,
    /// `DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT`
    DownstreamRemoteAddressWithoutPort,
    /// `DOWNSTREAM_REMOTE_PORT`
    DownstreamRemotePort,
    /// `DOWNSTREAM_DIRECT_REMOTE_ADDRESS`: the peer's address, even if a trusted proxy in between
    /// names another client.
    DownstreamDirectRemoteAddress,
    /// `DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT`
    DownstreamDirectRemoteAddressWithoutPort,
    /// `DOWNSTREAM_LOCAL_ADDRESS`: where the client connected to.
    DownstreamLocalAddress,
    /// `DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT`
    DownstreamLocalAddressWithoutPort,
    /// `DOWNSTREAM_LOCAL_PORT`
    DownstreamLocalPort,
    /// `UPSTREAM_HOST` or `UPSTREAM_REMOTE_ADDRESS`: the endpoint.
    UpstreamRemoteAddress,
    /// `UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT`
    UpstreamRemoteAddressWithoutPort,
    /// `UPSTREAM_REMOTE_PORT`
    UpstreamRemotePort,
    /// `UPSTREAM_LOCAL_ADDRESS`: where we connected to the endpoint from.
    UpstreamLocalAddress,
    /// `UPSTREAM_CLUSTER`: the name under which it is counted.
    UpstreamCluster,
    /// `UPSTREAM_CLUSTER_RAW`
    UpstreamClusterRaw,
    /// `ROUTE_NAME`
    RouteName,
    /// `VIRTUAL_CLUSTER_NAME` and other values that this proxy never has.
    Unknown,
    /// `PROTOCOL`: `HTTP/1.1`
    Protocol,
    /// `HOSTNAME`: of the machine.
    Hostname,
    /// `START_TIME`, with an optional strftime format.
    StartTime(Option<String>),
    /// `REQUESTED_SERVER_NAME`: of TLS.
    RequestedServerName,
    /// `RESPONSE_CODE`
    ResponseCode,
    /// `RESPONSE_CODE_DETAILS`
    ResponseCodeDetails,
    /// `RESPONSE_FLAGS`
    ResponseFlags,
    /// `UPSTREAM_REQUEST_ATTEMPT_COUNT`
    AttemptCount,
    /// `CONNECTION_ID`: the number of the client's connection.
    ConnectionId,
    /// `STREAM_ID`: the request's id.
    StreamId,
    /// `ENVIRONMENT(NAME)`: what the process has in its environment under that name when the format is read,
    /// or `-`.
    Environment(String),
    /// `BYTES_RECEIVED`: of the request's body, so far.
    BytesReceived,
    /// `BYTES_SENT`: of the response's body, so far.
    BytesSent,
    /// `GRPC_STATUS`, of gRPC.
    GrpcStatus,
    /// `DURATION`: milliseconds since the request began.
    Duration,
    /// `REQUEST_DURATION`: milliseconds until the whole request had come.
    RequestDuration,
    /// `RESPONSE_DURATION`: milliseconds until the endpoint's response began.
    ResponseDuration,
    /// `ACCESS_LOG_TYPE`: none, for headers.
    AccessLogType,
    /// `QUERY_PARAM(name)`: the first of that name, decoded.
    QueryParameter(String),
    /// `PATH(WQ)` or `PATH(NQ)`: with the query, or without; the one that the client asked for.
    Path {
        /// Whether the query belongs to it.
        query: bool,
    },
    /// `EMIT_TIME`, with an optional strftime format: now.
    EmitTime(Option<String>),
    /// `REQUEST_HEADERS_BYTES`
    RequestHeadersBytes,
    /// One of Envoy's that this version has no value for: it reads as nothing.
    Unserved(&'static str),
    /// `REQ(name)` or `REQ(name?other)`
    RequestHeader(HeaderReference),
    /// `RESP(name)` or `RESP(name?other)`
    ResponseHeader(HeaderReference),
}

/// A header, and the one that is taken where there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderReference {
    /// Name, or a pseudo-header: `:path`, `:method`, `:authority`, `:scheme`, `:status`.
    pub name: FieldName,
    /// What is taken where there is none.
    pub otherwise: Option<FieldName>,
}

/// What a request or response has by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldName {
    /// `:authority`
    Authority,
    /// `:method`
    Method,
    /// `:path`, with the query.
    Path,
    /// `:scheme`
    Scheme,
    /// `:status`
    Status,
    /// A header.
    Header(HeaderName),
}

/// Why a text is no format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A `%` without another.
    #[error("the `%` at `{0}` has no end; a `%` that is meant is written `%%`")]
    Unterminated(String),
    /// Not a variable of Envoy's.
    #[error("`%{0}%` is not a variable")]
    NoVariable(String),
    /// Something in parentheses that can't be read.
    #[error("`%{0}%`: `{1}` is not the name of a header")]
    NoHeader(String, String),
    /// Parentheses or a colon that do not belong there.
    #[error(
        "`%{0}%` cannot be read: a variable is `%NAME%`, `%NAME(argument)%` or `%NAME(argument):length%`"
    )]
    Malformed(String),
}

// === impl Format ===

impl Format {
    /// Reads a value.
    ///
    /// # Errors
    ///
    /// If a variable has no end, is not one of Envoy's, or has an argument that it does not take.
    pub fn new(text: &str) -> Result<Self, FormatError> {
        let mut segments = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            literal.push_str(before);
            if let Some(after) = after.strip_prefix('%') {
                literal.push('%');
                rest = after;
                continue;
            }
            let end = end_of_variable(after)
                .ok_or_else(|| FormatError::Unterminated(format!("%{after}")))?;
            if !literal.is_empty() {
                segments.push(Segment::Literal(std::mem::take(&mut literal)));
            }
            segments.push(variable(&after[..end])?);
            rest = &after[end + 1..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            segments.push(Segment::Literal(literal));
        }
        Ok(Self {
            text: text.into(),
            segments,
        })
    }

    /// The parts, in order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The value, if it has no variables.
    pub fn literal(&self) -> Option<&str> {
        match self.segments.as_slice() {
            [] => Some(""),
            [Segment::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// The variables that this version has no value for.
    pub fn unserved(&self) -> impl Iterator<Item = &'static str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Variable {
                variable: Variable::Unserved(name),
                ..
            } => Some(*name),
            _ => None,
        })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Format {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// What Envoy has beside all that, without arguments.
const UNSERVED: [&str; 14] = [
    "DOWNSTREAM_WIRE_BYTES_RECEIVED",
    "DOWNSTREAM_WIRE_BYTES_SENT",
    "REQUEST_TX_DURATION",
    "RESPONSE_FLAGS_LONG",
    "RESPONSE_HEADERS_BYTES",
    "RESPONSE_TRAILERS_BYTES",
    "RESPONSE_TX_DURATION",
    "START_TIME_LOCAL",
    "UNIQUE_ID",
    "UPSTREAM_CONNECTION_ID",
    "UPSTREAM_LOCAL_PORT",
    "UPSTREAM_PROTOCOL",
    "UPSTREAM_WIRE_BYTES_RECEIVED",
    "UPSTREAM_WIRE_BYTES_SENT",
];

/// Where the `%` is that ends a variable: not one inside of parentheses, which time formats have.
fn end_of_variable(text: &str) -> Option<usize> {
    let mut depth = 0_u32;
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b'%' if depth == 0 => return Some(index),
            _ => {}
        }
    }
    None
}

/// `NAME`, `NAME(argument)` or `NAME(argument):length`.
fn variable(text: &str) -> Result<Segment, FormatError> {
    let malformed = || FormatError::Malformed(text.into());
    let (name, argument, tail) = match text.split_once('(') {
        None => {
            let (name, tail) = text
                .split_once(':')
                .map_or((text, None), |(name, tail)| (name, Some(tail)));
            (name, None, tail)
        }
        Some((name, rest)) => {
            let (argument, tail) = rest.rsplit_once(')').ok_or_else(malformed)?;
            let tail = match tail.strip_prefix(':') {
                Some(tail) => Some(tail),
                None if tail.is_empty() => None,
                None => return Err(malformed()),
            };
            (name, Some(argument), tail)
        }
    };
    let max_length = tail
        .map(|length| length.parse().map_err(|_| malformed()))
        .transpose()?;
    Ok(Segment::Variable {
        variable: named(text, name, argument)?,
        max_length,
    })
}

/// The names are Envoy's (docs/root/configuration/advanced/substitution_formatter.rst).
fn named(text: &str, name: &str, argument: Option<&str>) -> Result<Variable, FormatError> {
    if let Some(variable) = with_argument(text, name, argument)? {
        return Ok(variable);
    }
    let plain = plain(name).ok_or_else(|| FormatError::NoVariable(text.into()))?;
    match argument {
        Some(_) => Err(FormatError::Malformed(text.into())),
        None => Ok(plain),
    }
}

/// A variable that takes an argument; none if it is another one.
fn with_argument(
    text: &str,
    name: &str,
    argument: Option<&str>,
) -> Result<Option<Variable>, FormatError> {
    let given = argument.filter(|argument| !argument.is_empty());
    let needed = || given.ok_or_else(|| FormatError::Malformed(text.into()));
    Ok(Some(match name {
        "REQ" | "REQUEST_HEADER" => Variable::RequestHeader(header(text, argument)?),
        "RESP" | "RESPONSE_HEADER" => Variable::ResponseHeader(header(text, argument)?),
        "START_TIME" => Variable::StartTime(given.map(ToOwned::to_owned)),
        "EMIT_TIME" => Variable::EmitTime(given.map(ToOwned::to_owned)),
        "ENVIRONMENT" => {
            // Envoy: EnvironmentFormatter.
            let value = env::var(needed()?).ok().filter(|value| !value.is_empty());
            Variable::Environment(value.unwrap_or_else(|| "-".into()))
        }
        "QUERY_PARAM" => Variable::QueryParameter(needed()?.into()),
        "PATH" => match given {
            None | Some("WQ") => Variable::Path { query: true },
            Some("NQ") => Variable::Path { query: false },
            Some(_) => return Err(FormatError::Malformed(text.into())),
        },
        "CLUSTER_METADATA" => Variable::Unserved("CLUSTER_METADATA"),
        // This proxy has nothing of the kind.
        "DYNAMIC_METADATA"
        | "UPSTREAM_METADATA"
        | "METADATA"
        | "FILTER_STATE"
        | "UPSTREAM_FILTER_STATE"
        | "PER_REQUEST_STATE"
        | "TRAILER" => Variable::Unknown,
        _ => return Ok(None),
    }))
}

/// A variable without an argument.
fn plain(name: &str) -> Option<Variable> {
    Some(match name {
        "DOWNSTREAM_REMOTE_ADDRESS" => Variable::DownstreamRemoteAddress,
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Variable::DownstreamRemoteAddressWithoutPort,
        "DOWNSTREAM_REMOTE_PORT" => Variable::DownstreamRemotePort,
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Variable::DownstreamDirectRemoteAddress,
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => {
            Variable::DownstreamDirectRemoteAddressWithoutPort
        }
        // Nothing in between says that it is another proxy's address (Envoy: PROXY protocol).
        "DOWNSTREAM_LOCAL_ADDRESS" | "DOWNSTREAM_DIRECT_LOCAL_ADDRESS" => {
            Variable::DownstreamLocalAddress
        }
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT"
        | "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT" => {
            Variable::DownstreamLocalAddressWithoutPort
        }
        "DOWNSTREAM_LOCAL_PORT" | "DOWNSTREAM_DIRECT_LOCAL_PORT" => Variable::DownstreamLocalPort,
        // The name of an endpoint without one is its address.
        "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" | "UPSTREAM_HOST_NAME" => {
            Variable::UpstreamRemoteAddress
        }
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" | "UPSTREAM_HOST_NAME_WITHOUT_PORT" => {
            Variable::UpstreamRemoteAddressWithoutPort
        }
        "UPSTREAM_REMOTE_PORT" => Variable::UpstreamRemotePort,
        "UPSTREAM_LOCAL_ADDRESS" => Variable::UpstreamLocalAddress,
        "UPSTREAM_CLUSTER" => Variable::UpstreamCluster,
        "UPSTREAM_CLUSTER_RAW" => Variable::UpstreamClusterRaw,
        "ROUTE_NAME" => Variable::RouteName,
        "PROTOCOL" => Variable::Protocol,
        "HOSTNAME" => Variable::Hostname,
        "REQUESTED_SERVER_NAME" => Variable::RequestedServerName,
        "RESPONSE_CODE" => Variable::ResponseCode,
        "RESPONSE_CODE_DETAILS" => Variable::ResponseCodeDetails,
        "RESPONSE_FLAGS" => Variable::ResponseFlags,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Variable::AttemptCount,
        "CONNECTION_ID" => Variable::ConnectionId,
        "STREAM_ID" => Variable::StreamId,
        "BYTES_RECEIVED" => Variable::BytesReceived,
        "BYTES_SENT" => Variable::BytesSent,
        "GRPC_STATUS" => Variable::GrpcStatus,
        "DURATION" => Variable::Duration,
        "REQUEST_DURATION" => Variable::RequestDuration,
        "RESPONSE_DURATION" => Variable::ResponseDuration,
        "ACCESS_LOG_TYPE" => Variable::AccessLogType,
        "REQUEST_HEADERS_BYTES" => Variable::RequestHeadersBytes,
        "ROUNDTRIP_DURATION"
        | "FILTER_CHAIN_NAME"
        | "VIRTUAL_CLUSTER_NAME"
        | "DOWNSTREAM_TLS_VERSION"
        | "DOWNSTREAM_TLS_CIPHER"
        | "DOWNSTREAM_TLS_SESSION_ID"
        | "DOWNSTREAM_PEER_SUBJECT"
        | "DOWNSTREAM_PEER_ISSUER"
        | "DOWNSTREAM_PEER_URI_SAN"
        | "DOWNSTREAM_LOCAL_URI_SAN"
        | "DOWNSTREAM_LOCAL_SUBJECT"
        | "DOWNSTREAM_PEER_FINGERPRINT_256"
        | "DOWNSTREAM_PEER_FINGERPRINT_1"
        | "DOWNSTREAM_PEER_SERIAL"
        | "DOWNSTREAM_PEER_CERT"
        | "UPSTREAM_TRANSPORT_FAILURE_REASON"
        | "CONNECTION_TERMINATION_DETAILS" => Variable::Unknown,
        name => Variable::Unserved(UNSERVED.iter().find(|unserved| **unserved == name)?),
    })
}

fn header(text: &str, argument: Option<&str>) -> Result<HeaderReference, FormatError> {
    let argument = argument.ok_or_else(|| FormatError::Malformed(text.into()))?;
    let (name, otherwise) = argument
        .split_once('?')
        .map_or((argument, None), |(name, otherwise)| {
            (name, Some(otherwise))
        });
    let field = |name: &str| {
        Ok(match name {
            ":authority" => FieldName::Authority,
            ":method" => FieldName::Method,
            ":path" => FieldName::Path,
            ":scheme" => FieldName::Scheme,
            ":status" => FieldName::Status,
            name => FieldName::Header(
                name.parse()
                    .map_err(|_| FormatError::NoHeader(text.into(), name.into()))?,
            ),
        })
    };
    Ok(HeaderReference {
        name: field(&name.to_ascii_lowercase())?,
        otherwise: otherwise
            .filter(|name| !name.is_empty())
            .map(|name| field(&name.to_ascii_lowercase()))
            .transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_variables() {
        let format = Format::new("from %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%, 100%%").unwrap();
        assert_eq!(
            format.segments(),
            [
                Segment::Literal("from ".into()),
                Segment::Variable {
                    variable: Variable::DownstreamRemoteAddressWithoutPort,
                    max_length: None
                },
                Segment::Literal(", 100%".into()),
            ]
        );
        assert_eq!(format.literal(), None);
        assert_eq!(Format::new("50%%").unwrap().literal(), Some("50%"));
        assert_eq!(Format::new("").unwrap().literal(), Some(""));
    }

    #[test]
    fn headers_have_alternatives_and_lengths() {
        let format = Format::new("%REQ(X-Name?:authority):8%").unwrap();
        let reference = HeaderReference {
            name: FieldName::Header(HeaderName::from_static("x-name")),
            otherwise: Some(FieldName::Authority),
        };
        assert_eq!(
            format.segments(),
            [Segment::Variable {
                variable: Variable::RequestHeader(reference),
                max_length: Some(8)
            }]
        );
        let time = Format::new("%START_TIME(%Y/%m)%").unwrap();
        assert_eq!(
            time.segments(),
            [Segment::Variable {
                variable: Variable::StartTime(Some("%Y/%m".into())),
                max_length: None
            }]
        );
    }

    #[test]
    fn what_this_version_has_no_value_for_is_known_by_name() {
        let format =
            Format::new("%UPSTREAM_PROTOCOL% %CLUSTER_METADATA(istio:services)% %DURATION%");
        let unserved: Vec<_> = format.as_ref().unwrap().unserved().collect();
        assert_eq!(unserved, ["UPSTREAM_PROTOCOL", "CLUSTER_METADATA"]);
    }

    #[test]
    fn what_envoy_refuses_is_refused() {
        for text in [
            "100%",
            "%NOPE%",
            "%REQ%",
            "%REQ(a b)%",
            "%REQ(x)y%",
            "%REQ(x):y%",
            "%PROTOCOL(x)%",
            "%REQ(x%",
            "%PATH(XQ)%",
            "%QUERY_PARAM%",
            "%ENVIRONMENT()%",
        ] {
            assert!(Format::new(text).is_err(), "{text}");
        }
    }
}
