//! Servers that say what they got, and misbehave when a request asks for it.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use anyhow::Context as _;
use nix::sys::socket;

use super::{
    behaviour::{BEHAVE, Behaviour, behaviour},
    http2::{self, link::PREFACE},
    request::ID,
    wire::{Message, Rest, Wire},
};
use crate::network;

/// Headers by which scripts ask endpoints for something: a status; headers as `name=value`; some milliseconds first; 503
/// from the endpoint of a name.
const STATUS: &str = "answer-status";
const HEADER: &str = "answer-header";
const AFTER: &str = "answer-after";
const FAIL_AT: &str = "fail-at";

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

/// Speaks with a gateway in the version that it begins with.
fn serve(endpoint: &'static str, stream: TcpStream, reports: &Reports) -> io::Result<()> {
    let source = stream.peer_addr()?.ip();
    let mut wire = Wire::new(stream)?;
    let Some(message) = wire.head()? else {
        return Ok(());
    };
    let report = |message| report(endpoint, source, message, reports);
    if format!("{}\r\n\r\n", message.start) == PREFACE[0] {
        return http2::server::serve(wire, endpoint, report);
    }
    http1(wire, message, endpoint, report)
}

/// Notes a request, and tells what it asks for.
fn report(
    endpoint: &'static str,
    source: IpAddr,
    message: Message,
    reports: &Reports,
) -> Option<Behaviour> {
    let id = message.values(ID).next().unwrap_or_default().to_owned();
    let fails = message.values(FAIL_AT).any(|name| name == endpoint);
    let behave = message.values(BEHAVE).chain(message.values(STATUS)).next();
    let behave = if fails { Some("503") } else { behave }.map(str::to_owned);
    let mut reports = lock(reports);
    let reports = reports.entry((source, id)).or_default();
    reports.push(Report { endpoint, message });
    // Copies for mirrors are no attempts.
    let own = reports.iter().filter(|one| one.endpoint == endpoint);
    behaviour(&behave?, own.count())
}

/// Answers a request in HTTP/1.1. Connections are not kept: which of the two has one left from another request, on
/// which an end without an answer means less, would be chance.
fn http1(
    mut wire: Wire,
    mut message: Message,
    endpoint: &str,
    report: impl Fn(Message) -> Option<Behaviour>,
) -> io::Result<()> {
    wire.body(&mut message, Rest::Nothing)?;
    let head_only = message.start.starts_with("HEAD ");
    let headers = message.values(HEADER).filter_map(|one| one.split_once('='));
    let headers = headers.map(|(name, value)| format!("{name}: {value}\r\n"));
    let headers = headers.collect::<String>();
    let after = message.values(AFTER).next();
    let after = after.and_then(|after| after.parse().ok());
    let behaviour = report(message);
    thread::sleep(Duration::from_millis(after.unwrap_or(0)));
    answer(&mut wire, endpoint, behaviour, &headers, head_only)
}

/// Answers as a request wants it.
fn answer(
    wire: &mut Wire,
    endpoint: &str,
    behaviour: Option<Behaviour>,
    headers: &str,
    head_only: bool,
) -> io::Result<()> {
    let body = format!("{endpoint}\n");
    let (mut status, mut length, mut more, mut trailers) = (200, body.len(), String::new(), None);
    match behaviour {
        // What is odd about a head in HTTP/2 has no counterpart.
        None | Some(Behaviour::Odd(_)) => {}
        Some(Behaviour::Status(other)) => status = other,
        Some(Behaviour::Cut | Behaviour::Headed(_) | Behaviour::Half(_)) => length += 10,
        Some(Behaviour::Hop) => {
            more = "keep-alive: timeout=9\r\nproxy-connection: close\r\n".into();
        }
        Some(Behaviour::Trailers) => trailers = Some("x-trailer: 1\r\n".to_owned()),
        Some(Behaviour::Grpc(status)) => trailers = Some(format!("grpc-status: {status}\r\n")),
        Some(Behaviour::GrpcOnly(status)) => more = format!("grpc-status: {status}\r\n"),
        Some(Behaviour::Interim(status)) => {
            wire.send(format!("HTTP/1.1 {status} Soon\r\nlink: </a>\r\n\r\n").as_bytes())?;
        }
        Some(Behaviour::Body204) => status = 204,
        Some(
            Behaviour::Close | Behaviour::Stream(_) | Behaviour::Away { .. } | Behaviour::Error,
        ) => return Ok(()),
        Some(Behaviour::Reset) => return wire.reset(),
        // Nothing more comes but the end.
        Some(Behaviour::Silent) => return wire.head().map(drop),
    }
    let framing = match trailers {
        Some(_) => "transfer-encoding: chunked\r\n".to_owned(),
        // None may have one (RFC 9110, section 8.6).
        None if behaviour == Some(Behaviour::Status(204)) => String::new(),
        None => format!("content-length: {length}\r\n"),
    };
    // Of two, gateways may make one.
    let kind = if headers.contains("content-type: ") {
        ""
    } else {
        "content-type: text/plain\r\n"
    };
    let head = format!(
        "HTTP/1.1 {status} Said\r\nServer: endpoint\r\n{kind}X-Of: {endpoint}\r\n\
         x-a: of endpoint\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n{headers}{more}connection: close\r\n\
         {framing}\r\n"
    );
    wire.send(head.as_bytes())?;
    if head_only || matches!(status, 204 | 304) {
        return Ok(());
    }
    wire.send(
        match trailers {
            Some(trailers) => format!("{:x}\r\n{body}\r\n0\r\n{trailers}\r\n", body.len()),
            None => body,
        }
        .as_bytes(),
    )
}
