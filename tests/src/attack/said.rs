//! What an endpoint says when it means harm.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
};

/// Before the name of an answer in the path of a request for it.
pub(super) const EVIL: &str = "/evil/";

/// In the body of answers that nobody has asked for.
pub(super) const POISON: &str = "poison";

/// An answer of an endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    bytes: &'static str,
    /// How often the bytes come.
    times: usize,
    /// Whether a client may get an answer of the endpoint.
    pub(super) may_pass: bool,
}

const fn refused(name: &'static str, about: &'static str, bytes: &'static str) -> Answer {
    Answer {
        name,
        about,
        bytes,
        times: 1,
        may_pass: false,
    }
}

const fn bounded(name: &'static str, about: &'static str, bytes: &'static str) -> Answer {
    Answer {
        may_pass: true,
        ..refused(name, about, bytes)
    }
}

#[rustfmt::skip]
pub(super) const ANSWERS: &[Answer] = &[
    bounded("answer-ordinary", "nothing odd, so that the others show something",
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfine"),
    bounded("answer-twice", "a second answer that nobody asked for",
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfineHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison"),
    bounded("answer-too-long", "more bytes than the length says",
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfinepoison"),
    bounded("answer-without-body", "a body after 204",
        "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison"),
    refused("answer-two-lengths", "two lengths that differ",
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 10\r\n\r\nfinepoison"),
    refused("answer-negative-length", "a negative length",
        "HTTP/1.1 200 OK\r\ncontent-length: -4\r\n\r\nfine"),
    refused("answer-length-with-sign", "a length with a sign",
        "HTTP/1.1 200 OK\r\ncontent-length: +4\r\n\r\nfine"),
    refused("answer-length-and-chunks", "Content-Length beside Transfer-Encoding",
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\npoison"),
    refused("answer-unknown-coding", "a coding that nobody knows",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: poisoned\r\n\r\nfine"),
    bounded("answer-folded", "a header that goes on in the next line",
        "HTTP/1.1 200 OK\r\nx: 1\r\n content-length: 4\r\n\r\nfine"),
    refused("answer-space-before-colon", "a space before a colon",
        "HTTP/1.1 200 OK\r\ncontent-length : 4\r\n\r\nfine"),
    refused("answer-with-cr", "CR in a value",
        "HTTP/1.1 200 OK\r\nx: 1\rset-cookie: poison\r\ncontent-length: 4\r\n\r\nfine"),
    refused("answer-with-nul", "NUL in a value",
        "HTTP/1.1 200 OK\r\nx: 1\x002\r\ncontent-length: 4\r\n\r\nfine"),
    refused("answer-old", "bytes without a head, as in HTTP/0.9",
        "poison"),
    refused("answer-odd-version", "HTTP/2.0 in a status line",
        "HTTP/2.0 200 OK\r\ncontent-length: 4\r\n\r\nfine"),
    refused("answer-odd-status", "a status of four digits",
        "HTTP/1.1 2000 OK\r\ncontent-length: 4\r\n\r\nfine"),
    refused("answer-switches", "101 to a request that does not want to switch",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\npoison"),
    refused("answer-long-header", "a header of a megabyte",
        "HTTP/1.1 200 OK\r\nx: {{a}}\r\ncontent-length: 4\r\n\r\nfine"),
    Answer { times: 10_000, ..refused("answer-interim", "interim answers without an end",
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n") },
    Answer { times: 20_000, ..refused("answer-endless-head", "a head without an end",
        "HTTP/1.1 200 OK\r\nx: 1\r\n") },
    bounded("answer-cut", "less than the length says",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfine"),
    bounded("answer-bad-chunk", "a chunk's size that is no number",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfine\r\npoison\r\n0\r\n\r\n"),
    bounded("answer-chunk-overflow", "a chunk's size that overflows 64 bits",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfine\r\n10000000000000004\r\nfine\r\n0\r\n\r\n"),
];

/// What an endpoint says when it is asked for the answer `name`; then it ends the connection, when the proxy
/// does or a moment later.
pub(super) fn say(stream: &mut TcpStream, name: &str) -> io::Result<()> {
    let Some(answer) = ANSWERS.iter().find(|answer| answer.name == name) else {
        return Ok(());
    };
    let bytes = answer.bytes.replace("{{a}}", &"a".repeat(1 << 20));
    stream.set_write_timeout(Some(patience::limit()))?;
    for _ in 0..answer.times {
        stream.write_all(bytes.as_bytes())?;
    }
    // Whoever keeps the connection for the next request would ask it here.
    stream.set_read_timeout(Some(patience::silence()))?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ() {
        let names: std::collections::BTreeSet<_> = ANSWERS.iter().map(|one| one.name).collect();
        assert_eq!(names.len(), ANSWERS.len());
    }
}
