//! Values of headers that are made from the request and its response.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use jiff::Timestamp;

use super::exchange::Exchange;
use crate::proxy::cluster::Engaged;
use crate::resources::format::{FieldName, Format, HeaderReference, Segment, Variable};

/// What is known of a request.
#[derive(Clone, Debug)]
pub(super) struct RequestFacts {
    pub(super) method: Method,
    pub(super) authority: String,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
}

/// What values are made from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    pub(super) exchange: &'a Exchange,
    pub(super) request: Option<&'a RequestFacts>,
    pub(super) response: Option<(StatusCode, &'a HeaderMap)>,
    pub(super) route: &'a str,
    pub(super) cluster: Option<&'a str>,
}

/// Whether a value is made from the request.
pub(super) fn needs_request(format: &Format) -> bool {
    format.segments().iter().any(|segment| {
        matches!(
            segment,
            Segment::Variable {
                variable: Variable::RequestHeader(_),
                ..
            }
        )
    })
}

impl Facts<'_> {
    /// The value; none if it is empty or no header can have it.
    pub(super) fn value(&self, format: &Format) -> Option<HeaderValue> {
        if let Some(literal) = format.literal() {
            return HeaderValue::from_str(literal)
                .ok()
                .filter(|value| !value.is_empty());
        }
        let mut value = String::new();
        for segment in format.segments() {
            match segment {
                Segment::Literal(text) => value.push_str(text),
                Segment::Variable {
                    variable,
                    max_length,
                } => {
                    let text = match self.variable(variable) {
                        Some(text) => text,
                        // Envoy: a value with a header that is not there is empty.
                        None if is_header(variable) => return None,
                        None => "-".to_owned(),
                    };
                    let end = max_length.map_or(text.len(), |max| text.floor_char_boundary(max));
                    value.push_str(&text[..end]);
                }
            }
        }
        HeaderValue::try_from(value)
            .ok()
            .filter(|value| !value.is_empty())
    }

    fn variable(&self, variable: &Variable) -> Option<String> {
        let client = &self.exchange.client;
        let endpoint = || self.exchange.engaged().map(Engaged::address);
        Some(match variable {
            Variable::DownstreamRemoteAddress | Variable::DownstreamDirectRemoteAddress => {
                client.address.to_string()
            }
            Variable::DownstreamRemoteAddressWithoutPort
            | Variable::DownstreamDirectRemoteAddressWithoutPort => client.address.ip().to_string(),
            Variable::DownstreamRemotePort => client.address.port().to_string(),
            Variable::DownstreamLocalAddress => client.local.to_string(),
            Variable::DownstreamLocalAddressWithoutPort => client.local.ip().to_string(),
            Variable::DownstreamLocalPort => client.local.port().to_string(),
            Variable::UpstreamRemoteAddress => endpoint()?.to_string(),
            Variable::UpstreamRemoteAddressWithoutPort => endpoint()?.ip().to_string(),
            Variable::UpstreamRemotePort => endpoint()?.port().to_string(),
            Variable::UpstreamLocalAddress => self
                .exchange
                .upstream_local()
                .as_ref()
                .map(SocketAddr::to_string)?,
            Variable::UpstreamCluster => self.cluster?.to_owned(),
            Variable::RouteName => Some(self.route).filter(|name| !name.is_empty())?.to_owned(),
            Variable::Protocol => self.exchange.protocol().to_owned(),
            Variable::Hostname => nix::unistd::gethostname().ok()?.into_string().ok()?,
            Variable::StartTime(format) => start_time(format.as_deref()),
            Variable::ResponseCode => self
                .response
                .map_or_else(|| "0".to_owned(), |(status, _)| status.as_str().to_owned()),
            Variable::ResponseFlags => {
                let flags = self.exchange.flags.to_string();
                Some(flags).filter(|flags| !flags.is_empty())?
            }
            Variable::AttemptCount => self.exchange.attempts.to_string(),
            Variable::RequestHeader(reference) => self.request_header(reference)?,
            Variable::ResponseHeader(reference) => self.response_header(reference)?,
            Variable::ResponseCodeDetails | Variable::RequestedServerName | Variable::Unknown => {
                return None;
            }
        })
    }

    fn request_header(&self, reference: &HeaderReference) -> Option<String> {
        let request = self.request?;
        let field = |name: &FieldName| match name {
            FieldName::Authority => Some(request.authority.clone()),
            FieldName::Method => Some(request.method.as_str().to_owned()),
            FieldName::Path => Some(request.path.clone()),
            FieldName::Scheme => Some("http".to_owned()),
            FieldName::Status => None,
            FieldName::Header(name) => text(request.headers.get(name)),
        };
        field(&reference.name).or_else(|| field(reference.otherwise.as_ref()?))
    }

    fn response_header(&self, reference: &HeaderReference) -> Option<String> {
        let (status, headers) = self.response?;
        let field = |name: &FieldName| match name {
            FieldName::Status => Some(status.as_str().to_owned()),
            FieldName::Header(name) => text(headers.get(name)),
            _ => None,
        };
        field(&reference.name).or_else(|| field(reference.otherwise.as_ref()?))
    }
}

fn is_header(variable: &Variable) -> bool {
    matches!(
        variable,
        Variable::RequestHeader(_) | Variable::ResponseHeader(_)
    )
}

fn text(value: Option<&HeaderValue>) -> Option<String> {
    value.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

/// Envoy's default is `2026-03-01T10:00:00.123Z`.
fn start_time(format: Option<&str>) -> String {
    let now = Timestamp::now();
    match format {
        Some(format) => jiff::fmt::strtime::format(format, now).unwrap_or_else(|_| "-".to_owned()),
        None => format!("{now:.3}"),
    }
}
