//! What fields with a syntax of their own say.
//!
//! Each is read in one place: [`crate::validate`] reports what cannot be read, and the compiler takes
//! what can. An object that one accepts is one that the other understands.

use data_encoding::{BASE64, DecodeError};
use http::{HeaderName, HeaderValue};
use nodegate_values::{
    format::{Format, FormatError},
    grpc::{self, NotAStatus},
    pattern::{Pattern, PatternError, Substitution, SubstitutionError},
    percentage::{NotAPercentage, Percentage},
    port::{NotAPort, port},
};

use super::{
    Abort, CookieAttribute, DirectResponse, Percent, Port, Redirect, RegexRewrite, Retries,
    RetryBudget, Rewrite, RouteDestination, StringMatch,
    words::{ServerProtocol, UnknownWord, Word as _},
};

/// Istio's `DefaultMaxDirectResponseBodySizeBytes`.
const LARGEST_BODY: usize = 1024 * 1024;

/// What a [`StringMatch`] asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringCondition<'m> {
    /// This value.
    Exact(&'m str),
    /// A value that begins so.
    Prefix(&'m str),
    /// A value that matches as a whole.
    Regex(Pattern),
    /// Nothing that a value could lack.
    Anything,
}

/// What a [`Rewrite`] does to the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange<'r> {
    /// Replaces what `match.uri` matched.
    Matched(&'r str),
    /// Replaces what a pattern matches.
    Regex {
        /// What is replaced.
        pattern: Pattern,
        /// By what.
        substitution: Substitution,
    },
}

/// Why an `uriRegexRewrite` cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegexRewriteError {
    /// Its `match`.
    #[error(transparent)]
    Match(#[from] PatternError),
    /// Its `rewrite`.
    #[error(transparent)]
    Rewrite(#[from] SubstitutionError),
}

/// A number that is not the status of a redirection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a redirection")]
pub struct NotARedirection(i64);

/// A number that is not the status of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a status of an answer")]
pub struct NotAnAnswer(i64);

/// A number that is not a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a weight")]
pub struct NotAWeight(i64);

/// A number that is not a number of retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a number of retries")]
pub struct NotANumberOfRetries(i64);

/// A number that is not a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a limit")]
pub struct NotALimit(i64);

/// A text that is not the name of a header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the name of a header")]
pub struct NotAHeader(String);

/// Why the body of a direct response cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Both forms are given.
    #[error("says more than one thing")]
    Twice,
    /// The bytes are not encoded as they should be.
    #[error("not base64: {0}")]
    Base64(#[from] DecodeError),
    /// It is longer than Istio lets it be.
    #[error("{0} bytes are too many")]
    TooLong(usize),
}

/// What a fault answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortWith {
    /// An HTTP status.
    Http(u16),
    /// A gRPC status.
    Grpc(u32),
}

/// Why the status of an abort cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AbortError {
    /// There is more than one.
    #[error("one status is needed")]
    NotOne,
    /// Its `httpStatus`.
    #[error(transparent)]
    Http(#[from] NotAnAnswer),
    /// Its `grpcStatus`.
    #[error(transparent)]
    Grpc(#[from] NotAStatus),
}

/// Why the new value of a header cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderValueError {
    /// Its variables.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Characters that no header can hold.
    #[error("has characters that no header can hold")]
    Characters,
}

/// Reads the name of a header; none for `Host` and for what begins with a colon, which are left alone
/// (`isInternalHeader` of istio's pilot/pkg/networking/core/route).
///
/// # Errors
///
/// If it is not the name of a header.
pub fn changed_header(name: &str) -> Result<Option<HeaderName>, NotAHeader> {
    if name.starts_with(':') || is_authority(name) {
        return Ok(None);
    }
    header_name(name).map(Some)
}

/// Reads the name of a header.
///
/// # Errors
///
/// If it is not the name of a header.
pub fn header_name(name: &str) -> Result<HeaderName, NotAHeader> {
    name.parse().map_err(|_| NotAHeader(name.to_owned()))
}

/// Whether a header of this name is the request's authority.
pub fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host")
}

/// Reads the new value of a header.
///
/// # Errors
///
/// If its variables cannot be read, or no header can hold it.
pub fn header_value(value: &str) -> Result<Format, HeaderValueError> {
    let format = Format::new(value)?;
    match HeaderValue::try_from(value) {
        Ok(_) => Ok(format),
        Err(_) => Err(HeaderValueError::Characters),
    }
}

/// Reads a whole number of percent.
///
/// # Errors
///
/// If it is not between 0 and 100.
pub fn whole_percent(percent: i64) -> Result<Percentage, NotAPercentage> {
    Percentage::of_percent(percent as f64)
}

/// Reads a limit of a connection pool; none for 0.
///
/// # Errors
///
/// If it is negative, or larger than the API has numbers.
pub fn limit(number: i64) -> Result<Option<u32>, NotALimit> {
    let limit = natural(number).ok_or(NotALimit(number))?;
    Ok(Some(limit).filter(|limit| *limit != 0))
}

/// The API's numbers are of 32 bits.
fn natural(number: i64) -> Option<u32> {
    u32::try_from(i32::try_from(number).ok()?).ok()
}

fn answer(status: i64) -> Result<u16, NotAnAnswer> {
    u16::try_from(status)
        .ok()
        .filter(|status| (200..=599).contains(status))
        .ok_or(NotAnAnswer(status))
}

// === impl RetryBudget ===

impl RetryBudget {
    /// Of the requests that are under way.
    ///
    /// # Errors
    ///
    /// If it is not between 0 and 100.
    pub fn share(&self) -> Result<Percentage, NotAPercentage> {
        Percentage::of_percent(self.percent.unwrap_or(20.0))
    }

    /// So many there may always be.
    ///
    /// # Errors
    ///
    /// If it is not a limit.
    pub fn least(&self) -> Result<u32, NotALimit> {
        Ok(limit(self.min_retry_concurrency)?.unwrap_or(3))
    }
}

// === impl CookieAttribute ===

impl CookieAttribute {
    /// Whether it can stand in a cookie without being the end of it (RFC 6265, section 4.1.1).
    pub fn is_good(&self) -> bool {
        let good = |text: &str| HeaderValue::try_from(text).is_ok() && !text.contains(';');
        !self.name.is_empty() && good(&self.name) && good(&self.value)
    }
}

// === impl StringMatch ===

impl StringMatch {
    /// What it asks for of a value that is always there, such as the path.
    ///
    /// # Errors
    ///
    /// If its regular expression is none.
    pub fn read(&self) -> Result<StringCondition<'_>, PatternError> {
        self.condition(self.regex.as_deref())
    }

    /// What it asks for of a value that may be absent: the regex `*` asks only that it is there
    /// (`canBeConvertedToPresentMatch` of istio's pilot/pkg/networking/core/route).
    ///
    /// # Errors
    ///
    /// If its regular expression is none.
    pub fn read_optional(&self) -> Result<StringCondition<'_>, PatternError> {
        self.condition(self.regex.as_deref().filter(|regex| *regex != "*"))
    }

    fn condition(&self, regex: Option<&str>) -> Result<StringCondition<'_>, PatternError> {
        let regex = regex.map(Pattern::new).transpose()?;
        Ok(match (&self.exact, &self.prefix, regex) {
            (Some(exact), _, _) => StringCondition::Exact(exact),
            (_, Some(prefix), _) => StringCondition::Prefix(prefix),
            (_, _, Some(regex)) => StringCondition::Regex(regex),
            (None, None, None) => StringCondition::Anything,
        })
    }
}

// === impl Port ===

impl Port {
    /// What is spoken at it.
    ///
    /// # Errors
    ///
    /// If that is not among what is known.
    pub fn protocol(&self) -> Result<ServerProtocol, UnknownWord> {
        ServerProtocol::read(&self.protocol.to_ascii_uppercase())
    }
}

// === impl Rewrite ===

impl Rewrite {
    /// What becomes of the path; none if it stays.
    ///
    /// # Errors
    ///
    /// If the pattern or its replacement cannot be read.
    pub fn path(&self) -> Result<Option<PathChange<'_>>, RegexRewriteError> {
        if let Some(regex) = &self.uri_regex_rewrite {
            return regex.read().map(Some);
        }
        let uri = self.uri.as_deref().filter(|uri| !uri.is_empty());
        Ok(uri.map(PathChange::Matched))
    }
}

impl RegexRewrite {
    /// What is replaced, and by what.
    ///
    /// # Errors
    ///
    /// If one of them cannot be read.
    pub fn read(&self) -> Result<PathChange<'static>, RegexRewriteError> {
        let pattern = Pattern::new(&self.matches)?;
        let substitution = Substitution::new(&self.rewrite, &pattern)?;
        Ok(PathChange::Regex {
            pattern,
            substitution,
        })
    }
}

// === impl Redirect ===

impl Redirect {
    /// The status.
    ///
    /// # Errors
    ///
    /// If it is not one of a redirection.
    pub fn status(&self) -> Result<u16, NotARedirection> {
        match self.redirect_code {
            0 => Ok(301),
            code @ (301 | 302 | 303 | 307 | 308) => {
                u16::try_from(code).map_err(|_| NotARedirection(code))
            }
            other => Err(NotARedirection(other)),
        }
    }

    /// The port that it names.
    ///
    /// # Errors
    ///
    /// If it is not a port.
    pub fn port(&self) -> Result<Option<u16>, NotAPort> {
        // 0 is a field that is left empty (`validateHTTPRedirect`).
        self.port.filter(|port| *port != 0).map(port).transpose()
    }
}

// === impl DirectResponse ===

impl DirectResponse {
    /// The status.
    ///
    /// # Errors
    ///
    /// If it is not one of an answer.
    pub fn status(&self) -> Result<u16, NotAnAnswer> {
        answer(self.status)
    }

    /// The body.
    ///
    /// # Errors
    ///
    /// If there are two, if it is not encoded as it should be, or if it is too long.
    pub fn body(&self) -> Result<Vec<u8>, BodyError> {
        let body = self.body.as_ref().map(|body| (&body.string, &body.bytes));
        let body = match body {
            Some((Some(_), Some(_))) => return Err(BodyError::Twice),
            Some((Some(text), None)) => text.clone().into_bytes(),
            Some((None, Some(bytes))) => BASE64.decode(bytes.as_bytes())?,
            Some((None, None)) | None => Vec::new(),
        };
        if body.len() > LARGEST_BODY {
            return Err(BodyError::TooLong(body.len()));
        }
        Ok(body)
    }
}

// === impl Retries ===

impl Retries {
    /// How often to try again.
    ///
    /// # Errors
    ///
    /// If it is not a number of retries.
    pub fn attempts(&self) -> Result<u32, NotANumberOfRetries> {
        natural(self.attempts).ok_or(NotANumberOfRetries(self.attempts))
    }
}

// === impl Abort ===

impl Abort {
    /// What the client is answered; none if nothing is said of it.
    ///
    /// # Errors
    ///
    /// If that is more than one status, or none of an answer.
    pub fn status(&self) -> Result<Option<AbortWith>, AbortError> {
        match (self.http_status, &self.grpc_status) {
            (Some(status), None) => Ok(Some(AbortWith::Http(answer(status)?))),
            (None, Some(name)) => Ok(Some(AbortWith::Grpc(grpc::code(name)?))),
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(AbortError::NotOne),
        }
    }
}

// === impl Percent ===

impl Percent {
    /// The share.
    ///
    /// # Errors
    ///
    /// If it is not between 0 and 100.
    pub fn share(self) -> Result<Percentage, NotAPercentage> {
        Percentage::of_percent(self.value)
    }
}

// === impl RouteDestination ===

impl RouteDestination {
    /// Its share of the sum of weights.
    ///
    /// # Errors
    ///
    /// If it is not a weight.
    pub fn weight(&self) -> Result<u32, NotAWeight> {
        natural(self.weight).ok_or(NotAWeight(self.weight))
    }
}
