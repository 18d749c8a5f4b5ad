//! Why a body breaks off.

use std::io;

use crate::pool::UpstreamError;

/// Why a body ends before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// No source: hyper would reset the other side's stream with the code that it finds there, which is nothing
    /// that the other side has done.
    #[error("{0}")]
    Hyper(hyper::Error),
    /// A connection that is read directly broke off.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The other side has reset the stream and called that no error.
    #[error("the stream has been reset")]
    Abandoned,
    /// The endpoint sends a body where there is none.
    #[error("the endpoint sends a body where there is none")]
    Unexpected,
    /// The endpoint has answered without asking for the body.
    #[error("the endpoint does not want the body")]
    Unwanted,
    /// The response took too long.
    #[error("the response took too long")]
    Timeout,
}

impl From<hyper::Error> for BodyError {
    fn from(error: hyper::Error) -> Self {
        Self::Hyper(error)
    }
}

impl From<UpstreamError> for BodyError {
    fn from(error: UpstreamError) -> Self {
        match error {
            UpstreamError::Hyper(error) => Self::Hyper(error),
            UpstreamError::Io(error) => Self::Io(error),
            UpstreamError::Abandoned => Self::Abandoned,
            UpstreamError::Unexpected => Self::Unexpected,
        }
    }
}
