//! What comes to a port of the wrong kind, and handshakes that do not get on.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use super::{
    neighbour::Neighbour,
    outcome::{Outcome, Reach},
    target::Target,
};

/// The beginning of a ClientHello that is longer than what comes of it.
const HELLO: &[u8] = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03";
/// What a client says who takes the port for one of plain HTTP.
const PLAIN: &[u8] = b"GET /hidden HTTP/1.1\r\nhost: secure.test\r\n\r\n";

/// An attack on a port that speaks TLS, or with TLS on a port that does not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handshake {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    port: fn(&Target) -> SocketAddr,
    bytes: fn() -> Vec<u8>,
    connections: usize,
}

const fn handshake(
    name: &'static str,
    about: &'static str,
    connections: usize,
    bytes: fn() -> Vec<u8>,
) -> Handshake {
    Handshake {
        name,
        about,
        port: |target| target.secure,
        bytes,
        connections,
    }
}

#[rustfmt::skip]
pub(super) const HANDSHAKES: &[Handshake] = &[
    handshake("tls-plain", "plain HTTP to a port of TLS", 1, || PLAIN.to_vec()),
    Handshake { port: |target| target.plain, ..handshake("plain-tls", "TLS to a port of plain HTTP", 1, || {
        [HELLO, &[0; 501]].concat()
    }) },
    handshake("tls-nonsense", "bytes that are no record", 1, || vec![0xff; 20_000]),
    handshake("tls-old", "a hello of SSL 2", 1, || [&b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10"[..], &[1; 37]].concat()),
    handshake("tls-large-record", "a record that is longer than records may be", 1, || [&b"\x16\x03\x01\xff\xff"[..], &[1; 70_000]].concat()),
    handshake("tls-empty-records", "records of nothing, 100,000 times", 1, || b"\x16\x03\x01\0\0".repeat(100_000)),
    handshake("tls-alerts", "warnings, 100,000 times", 1, || b"\x15\x03\x01\0\x02\x01\x5a".repeat(100_000)),
    handshake("tls-pieces", "a hello of a record for each byte, without an end", 1, || {
        let bytes = [&b"\x01\xff\xff\xff\x03\x03"[..], &[7; 60_000]].concat();
        bytes.iter().flat_map(|byte| [0x16, 3, 1, 0, 1, *byte]).collect()
    }),
    handshake("tls-unfinished", "500 handshakes that nobody goes on with", 500, || HELLO.to_vec()),
    handshake("tls-silent", "500 connections that say nothing", 500, Vec::new),
];

impl Handshake {
    /// Attacks; nothing of it may get to the endpoint, and others are served meanwhile.
    pub(super) fn run(&self, target: &mut Target) -> anyhow::Result<Outcome> {
        let neighbour = Neighbour::start(target.plain)?;
        let count = target.endpoint.count();
        let mut streams = Vec::new();
        for _ in 0..self.connections {
            let mut stream = TcpStream::connect((self.port)(target))?;
            stream.set_write_timeout(Some(patience::silence()))?;
            // It may be ended in the middle.
            let _ = stream.write_all(&(self.bytes)());
            streams.push(stream);
        }
        let is_ended = streams.iter_mut().all(ends);
        let served = neighbour.stop();
        drop(streams);
        let reach = if is_ended {
            Reach::Refused
        } else {
            Reach::Bounded
        };
        let told = if is_ended { "ended" } else { "waits" };
        let mut outcome = Outcome::new(
            reach,
            format!("{told}, others ≤ {} ms", served.slowest.as_millis()),
        );
        let broken = &mut outcome.broken;
        let seen = target.endpoint.since(count);
        if seen.iter().any(|seen| !seen.line.contains("/neighbour/")) {
            broken.push("something got to the endpoint".into());
        }
        broken.extend(target.broken(served.verdict())?);
        Ok(outcome)
    }
}

/// Whether the other side ends the connection within a moment, whatever it says before.
fn ends(stream: &mut TcpStream) -> bool {
    let mut chunk = [0; 4096];
    stream.set_read_timeout(Some(patience::silence())).is_ok()
        && loop {
            match stream.read(&mut chunk) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => {
                    break !matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    );
                }
            }
        }
}
