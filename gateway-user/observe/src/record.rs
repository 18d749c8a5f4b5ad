//! Decision records: one request or one TCP connection each.

use std::{borrow::Cow, fmt, net::SocketAddr, time::Duration};

use jiff::Timestamp;
use nodegate_model::gateway::RouteOrigin;
use serde::{Serialize, Serializer};

mod flags;

pub use flags::{ResponseFlag, ResponseFlags};

/// One decision of the proxy and what came of it.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record {
    /// An HTTP request, when its response is over.
    Request(Box<RequestRecord>),
    /// A TCP connection, when it is opened and when it is over.
    Connection(Box<ConnectionRecord>),
}

/// Where the matcher and the balancer led to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RouteDecision {
    /// Name of the virtual host: `simple.baihl.io:80`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_host: Option<String>,
    /// Name of the route, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Which rule of which VirtualService.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<RouteOrigin>,
    /// `outbound|80||nginx.simple.svc.cluster.local`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The endpoint that was chosen, whether or not it could be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
}

/// What became of an HTTP request.
#[derive(Clone, Debug, Serialize)]
pub struct RequestRecord {
    /// When its head was read.
    #[serde(serialize_with = "display")]
    pub time: Timestamp,
    /// The client's address.
    pub client: SocketAddr,
    /// Where the client connected to.
    pub local: SocketAddr,
    /// Port of the listener.
    pub listener: u16,
    /// The name that the client asked for in its TLS (SNI); none in the clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// `HTTP/1.1` or `HTTP/2`
    pub protocol: &'static str,
    /// `GET`
    pub method: String,
    /// `Host` as the client sent it, or the authority of an absolute target.
    pub authority: String,
    /// The host that the endpoint is asked for, if it is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewritten_authority: Option<String>,
    /// Path and query as the client sent them.
    pub path: String,
    /// Path and query that the endpoint sees, if they were rewritten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewritten_path: Option<String>,
    /// `x-request-id` that the endpoint sees; the client's, or empty, if it was answered before.
    pub request_id: String,
    /// `x-forwarded-for` that the endpoint sees; the client's, if it was answered before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forwarded_for: Option<String>,
    /// `user-agent` that the endpoint sees; the client's, if none was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Where the matcher and the balancer led to.
    #[serde(flatten)]
    pub decision: RouteDecision,
    /// How often it was sent.
    pub attempts: u32,
    /// Where we connected to the endpoint from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_local: Option<SocketAddr>,
    /// How long the endpoint took for the head of its response.
    #[serde(
        rename = "upstream_service_ms",
        skip_serializing_if = "Option::is_none",
        serialize_with = "optional_milliseconds"
    )]
    pub upstream_service_time: Option<Duration>,
    /// Why the endpoint could not be reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport_failure: Option<String>,
    /// Status of the response; 0 if the client left before there was one.
    pub status: u16,
    /// What went wrong, in Envoy's letters.
    #[serde(
        rename = "flag",
        skip_serializing_if = "ResponseFlags::is_empty",
        serialize_with = "display"
    )]
    pub flags: ResponseFlags,
    /// Which part of the proxy, or the endpoint, answered and why, in Envoy's words: `via_upstream`, `route_not_found`.
    pub details: Cow<'static, str>,
    /// From the request's head to the end of the response.
    #[serde(rename = "duration_ms", serialize_with = "milliseconds")]
    pub duration: Duration,
    /// Which of all clients' connections it came over; none if it could not be read.
    #[serde(skip)]
    pub connection: Option<u64>,
    /// From the request's head to its end; none if that didn't come.
    #[serde(skip)]
    pub request_duration: Option<Duration>,
    /// From the request's head to that of an endpoint's response.
    #[serde(skip)]
    pub response_duration: Option<Duration>,
    /// Bytes of the request's body that went to the endpoint.
    pub bytes_received: u64,
    /// Bytes of the response's body.
    pub bytes_sent: u64,
}

/// Where a TCP connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionState {
    /// The endpoint has been chosen and reached.
    Opened,
    /// Over, or refused.
    Closed,
}

/// What became of a TCP connection.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionRecord {
    /// When it was accepted.
    #[serde(serialize_with = "display")]
    pub time: Timestamp,
    /// The client's address.
    pub client: SocketAddr,
    /// Where to.
    pub local: SocketAddr,
    /// Port of the listener.
    pub listener: u16,
    /// The name that the client asked for in its TLS (SNI); none in the clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Opened or closed.
    pub state: ConnectionState,
    /// Where the route and the balancer led to.
    #[serde(flatten)]
    pub decision: RouteDecision,
    /// The address that the connection to the endpoint has on this side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_local: Option<SocketAddr>,
    /// What went wrong, in Envoy's letters.
    #[serde(
        rename = "flag",
        skip_serializing_if = "ResponseFlags::is_empty",
        serialize_with = "display"
    )]
    pub flags: ResponseFlags,
    /// Why it went wrong; empty if it didn't.
    pub details: Cow<'static, str>,
    /// Since it was accepted.
    #[serde(rename = "duration_ms", serialize_with = "milliseconds")]
    pub duration: Duration,
    /// Bytes from the client.
    pub bytes_received: u64,
    /// Bytes to the client.
    pub bytes_sent: u64,
}

/// One line, without a line end.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(record) => record.fmt(f),
            Self::Connection(record) => record.fmt(f),
        }
    }
}

/// `… 10.0.0.9:51034 -> :8080 GET a.example/x 200 via_upstream vhost=… route=… -> 10.1.0.4:80 …`
impl fmt::Display for RequestRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.3} {} -> :{} {} {}{} {}",
            self.time,
            self.client,
            self.listener,
            self.method,
            self.authority,
            self.path,
            self.status
        )?;
        outcome(f, self.flags, &self.details)?;
        asked(f, self.server_name.as_deref())?;
        if let Some(authority) = &self.rewritten_authority {
            write!(f, " host={authority}")?;
        }
        if let Some(path) = &self.rewritten_path {
            write!(f, " rewritten={path}")?;
        }
        if self.attempts > 1 {
            write!(f, " attempts={}", self.attempts)?;
        }
        self.decision.fmt(f)?;
        totals(f, self.duration, self.bytes_received, self.bytes_sent)
    }
}

/// `… 10.0.0.9:51034 -> :31400 tcp opened route=… cluster=… endpoint=…`
impl fmt::Display for ConnectionRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.3} {} -> :{} tcp {}",
            self.time,
            self.client,
            self.listener,
            match self.state {
                ConnectionState::Opened => "opened",
                ConnectionState::Closed => "closed",
            }
        )?;
        outcome(f, self.flags, &self.details)?;
        asked(f, self.server_name.as_deref())?;
        self.decision.fmt(f)?;
        totals(f, self.duration, self.bytes_received, self.bytes_sent)
    }
}

/// ` vhost=… route=… cluster=… endpoint=…`, each only if known.
impl fmt::Display for RouteDecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(virtual_host) = &self.virtual_host {
            write!(f, " vhost={virtual_host}")?;
        }
        if let Some(origin) = &self.origin {
            write!(
                f,
                " route={}/{}[{}]",
                origin.namespace, origin.name, origin.index
            )?;
        }
        if let Some(route) = &self.route {
            write!(f, " route-name={route}")?;
        }
        if let Some(cluster) = &self.cluster {
            write!(f, " cluster={cluster}")?;
        }
        if let Some(endpoint) = &self.endpoint {
            write!(f, " endpoint={endpoint}")?;
        }
        Ok(())
    }
}

/// The name that was asked for in TLS.
fn asked(f: &mut fmt::Formatter<'_>, server_name: Option<&str>) -> fmt::Result {
    match server_name {
        Some(name) => write!(f, " sni={name}"),
        None => Ok(()),
    }
}

fn outcome(f: &mut fmt::Formatter<'_>, flags: ResponseFlags, details: &str) -> fmt::Result {
    if !flags.is_empty() {
        write!(f, " {flags}")?;
    }
    if !details.is_empty() {
        write!(f, " {details}")?;
    }
    Ok(())
}

fn totals(f: &mut fmt::Formatter<'_>, duration: Duration, received: u64, sent: u64) -> fmt::Result {
    let milliseconds = duration.as_secs_f64() * 1e3;
    write!(f, " {milliseconds:.1}ms in={received} out={sent}")
}

fn display<T: fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn milliseconds<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    // Microseconds are as fine as anybody can use.
    serializer.serialize_f64((value.as_secs_f64() * 1e6).round() / 1e3)
}

#[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
fn optional_milliseconds<S: Serializer>(
    value: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => milliseconds(value, serializer),
        None => serializer.serialize_none(),
    }
}

/// Records to test with.
#[cfg(test)]
pub(crate) mod fixture {
    use super::*;

    pub(crate) fn request() -> RequestRecord {
        RequestRecord {
            time: "2026-03-01T10:00:00.1234Z".parse().unwrap(),
            client: "10.0.0.9:51034".parse().unwrap(),
            local: "10.0.0.1:8080".parse().unwrap(),
            listener: 8080,
            server_name: None,
            protocol: "HTTP/1.1",
            method: "GET".into(),
            authority: "simple.baihl.io".into(),
            rewritten_authority: None,
            path: "/simple/nginx/x?a=1".into(),
            rewritten_path: Some("//x?a=1".into()),
            request_id: "1f".into(),
            forwarded_for: Some("10.0.0.9".into()),
            user_agent: Some("curl/8".into()),
            decision: RouteDecision {
                virtual_host: Some("simple.baihl.io:80".into()),
                route: None,
                origin: Some(RouteOrigin::virtual_service("simple", "simple", 1)),
                cluster: Some("outbound|80||nginx.simple.svc.cluster.local".into()),
                endpoint: Some("10.10.1.14:80".parse().unwrap()),
            },
            attempts: 1,
            upstream_local: None,
            upstream_service_time: None,
            transport_failure: None,
            status: 503,
            flags: ResponseFlag::UpstreamConnectionFailure.into(),
            details: "why".into(),
            duration: Duration::from_micros(1_250),
            connection: Some(7),
            request_duration: Some(Duration::ZERO),
            response_duration: None,
            bytes_received: 0,
            bytes_sent: 91,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{fixture::request, *};

    #[test]
    fn one_line_for_people() {
        assert_eq!(
            Record::Request(Box::new(request())).to_string(),
            "2026-03-01T10:00:00.123Z 10.0.0.9:51034 -> :8080 GET \
             simple.baihl.io/simple/nginx/x?a=1 503 UF why rewritten=//x?a=1 \
             vhost=simple.baihl.io:80 route=simple/simple[1] \
             cluster=outbound|80||nginx.simple.svc.cluster.local endpoint=10.10.1.14:80 \
             1.2ms in=0 out=91"
        );
    }

    #[test]
    fn flat_json_for_programs() {
        let json = serde_json::to_value(Record::Request(Box::new(request()))).unwrap();
        assert_eq!(json["kind"], "request");
        assert_eq!(json["flag"], "UF");
        assert_eq!(json["status"], 503);
        assert_eq!(json["duration_ms"], 1.25);
        assert_eq!(json["time"], "2026-03-01T10:00:00.1234Z");
        assert_eq!(json["endpoint"], "10.10.1.14:80");
        assert_eq!(json["origin"]["index"], 1);
        assert!(json.get("route").is_none());
    }

    #[test]
    fn flags_are_letters_in_envoy_s_order() {
        let mut flags = ResponseFlags::from(ResponseFlag::UpstreamRetryLimitExceeded);
        flags.insert(ResponseFlag::UpstreamConnectionFailure);
        assert_eq!(flags.to_string(), "UF,URX");
        assert!(!flags.contains(ResponseFlag::NoRoute));
        assert_eq!(ResponseFlags::default().to_string(), "");
    }
}
