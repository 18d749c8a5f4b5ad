//! The client of both gateways: bytes as they are, and what comes back.

use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, TcpStream},
};

use super::{
    compare::{Lost, Outcome},
    http2,
    request::Request,
    wire::{Message, Rest, Wire},
};

/// What is asked to see whether a connection is still there.
const AGAIN: &[u8] = b"GET / HTTP/1.1\r\nhost: nobody.test\r\n\r\n";

/// What a gateway answers to a request, for a case under a name, on a connection of its own.
pub(super) fn ask(
    gateway: SocketAddr,
    request: &Request,
    name: &str,
    id: &str,
) -> io::Result<Outcome> {
    let lost = |lost| Outcome {
        lost: Some(lost),
        ..Outcome::default()
    };
    let stream = match TcpStream::connect(gateway) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            return Ok(lost(Lost::Refused));
        }
        stream => stream?,
    };
    let port = stream.local_addr()?.port();
    let outcome = if request.is_http2() {
        http2::client::ask(stream, request, name, id)
    } else {
        say(stream, request, name, id)
    };
    // What a read says that has waited for too long, see socket(7).
    let outcome = match outcome {
        Err(error) if error.kind() == ErrorKind::WouldBlock => lost(Lost::Silent),
        outcome => outcome?,
    };
    Ok(Outcome { port, ..outcome })
}

/// A client that makes one request after the other over one connection, as long as that stays.
pub(super) struct Caller {
    gateway: SocketAddr,
    kept: Option<Wire>,
}

impl Caller {
    pub(super) const fn new(gateway: SocketAddr) -> Self {
        Self {
            gateway,
            kept: None,
        }
    }

    /// The answer in HTTP/1.1; without a status, where there is none.
    pub(super) fn ask(&mut self, request: &Request, name: &str, id: &str) -> io::Result<Outcome> {
        let mut wire = match self.kept.take() {
            Some(wire) => wire,
            None => Wire::new(TcpStream::connect(self.gateway)?)?,
        };
        wire.send(&request.bytes(name, id))?;
        let mut outcome = Outcome::default();
        if let Some(mut message) = wire.head()? {
            wire.body(&mut message, Rest::Nothing)?;
            outcome.status = status(&message);
            let closes = message.values("connection").any(|value| value == "close");
            outcome.answer = message;
            self.kept = (!closes).then_some(wire);
        }
        Ok(outcome)
    }
}

const fn is_end(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

fn status(message: &Message) -> u16 {
    let status = message.start.split(' ').nth(1);
    status.and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// The same in HTTP/1.1.
fn say(stream: TcpStream, request: &Request, name: &str, id: &str) -> io::Result<Outcome> {
    let mut wire = Wire::new(stream)?;
    match wire.send(&request.bytes(name, id)) {
        // Who has ended the connection before anything was said: reading tells it, too.
        Err(error) if is_end(error.kind()) => {}
        sent => sent?,
    }
    let mut outcome = Outcome::default();
    while let Some(mut message) = wire.head()? {
        let status = status(&message);
        if (100..200).contains(&status) && status != 101 {
            outcome.interim.push(status);
            continue;
        }
        if !(request.method == "HEAD" || matches!(status, 101 | 204 | 304)) {
            wire.body(&mut message, Rest::Connection)?;
        }
        outcome.status = status;
        outcome.answer = message;
        break;
    }
    if request.again && outcome.status != 101 {
        // Whoever has closed the connection may say so to what comes now.
        let sent = wire.send(AGAIN);
        outcome.kept = Some(sent.is_ok() && wire.head()?.is_some());
    }
    Ok(outcome)
}
