//! Requests over HTTP/1.1 that two readers may understand otherwise, or that are too much: what gets to the
//! endpoint behind a proxy.
//!
//! Each is sent twice: at the beginning of a connection, and after a request with a body. A request that is
//! hidden in another one asks for `/hidden`, and must never come to the endpoint as one of its own.

mod probes;

pub(super) use probes::{PROBES, Probe};

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use super::{
    endpoint::Seen,
    neighbour::is_served,
    outcome::{Outcome, Reach},
    target::Target,
};

/// What each connection ends with, if it lives so long.
const LAST: &str = "GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
/// What comes before an attack that is not the first on its connection.
const BEFORE: &str = "POST /before HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc";

impl Probe {
    /// Attacks; the target must serve others afterwards.
    pub(super) fn run(&self, target: &mut Target) -> anyhow::Result<Outcome> {
        let bytes = filled(self.bytes);
        let alone = self.once(target, &bytes, 0)?;
        let second = self.once(target, &[BEFORE.as_bytes(), &bytes].concat(), 1)?;
        let mut worse = if second.reach > alone.reach {
            second.clone()
        } else {
            alone.clone()
        };
        worse.broken = [alone.broken, second.broken].concat();
        worse.broken.sort();
        worse.broken.dedup();
        Ok(worse)
    }

    /// Sends it after so many requests of ours.
    fn once(&self, target: &mut Target, bytes: &[u8], before: usize) -> anyhow::Result<Outcome> {
        let count = target.endpoint.count();
        let (heard, health) = exchange(target.plain, bytes)?;
        let seen = target.endpoint.since(count);
        let is_ours = |seen: &Seen| {
            ["/before", "/last", "/health/"]
                .iter()
                .any(|path| seen.line.contains(path))
        };
        let through: Vec<_> = seen.iter().filter(|seen| !is_ours(seen)).collect();
        let reach = match through.len() {
            0 => Reach::Refused,
            number => Reach::Through(number),
        };
        let statuses = statuses(&heard);
        let mut outcome = Outcome::new(reach, told(reach, statuses.get(before)));
        let broken = &mut outcome.broken;
        for seen in &through {
            broken.extend(seen.misread());
            if self.is_cut && seen.fault.is_none() {
                broken.push("the body got to the endpoint whole".into());
            }
        }
        if through.len() > self.most {
            broken.push(format!(
                "{} requests got to the endpoint, of {}",
                through.len(),
                self.most
            ));
        }
        if through.len() < self.least {
            broken.push("an ordinary request did not get to the endpoint".into());
        }
        broken.extend(target.broken(health)?);
        Ok(outcome)
    }
}

/// Sends bytes and the last request; gives all that is heard, and whether others are served meanwhile.
fn exchange(address: SocketAddr, bytes: &[u8]) -> anyhow::Result<(String, Result<(), String>)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(patience::limit()))?;
    // A proxy may well have ended the connection before all of it was sent.
    let _ = stream
        .write_all(bytes)
        .and_then(|()| stream.write_all(LAST.as_bytes()));
    // One worker does what came first before what comes now.
    let health = is_served(address);
    stream.set_read_timeout(Some(patience::silence()))?;
    let mut heard = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => heard.extend(&chunk[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Silence, or a reset.
            Err(_) => break,
        }
    }
    Ok((String::from_utf8_lossy(&heard).into_owned(), health))
}

/// The statuses of final answers, in order.
fn statuses(heard: &str) -> Vec<u16> {
    let lines = heard
        .match_indices("HTTP/1.1 ")
        .map(|(at, line)| &heard[at + line.len()..]);
    let statuses = lines.filter_map(|line| line.get(..3)?.parse().ok());
    statuses
        .filter(|status| *status == 101 || *status >= 200)
        .collect()
}

fn told(reach: Reach, status: Option<&u16>) -> String {
    match (reach, status) {
        (Reach::Through(1), Some(status)) => format!("passes, {status}"),
        (Reach::Through(1), None) => "passes".into(),
        (Reach::Through(number), _) => format!("{number} pass"),
        (_, Some(status)) => status.to_string(),
        (_, None) => "no answer".into(),
    }
}

/// Puts repetitions in.
fn filled(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        bytes.extend(before.as_bytes());
        let repeated = after.split_once("}}");
        let repetition = repeated.and_then(|(inner, rest)| {
            let (what, times) = inner.rsplit_once('*')?;
            Some((what.repeat(times.parse().ok()?), rest))
        });
        let Some((repetition, after)) = repetition else {
            return [bytes, b"{{".to_vec(), after.as_bytes().to_vec()].concat();
        };
        bytes.extend(repetition.as_bytes());
        rest = after;
    }
    bytes.extend(rest.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_put_in() {
        assert_eq!(filled("a{{xy*3}}b{{\r\n*2}}"), b"axyxyxyb\r\n\r\n");
        for probe in PROBES {
            let bytes = filled(probe.bytes);
            assert!(!bytes.windows(2).any(|two| two == b"{{"), "{}", probe.name);
        }
    }

    #[test]
    fn hidden_requests_are_as_long_as_lengths_say() {
        for probe in PROBES.iter().filter(|probe| probe.least == 1) {
            let bytes = filled(probe.bytes);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            if let Some((_, length)) = head.split_once("content-length: ") {
                let length = length.split("\r\n").next().unwrap();
                assert_eq!(length.parse(), Ok(body.len()), "{}", probe.name);
            }
        }
    }

    #[test]
    fn names_differ() {
        let names: std::collections::BTreeSet<_> = PROBES.iter().map(|probe| probe.name).collect();
        assert_eq!(names.len(), PROBES.len());
    }

    #[test]
    fn statuses_are_read() {
        let heard = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n/aHTTP/1.1 400 Bad Request\r\n\r\n";
        assert_eq!(statuses(heard), [200, 400]);
    }
}
