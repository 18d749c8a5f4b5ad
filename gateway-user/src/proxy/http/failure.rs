//! Why an endpoint gave no response.

use std::{error::Error, io};

use super::body::BodyError;
use crate::proxy::{
    cluster::Overflow,
    pool::ConnectError,
    tls::{self, TlsError},
};

/// Why there is no response.
#[derive(Debug)]
pub(super) enum Failure {
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
    /// The endpoint closed or reset the connection, for a reason that TLS gives, or for none.
    Terminated(Option<String>),
    /// It reset the stream.
    Reset {
        /// Before it did anything.
        refused: bool,
    },
    /// What it sent is not HTTP.
    Protocol,
    /// What the client sent of its body is not HTTP.
    BadBody,
    /// One try took too long.
    TryTimeout,
    /// All tries together took too long.
    Timeout,
}

impl Failure {
    /// Whether it says anything about the endpoint.
    pub(super) fn is_the_endpoint_s(&self) -> bool {
        !matches!(
            self,
            Self::NoEndpoint | Self::Overflow | Self::BadBody | Self::Timeout
        )
    }
}

impl From<&hyper::Error> for Failure {
    fn from(error: &hyper::Error) -> Self {
        if error.is_parse() {
            return Self::Protocol;
        }
        if broken_body(error) {
            return Self::BadBody;
        }
        match reset_reason(error) {
            Some(reason) => Self::Reset {
                refused: reason == h2::Reason::REFUSED_STREAM,
            },
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

/// Whether the body that was to be sent broke off, because it could not be read from the client.
fn broken_body(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref());
    error.is_user() && matches!(cause, Some(BodyError::Hyper(_)))
}

/// What TLS has to say about it, such as that the endpoint wants another certificate.
fn tls_reason(error: &hyper::Error) -> Option<String> {
    tls::reason(error.source()?.downcast_ref()?)
}

/// How the body of an answer broke off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The endpoint reset the stream.
    Reset,
    /// It ended before its end: before the length that was announced, or the last chunk.
    Early,
    /// The connection broke.
    Off,
}

/// How the body of an answer broke off.
pub(super) fn broken_answer(error: &BodyError) -> Broken {
    let cause = match error {
        BodyError::Hyper(error) if reset_reason(error).is_some() => return Broken::Reset,
        BodyError::Hyper(error) => error.source().and_then(|cause| cause.downcast_ref()),
        BodyError::Io(error) => Some(error),
        BodyError::Unwanted | BodyError::Timeout => None,
    };
    match cause {
        Some(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => Broken::Early,
        _ => Broken::Off,
    }
}

/// Why the other side reset the stream, if that is what it did.
fn reset_reason(error: &hyper::Error) -> Option<h2::Reason> {
    let error = error.source()?.downcast_ref::<h2::Error>()?;
    error.is_remote().then(|| error.reason()).flatten()
}
