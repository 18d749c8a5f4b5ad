//! Answers that come from here and not from an endpoint, as Envoy words them.

use std::{borrow::Cow, io};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, SERVER},
};
use nix::errno::Errno;
use nodegate_model::gateway::DirectResponse;
use nodegate_observe::ResponseFlag;
use nodegate_route::cors;

use super::{
    changes::change_headers,
    context::AnswerContext,
    exchange::Exchange,
    failure::Failure,
    grpc,
    headers::{SERVER_NAME, X_ENVOY_OVERLOADED},
    response_body::ResponseBody,
};
use crate::{counters::Counted, parity::Difference};

/// What stands before the reason why there was no connection.
const TRANSPORT_FAILURE: &str = ", transport failure reason: ";

/// What every reply about a broken upstream begins with (Envoy: `Filter::onUpstreamReset`).
const UPSTREAM_RESET: &str = "upstream connect error or disconnect/reset before headers. ";

/// An answer that comes from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocalReply {
    status: StatusCode,
    body: Bytes,
    flag: Option<ResponseFlag>,
    details: Cow<'static, str>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Instead of the gRPC status that goes with the HTTP status.
    grpc_status: Option<u32>,
    /// Why the endpoint could not be reached.
    transport_failure: Option<String>,
    /// Whether the client's connection ends with it.
    close: bool,
}

impl LocalReply {
    pub(crate) fn new(status: StatusCode, details: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            body: Bytes::new(),
            flag: None,
            details: details.into(),
            headers: Vec::new(),
            grpc_status: None,
            transport_failure: None,
            close: false,
        }
    }

    #[must_use]
    pub(crate) fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    #[must_use]
    pub(crate) fn with_flag(mut self, flag: ResponseFlag) -> Self {
        self.flag = Some(flag);
        self
    }

    #[must_use]
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    #[must_use]
    pub(crate) fn with_headers(mut self, headers: &HeaderMap) -> Self {
        let headers = headers.iter();
        self.headers
            .extend(headers.map(|(name, value)| (name.clone(), value.clone())));
        self
    }

    #[must_use]
    pub(crate) fn with_grpc_status(mut self, status: u32) -> Self {
        self.grpc_status = Some(status);
        self
    }

    /// The status, unless the request is one of gRPC.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// The client's connection ends with it.
    pub(crate) fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    /// No virtual host, or no route in it.
    pub(crate) fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "route_not_found").with_flag(ResponseFlag::NoRoute)
    }

    /// The host is served at this port, but not over a connection that has asked for another name.
    pub(crate) fn misdirected() -> Self {
        Self::new(StatusCode::MISDIRECTED_REQUEST, "misdirected_request")
            .with_flag(ResponseFlag::NoRoute)
    }

    /// The route leads to a cluster that doesn't exist.
    pub(crate) fn no_cluster() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "cluster_not_found")
            .with_flag(ResponseFlag::NoCluster)
    }

    /// HTTP/1.0 or older.
    pub(crate) fn old_version() -> Self {
        Self::codec_error(StatusCode::UPGRADE_REQUIRED, "low_version")
    }

    /// No host, or more than one, or one that can't be read (RFC 9112, section 3.2).
    pub(crate) fn bad_host(details: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, details)
    }

    /// What no request in HTTP/1.1 looks like. hyper refuses most of it before it comes here.
    pub(crate) fn malformed(details: &'static str) -> Self {
        Self::codec_error(StatusCode::BAD_REQUEST, details)
    }

    /// A transfer coding that can't be undone.
    pub(crate) fn unknown_coding() -> Self {
        Self::codec_error(
            StatusCode::NOT_IMPLEMENTED,
            "http1.invalid_transfer_encoding",
        )
    }

    /// A target for TLS, on a connection without.
    pub(crate) fn wrong_scheme() -> Self {
        Self::codec_error(
            StatusCode::FORBIDDEN,
            "http1.https_url_on_plaintext_connection",
        )
    }

    // Envoy: Http1::ServerConnectionImpl::sendProtocolError.
    fn codec_error(status: StatusCode, details: &'static str) -> Self {
        Self::new(status, details)
            .with_body(status.canonical_reason().unwrap_or_default())
            .with_flag(ResponseFlag::DownstreamProtocolError)
            .closing()
    }

    /// More headers than there may be. In HTTP/1.1 hyper refuses them itself.
    pub(crate) fn too_many_headers() -> Self {
        Self::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "http2.too_many_headers",
        )
    }

    /// The target is no path (Envoy: ConnectionManagerImpl::ActiveStream::decodeHeaders).
    pub(crate) fn no_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, "absolute_path_rejected")
    }

    /// The path has no normal form.
    pub(crate) fn bad_path() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "path_normalization_failed")
    }

    /// The rewritten path is longer than a path may be.
    pub(crate) fn rewrite_too_long() -> Self {
        Self::new(StatusCode::URI_TOO_LONG, "rewritten_path_too_long")
    }

    /// A protocol that connections are not handed over to.
    pub(crate) fn no_upgrade() -> Self {
        Self::new(StatusCode::FORBIDDEN, "upgrade_failed").closing()
    }

    /// Sends the client elsewhere.
    pub(crate) fn redirect(status: u16, location: &str) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::MOVED_PERMANENTLY);
        Self::new(status, "direct_response").at(location)
    }

    /// The answer that a route gives itself.
    pub(crate) fn direct(response: &DirectResponse, location: Option<String>) -> Self {
        let status = StatusCode::from_u16(response.status).unwrap_or_default();
        let reply = Self::new(status, "direct_response").with_body(response.body.clone());
        match location {
            Some(location) => reply.at(&location),
            None => reply,
        }
    }

    fn at(self, location: &str) -> Self {
        match HeaderValue::from_str(location) {
            Ok(location) => self.with_header(LOCATION, location),
            // Not reached: validation refuses a configuration with such a value.
            Err(_) => self,
        }
    }

    /// No endpoint has answered; `retried` says that there was more than one try.
    pub(crate) fn failure(failure: &Failure, retried: bool) -> Self {
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        let reset =
            |status, flag, reason| Self::upstream_reset(status, flag, reason, None, retried);
        match failure {
            Failure::NoEndpoint => Self::new(unavailable, "no_healthy_upstream")
                .with_body("no healthy upstream")
                .with_flag(ResponseFlag::NoHealthyUpstream),
            Failure::Overflow => reset(unavailable, ResponseFlag::UpstreamOverflow, "overflow")
                .with_header(X_ENVOY_OVERLOADED, HeaderValue::from_static("true")),
            Failure::Connect(error) => Self::upstream_reset(
                unavailable,
                ResponseFlag::UpstreamConnectionFailure,
                "remote connection failure",
                Some(connect_error(error)),
                retried,
            ),
            Failure::Tls(error) => Self::upstream_reset(
                unavailable,
                ResponseFlag::UpstreamConnectionFailure,
                "remote connection failure",
                Some(tls_error(error)),
                retried,
            ),
            Failure::ConnectTimeout => reset(
                unavailable,
                ResponseFlag::UpstreamConnectionFailure,
                "connection timeout",
            ),
            Failure::Terminated(reason) => Self::upstream_reset(
                unavailable,
                ResponseFlag::UpstreamConnectionTermination,
                "connection termination",
                reason.as_ref().map(tls_error),
                retried,
            ),
            Failure::Reset { refused } => reset(
                unavailable,
                ResponseFlag::UpstreamRemoteReset,
                if *refused {
                    "remote refused stream reset"
                } else {
                    "remote reset"
                },
            ),
            Failure::Protocol => reset(
                StatusCode::BAD_GATEWAY,
                ResponseFlag::UpstreamProtocolError,
                "protocol error",
            ),
            Failure::BadBody | Failure::ClientGone => Self::malformed("http1.codec_error"),
            Failure::TryTimeout => Self::timeout("upstream_per_try_timeout"),
            Failure::Timeout => Self::timeout("response_timeout"),
        }
    }

    /// Doesn't tell the client why the endpoint could not be reached.
    pub(crate) fn without_transport_failure(mut self) -> Self {
        if let Some(failure) = &self.transport_failure {
            let length = TRANSPORT_FAILURE.len() + failure.len();
            self.body.truncate(self.body.len().saturating_sub(length));
        }
        self
    }

    fn timeout(details: &'static str) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, details)
            .with_body("upstream request timeout")
            .with_flag(ResponseFlag::UpstreamRequestTimeout)
    }

    /// The endpoint failed before there was a response.
    fn upstream_reset(
        status: StatusCode,
        flag: ResponseFlag,
        reason: &str,
        transport_failure: Option<String>,
        retried: bool,
    ) -> Self {
        let retried = if retried {
            "retried and the latest "
        } else {
            ""
        };
        let mut body = format!("{UPSTREAM_RESET}{retried}reset reason: {reason}");
        let mut details = format!("upstream_reset_before_response_started{{{reason}");
        if let Some(failure) = &transport_failure {
            body.push_str(TRANSPORT_FAILURE);
            body.push_str(failure);
            details.push('|');
            details.push_str(failure);
        }
        details.push('}');
        let mut reply = Self::new(status, details.replace(' ', "_"))
            .with_body(body)
            .with_flag(flag);
        reply.transport_failure = transport_failure;
        reply
    }

    /// Makes a response of it.
    // Envoy: Http::Utility::sendLocalReply.
    pub(crate) fn into_response(
        self,
        mut exchange: Box<Exchange>,
        context: AnswerContext<'_>,
    ) -> Response<ResponseBody> {
        let mut headers = HeaderMap::new();
        let status = if context.grpc {
            StatusCode::OK
        } else {
            self.status
        };
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        if let Some(flag) = self.flag {
            exchange.flag(flag);
        }
        let details = self.details.clone();
        exchange.note_answer(status.as_u16(), self.details);
        let transport_failure = self.transport_failure;
        exchange.note(|record| record.transport_failure = transport_failure);
        if let Some(routed) = context.routed {
            let counted = Counted::Status(status.as_u16());
            routed
                .state()
                .counters
                .add(exchange.client.worker.index, counted);
            let destination = context.destination;
            // Envoy makes these headers before there is a status.
            let answer = Some((0, details.as_ref()));
            change_headers(&mut headers, answer, routed, destination, &exchange);
            if let (Some(policy), Some(origin)) = (&routed.route().cors, context.origin) {
                cors::annotate(policy, origin.clone(), &mut headers);
            }
        }
        // What the route does comes first (Envoy: Utility::prepareLocalReply).
        let body = if context.grpc {
            let of_http = || nodegate_values::grpc::of_http(self.status.as_u16());
            let status = self.grpc_status.unwrap_or_else(of_http);
            // To HEAD there are no words either.
            let message = if exchange.head_only {
                &[][..]
            } else {
                &self.body
            };
            grpc::reply(&mut headers, status, message);
            Bytes::new()
        } else {
            self.body
        };
        if !body.is_empty() && !headers.contains_key(CONTENT_TYPE) {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        exchange.disengage();
        headers.insert(SERVER, SERVER_NAME);
        let parity = exchange.client.worker.options.parity;
        let early = parity.has(Difference::EarlyReply)
            // Once an endpoint is asked, Envoy reads the body.
            && (exchange.attempts == 0
                || exchange.attempts == 1 && self.flag == Some(ResponseFlag::NoHealthyUpstream))
            && exchange.request_body().is_some_and(|body| !body.is_over());
        // Whoever gets a 400 may have meant another message than was read (Envoy:
        // ConnectionManagerImpl::ActiveStream::sendLocalReply).
        let close = self.close || self.status == StatusCode::BAD_REQUEST;
        if (close || early || exchange.leaves_body()) && !exchange.is_http2() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        exchange.answered();
        let body = if exchange.head_only && exchange.is_http2() && !body.is_empty() {
            // hyper leaves the body out by itself in HTTP/1.1, but not in HTTP/2, where it would make
            // the response a broken one (RFC 9110, section 9.3.2).
            headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
            Bytes::new()
        } else {
            body
        };
        // Answers with these statuses have no body (RFC 9110, section 6.4.1), and hyper won't ask for
        // it.
        let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let body = if bodiless { Bytes::new() } else { body };
        let mut response = Response::new(ResponseBody::fixed(body, exchange));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

/// A reason of TLS, marked as Envoy marks it (Envoy: `SslSocket::drainErrorQueue`), so that tools that
/// look for `TLS_error` find it.
fn tls_error(reason: impl std::fmt::Display) -> String {
    format!("TLS_error:|{reason}:TLS_error_end")
}

/// Envoy's words for a failed connect: `immediate` for what connect(2) itself refuses, `delayed` for
/// what comes back from the network (Envoy: `ConnectionImpl`, `RawBufferSocket`).
fn connect_error(error: &io::Error) -> String {
    let Some(errno) = error.raw_os_error().map(Errno::from_raw) else {
        return format!("delayed connect error: {error}");
    };
    let when = match errno {
        Errno::ENETUNREACH
        | Errno::EADDRNOTAVAIL
        | Errno::EAFNOSUPPORT
        | Errno::EACCES
        | Errno::EPERM
        | Errno::EINVAL
        | Errno::EMFILE
        | Errno::ENFILE => "immediate",
        _ => "delayed",
    };
    format!("{when} connect error: {}", errno.desc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connect_failures_carry_the_kernel_s_words() {
        let refused = Failure::Connect(io::Error::from(Errno::ECONNREFUSED));
        let reply = LocalReply::failure(&refused, false);
        assert_eq!(
            reply.body,
            "upstream connect error or disconnect/reset before headers. reset reason: remote \
             connection failure, transport failure reason: delayed connect error: Connection refused"
        );
        assert_eq!(
            reply.details,
            "upstream_reset_before_response_started{remote_connection_failure|\
             delayed_connect_error:_Connection_refused}"
        );
        let retried = LocalReply::failure(&refused, true);
        let text = std::str::from_utf8(&retried.body).unwrap();
        assert!(text.contains("headers. retried and the latest reset reason: remote"));
        assert_eq!(
            connect_error(&io::Error::from(Errno::ENETUNREACH)),
            "immediate connect error: Network is unreachable"
        );
        assert_eq!(
            connect_error(&io::Error::from(Errno::EHOSTUNREACH)),
            "delayed connect error: No route to host"
        );
    }
}
