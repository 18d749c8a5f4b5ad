//! Why a body breaks off.

use std::io;

use crate::pool::UpstreamError;

/// Why a body ends before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    /// A connection that is read directly broke off.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The endpoint has answered without asking for the body.
    #[error("the endpoint does not want the body")]
    Unwanted,
    /// The response took too long.
    #[error("the response took too long")]
    Timeout,
}

impl From<UpstreamError> for BodyError {
    fn from(error: UpstreamError) -> Self {
        match error {
            UpstreamError::Hyper(error) => Self::Hyper(error),
            UpstreamError::Io(error) => Self::Io(error),
        }
    }
}
