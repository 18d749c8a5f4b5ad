//! Heads of answers: read from endpoints, written to clients.

use std::{io::Write as _, mem::MaybeUninit};

use bytes::{Buf as _, Bytes};
use http::{
    HeaderMap, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING},
    response::{Parts, Response},
};

use super::{
    Unusual,
    fields::{collect, put},
    framing::{Coding, Framing, Length, is_connection_option},
    limits::MAX_DIRECT_HEADERS,
};

/// Takes the head of an ordinary answer: one in HTTP/1.1 that isn't an interim one, has a body, and says
/// in one `content-length` how long that is, over a connection that stays. Says how long the body is;
/// none if the head isn't whole. The headers are put into the memory of the map that `spare` gives for an
/// answer with them.
///
/// # Errors
///
/// If this is something else than the head of an ordinary answer, or its beginning. Nothing has been
/// taken then.
pub fn parse(
    read: &mut Bytes,
    spare: impl FnOnce(&[httparse::Header<'_>]) -> HeaderMap,
) -> Result<Option<(Parts, u64)>, Unusual> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_DIRECT_HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        read,
        &mut fields,
    );
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Unusual),
    };
    let status = response
        .code
        .and_then(|code| StatusCode::from_u16(code).ok());
    let (Some(status), Some(1)) = (status, response.version) else {
        return Err(Unusual);
    };
    if status.is_informational() || is_bodiless(status) {
        return Err(Unusual);
    }
    let body = body_length(response.headers).ok_or(Unusual)?;
    let headers = collect(response.headers, read, spare(response.headers)).ok_or(Unusual)?;
    // The values of the headers hold on to the bytes of the head.
    read.advance(length);
    let mut head = Response::new(()).into_parts().0;
    head.status = status;
    head.version = Version::HTTP_11;
    head.headers = headers;
    Ok(Some((head, body)))
}

/// Whether an answer has no body whatever its headers say (RFC 9110, sections 15.3.5 and 15.4.5).
fn is_bodiless(status: StatusCode) -> bool {
    status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

/// How long the body is, if that is said in one length, and the connection stays.
// RFC 9112, section 6.3: the other ways to say it need more care.
fn body_length(fields: &[httparse::Header<'_>]) -> Option<u64> {
    let mut framing = Framing::default();
    for field in fields {
        if !framing.take(field) && is_connection_option(field) {
            return None;
        }
    }
    match framing {
        Framing {
            length: Length::Once(length),
            coding: Coding::Absent,
        } => Some(length),
        _ => None,
    }
}

/// How a client is told where the body of its answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// By its length, of which so much is left.
    Length(u64),
    /// By a last chunk (RFC 9112, section 7.1).
    Chunked,
    /// There is no body, whatever the head says of the length that it would have (RFC 9110, section
    /// 15.4.5). hyper wouldn't say that length.
    NotModified,
}

impl Ending {
    /// Of an ordinary answer whose body has this length, as far as it is known. None if the answer
    /// is another one, which is written by hyper.
    pub(crate) fn of(status: StatusCode, headers: &HeaderMap, body: Option<u64>) -> Option<Self> {
        if status.is_informational() || status == StatusCode::NO_CONTENT {
            return None;
        }
        let unmodified = status == StatusCode::NOT_MODIFIED;
        let mut framing = Length::Absent;
        for (name, value) in headers {
            if *name == CONTENT_LENGTH {
                framing = framing.and(value.as_bytes());
            } else if *name == CONNECTION || *name == TRANSFER_ENCODING {
                return None;
            }
        }
        let ordinary = match framing {
            Length::Absent => true,
            Length::Once(length) => unmodified || body == Some(length),
            Length::Repeated(_) | Length::Unreadable => false,
        };
        ordinary.then_some(match body {
            _ if unmodified => Self::NotModified,
            Some(length) => Self::Length(length),
            None => Self::Chunked,
        })
    }

    /// Whether the answer is over with its head.
    pub(crate) fn is_bodiless(self) -> bool {
        matches!(self, Self::Length(0) | Self::NotModified)
    }
}

/// Writes the head of an ordinary answer behind what is in the buffer. `last` says to the client that
/// the connection ends after it.
pub(crate) fn write(head: &Parts, ending: Ending, last: bool, date: &[u8], buffer: &mut Vec<u8>) {
    let status = head.status;
    buffer.extend_from_slice(b"HTTP/1.1 ");
    buffer.extend_from_slice(status.as_str().as_bytes());
    buffer.push(b' ');
    buffer.extend_from_slice(status.canonical_reason().unwrap_or("<none>").as_bytes());
    buffer.extend_from_slice(b"\r\n");
    let (mut says_length, mut says_date) = (false, false);
    for (name, value) in &head.headers {
        says_length |= *name == CONTENT_LENGTH;
        says_date |= *name == DATE;
        put(buffer, name.as_str(), value.as_bytes());
    }
    match ending {
        Ending::Length(_) if says_length => {}
        Ending::Length(length) => put(buffer, "content-length", length.to_string().as_bytes()),
        Ending::Chunked => put(buffer, "transfer-encoding", b"chunked"),
        Ending::NotModified => {}
    }
    if last {
        put(buffer, "connection", b"close");
    }
    if !says_date {
        put(buffer, "date", date);
    }
    buffer.extend_from_slice(b"\r\n");
}

/// Writes a piece of a body as a chunk.
pub(crate) fn write_chunk(piece: &[u8], buffer: &mut Vec<u8>) {
    // An empty chunk would be the last.
    if !piece.is_empty() {
        // Writing to memory doesn't fail.
        let _ = write!(buffer, "{:x}\r\n", piece.len());
        buffer.extend_from_slice(piece);
        buffer.extend_from_slice(b"\r\n");
    }
}

/// Writes the last chunk.
pub(crate) fn write_last_chunk(buffer: &mut Vec<u8>) {
    buffer.extend_from_slice(b"0\r\n\r\n");
}
