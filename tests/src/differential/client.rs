//! The client of both gateways: bytes as they are, and what comes back.

use std::{
    io,
    net::{SocketAddr, TcpStream},
};

use super::{
    compare::Outcome,
    wire::{Rest, Wire},
};

/// What a gateway answers to a request on a connection of its own.
pub(super) fn ask(gateway: SocketAddr, request: &[u8]) -> io::Result<Outcome> {
    let mut wire = Wire::new(TcpStream::connect(gateway)?)?;
    wire.send(request)?;
    let mut outcome = Outcome::default();
    while let Some(mut message) = wire.head()? {
        let status = message.start.split(' ').nth(1);
        let status = status.and_then(|status| status.parse().ok()).unwrap_or(0);
        if (100..200).contains(&status) && status != 101 {
            outcome.interim.push(status);
            continue;
        }
        if !(request.starts_with(b"HEAD ") || matches!(status, 101 | 204 | 304)) {
            wire.body(&mut message, Rest::Connection)?;
        }
        outcome.status = status;
        outcome.answer = message;
        break;
    }
    Ok(outcome)
}
