//! Single requests over HTTP/2 that mean something else, or nothing, in HTTP/1.1.

use std::{io::Write as _, sync::atomic::Ordering};

use super::Client;
use crate::{
    attack::{
        neighbour::is_served,
        outcome::{Outcome, Reach},
        target::Target,
    },
    differential::http2::{
        hpack,
        link::{self, DATA, END_HEADERS, END_STREAM, HEADERS},
    },
};

/// What hidden requests ask for.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nhost: hidden\r\n\r\n";

/// A request.
#[derive(Clone, Copy, Debug)]
pub(in crate::attack) struct Odd {
    pub(in crate::attack) name: &'static str,
    pub(in crate::attack) about: &'static str,
    /// In place of those of an ordinary request that have the same names; the rest comes after them.
    headers: &'static [(&'static str, &'static str)],
    body: Option<&'static str>,
    trailers: &'static [(&'static str, &'static str)],
    /// How many requests of it may get to the endpoint.
    most: usize,
}

const fn refused(
    name: &'static str,
    about: &'static str,
    headers: &'static [(&'static str, &'static str)],
) -> Odd {
    Odd {
        name,
        about,
        headers,
        body: None,
        trailers: &[],
        most: 0,
    }
}

const fn bounded(
    name: &'static str,
    about: &'static str,
    headers: &'static [(&'static str, &'static str)],
) -> Odd {
    Odd {
        most: 1,
        ..refused(name, about, headers)
    }
}

#[rustfmt::skip]
pub(in crate::attack) const ODD: &[Odd] = &[
    bounded("h2-ordinary", "nothing odd, so that the others show something", &[]),
    // RFC 9113, sections 8.1 to 8.3.
    Odd { body: Some(HIDDEN), ..refused("h2-length-too-small", "a length that is less than the body (H2.CL)",
        &[(":method", "POST"), ("content-length", "0")]) },
    Odd { body: Some("abc"), ..refused("h2-length-too-large", "a length that is more than the body",
        &[(":method", "POST"), ("content-length", "1000")]) },
    Odd { body: Some("abc"), ..refused("h2-two-lengths", "two lengths that differ",
        &[(":method", "POST"), ("content-length", "3"), ("content-length", "4")]) },
    Odd { body: Some("abc"), ..refused("h2-equal-lengths", "the same length twice",
        &[(":method", "POST"), ("content-length", "3"), ("content-length", "3")]) },
    Odd { body: Some(HIDDEN), ..refused("h2-coding", "Transfer-Encoding (H2.TE)",
        &[(":method", "POST"), ("transfer-encoding", "chunked")]) },
    refused("h2-connection", "Connection", &[("connection", "keep-alive")]),
    refused("h2-line-end-in-value", "a line end in a value, and a request behind it",
        &[("x", "1\r\n\r\nGET /hidden HTTP/1.1\r\nhost: hidden\r\n\r\n")]),
    refused("h2-line-end-in-name", "a line end in a name",
        &[("x: 1\r\n\r\nGET /hidden HTTP/1.1\r\nhost: hidden\r\ny", "1")]),
    refused("h2-nul", "NUL in a value", &[("x", "1\x002")]),
    refused("h2-upper-case", "an upper-case name", &[("X", "1")]),
    refused("h2-colon-in-name", "a colon in a name", &[("x:y", "1")]),
    refused("h2-empty-name", "an empty name", &[("", "1")]),
    refused("h2-line-end-in-path", "a line end in the path",
        &[(":path", "/a HTTP/1.1\r\nhost: hidden\r\n\r\nGET /hidden")]),
    refused("h2-space-in-path", "a space in the path", &[(":path", "/a HTTP/1.1")]),
    refused("h2-space-in-method", "a request line in the method", &[(":method", "GET /hidden HTTP/1.1")]),
    refused("h2-line-end-in-authority", "a line end in the authority", &[(":authority", "a\r\nx: 1")]),
    refused("h2-no-slash", "a path without a slash", &[(":path", "hidden")]),
    refused("h2-empty-path", "an empty path", &[(":path", "")]),
    bounded("h2-fragment", "a fragment in the path", &[(":path", "/a#/../hidden")]),
    refused("h2-odd-scheme", "a request line in the scheme", &[(":scheme", "http://hidden/ HTTP/1.1\r\n")]),
    bounded("h2-other-host", "a Host that is not the authority", &[("host", "hidden")]),
    refused("h2-unknown-pseudo", "a pseudo header that there is not", &[(":hidden", "1")]),
    refused("h2-status", "a pseudo header of answers", &[(":status", "200")]),
    Odd { body: Some("abc"), trailers: &[(":path", "/hidden")],
        ..bounded("h2-pseudo-trailer", "a pseudo header among trailers", &[(":method", "POST")]) },
    Odd { body: Some("abc"), trailers: &[("content-length", "38"), ("host", "hidden")],
        ..bounded("h2-trailers", "trailers that name what a head must say", &[(":method", "POST")]) },
];

impl Odd {
    /// Asks; others must be served afterwards.
    pub(in crate::attack) fn run(&self, target: &mut Target) -> anyhow::Result<Outcome> {
        let count = target.endpoint.count();
        let mut client = Client::open(target.plain, &[])?;
        // The connection may be ended before all is said.
        let _ = client.stream.write_all(&self.frames());
        let health = is_served(target.plain);
        client.settle();
        let status = client.heard.status.load(Ordering::SeqCst);
        client.close();
        let seen = target.endpoint.since(count);
        let through: Vec<_> = seen
            .iter()
            .filter(|seen| !seen.line.contains("/health/"))
            .collect();
        let (reach, told) = match (through.len(), status) {
            (0, 0) => (Reach::Refused, "reset".into()),
            (0, status) => (Reach::Refused, status.to_string()),
            (number, _) => (Reach::Through(number), "passes".into()),
        };
        let mut outcome = Outcome::new(reach, told);
        let broken = &mut outcome.broken;
        broken.extend(through.iter().filter_map(|seen| seen.misread()));
        if through.len() > self.most {
            broken.push(format!(
                "{} requests got to the endpoint, of {}",
                through.len(),
                self.most
            ));
        }
        if self.name == "h2-ordinary" && through.len() != 1 {
            broken.push("an ordinary request did not get to the endpoint".into());
        }
        broken.extend(target.broken(health)?);
        Ok(outcome)
    }

    fn frames(&self) -> Vec<u8> {
        let mut headers = vec![
            (":method", "GET"),
            (":scheme", "http"),
            (":authority", "a"),
            (":path", "/a"),
        ];
        for &(name, value) in self.headers {
            let is_pseudo = name.starts_with(':');
            match headers
                .iter_mut()
                .find(|(known, _)| is_pseudo && *known == name)
            {
                Some(header) => header.1 = value,
                None if is_pseudo => headers.insert(0, (name, value)),
                None => headers.push((name, value)),
            }
        }
        let is_alone = self.body.is_none() && self.trailers.is_empty();
        let end = if is_alone { END_STREAM } else { 0 };
        let mut frames = link::write(HEADERS, END_HEADERS | end, 1, &hpack::encode(headers));
        if let Some(body) = self.body {
            let end = if self.trailers.is_empty() {
                END_STREAM
            } else {
                0
            };
            frames.extend(link::write(DATA, end, 1, body.as_bytes()));
        }
        if !self.trailers.is_empty() {
            let trailers = hpack::encode(self.trailers.iter().copied());
            frames.extend(link::write(HEADERS, END_HEADERS | END_STREAM, 1, &trailers));
        }
        frames
    }
}
