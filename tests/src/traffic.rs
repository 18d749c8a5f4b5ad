//! HTTP/1.1 traffic through a proxy, for measuring it: clients that keep their connections and ask
//! again and again, and the endpoints behind the proxy, in one thread without a runtime, so that it
//! takes as little as possible of the machine.
//!
//! Every message is looked at: clients know what they must get, endpoints what a gateway must add.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use serde::{Deserialize, Serialize};

pub mod table;

/// What clients call themselves.
pub const USER_AGENT: &str = "traffic/1.0";
/// What an endpoint's answer has after its name.
const FILLING: &str = " says hello, in the hundred bytes or so that a small answer has to a small \
                       question of a client";
/// What every gateway adds to requests.
const ADDED: [&str; 6] = [
    "x-envoy-attempt-count",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-external-address",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-request-id",
];

/// Endpoints, listening on loopback.
#[derive(Debug)]
pub struct Traffic {
    names: Vec<String>,
    listeners: Vec<TcpListener>,
    epoll: Epoll,
    /// By token. The first are the listeners' places.
    connections: Vec<Option<Connection>>,
    clients: Vec<usize>,
    /// Clients that may ask, whoever has waited longest first.
    idle: VecDeque<usize>,
    /// Requests that are still to be sent.
    left: u64,
    tally: Tally,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Answers that were as they must be.
    pub good: u64,
    /// Answers that weren't, and connections that ended before they had one.
    pub bad: u64,
    /// Requests that came to the endpoints, one after the other.
    pub endpoints: Vec<u64>,
    /// Requests that came to an endpoint without something that a gateway adds.
    pub bare: u64,
    /// What was wrong first.
    pub complaint: Option<String>,
    /// How long it took.
    pub took: Duration,
}

/// What clients ask.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Questions {
    /// Where the proxy listens.
    pub proxy: SocketAddr,
    /// Clients, each with a connection of its own.
    pub clients: usize,
    /// How many of them wait for an answer at the same time.
    pub at_once: usize,
    /// How often they ask, all together.
    pub requests: u64,
    /// Names of hosts; client after client takes the next.
    pub hosts: Vec<String>,
    /// What all ask for.
    pub path: String,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    side: Side,
    /// What has come of a message.
    read: Vec<u8>,
}

#[derive(Debug)]
enum Side {
    Client { request: Vec<u8>, waits: bool },
    Endpoint(usize),
}

impl Traffic {
    /// Listens, one endpoint for each name.
    pub fn new<S: Into<String> + Clone>(names: &[S]) -> anyhow::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut listeners = Vec::new();
        for token in 0..names.len() {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            let event = EpollEvent::new(EpollFlags::EPOLLIN, token as u64);
            epoll.add(listener.as_fd(), event)?;
            listeners.push(listener);
        }
        Ok(Self {
            connections: names.iter().map(|_| None).collect(),
            names: names.iter().cloned().map(Into::into).collect(),
            listeners,
            epoll,
            clients: Vec::new(),
            idle: VecDeque::new(),
            left: 0,
            tally: Tally::default(),
        })
    }

    /// The endpoints' ports.
    pub fn ports(&self) -> io::Result<Vec<u16>> {
        let addresses = self.listeners.iter().map(TcpListener::local_addr);
        addresses
            .map(|address| Ok(address?.port()))
            .collect::<io::Result<_>>()
    }

    /// Asks and answers until all requests have their answers. The clients stay connected until the
    /// next time.
    pub fn run(&mut self, questions: &Questions) -> anyhow::Result<Tally> {
        ensure!(!questions.hosts.is_empty(), "no hosts to ask for");
        self.tally = Tally {
            endpoints: vec![0; self.names.len()],
            ..Tally::default()
        };
        for token in std::mem::take(&mut self.clients) {
            self.close(token);
        }
        self.clients = self.connect(questions)?;
        self.idle = self.clients.iter().copied().collect();
        self.left = questions.requests;
        let begin = Instant::now();
        for _ in 0..questions.at_once {
            self.ask()?;
        }
        let mut events = [EpollEvent::empty(); 256];
        while self.tally.good + self.tally.bad < questions.requests {
            let limit = EpollTimeout::try_from(patience::limit())?;
            let count = self.epoll.wait(&mut events, limit)?;
            if count == 0 {
                let Tally { good, bad, .. } = self.tally;
                let limit = patience::limit();
                bail!("nothing has come for {limit:?}: {good} good answers, {bad} bad ones");
            }
            for event in &events[..count] {
                let token = event.data() as usize;
                if token < self.listeners.len() {
                    self.accept(token)?;
                } else {
                    self.serve(token)?;
                }
            }
        }
        self.tally.took = begin.elapsed();
        Ok(self.tally.clone())
    }

    fn connect(&mut self, questions: &Questions) -> anyhow::Result<Vec<usize>> {
        let hosts = questions.hosts.iter().cycle();
        hosts
            .take(questions.clients)
            .map(|host| {
                let stream = TcpStream::connect(questions.proxy)
                    .with_context(|| format!("connecting to {}", questions.proxy))?;
                let path = &questions.path;
                let request = format!(
                    "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {USER_AGENT}\r\n\
                     Accept: */*\r\nAccept-Encoding: gzip\r\nCookie: a=1; b=2\r\n\r\n"
                );
                let side = Side::Client {
                    request: request.into(),
                    waits: false,
                };
                self.watch(stream, side)
            })
            .collect()
    }

    fn watch(&mut self, stream: TcpStream, side: Side) -> anyhow::Result<usize> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let token = self.connections.len();
        let event = EpollEvent::new(EpollFlags::EPOLLIN, token as u64);
        self.epoll.add(stream.as_fd(), event)?;
        self.connections.push(Some(Connection {
            stream,
            side,
            read: Vec::new(),
        }));
        Ok(token)
    }

    fn accept(&mut self, endpoint: usize) -> anyhow::Result<()> {
        loop {
            match self.listeners[endpoint].accept() {
                Ok((stream, _)) => self.watch(stream, Side::Endpoint(endpoint))?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
        }
    }

    /// Lets the next client ask, if there is something to ask for.
    fn ask(&mut self) -> anyhow::Result<()> {
        if self.left == 0 {
            return Ok(());
        }
        let Some(token) = self.idle.pop_front() else {
            ensure!(
                self.connections.iter().flatten().any(Connection::waits),
                "the proxy has closed all connections"
            );
            return Ok(());
        };
        if let Some(connection) = &mut self.connections[token]
            && let Side::Client { request, waits } = &mut connection.side
        {
            *waits = true;
            self.left -= 1;
            // Small enough for any socket's buffer, which is empty now. If the proxy has closed it,
            // reading says so, too.
            let _ = (&connection.stream).write_all(request);
        }
        Ok(())
    }

    fn serve(&mut self, token: usize) -> anyhow::Result<()> {
        let Some(connection) = &mut self.connections[token] else {
            return Ok(());
        };
        let mut buffer = [0; 16 * 1024];
        let length = match connection.stream.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(_) => 0,
        };
        if length == 0 {
            return self.ended(token);
        }
        connection.read.extend_from_slice(&buffer[..length]);
        let Some(message) = Message::parse(&connection.read) else {
            return Ok(());
        };
        match &mut connection.side {
            Side::Client { waits, .. } => {
                *waits = false;
                match message.check(&self.names) {
                    Ok(()) => self.tally.good += 1,
                    Err(complaint) => self.tally.complain(complaint),
                }
                connection.read.clear();
                self.idle.push_back(token);
                self.ask()
            }
            Side::Endpoint(endpoint) => {
                let endpoint = *endpoint;
                self.tally.endpoints[endpoint] += 1;
                if let Some(missing) = message.lacks(&ADDED) {
                    self.tally.bare += 1;
                    let complaint = format!("a request came without {missing}");
                    self.tally.complaint.get_or_insert(complaint);
                }
                connection.read.clear();
                let name = &self.names[endpoint];
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nserver: \
                     endpoint\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n{name}{FILLING}",
                    name.len() + FILLING.len()
                );
                // A proxy that has gone in between is no matter of ours.
                let _ = connection.stream.write_all(answer.as_bytes());
                Ok(())
            }
        }
    }

    /// The other side has closed a connection.
    fn ended(&mut self, token: usize) -> anyhow::Result<()> {
        let Some(connection) = self.close(token) else {
            return Ok(());
        };
        self.idle.retain(|&idle| idle != token);
        if connection.waits() {
            self.tally.complain("a connection has ended".into());
            self.ask()?;
        }
        Ok(())
    }

    fn close(&mut self, token: usize) -> Option<Connection> {
        let connection = self.connections[token].take()?;
        // Closing would do, too.
        let _ = self.epoll.delete(connection.stream.as_fd());
        Some(connection)
    }
}

impl Connection {
    fn waits(&self) -> bool {
        matches!(self.side, Side::Client { waits: true, .. })
    }
}

impl Tally {
    /// What all answers being as they must be looks like; else what was wrong.
    pub fn verify(&self) -> anyhow::Result<()> {
        if self.bad == 0 && self.bare == 0 {
            return Ok(());
        }
        let complaint = self.complaint.as_deref().unwrap_or_default();
        bail!(
            "{} answers of {} were wrong, {} requests lacked something; first: {complaint}",
            self.bad,
            self.good + self.bad,
            self.bare
        )
    }

    fn complain(&mut self, complaint: String) {
        self.bad += 1;
        self.complaint.get_or_insert(complaint);
    }
}

/// A whole message with a length.
struct Message<'a> {
    first: &'a [u8],
    fields: Vec<&'a [u8]>,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    /// A message, if all of it is there.
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut lines = Vec::with_capacity(32);
        let mut rest = bytes;
        loop {
            let end = rest.iter().position(|&byte| byte == b'\n')?;
            let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
            rest = &rest[end + 1..];
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        let (&first, fields) = lines.split_first()?;
        let message = Self {
            first,
            fields: fields.to_vec(),
            body: rest,
        };
        let length = message.field("content-length").unwrap_or(b"0");
        let length: usize = std::str::from_utf8(length).ok()?.parse().ok()?;
        (message.body.len() >= length).then_some(message)
    }

    fn field(&self, name: &str) -> Option<&'a [u8]> {
        self.fields.iter().find_map(|line| {
            let (found, value) = line.split_at_checked(name.len())?;
            let value = value.strip_prefix(b":")?;
            found
                .eq_ignore_ascii_case(name.as_bytes())
                .then(|| value.trim_ascii())
        })
    }

    fn lacks(&self, names: &[&'static str]) -> Option<&'static str> {
        names
            .iter()
            .find(|name| self.field(name).is_none())
            .copied()
    }

    /// Whether it is an endpoint's answer as a gateway passes it on.
    fn check(&self, names: &[String]) -> Result<(), String> {
        let first = String::from_utf8_lossy(self.first);
        if !first.starts_with("HTTP/1.1 200") {
            return Err(format!("the answer is `{first}`"));
        }
        if self.field("server") != Some(b"istio-envoy") {
            return Err("the answer has another `server`".into());
        }
        if let Some(missing) = self.lacks(&["x-envoy-upstream-service-time", "content-type"]) {
            return Err(format!("the answer lacks {missing}"));
        }
        let named = self.body.strip_suffix(FILLING.as_bytes());
        match named {
            Some(name) if names.iter().any(|known| known.as_bytes() == name) => Ok(()),
            _ => Err(format!(
                "the answer's body is `{}`",
                String::from_utf8_lossy(self.body)
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn questions(proxy: SocketAddr) -> Questions {
        Questions {
            proxy,
            clients: 3,
            at_once: 3,
            requests: 10,
            hosts: vec!["a.example".into()],
            path: "/".into(),
        }
    }

    #[test]
    fn answers_are_looked_at() {
        let mut traffic = Traffic::new(&["one"]).unwrap();
        // No proxy in between: nobody has added anything.
        let endpoint = (Ipv4Addr::LOCALHOST, traffic.ports().unwrap()[0]).into();
        let tally = traffic.run(&questions(endpoint)).unwrap();
        assert_eq!((tally.good, tally.bad, tally.bare), (0, 10, 10));
        assert_eq!(tally.endpoints, [10]);
        let complaint = tally.verify().unwrap_err().to_string();
        assert!(complaint.contains("without x-envoy-attempt-count"));
    }

    #[test]
    fn clients_take_turns() {
        let mut traffic = Traffic::new(&["one"]).unwrap();
        let endpoint = (Ipv4Addr::LOCALHOST, traffic.ports().unwrap()[0]).into();
        let alone = Questions {
            at_once: 1,
            requests: 3,
            ..questions(endpoint)
        };
        traffic.run(&alone).unwrap();
        let asked = |side: &Side| matches!(side, Side::Endpoint(_));
        let connections = traffic.connections.iter().flatten();
        assert_eq!(connections.filter(|it| asked(&it.side)).count(), 3);
        assert_eq!(traffic.idle.len(), 3);
    }

    #[test]
    fn closed_connections_are_counted() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming().take(3) {
                drop(stream);
            }
        });
        let mut traffic = Traffic::new(&["one"]).unwrap();
        let error = traffic.run(&questions(address)).unwrap_err();
        assert!(error.to_string().contains("closed all"), "{error}");
    }

    #[test]
    fn messages_are_taken_when_they_are_whole() {
        let whole = "HTTP/1.1 200 OK\r\nServer:  istio-envoy\r\nContent-Length: 3\r\n\r\nabc";
        for length in 0..whole.len() {
            assert!(Message::parse(&whole.as_bytes()[..length]).is_none());
        }
        let message = Message::parse(whole.as_bytes()).unwrap();
        assert_eq!(message.field("server"), Some(&b"istio-envoy"[..]));
        assert_eq!(message.body, b"abc");
        assert_eq!(message.lacks(&["server", "date"]), Some("date"));
    }
}
