//! Why a route cannot be compiled.

use nodegate_resources::istio::{
    reading::{
        AbortError, BodyError, HeaderValueError, NotAHeader, NotANumberOfRetries, NotARedirection,
        NotAnAnswer, RegexRewriteError,
    },
    words::UnknownWord,
};
use nodegate_values::{
    pattern::PatternError, percentage::NotAPercentage, port::NotAPort, retry::UnknownWords,
};

/// A field of a route that cannot be read. Validation reads them in the same way, so that no object
/// with such a field comes into force.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(in crate::front::istio) enum Unreadable {
    Abort(#[from] AbortError),
    Answer(#[from] NotAnAnswer),
    Body(#[from] BodyError),
    Header(#[from] NotAHeader),
    HeaderValue(#[from] HeaderValueError),
    Pattern(#[from] PatternError),
    Percentage(#[from] NotAPercentage),
    Port(#[from] NotAPort),
    Redirection(#[from] NotARedirection),
    Retries(#[from] NotANumberOfRetries),
    RetryOn(#[from] UnknownWords),
    Rewrite(#[from] RegexRewriteError),
    Word(#[from] UnknownWord),
}
