//! What a line of the access log looks like: Istio's formats, and those that users write in Envoy's
//! words.

use std::{collections::BTreeMap, env, net::SocketAddr};

use jiff::Timestamp;
use nodegate_values::query;
use serde_json::Value;

use crate::record::{ConnectionRecord, Record, RequestRecord, ResponseFlag, ResponseFlags};

/// Istio's `EnvoyTextLogFormat` (pilot/pkg/model/telemetry_logging.go).
const DEFAULT_TEXT: &str = "[%START_TIME%] \"%REQ(:METHOD)% \
    %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% \
    %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
    \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
    \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% \
    %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% \
    %REQUESTED_SERVER_NAME% %ROUTE_NAME%";

/// Istio's `EnvoyJSONLogFormatIstio` (the same file).
const DEFAULT_JSON: [(&str, &str); 24] = [
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    (
        "connection_termination_details",
        "%CONNECTION_TERMINATION_DETAILS%",
    ),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    (
        "upstream_service_time",
        "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    ),
    (
        "upstream_transport_failure_reason",
        "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    ),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
];

/// `accessLogEncoding`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Lines of text.
    #[default]
    Text,
    /// A JSON object per line.
    Json,
}

/// What a line looks like.
#[derive(Clone, Debug)]
pub struct LineFormat(LineTemplate);

#[derive(Clone, Debug)]
enum LineTemplate {
    Text(Template),
    Json(BTreeMap<String, Template>),
}

/// Text with fields in it.
#[derive(Clone, Debug)]
struct Template(Vec<TemplatePart>);

#[derive(Clone, Debug)]
enum TemplatePart {
    Literal(String),
    Field(Field),
}

/// What is known of a request or connection.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    StartTime,
    Method,
    Path,
    Protocol,
    ResponseCode,
    ResponseFlags,
    ResponseCodeDetails,
    TransportFailure,
    BytesReceived,
    BytesSent,
    Duration,
    ServiceTime,
    ForwardedFor,
    UserAgent,
    RequestId,
    Authority,
    UpstreamHost,
    UpstreamCluster,
    UpstreamClusterRaw,
    UpstreamLocal,
    DownstreamLocal,
    DownstreamRemote,
    RouteName,
    Attempts,
    Connection,
    RequestDuration,
    ResponseDuration,
    /// Without the query.
    PathAlone,
    /// Of the query, by name.
    QueryParameter(String),
    /// What the process has in its environment, or `-`.
    Environment(String),
    /// When the line is written.
    EmitTime,
    /// That the request is over.
    LogType,
    UpstreamHostAddress,
    UpstreamPort,
    DownstreamLocalAddress,
    DownstreamLocalPort,
    DownstreamRemoteAddress,
    DownstreamRemotePort,
    /// The name that the client asked for in its TLS.
    ServerName,
    /// What this proxy never has.
    Nothing,
}

/// Why a text is no format.
#[derive(Debug, thiserror::Error)]
pub enum LogFormatError {
    /// A `%` without another.
    #[error("the `%` at `{0}` has no end; a `%` that is meant is written `%%`")]
    Unterminated(String),
    /// Something that is not logged.
    #[error("`%{0}%` is not logged; what is: {known}", known = known())]
    Unknown(String),
    /// Not the object that a JSON format is.
    #[error("a JSON format is an object of names and texts: {0}")]
    NoObject(#[from] serde_json::Error),
}

static FIELDS: [(&str, Field); 52] = [
    ("START_TIME", Field::StartTime),
    ("REQ(:METHOD)", Field::Method),
    ("REQ(X-ENVOY-ORIGINAL-PATH?:PATH)", Field::Path),
    ("REQ(:PATH)", Field::Path),
    ("PROTOCOL", Field::Protocol),
    ("RESPONSE_CODE", Field::ResponseCode),
    ("RESPONSE_FLAGS", Field::ResponseFlags),
    ("RESPONSE_CODE_DETAILS", Field::ResponseCodeDetails),
    ("CONNECTION_TERMINATION_DETAILS", Field::Nothing),
    ("UPSTREAM_TRANSPORT_FAILURE_REASON", Field::TransportFailure),
    ("BYTES_RECEIVED", Field::BytesReceived),
    ("BYTES_SENT", Field::BytesSent),
    ("DURATION", Field::Duration),
    ("RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)", Field::ServiceTime),
    ("REQ(X-FORWARDED-FOR)", Field::ForwardedFor),
    ("REQ(USER-AGENT)", Field::UserAgent),
    ("REQ(X-REQUEST-ID)", Field::RequestId),
    ("REQ(:AUTHORITY)", Field::Authority),
    ("UPSTREAM_HOST", Field::UpstreamHost),
    ("UPSTREAM_CLUSTER", Field::UpstreamCluster),
    ("UPSTREAM_CLUSTER_RAW", Field::UpstreamClusterRaw),
    ("UPSTREAM_LOCAL_ADDRESS", Field::UpstreamLocal),
    ("DOWNSTREAM_LOCAL_ADDRESS", Field::DownstreamLocal),
    ("DOWNSTREAM_REMOTE_ADDRESS", Field::DownstreamRemote),
    ("ROUTE_NAME", Field::RouteName),
    ("UPSTREAM_REQUEST_ATTEMPT_COUNT", Field::Attempts),
    ("STREAM_ID", Field::RequestId),
    ("CONNECTION_ID", Field::Connection),
    ("REQUEST_DURATION", Field::RequestDuration),
    ("RESPONSE_DURATION", Field::ResponseDuration),
    ("REQ(X-REQUEST-ID?)", Field::RequestId),
    ("PATH", Field::Path),
    ("PATH(WQ)", Field::Path),
    ("PATH(NQ)", Field::PathAlone),
    ("EMIT_TIME", Field::EmitTime),
    ("ACCESS_LOG_TYPE", Field::LogType),
    ("UPSTREAM_REMOTE_ADDRESS", Field::UpstreamHost),
    ("UPSTREAM_HOST_NAME", Field::UpstreamHost),
    (
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        Field::UpstreamHostAddress,
    ),
    ("UPSTREAM_REMOTE_PORT", Field::UpstreamPort),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS", Field::DownstreamLocal),
    (
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
        Field::DownstreamLocalAddress,
    ),
    ("DOWNSTREAM_LOCAL_PORT", Field::DownstreamLocalPort),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", Field::DownstreamRemote),
    (
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        Field::DownstreamRemoteAddress,
    ),
    ("DOWNSTREAM_REMOTE_PORT", Field::DownstreamRemotePort),
    // What Envoy has, and a gateway of Istio's in the clear never.
    ("FILTER_CHAIN_NAME", Field::Nothing),
    ("ROUNDTRIP_DURATION", Field::Nothing),
    ("VIRTUAL_CLUSTER_NAME", Field::Nothing),
    ("DOWNSTREAM_TLS_VERSION", Field::Nothing),
    ("DOWNSTREAM_TLS_CIPHER", Field::Nothing),
    ("DOWNSTREAM_PEER_SUBJECT", Field::Nothing),
];

fn known() -> String {
    let names = FIELDS.iter().map(|(name, _)| *name);
    let names = names.chain(["QUERY_PARAM(x)", "ENVIRONMENT(X)"]);
    let names: Vec<String> = names.map(|name| format!("%{name}%")).collect();
    names.join(" ")
}

impl LineFormat {
    /// Istio's format, or one of the user's: text, or for JSON an object whose values are texts.
    ///
    /// # Errors
    ///
    /// If the user's format names a field that is not known, or is not such an object.
    pub fn new(encoding: Encoding, format: Option<&str>) -> Result<Self, LogFormatError> {
        Ok(Self(match encoding {
            Encoding::Text => LineTemplate::Text(Template::new(format.unwrap_or(DEFAULT_TEXT))?),
            Encoding::Json => {
                let fields: BTreeMap<String, String> = match format {
                    Some(format) => serde_json::from_str(format)?,
                    None => DEFAULT_JSON
                        .iter()
                        .map(|&(name, value)| (name.into(), value.into()))
                        .collect(),
                };
                LineTemplate::Json(
                    fields
                        .into_iter()
                        .map(|(name, value)| Ok((name, Template::new(&value)?)))
                        .collect::<Result<_, LogFormatError>>()?,
                )
            }
        }))
    }

    /// The line of a record, with its end.
    pub(super) fn line(&self, record: &Record) -> String {
        let mut line = match &self.0 {
            LineTemplate::Text(template) => template.text(record),
            LineTemplate::Json(fields) => {
                let object: BTreeMap<&str, Value> = fields
                    .iter()
                    .map(|(name, template)| (name.as_str(), template.value(record)))
                    .collect();
                // Texts, numbers and nulls can always be written.
                serde_json::to_string(&object).unwrap_or_default()
            }
        };
        if !line.ends_with('\n') {
            line.push('\n');
        }
        line
    }
}

impl Template {
    fn new(text: &str) -> Result<Self, LogFormatError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            literal.push_str(before);
            let (name, after) = after
                .split_once('%')
                .ok_or_else(|| LogFormatError::Unterminated(format!("%{after}")))?;
            rest = after;
            if name.is_empty() {
                literal.push('%');
                continue;
            }
            if !literal.is_empty() {
                parts.push(TemplatePart::Literal(std::mem::take(&mut literal)));
            }
            parts.push(TemplatePart::Field(Field::named(name)?));
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(TemplatePart::Literal(literal));
        }
        Ok(Self(parts))
    }

    /// What is missing is `-`.
    fn text(&self, record: &Record) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                TemplatePart::Literal(literal) => text.push_str(literal),
                TemplatePart::Field(field) => match field.value(record) {
                    Value::Null => text.push('-'),
                    Value::String(value) => text.push_str(&value),
                    other => text.push_str(&other.to_string()),
                },
            }
        }
        text
    }

    /// A field by itself keeps its type, and is null if it is missing.
    fn value(&self, record: &Record) -> Value {
        match self.0.as_slice() {
            [TemplatePart::Field(field)] => field.value(record),
            _ => Value::String(self.text(record)),
        }
    }
}

impl Field {
    fn named(name: &str) -> Result<Self, LogFormatError> {
        if name.eq_ignore_ascii_case("REQUESTED_SERVER_NAME") {
            return Ok(Self::ServerName);
        }
        let argument = |of: &str| {
            let argument = name
                .strip_prefix(of)?
                .strip_prefix('(')?
                .strip_suffix(')')?;
            (!argument.is_empty()).then(|| argument.to_owned())
        };
        if let Some(parameter) = argument("QUERY_PARAM") {
            return Ok(Self::QueryParameter(parameter));
        }
        if let Some(variable) = argument("ENVIRONMENT") {
            let value = env::var(variable).ok().filter(|value| !value.is_empty());
            return Ok(Self::Environment(value.unwrap_or_else(|| "-".into())));
        }
        FIELDS
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, field)| field.clone())
            .ok_or_else(|| LogFormatError::Unknown(name.into()))
    }

    fn value(&self, record: &Record) -> Value {
        match record {
            Record::Request(record) => self.of_request(record),
            Record::Connection(record) => self.of_connection(record),
        }
    }

    fn of_request(&self, record: &RequestRecord) -> Value {
        match self {
            Self::StartTime => format!("{:.3}", record.time).into(),
            Self::Method => text(&record.method),
            Self::Path => text(&record.path),
            Self::Protocol => record.protocol.into(),
            Self::ResponseCode => record.status.into(),
            Self::ResponseFlags => flags(record.flags),
            Self::ResponseCodeDetails => text(&record.details),
            Self::TransportFailure => one_word(record.transport_failure.as_deref()),
            Self::BytesReceived => record.bytes_received.into(),
            Self::BytesSent => record.bytes_sent.into(),
            Self::Duration => milliseconds(record.duration).into(),
            // A header, and so a text.
            Self::ServiceTime => record
                .upstream_service_time
                .map_or(Value::Null, |time| milliseconds(time).to_string().into()),
            Self::ForwardedFor => text(record.forwarded_for.as_deref().unwrap_or_default()),
            // A header may be there and say nothing.
            Self::UserAgent => record.user_agent.clone().into(),
            Self::RequestId => text(&record.request_id),
            // Envoy writes its line when the route has changed the request; the path alone is kept.
            Self::Authority => {
                let rewritten = record.rewritten_authority.as_deref();
                text(rewritten.unwrap_or(&record.authority))
            }
            Self::UpstreamHost => address(record.decision.endpoint),
            Self::UpstreamCluster => counted(record.decision.cluster.as_deref()),
            Self::UpstreamClusterRaw => {
                text(record.decision.cluster.as_deref().unwrap_or_default())
            }
            Self::UpstreamLocal => address(record.upstream_local),
            Self::DownstreamLocal => address(Some(record.local)),
            Self::DownstreamRemote => address(Some(record.client)),
            Self::RouteName => text(record.decision.route.as_deref().unwrap_or_default()),
            Self::Attempts => record.attempts.into(),
            Self::Connection => record.connection.into(),
            Self::RequestDuration => record.request_duration.map(milliseconds).into(),
            Self::ResponseDuration => record.response_duration.map(milliseconds).into(),
            Self::PathAlone => text(record.path.split('?').next().unwrap_or_default()),
            Self::QueryParameter(name) => {
                let value = query::parameter(&record.path, name).unwrap_or_default();
                text(&String::from_utf8_lossy(&value))
            }
            Self::LogType => "DownstreamEnd".into(),
            Self::UpstreamHostAddress => ip(record.decision.endpoint),
            Self::UpstreamPort => port(record.decision.endpoint),
            Self::DownstreamLocalAddress => ip(Some(record.local)),
            Self::DownstreamLocalPort => port(Some(record.local)),
            Self::DownstreamRemoteAddress => ip(Some(record.client)),
            Self::DownstreamRemotePort => port(Some(record.client)),
            Self::Environment(value) => value.as_str().into(),
            Self::EmitTime => format!("{:.3}", Timestamp::now()).into(),
            Self::ServerName => text(record.server_name.as_deref().unwrap_or_default()),
            Self::Nothing => Value::Null,
        }
    }

    fn of_connection(&self, record: &ConnectionRecord) -> Value {
        match self {
            Self::StartTime => format!("{:.3}", record.time).into(),
            Self::ResponseCode => 0.into(),
            Self::ResponseFlags => flags(record.flags),
            // Of a connection that broke later, its flag says enough.
            Self::TransportFailure
                if record
                    .flags
                    .contains(ResponseFlag::UpstreamConnectionFailure) =>
            {
                one_word(Some(&record.details))
            }
            Self::UpstreamLocal => address(record.upstream_local),
            Self::BytesReceived => record.bytes_received.into(),
            Self::BytesSent => record.bytes_sent.into(),
            Self::Duration => milliseconds(record.duration).into(),
            Self::UpstreamHost => address(record.decision.endpoint),
            Self::UpstreamCluster => counted(record.decision.cluster.as_deref()),
            Self::UpstreamClusterRaw => {
                text(record.decision.cluster.as_deref().unwrap_or_default())
            }
            Self::DownstreamLocal => address(Some(record.local)),
            Self::DownstreamRemote => address(Some(record.client)),
            Self::UpstreamHostAddress => ip(record.decision.endpoint),
            Self::UpstreamPort => port(record.decision.endpoint),
            Self::DownstreamLocalAddress => ip(Some(record.local)),
            Self::DownstreamLocalPort => port(Some(record.local)),
            Self::DownstreamRemoteAddress => ip(Some(record.client)),
            Self::DownstreamRemotePort => port(Some(record.client)),
            Self::ServerName => text(record.server_name.as_deref().unwrap_or_default()),
            Self::Environment(value) => value.as_str().into(),
            Self::EmitTime => format!("{:.3}", Timestamp::now()).into(),
            _ => Value::Null,
        }
    }
}

/// The name that Istio has a cluster counted under (`DelimitedStatsPrefix` of pilot/pkg/networking/util).
fn counted(cluster: Option<&str>) -> Value {
    cluster.map_or(Value::Null, |name| format!("{name};").into())
}

fn text(value: &str) -> Value {
    if value.is_empty() {
        Value::Null
    } else {
        value.into()
    }
}

/// Without spaces, so that it is one field of a line (Envoy: `StringUtil::replaceAllEmptySpace`).
fn one_word(value: Option<&str>) -> Value {
    text(&value.unwrap_or_default().replace(char::is_whitespace, "_"))
}

/// Envoy writes `-` for none, in JSON too.
fn flags(flags: ResponseFlags) -> Value {
    if flags.is_empty() {
        "-".into()
    } else {
        flags.to_string().into()
    }
}

fn address(address: Option<SocketAddr>) -> Value {
    address.map_or(Value::Null, |address| address.to_string().into())
}

fn ip(address: Option<SocketAddr>) -> Value {
    address.map_or(Value::Null, |address| address.ip().to_string().into())
}

fn port(address: Option<SocketAddr>) -> Value {
    address.map_or(Value::Null, |address| address.port().into())
}

fn milliseconds(duration: std::time::Duration) -> u64 {
    duration.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::request;

    fn line(encoding: Encoding, format: Option<&str>) -> String {
        let record = Record::Request(Box::new(request()));
        LineFormat::new(encoding, format).unwrap().line(&record)
    }

    #[test]
    fn istio_s_text() {
        assert_eq!(
            line(Encoding::Text, None),
            "[2026-03-01T10:00:00.123Z] \"GET /simple/nginx/x?a=1 HTTP/1.1\" 503 UF why - \"-\" 0 \
             91 1 - \"10.0.0.9\" \"curl/8\" \"1f\" \"simple.baihl.io\" \"10.10.1.14:80\" \
             outbound|80||nginx.simple.svc.cluster.local - 10.0.0.1:8080 10.0.0.9:51034 - -\n"
        );
    }

    #[test]
    fn a_reason_is_one_field_of_the_line() {
        let failed = RequestRecord {
            transport_failure: Some("delayed connect error: Connection refused".into()),
            ..request()
        };
        let record = Record::Request(Box::new(failed));
        let format = Some("%UPSTREAM_TRANSPORT_FAILURE_REASON%");
        let line = LineFormat::new(Encoding::Text, format)
            .unwrap()
            .line(&record);
        assert_eq!(line, "delayed_connect_error:_Connection_refused\n");
    }

    #[test]
    fn the_host_and_the_agent_are_those_that_endpoints_see() {
        let changed = RequestRecord {
            rewritten_authority: Some("other.test".into()),
            user_agent: Some(String::new()),
            ..request()
        };
        let record = Record::Request(Box::new(changed));
        let format =
            Some("%REQ(:AUTHORITY)% '%REQ(USER-AGENT)%' %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%");
        let line = LineFormat::new(Encoding::Text, format)
            .unwrap()
            .line(&record);
        assert_eq!(line, "other.test '' /simple/nginx/x?a=1\n");
    }

    #[test]
    fn istio_s_24_keys() {
        let line = line(Encoding::Json, None);
        let object: serde_json::Map<String, Value> = serde_json::from_str(&line).unwrap();
        assert_eq!(object.len(), 24);
        for (key, wanted) in [
            ("response_code", Value::from(503)),
            ("bytes_sent", 91.into()),
            ("duration", 1.into()),
            ("path", "/simple/nginx/x?a=1".into()),
            ("response_flags", "UF".into()),
            ("upstream_host", "10.10.1.14:80".into()),
            ("route_name", Value::Null),
            ("requested_server_name", Value::Null),
            ("connection_termination_details", Value::Null),
            ("upstream_service_time", Value::Null),
            ("start_time", "2026-03-01T10:00:00.123Z".into()),
        ] {
            assert_eq!(object[key], wanted, "{key}");
        }
    }

    #[test]
    fn formats_of_the_user_s() {
        assert_eq!(
            line(
                Encoding::Text,
                Some("%req(:method)% 100%% %RESPONSE_CODE%\n")
            ),
            "GET 100% 503\n"
        );
        assert_eq!(
            line(
                Encoding::Json,
                Some(r#"{"code": "%RESPONSE_CODE%", "a": "x%RESPONSE_CODE%"}"#)
            ),
            "{\"a\":\"x503\",\"code\":503}\n"
        );
        assert_eq!(
            line(
                Encoding::Text,
                Some(
                    "%PATH(NQ)% %QUERY_PARAM(a)% %QUERY_PARAM(b)% %ENVIRONMENT(NODEGATE_SURELY_NOT_SET)% %UPSTREAM_REMOTE_PORT% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %ACCESS_LOG_TYPE% %FILTER_CHAIN_NAME% %STREAM_ID% %CONNECTION_ID% %REQUEST_DURATION% %RESPONSE_DURATION%"
                )
            ),
            "/simple/nginx/x 1 - - 80 10.0.0.9 DownstreamEnd - 1f 7 0 -\n"
        );
        for (encoding, format) in [
            (Encoding::Text, "%DURATION"),
            (Encoding::Text, "%REQ(x-other)%"),
            (Encoding::Json, "%DURATION%"),
        ] {
            assert!(LineFormat::new(encoding, Some(format)).is_err(), "{format}");
        }
    }
}
