//! Servers that say what they got, and misbehave when a request asks for it.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::Context as _;
use nix::sys::socket::{self, sockopt};

use super::{
    request::ID,
    wire::{Message, Rest, Wire},
};
use crate::network;

/// The header by which a request asks for something else than a good answer: a [`Behaviour`], and after a
/// comma for how many attempts (all, where it is absent).
pub(super) const BEHAVE: &str = "x-behave";

/// What an endpoint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behaviour {
    /// Answers with a status.
    Status(u16),
    /// Ends the connection without an answer.
    Close,
    /// Resets it.
    Reset,
    /// Says nothing until the proxy gives up.
    Silent,
    /// Ends the connection within the answer's body.
    Cut,
    /// Answers with headers that are for the connection only.
    Hop,
}

/// A request, as an endpoint got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which endpoint.
    pub endpoint: &'static str,
    /// What it got.
    pub message: Message,
}

/// Who asked, by the address and the request's own name.
type Asked = (IpAddr, String);

/// All reports so far.
type Reports = Arc<Mutex<BTreeMap<Asked, Vec<Report>>>>;

/// The servers. They end when this is dropped.
#[derive(Debug)]
pub(super) struct Upstreams {
    listeners: Vec<TcpListener>,
    reports: Reports,
}

impl Upstreams {
    /// Starts a server for each endpoint, in a network namespace that has the address.
    pub(super) fn start(
        namespace: &str,
        address: Ipv4Addr,
        endpoints: &[(&'static str, u16)],
    ) -> anyhow::Result<Self> {
        let reports = Reports::default();
        let mut listeners = Vec::new();
        for &(endpoint, port) in endpoints {
            let listener = network::inside(namespace, || {
                TcpListener::bind((address, port))
                    .with_context(|| format!("listening on {address}:{port}"))
            })?;
            let (own, reports) = (listener.try_clone()?, Arc::clone(&reports));
            listeners.push(listener);
            thread::spawn(move || {
                while let Ok((stream, _)) = own.accept() {
                    let reports = Arc::clone(&reports);
                    // A proxy that ends a connection in the middle is what is tried, and no error here.
                    thread::spawn(move || serve(endpoint, stream, &reports));
                }
            });
        }
        Ok(Self { listeners, reports })
    }

    /// What endpoints have got of a request from an address, in the order in which they did.
    pub(super) fn of(&self, source: IpAddr, id: &str) -> Vec<Report> {
        let reports = lock(&self.reports).get(&(source, id.to_owned())).cloned();
        reports.unwrap_or_default()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        lock(&self.reports).values().map(Vec::len).sum()
    }

    /// Forgets all of them.
    pub(super) fn forget(&self) {
        lock(&self.reports).clear();
    }
}

impl Drop for Upstreams {
    fn drop(&mut self) {
        for listener in &self.listeners {
            // Whoever waits for connections there hears of it.
            let _ = socket::shutdown(listener.as_raw_fd(), socket::Shutdown::Both);
        }
    }
}

fn lock(reports: &Reports) -> MutexGuard<'_, BTreeMap<Asked, Vec<Report>>> {
    reports.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers a request. Connections are not kept: which of the two has one left from another request, on which
/// an end without an answer means less, would be chance.
fn serve(endpoint: &'static str, stream: TcpStream, reports: &Reports) -> io::Result<()> {
    let source = stream.peer_addr()?.ip();
    let mut wire = Wire::new(stream)?;
    let Some(mut message) = wire.head()? else {
        return Ok(());
    };
    wire.body(&mut message, Rest::Nothing)?;
    let id = message.values(ID).next().unwrap_or_default().to_owned();
    let behave: Vec<_> = message.values(BEHAVE).map(str::to_owned).collect();
    let head_only = message.start.starts_with("HEAD ");
    let attempt = {
        let mut reports = lock(reports);
        let reports = reports.entry((source, id)).or_default();
        reports.push(Report { endpoint, message });
        // Copies for mirrors are no attempts.
        reports
            .iter()
            .filter(|one| one.endpoint == endpoint)
            .count()
    };
    let behaviour = behave.first().and_then(|word| behaviour(word, attempt));
    answer(&mut wire, endpoint, behaviour, head_only)
}

/// What a request asks for on its so-manieth attempt; nothing for a good answer.
fn behaviour(text: &str, attempt: usize) -> Option<Behaviour> {
    let (word, times) = text.split_once(',').unwrap_or((text, ""));
    if times.parse().is_ok_and(|times: usize| attempt > times) {
        return None;
    }
    match word {
        "close" => Some(Behaviour::Close),
        "reset" => Some(Behaviour::Reset),
        "silent" => Some(Behaviour::Silent),
        "cut" => Some(Behaviour::Cut),
        "hop" => Some(Behaviour::Hop),
        status => status.parse().ok().map(Behaviour::Status),
    }
}

/// Answers as a request wants it.
fn answer(
    wire: &mut Wire,
    endpoint: &str,
    behaviour: Option<Behaviour>,
    head_only: bool,
) -> io::Result<()> {
    let body = format!("{endpoint}\n");
    let (mut status, mut length, mut hop) = (200, body.len(), "");
    match behaviour {
        None => {}
        Some(Behaviour::Status(other)) => status = other,
        Some(Behaviour::Cut) => length += 10,
        Some(Behaviour::Hop) => hop = "keep-alive: timeout=9\r\nproxy-connection: close\r\n",
        Some(Behaviour::Close) => return Ok(()),
        Some(Behaviour::Reset) => return reset(wire.stream()),
        // Nothing more comes but the end.
        Some(Behaviour::Silent) => return wire.head().map(drop),
    }
    let head = format!(
        "HTTP/1.1 {status} Said\r\nServer: endpoint\r\ncontent-type: text/plain\r\nX-Of: {endpoint}\r\n\
         x-a: of endpoint\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n{hop}connection: close\r\n\
         content-length: {length}\r\n\r\n"
    );
    wire.send(head.as_bytes())?;
    if !head_only && !matches!(status, 204 | 304) {
        wire.send(body.as_bytes())?;
    }
    Ok(())
}

/// Lets the end of a connection be a reset (socket(7), `SO_LINGER`).
fn reset(stream: &TcpStream) -> io::Result<()> {
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    Ok(socket::setsockopt(stream, sockopt::Linger, &linger)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misbehaviour_ends_after_so_many_attempts() {
        assert_eq!(behaviour("503", 9), Some(Behaviour::Status(503)));
        assert_eq!(behaviour("reset,2", 2), Some(Behaviour::Reset));
        assert_eq!(behaviour("reset,2", 3), None);
        assert_eq!(behaviour("nonsense", 1), None);
    }
}
