//! The client of both gateways: bytes as they are, and what comes back.

use std::{
    io,
    net::{SocketAddr, TcpStream},
};

use super::{
    compare::Outcome,
    http2,
    request::Request,
    wire::{Rest, Wire},
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
    let stream = TcpStream::connect(gateway)?;
    if request.is_http2() {
        return http2::client::ask(stream, request, name, id);
    }
    let mut wire = Wire::new(stream)?;
    wire.send(&request.bytes(name, id))?;
    let mut outcome = Outcome::default();
    while let Some(mut message) = wire.head()? {
        let status = message.start.split(' ').nth(1);
        let status = status.and_then(|status| status.parse().ok()).unwrap_or(0);
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
