//! What the headers of a message say about where its body ends (RFC 9112, section 6).

use http::{
    HeaderMap, HeaderName, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
};

use super::limits::MAX_LENGTH;

/// What is said about the length of a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Framing {
    /// `content-length`
    pub length: Length,
    /// `transfer-encoding`
    pub coding: Coding,
}

/// What `content-length` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Length {
    /// Nothing: there is no such header.
    #[default]
    Absent,
    /// A number, in a single line.
    Once(u64),
    /// A number, and there are further lines.
    Repeated(u64),
    /// No number.
    Unreadable,
}

/// What `transfer-encoding` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Coding {
    /// Nothing: there is no such header.
    #[default]
    Absent,
    /// `chunked`, in a single line.
    Chunked,
    /// `chunked`, and there are further lines.
    Repeated,
    /// A coding that isn't undone here.
    Other,
}

/// Where a request's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyEnd {
    /// There is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// Where its chunks do.
    Chunked,
    /// hyper refuses the request.
    Unclear,
}

impl Framing {
    /// Where the body of a request ends (RFC 9112, section 6.3).
    pub(super) fn request_body(self) -> BodyEnd {
        match (self.coding, self.length) {
            (Coding::Absent, Length::Absent) => BodyEnd::None,
            (Coding::Absent, Length::Once(length) | Length::Repeated(length)) => {
                BodyEnd::Length(length)
            }
            (Coding::Chunked, Length::Absent) => BodyEnd::Chunked,
            _ => BodyEnd::Unclear,
        }
    }

    /// What a message says.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut framing = Self::default();
        for value in headers.get_all(CONTENT_LENGTH) {
            framing.length = framing.length.and(value.as_bytes());
        }
        for value in headers.get_all(TRANSFER_ENCODING) {
            framing.coding = framing.coding.and(value.as_bytes());
        }
        framing
    }

    /// Whether nothing is said: a request without a body.
    pub fn is_absent(self) -> bool {
        self == Self::default()
    }

    /// Whether an answer says in one way that can be passed on where its body ends. hyper finds the end
    /// of more, and leaves the headers as they are: a length that isn't that of the body, a coding that
    /// isn't undone. What hyper itself refuses, such as two different lengths, doesn't come here.
    // RFC 9112, section 6.3; Envoy: Http1::ConnectionImpl::onHeadersCompleteImpl, and
    // ClientConnectionImpl::onHeadersCompleteBase for 204.
    pub fn is_proper_answer(self, status: StatusCode) -> bool {
        let bodiless = status == StatusCode::NO_CONTENT;
        match (self.coding, self.length) {
            (Coding::Absent, Length::Absent) => true,
            (Coding::Absent, Length::Once(length) | Length::Repeated(length)) => {
                !(bodiless && length != 0)
            }
            (Coding::Chunked, Length::Absent) => !bodiless,
            _ => false,
        }
    }

    /// Takes in a header of a message that is read directly; true if it is one that says something
    /// about the body.
    pub(super) fn take(&mut self, field: &httparse::Header<'_>) -> bool {
        let is = |name: &HeaderName| field.name.eq_ignore_ascii_case(name.as_str());
        // Most names are told apart by their lengths.
        match field.name.len() {
            14 if is(&CONTENT_LENGTH) => self.length = self.length.and(field.value),
            17 if is(&TRANSFER_ENCODING) => self.coding = self.coding.and(field.value),
            _ => return false,
        }
        true
    }
}

impl Length {
    /// With one line more.
    pub(super) fn and(self, line: &[u8]) -> Self {
        match self {
            Self::Absent => number(line).map_or(Self::Unreadable, Self::Once),
            Self::Once(length) | Self::Repeated(length) => Self::Repeated(length),
            Self::Unreadable => Self::Unreadable,
        }
    }
}

impl Coding {
    /// With one line more.
    pub(super) fn and(self, line: &[u8]) -> Self {
        match self {
            Self::Absent if line.eq_ignore_ascii_case(b"chunked") => Self::Chunked,
            Self::Chunked | Self::Repeated => Self::Repeated,
            Self::Absent | Self::Other => Self::Other,
        }
    }

    /// Whether it is one that can't be undone.
    pub fn is_unknown(self) -> bool {
        self == Self::Other
    }
}

/// Whether a header asks for something else than that the connection stays as it is.
pub(super) fn is_connection_option(field: &httparse::Header<'_>) -> bool {
    field.name.len() == 10
        && field.name.eq_ignore_ascii_case(CONNECTION.as_str())
        && !field.value.eq_ignore_ascii_case(b"keep-alive")
}

/// Digits and nothing else (RFC 9110, section 8.6), and no longer a body than hyper takes for one.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number <= MAX_LENGTH).then_some(number)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn framing(headers: &[(&'static str, &'static str)]) -> Framing {
        let headers = headers.iter().map(|&(name, value)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        });
        let mut map = HeaderMap::new();
        headers.for_each(|(name, value)| _ = map.append(name, value));
        Framing::of(&map)
    }

    #[test]
    fn lengths_are_digits() {
        for (text, wanted) in [
            ("0", Length::Once(0)),
            ("18446744073709551613", Length::Once(u64::MAX - 2)),
            ("18446744073709551614", Length::Unreadable),
            ("18446744073709551616", Length::Unreadable),
            ("+5", Length::Unreadable),
            ("5, 5", Length::Unreadable),
            ("", Length::Unreadable),
        ] {
            assert_eq!(
                framing(&[("content-length", text)]).length,
                wanted,
                "{text}"
            );
        }
    }

    #[test]
    fn an_answer_says_in_one_way_where_it_ends() {
        const LENGTH: (&str, &str) = ("content-length", "3");
        const CHUNKED: (&str, &str) = ("transfer-encoding", "Chunked");
        for (headers, status, wanted) in [
            (&[][..], StatusCode::OK, true),
            (&[LENGTH], StatusCode::OK, true),
            (&[LENGTH], StatusCode::NO_CONTENT, false),
            (&[("content-length", "0")], StatusCode::NO_CONTENT, true),
            (&[CHUNKED], StatusCode::OK, true),
            (&[CHUNKED], StatusCode::NO_CONTENT, false),
            (&[CHUNKED, CHUNKED], StatusCode::OK, false),
            (&[LENGTH, CHUNKED], StatusCode::OK, false),
            (
                &[("transfer-encoding", "gzip, chunked")],
                StatusCode::OK,
                false,
            ),
        ] {
            let found = framing(headers).is_proper_answer(status);
            assert_eq!(found, wanted, "{headers:?} {status}");
        }
    }
}
