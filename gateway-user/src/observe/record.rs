//! Decision records: one request or one TCP connection each.

use std::{borrow::Cow, fmt, net::SocketAddr, time::Duration};

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::model::gateway::RouteOrigin;

/// One decision of the proxy and what came of it.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record {
    /// An HTTP request, when its response is over.
    Request(RequestRecord),
    /// A TCP connection, when it is opened and when it is over.
    Connection(ConnectionRecord),
}

/// Where the matcher and the balancer led to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Decision {
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
    /// Who asked.
    pub client: SocketAddr,
    /// Port of the listener.
    pub listener: u16,
    /// `GET`
    pub method: String,
    /// `Host` as the client sent it, or the authority of an absolute target.
    pub authority: String,
    /// Path and query as the client sent them.
    pub path: String,
    /// Path and query that the endpoint sees, if they were rewritten.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewritten_path: Option<String>,
    /// `x-request-id` that the endpoint sees; empty if none was asked.
    pub request_id: String,
    /// Where the matcher and the balancer led to.
    #[serde(flatten)]
    pub decision: Decision,
    /// Status of the response; 0 if the client left before there was one.
    pub status: u16,
    /// What went wrong, in Envoy's letters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flag: Option<ResponseFlag>,
    /// Who answered and why, in Envoy's words: `via_upstream`, `route_not_found`.
    pub details: Cow<'static, str>,
    /// From the request's head to the end of the response.
    #[serde(rename = "duration_ms", serialize_with = "milliseconds")]
    pub duration: Duration,
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
    /// Who connected.
    pub client: SocketAddr,
    /// Port of the listener.
    pub listener: u16,
    /// Opened or closed.
    pub state: ConnectionState,
    /// Where the route and the balancer led to.
    #[serde(flatten)]
    pub decision: Decision,
    /// What went wrong, in Envoy's letters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flag: Option<ResponseFlag>,
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

/// Envoy's response flags (its access log's `%RESPONSE_FLAGS%`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ResponseFlag {
    /// No route.
    #[serde(rename = "NR")]
    NoRoute,
    /// The route's cluster is unknown.
    #[serde(rename = "NC")]
    NoCluster,
    /// The cluster has no endpoint.
    #[serde(rename = "UH")]
    NoHealthyUpstream,
    /// The endpoint could not be reached.
    #[serde(rename = "UF")]
    UpstreamConnectionFailure,
    /// The endpoint closed the connection too early.
    #[serde(rename = "UC")]
    UpstreamConnectionTermination,
    /// The endpoint doesn't speak HTTP/1.1.
    #[serde(rename = "UPE")]
    UpstreamProtocolError,
    /// The client doesn't speak HTTP/1.1.
    #[serde(rename = "DPE")]
    DownstreamProtocolError,
    /// The client left.
    #[serde(rename = "DC")]
    DownstreamConnectionTermination,
}

impl ResponseFlag {
    /// Envoy's letters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoRoute => "NR",
            Self::NoCluster => "NC",
            Self::NoHealthyUpstream => "UH",
            Self::UpstreamConnectionFailure => "UF",
            Self::UpstreamConnectionTermination => "UC",
            Self::UpstreamProtocolError => "UPE",
            Self::DownstreamProtocolError => "DPE",
            Self::DownstreamConnectionTermination => "DC",
        }
    }
}

impl fmt::Display for ResponseFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
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
        outcome(f, self.flag, &self.details)?;
        if let Some(path) = &self.rewritten_path {
            write!(f, " rewritten={path}")?;
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
        outcome(f, self.flag, &self.details)?;
        self.decision.fmt(f)?;
        totals(f, self.duration, self.bytes_received, self.bytes_sent)
    }
}

/// ` vhost=… route=… cluster=… endpoint=…`, each only if known.
impl fmt::Display for Decision {
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

fn outcome(f: &mut fmt::Formatter<'_>, flag: Option<ResponseFlag>, details: &str) -> fmt::Result {
    if let Some(flag) = flag {
        write!(f, " {flag}")?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> RequestRecord {
        RequestRecord {
            time: "2026-03-01T10:00:00.1234Z".parse().unwrap(),
            client: "10.0.0.9:51034".parse().unwrap(),
            listener: 8080,
            method: "GET".into(),
            authority: "simple.baihl.io".into(),
            path: "/simple/nginx/x?a=1".into(),
            rewritten_path: Some("//x?a=1".into()),
            request_id: "1f".into(),
            decision: Decision {
                virtual_host: Some("simple.baihl.io:80".into()),
                route: None,
                origin: Some(RouteOrigin {
                    namespace: "simple".into(),
                    name: "simple".into(),
                    index: 1,
                }),
                cluster: Some("outbound|80||nginx.simple.svc.cluster.local".into()),
                endpoint: Some("10.10.1.14:80".parse().unwrap()),
            },
            status: 503,
            flag: Some(ResponseFlag::UpstreamConnectionFailure),
            details: "why".into(),
            duration: Duration::from_micros(1_250),
            bytes_received: 0,
            bytes_sent: 91,
        }
    }

    #[test]
    fn one_line_for_people() {
        assert_eq!(
            Record::Request(request()).to_string(),
            "2026-03-01T10:00:00.123Z 10.0.0.9:51034 -> :8080 GET \
             simple.baihl.io/simple/nginx/x?a=1 503 UF why rewritten=//x?a=1 \
             vhost=simple.baihl.io:80 route=simple/simple[1] \
             cluster=outbound|80||nginx.simple.svc.cluster.local endpoint=10.10.1.14:80 \
             1.2ms in=0 out=91"
        );
    }

    #[test]
    fn flat_json_for_programs() {
        let json = serde_json::to_value(Record::Request(request())).unwrap();
        assert_eq!(json["kind"], "request");
        assert_eq!(json["flag"], "UF");
        assert_eq!(json["status"], 503);
        assert_eq!(json["duration_ms"], 1.25);
        assert_eq!(json["time"], "2026-03-01T10:00:00.1234Z");
        assert_eq!(json["endpoint"], "10.10.1.14:80");
        assert_eq!(json["origin"]["index"], 1);
        assert!(json.get("route").is_none());
    }
}
