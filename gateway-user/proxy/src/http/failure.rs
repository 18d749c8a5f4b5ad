//! Why an endpoint gave no response.

use std::{error::Error, io};

use super::body::BodyError;
use crate::{
    cluster::Overflow,
    pool::ConnectError,
    tls::{self, TlsError},
};

/// Why there is no response.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No endpoint may be used.
    NoEndpoint,
    /// The cluster's limits are reached.
    Overflow,
    /// No connection.
    Connect(io::Error),
    /// A connection, but no TLS over it.
    Tls(TlsError),
    /// No connection in time.
    ConnectTimeout,
    /// The endpoint closed or reset the connection. There is a reason if TLS gives one.
    Terminated(Option<String>),
    /// The endpoint reset the stream.
    Reset {
        /// Whether it did so before it looked at the request.
        refused: bool,
    },
    /// What the endpoint sent is not HTTP.
    Protocol,
    /// What the client sent of its body is not HTTP.
    BadBody,
    /// The client left before it had sent its body.
    ClientGone,
    /// One try took too long.
    TryTimeout,
    /// All tries together took too long.
    Timeout,
}

impl Failure {
    /// Whether it counts against the endpoint.
    pub(crate) fn is_of_endpoint(&self) -> bool {
        !matches!(
            self,
            Self::NoEndpoint | Self::Overflow | Self::BadBody | Self::ClientGone | Self::Timeout
        )
    }
}

impl From<&hyper::Error> for Failure {
    fn from(error: &hyper::Error) -> Self {
        if error.is_parse() {
            return Self::Protocol;
        }
        if let Some(failure) = broken_body(error) {
            return failure;
        }
        match reset_reason(error) {
            // Envoy: ConnectionImpl::onStreamClose, StreamResetReason::ProtocolError.
            Some(h2::Reason::PROTOCOL_ERROR) => Self::Protocol,
            // The endpoint has said which streams it still takes, and this is none of them (RFC 9113, section 6.8).
            Some(_) if of_http2(error).is_some_and(h2::Error::is_go_away) => {
                Self::Reset { refused: true }
            }
            Some(reason) => Self::Reset {
                refused: reason == h2::Reason::REFUSED_STREAM,
            },
            // What the endpoint sent is no HTTP/2.
            None if of_http2(error).is_some_and(h2::Error::is_library) => Self::Protocol,
            None => Self::Terminated(tls_reason(error)),
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Io(error) => Self::Connect(error),
            ConnectError::Tls(error) => Self::Tls(error),
            ConnectError::Timeout => Self::ConnectTimeout,
        }
    }
}

impl From<Overflow> for Failure {
    fn from(_: Overflow) -> Self {
        Self::Overflow
    }
}

/// How the body that was to be sent broke off, if it could not be read from the client.
fn broken_body(error: &hyper::Error) -> Option<Failure> {
    let cause = error.source().filter(|_| error.is_user())?.downcast_ref();
    let error = match cause {
        Some(BodyError::Hyper(error)) => error,
        Some(BodyError::Abandoned) => return Some(Failure::ClientGone),
        _ => return None,
    };
    let kind = error
        .source()
        .and_then(|cause| Some(cause.downcast_ref::<io::Error>()?.kind()));
    Some(match kind {
        Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => Failure::BadBody,
        _ => Failure::ClientGone,
    })
}

/// The reason that TLS gives, such as that the endpoint wants another certificate.
fn tls_reason(error: &hyper::Error) -> Option<String> {
    tls::reason(error.source()?.downcast_ref()?)
}

/// How the body of an answer broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The endpoint reset the stream.
    Reset {
        /// Whether it said that it had not looked at the request.
        refused: bool,
    },
    /// The body is not what its head says: it ends before its length, or before the last chunk; what
    /// should be a chunk is none; or it is no HTTP/2.
    Early,
    /// The connection of an HTTP/2 stream broke.
    Off,
}

/// How the body of an answer broke off.
pub(crate) fn broken_answer(error: &BodyError) -> Broken {
    match error {
        BodyError::Hyper(error) if let Some(reason) = reset_reason(error) => Broken::Reset {
            refused: reason == h2::Reason::REFUSED_STREAM,
        },
        BodyError::Abandoned => Broken::Reset { refused: false },
        BodyError::Hyper(error) if of_http2(error).is_none_or(h2::Error::is_library) => {
            Broken::Early
        }
        // Of the first, what is HTTP/1.1 and read directly.
        BodyError::Io(_) | BodyError::Unexpected => Broken::Early,
        BodyError::Hyper(_) | BodyError::Unwanted | BodyError::Timeout => Broken::Off,
    }
}

/// Why the other side reset the stream, if that is what it did.
fn reset_reason(error: &hyper::Error) -> Option<h2::Reason> {
    let error = of_http2(error)?;
    error.is_remote().then(|| error.reason()).flatten()
}

fn of_http2(error: &hyper::Error) -> Option<&h2::Error> {
    error.source()?.downcast_ref()
}
