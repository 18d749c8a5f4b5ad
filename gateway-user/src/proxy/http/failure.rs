//! Why an endpoint gave no response.

use std::{error::Error, io};

use crate::proxy::{cluster::Overflow, pool::ConnectError};

/// Why there is no response.
#[derive(Debug)]
pub(super) enum Failure {
    /// No endpoint may be used.
    NoEndpoint,
    /// The cluster's limits are reached.
    Overflow,
    /// No connection.
    Connect(io::Error),
    /// No connection in time.
    ConnectTimeout,
    /// The endpoint closed or reset the connection.
    Terminated,
    /// It reset the stream.
    Reset {
        /// Before it did anything.
        refused: bool,
    },
    /// What it sent is not HTTP.
    Protocol,
    /// One try took too long.
    TryTimeout,
    /// All tries together took too long.
    Timeout,
}

impl Failure {
    /// Whether it says anything about the endpoint.
    pub(super) fn is_the_endpoint_s(&self) -> bool {
        !matches!(self, Self::NoEndpoint | Self::Overflow | Self::Timeout)
    }
}

impl From<&hyper::Error> for Failure {
    fn from(error: &hyper::Error) -> Self {
        if error.is_parse() {
            return Self::Protocol;
        }
        match reset_reason(error) {
            Some(reason) => Self::Reset {
                refused: reason == h2::Reason::REFUSED_STREAM,
            },
            None => Self::Terminated,
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Io(error) => Self::Connect(error),
            ConnectError::Timeout => Self::ConnectTimeout,
        }
    }
}

impl From<Overflow> for Failure {
    fn from(_: Overflow) -> Self {
        Self::Overflow
    }
}

/// Why the other side reset the stream, if that is what it did.
pub(super) fn reset_reason(error: &hyper::Error) -> Option<h2::Reason> {
    let error = error.source()?.downcast_ref::<h2::Error>()?;
    error.is_remote().then(|| error.reason()).flatten()
}
