//! Endpoints in HTTP/2: they answer a request when all of it has come, as it wants them to.

use std::{collections::BTreeMap, io};

use super::{
    hpack,
    link::{
        self, DATA, END_HEADERS, END_STREAM, Event, GOAWAY, HEADERS, Link, PREFACE, RST_STREAM,
        SETTINGS,
    },
    message::{block, message},
};
use crate::differential::{
    behaviour::Behaviour,
    ground::ALONE,
    wire::{Headers, Message, Wire},
};

/// Codes of errors (section 7).
const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;

/// Speaks HTTP/2 over a connection of whose preface the first line has been read. `report` is told of requests, and
/// tells what they want.
pub(in crate::differential) fn serve(
    mut wire: Wire,
    endpoint: &str,
    report: impl Fn(Message) -> Option<Behaviour>,
) -> io::Result<()> {
    if wire.bytes(PREFACE[1].len())?.is_none() {
        return Ok(());
    }
    let mut link = Link::new(wire);
    link.send(&link::write(SETTINGS, 0, 0, &[]))?;
    let mut open = BTreeMap::<u32, Message>::new();
    while let Some(event) = link.next()? {
        let ended = match event {
            Event::Head {
                stream,
                headers,
                is_last,
            } => {
                match open.get_mut(&stream) {
                    Some(message) => message.trailers.extend(headers),
                    None => drop(open.insert(stream, message(headers))),
                }
                is_last.then_some(stream)
            }
            Event::Data {
                stream,
                bytes,
                is_last,
            } => {
                if let Some(message) = open.get_mut(&stream) {
                    message.body.extend(bytes);
                }
                is_last.then_some(stream)
            }
            // What is not whole is not told: how much of it came is chance.
            Event::Reset { stream, .. } => {
                open.remove(&stream);
                None
            }
            Event::Away { .. } | Event::Pong | Event::Settings(_) => None,
        };
        let request = ended.and_then(|stream| Some((stream, open.remove(&stream)?)));
        if let Some((stream, message)) = request {
            let head_only = message.start.starts_with("HEAD ");
            let behaviour = report(message);
            // Over other connections there may be other requests at the same time.
            let behaviour = if endpoint == ALONE {
                behaviour
            } else {
                behaviour.map(of_stream)
            };
            let answer = Answer {
                endpoint,
                stream,
                head_only,
            };
            match behaviour {
                Some(Behaviour::Close) => return Ok(()),
                Some(Behaviour::Reset) => return link.wire().reset(),
                Some(Behaviour::Error) => return link.send(&away(stream, INTERNAL_ERROR)),
                _ => link.send(&answer.to(behaviour))?,
            }
        }
    }
    Ok(())
}

/// What is meant for a connection, done to a stream. Answers that none may give are not given: to Envoy they break the
/// connection, and with it requests that have nothing to do with them.
fn of_stream(behaviour: Behaviour) -> Behaviour {
    match behaviour {
        Behaviour::Close => Behaviour::Stream(NO_ERROR),
        Behaviour::Reset | Behaviour::Error => Behaviour::Stream(INTERNAL_ERROR),
        Behaviour::Away { takes: false } => Behaviour::Stream(REFUSED_STREAM),
        Behaviour::Away { takes: true }
        | Behaviour::Odd(_)
        | Behaviour::Hop
        | Behaviour::Cut
        | Behaviour::Body204 => Behaviour::Status(200),
        other => other,
    }
}

/// An answer to a request.
struct Answer<'a> {
    endpoint: &'a str,
    stream: u32,
    head_only: bool,
}

impl Answer<'_> {
    /// The frames.
    fn to(&self, behaviour: Option<Behaviour>) -> Vec<u8> {
        let status = match behaviour {
            Some(Behaviour::Status(status)) => status,
            Some(Behaviour::Body204) => 204,
            _ => 200,
        };
        let mut head = self.head(status);
        let body = format!("{}\n", self.endpoint).into_bytes();
        let has_body = behaviour == Some(Behaviour::Body204)
            || !(self.head_only || matches!(status, 204 | 304));
        let mut say = |name: &str, value: &str| head.push((name.to_owned(), value.to_owned()));
        match behaviour {
            Some(Behaviour::Silent) => return Vec::new(),
            Some(Behaviour::Stream(code)) => return self.reset(code),
            Some(Behaviour::Away { takes: false }) => return away(0, NO_ERROR),
            Some(Behaviour::Grpc(status)) => return self.grpc(status),
            Some(Behaviour::GrpcOnly(status)) => {
                let headers = [
                    (":status", "200"),
                    ("content-type", "application/grpc"),
                    ("grpc-status", &status.to_string()),
                    ("grpc-message", "said so"),
                ];
                return self.frame(HEADERS, true, &hpack::encode(headers));
            }
            Some(Behaviour::Cut) => say("content-length", &(body.len() + 10).to_string()),
            Some(Behaviour::Trailers) => {}
            Some(Behaviour::Hop) => {
                say("connection", "x-a");
                say("keep-alive", "timeout=9");
            }
            // RFC 9110, section 8.6.
            _ if status == 204 => {}
            _ => say("content-length", &body.len().to_string()),
        }
        if let Some(Behaviour::Odd(odd)) = behaviour {
            for (name, value) in odd {
                head.retain(|(other, _)| other != name);
                if !value.is_empty() {
                    let field = ((*name).to_owned(), (*value).to_owned());
                    let at = if name.starts_with(':') { 0 } else { head.len() };
                    head.insert(at, field);
                }
            }
        }
        let before = match behaviour {
            Some(Behaviour::Interim(status)) => {
                let status = status.to_string();
                let interim = hpack::encode([(":status", &*status), ("link", "</a>")]);
                self.frame(HEADERS, false, &interim)
            }
            Some(Behaviour::Away { .. }) => away(self.stream, NO_ERROR),
            _ => Vec::new(),
        };
        let head = |is_last| self.frame(HEADERS, is_last, &block(&head));
        let rest = match behaviour {
            Some(Behaviour::Headed(code)) => [head(false), self.reset(code)].concat(),
            Some(Behaviour::Half(code)) => [
                head(false),
                self.frame(DATA, false, &body),
                self.reset(code),
            ]
            .concat(),
            Some(Behaviour::Trailers) if has_body => {
                let trailers = hpack::encode([("x-trailer", "1"), ("x-trailer", "2")]);
                [
                    head(false),
                    self.frame(DATA, false, &body),
                    self.frame(HEADERS, true, &trailers),
                ]
                .concat()
            }
            _ if has_body => [head(false), self.frame(DATA, true, &body)].concat(),
            _ => head(true),
        };
        [before, rest].concat()
    }

    /// What all heads have.
    fn head(&self, status: u16) -> Headers {
        let status = status.to_string();
        let fields = [
            (":status", status.as_str()),
            ("server", "endpoint"),
            ("content-type", "text/plain"),
            ("x-of", self.endpoint),
            ("x-a", "of endpoint"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
        ];
        let fields = fields.into_iter();
        fields
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// A call's answer: a message, and how it went.
    fn grpc(&self, status: u8) -> Vec<u8> {
        let head = [
            (":status", "200"),
            ("content-type", "application/grpc"),
            ("x-of", self.endpoint),
            ("grpc-encoding", "identity"),
        ];
        let message = [
            &[0, 0, 0, 0, self.endpoint.len() as u8],
            self.endpoint.as_bytes(),
        ]
        .concat();
        let status = status.to_string();
        let trailers = [
            ("grpc-status", status.as_str()),
            ("grpc-message", "it%20went so"),
            ("x-trailer", "1"),
        ];
        [
            self.frame(HEADERS, false, &hpack::encode(head)),
            self.frame(DATA, false, &message),
            self.frame(HEADERS, true, &hpack::encode(trailers)),
        ]
        .concat()
    }

    fn frame(&self, kind: u8, is_last: bool, payload: &[u8]) -> Vec<u8> {
        let ends = if kind == HEADERS { END_HEADERS } else { 0 };
        let last = if is_last { END_STREAM } else { 0 };
        link::write(kind, ends | last, self.stream, payload)
    }

    fn reset(&self, code: u32) -> Vec<u8> {
        link::write(RST_STREAM, 0, self.stream, &code.to_be_bytes())
    }
}

/// A connection that takes no streams after this one.
fn away(last: u32, code: u32) -> Vec<u8> {
    let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
    link::write(GOAWAY, 0, 0, &payload)
}
