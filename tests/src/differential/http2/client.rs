//! The client in HTTP/2: a connection for each request, whose frames are what the request wants them to be.

use std::{io, net::TcpStream};

use super::{
    link::{
        self, CONTINUATION, DATA, END_HEADERS, END_STREAM, Event, HEADERS, Link, PADDED, PING,
        PREFACE, PRIORITY, RST_STREAM, SETTINGS,
    },
    message::{block, message},
};
use crate::differential::{
    compare::Outcome,
    names::PLACEHOLDER,
    odd::Odd,
    request::{ID, Request},
    wire::{Headers, Wire},
};

/// The one stream of a connection.
const STREAM: u32 = 1;
/// How much a padded frame has too much.
const PADDING: usize = 7;

/// What a gateway answers over a connection.
pub(in crate::differential) fn ask(
    stream: TcpStream,
    request: &Request,
    name: &str,
    id: &str,
) -> io::Result<Outcome> {
    let mut link = Link::new(Wire::new(stream)?);
    let mut frames = PREFACE.concat().into_bytes();
    frames.extend(link::write(SETTINGS, 0, 0, &[]));
    frames.extend(stream_of(request, name, id));
    link.send(&frames)?;
    let mut outcome = Outcome::default();
    // A stream that is abandoned has no end of its own: the answer to a ping comes after all that was said before.
    let mut is_over = request.odd == Some(Odd::Abandoned);
    let mut has_asked = false;
    loop {
        if is_over && !has_asked {
            has_asked = true;
            // If nobody is there any more, that is read below.
            let _ = link.send(&link::write(PING, 0, 0, b"in there"));
        }
        let Some(event) = link.next()? else {
            break;
        };
        match event {
            Event::Head {
                headers, is_last, ..
            } => {
                hear(headers, &mut outcome);
                is_over |= is_last;
            }
            Event::Data { bytes, is_last, .. } => {
                outcome.answer.body.extend(bytes);
                is_over |= is_last;
            }
            Event::Reset { code, .. } if !is_over => {
                outcome.reset = Some(code);
                is_over = true;
            }
            Event::Away { code } => outcome.away = Some(code),
            Event::Pong => {
                outcome.kept = Some(true);
                return Ok(outcome);
            }
            Event::Reset { .. } | Event::Settings(_) => {}
        }
    }
    outcome.kept = Some(false);
    outcome.answer.cut = !is_over;
    Ok(outcome)
}

/// Takes headers: of an interim answer, of the answer, or trailers.
fn hear(headers: Headers, outcome: &mut Outcome) {
    if outcome.status != 0 {
        outcome.answer.trailers.extend(headers);
        return;
    }
    let message = message(headers);
    let status = message.start.split(' ').nth(1);
    let status = status.and_then(|status| status.parse().ok()).unwrap_or(0);
    if (100..200).contains(&status) {
        outcome.interim.push(status);
    } else {
        outcome.status = status;
        outcome.answer = message;
    }
}

/// All frames of a request.
fn stream_of(request: &Request, name: &str, id: &str) -> Vec<u8> {
    let mut headers = headers(request);
    headers.push((ID.into(), id.into()));
    for (_, value) in &mut headers {
        *value = value.replace(PLACEHOLDER, name);
    }
    let mut trailers = request.trailers.clone();
    if let Some(Odd::Trailer(name, value)) = request.odd {
        trailers.push((name.into(), value.into()));
    }
    let is_empty_end = request.odd == Some(Odd::EmptyEnd);
    let is_abandoned = request.odd == Some(Odd::Abandoned);
    let body = request.body.as_deref().map(str::as_bytes);
    let mut frames = vec![(HEADERS, block(&headers))];
    match (body, request.odd) {
        (Some(body), Some(Odd::Pieces)) => {
            frames.extend(body.iter().map(|byte| (DATA, vec![*byte])));
        }
        (Some(body), _) => frames.push((DATA, body.to_vec())),
        (None, _) => {}
    }
    if !trailers.is_empty() {
        frames.push((HEADERS, block(&trailers)));
    } else if is_empty_end {
        frames.push((DATA, Vec::new()));
    }
    let last = frames.len() - 1;
    let mut bytes = Vec::new();
    for (index, (kind, payload)) in frames.into_iter().enumerate() {
        let end = if index == last && !is_abandoned {
            END_STREAM
        } else {
            0
        };
        bytes.extend(framed(kind, end, &payload, request.odd));
    }
    if is_abandoned {
        // CANCEL (section 7).
        bytes.extend(link::write(RST_STREAM, 0, STREAM, &[0, 0, 0, 8]));
    }
    bytes
}

/// One frame, or the three that a header block may be.
fn framed(kind: u8, end: u8, payload: &[u8], odd: Option<Odd>) -> Vec<u8> {
    let ends = if kind == HEADERS { END_HEADERS } else { 0 };
    match odd {
        Some(Odd::Continued) if kind == HEADERS => {
            let (first, rest) = payload.split_at(1);
            let (second, third) = rest.split_at(rest.len() / 2);
            [
                link::write(HEADERS, end, STREAM, first),
                link::write(CONTINUATION, 0, STREAM, second),
                link::write(CONTINUATION, END_HEADERS, STREAM, third),
            ]
            .concat()
        }
        Some(Odd::Padded) => {
            let payload = [&[PADDING as u8][..], payload, &[0; PADDING]].concat();
            link::write(kind, ends | end | PADDED, STREAM, &payload)
        }
        Some(Odd::Priority) if kind == HEADERS => {
            let payload = [&[0, 0, 0, 0, 15][..], payload].concat();
            link::write(kind, ends | end | PRIORITY, STREAM, &payload)
        }
        _ => link::write(kind, ends | end, STREAM, payload),
    }
}

/// The headers, those of the protocol first.
fn headers(request: &Request) -> Headers {
    let mut headers: Headers = vec![
        (":method".into(), request.method.clone()),
        (":scheme".into(), "http".into()),
        (":authority".into(), request.host.clone()),
        (":path".into(), request.target.clone()),
    ];
    if request.method == "CONNECT" {
        // Section 8.5.
        headers.retain(|(name, _)| !matches!(name.as_str(), ":scheme" | ":path"));
    }
    let mut others = request.headers.clone();
    for (name, _) in &mut others {
        name.make_ascii_lowercase();
    }
    if let Some(body) = request.body.as_ref().filter(|_| !request.is_chunked) {
        others.push(("content-length".into(), body.len().to_string()));
    }
    match request.odd {
        Some(Odd::HostOnly) => {
            headers.retain(|(name, _)| name != ":authority");
            others.push(("host".into(), request.host.clone()));
        }
        Some(Odd::OtherHost) => others.push(("host".into(), "other.test".into())),
        Some(Odd::Without(gone)) => headers.retain(|(name, _)| name != gone),
        Some(Odd::With(which, value)) => {
            let at = headers.iter().position(|(name, _)| name == which);
            let field = (which.into(), value.into());
            match at {
                Some(at) => headers[at] = field,
                None => headers.push(field),
            }
        }
        Some(Odd::Twice(which)) => {
            let found = headers.iter().find(|(name, _)| name == which).cloned();
            headers.extend(found);
        }
        Some(Odd::LatePath) => {
            let at = headers.iter().position(|(name, _)| name == ":path");
            let path = at.map(|at| headers.remove(at));
            others.insert(0, ("x-early".into(), "1".into()));
            others.extend(path);
        }
        Some(Odd::Header(name, value)) => others.push((name.into(), value.into())),
        Some(Odd::Length(length)) => {
            others.retain(|(name, _)| name != "content-length");
            others.push(("content-length".into(), length.to_string()));
        }
        Some(Odd::Crumbs) => {
            for crumb in ["a=1", "seen=2", "b=3"] {
                others.push(("cookie".into(), crumb.into()));
            }
        }
        _ => {}
    }
    headers.extend(others);
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(odd: Odd) -> Request {
        Request {
            method: "POST".into(),
            target: "/a".into(),
            version: crate::differential::request::HTTP_2,
            host: "CASE.test".into(),
            body: Some("xy".into()),
            odd: Some(odd),
            ..Request::default()
        }
    }

    /// Kinds, flags and lengths of frames.
    fn shape(mut bytes: &[u8]) -> Vec<(u8, u8, usize)> {
        let mut frames = Vec::new();
        while let [_, high, low, kind, flags, ..] = *bytes {
            let length = usize::from(high) * 256 + usize::from(low);
            frames.push((kind, flags, length));
            bytes = &bytes[9 + length..];
        }
        frames
    }

    #[test]
    fn frames_are_as_odd_as_the_request() {
        let frames = |odd| {
            let frames = shape(&stream_of(&request(odd), "h1", "7"));
            frames.into_iter().map(|(kind, flags, _)| (kind, flags))
        };
        let head = (HEADERS, END_HEADERS);
        assert!(frames(Odd::Pieces).eq([head, (DATA, 0), (DATA, END_STREAM)]));
        assert!(frames(Odd::EmptyEnd).eq([head, (DATA, 0), (DATA, END_STREAM)]));
        assert!(frames(Odd::Trailer("x", "1")).eq([
            head,
            (DATA, 0),
            (HEADERS, END_HEADERS | END_STREAM)
        ]));
        assert!(frames(Odd::Abandoned).eq([head, (DATA, 0), (RST_STREAM, 0)]));
        assert!(frames(Odd::Continued).eq([
            (HEADERS, 0),
            (CONTINUATION, 0),
            (CONTINUATION, END_HEADERS),
            (DATA, END_STREAM)
        ]));
    }

    #[test]
    fn headers_are_as_odd_as_the_request() {
        let names = |odd| {
            let headers = headers(&request(odd)).into_iter();
            headers.map(|(name, _)| name).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            names(Odd::LatePath),
            ":method :scheme :authority x-early content-length :path"
        );
        assert_eq!(
            names(Odd::HostOnly),
            ":method :scheme :path content-length host"
        );
        assert_eq!(
            names(Odd::Twice(":path")),
            ":method :scheme :authority :path :path content-length"
        );
    }
}
