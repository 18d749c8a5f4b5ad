//! Answers that no endpoint gave, as Envoy words them.

use std::{borrow::Cow, io};

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{CONNECTION, CONTENT_TYPE, SERVER},
};
use nix::errno::Errno;

use super::{body::ResponseBody, exchange::Exchange, forward::Failure, response::SERVER_NAME};
use crate::observe::ResponseFlag;

/// What every reply about a broken upstream begins with (Envoy: `Filter::onUpstreamReset`).
const UPSTREAM_RESET: &str =
    "upstream connect error or disconnect/reset before headers. reset reason: ";

/// An answer of our own.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LocalReply {
    status: StatusCode,
    body: Cow<'static, str>,
    flag: Option<ResponseFlag>,
    details: Cow<'static, str>,
    /// Whether the connection ends with it.
    close: bool,
}

impl LocalReply {
    fn empty(status: StatusCode, flag: Option<ResponseFlag>, details: &'static str) -> Self {
        Self {
            status,
            body: Cow::Borrowed(""),
            flag,
            details: Cow::Borrowed(details),
            close: false,
        }
    }

    /// No virtual host, or no route in it.
    pub(super) fn no_route() -> Self {
        Self::empty(
            StatusCode::NOT_FOUND,
            Some(ResponseFlag::NoRoute),
            "route_not_found",
        )
    }

    /// The route leads to a cluster that doesn't exist.
    pub(super) fn no_cluster() -> Self {
        Self::empty(
            StatusCode::SERVICE_UNAVAILABLE,
            Some(ResponseFlag::NoCluster),
            "cluster_not_found",
        )
    }

    /// The cluster has no endpoint.
    pub(super) fn no_endpoint() -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            body: Cow::Borrowed("no healthy upstream"),
            flag: Some(ResponseFlag::NoHealthyUpstream),
            details: Cow::Borrowed("no_healthy_upstream"),
            close: false,
        }
    }

    /// HTTP/1.0 or older.
    pub(super) fn old_version() -> Self {
        Self {
            close: true,
            ..Self::empty(StatusCode::UPGRADE_REQUIRED, None, "low_version")
        }
    }

    /// No host, or more than one, or one that can't be read (RFC 9112, section 3.2).
    pub(super) fn bad_host(details: &'static str) -> Self {
        Self::empty(StatusCode::BAD_REQUEST, None, details)
    }

    /// The path has no normal form.
    pub(super) fn bad_path() -> Self {
        Self::empty(StatusCode::BAD_REQUEST, None, "path_normalization_failed")
    }

    /// The rewritten path doesn't fit.
    pub(super) fn rewrite_too_long() -> Self {
        Self::empty(StatusCode::URI_TOO_LONG, None, "rewritten_path_too_long")
    }

    /// The endpoint failed before there was a response.
    fn upstream_reset(
        status: StatusCode,
        flag: ResponseFlag,
        reason: &str,
        transport_failure: Option<&str>,
    ) -> Self {
        let mut body = format!("{UPSTREAM_RESET}{reason}");
        let mut details = format!("upstream_reset_before_response_started{{{reason}");
        if let Some(failure) = transport_failure {
            body.push_str(", transport failure reason: ");
            body.push_str(failure);
            details.push('|');
            details.push_str(failure);
        }
        details.push('}');
        Self {
            status,
            body: body.into(),
            flag: Some(flag),
            details: details.replace(' ', "_").into(),
            close: false,
        }
    }

    /// Makes a response of it.
    pub(super) fn into_response(self, mut exchange: Exchange) -> Response<ResponseBody> {
        exchange.note_answer(self.status.as_u16(), self.flag, self.details);
        let body = match self.body {
            Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
            Cow::Owned(text) => Bytes::from(text),
        };
        let mut response = Response::new(());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if !body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        headers.insert(SERVER, SERVER_NAME);
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response.map(|()| ResponseBody::fixed(body, exchange))
    }
}

impl From<Failure> for LocalReply {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Connect(error) => Self::upstream_reset(
                StatusCode::SERVICE_UNAVAILABLE,
                ResponseFlag::UpstreamConnectionFailure,
                "remote connection failure",
                Some(&connect_error(&error)),
            ),
            Failure::ConnectTimeout => Self::upstream_reset(
                StatusCode::SERVICE_UNAVAILABLE,
                ResponseFlag::UpstreamConnectionFailure,
                "connection timeout",
                None,
            ),
            Failure::Terminated => Self::upstream_reset(
                StatusCode::SERVICE_UNAVAILABLE,
                ResponseFlag::UpstreamConnectionTermination,
                "connection termination",
                None,
            ),
            Failure::Protocol => Self::upstream_reset(
                StatusCode::BAD_GATEWAY,
                ResponseFlag::UpstreamProtocolError,
                "protocol error",
                None,
            ),
        }
    }
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
        let refused = io::Error::from(Errno::ECONNREFUSED);
        let reply = LocalReply::from(Failure::Connect(refused));
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
