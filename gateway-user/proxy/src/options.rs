//! How a proxy runs: what its starter may choose.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use ipnet::IpNet;

use crate::parity::Parity;

/// How a proxy runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Threads that serve.
    pub workers: NonZero<usize>,
    /// Address to listen on; none: all addresses, of both families.
    pub address: Option<IpAddr>,
    /// How long a client's connection may be idle, counted in whole seconds.
    pub idle_timeout: Duration,
    /// How long the head of a request may take to come, counted in whole seconds.
    pub header_timeout: Duration,
    /// The name server that is asked for the names of endpoints; none: those of the system.
    pub dns: Option<SocketAddr>,
    /// In which matters to do as Envoy does, where this proxy would do otherwise.
    pub parity: Parity,
    /// Whether streams of HTTP/2 may become WebSockets (RFC 8441; Envoy's `allow_connect`).
    pub extended_connect: bool,
    /// Whether clients may speak HTTP/1.0 (Envoy's `accept_http_10`).
    pub accept_http10: bool,
    /// Who says in the PROXY protocol whose connections it brings.
    pub fronts: Fronts,
    /// How many connections of clients there may be at once.
    pub max_connections: ConnectionLimits,
    /// How much memory the process may take, in bytes; none: as much as there is.
    pub max_memory: Option<u64>,
}

/// How many connections of clients there may be at once.
#[derive(Clone, Debug, Default)]
pub struct ConnectionLimits {
    /// In all; none: as many as there are descriptors for.
    pub all: Option<usize>,
    /// To single ports.
    pub ports: Vec<PortLimit>,
}

/// How many connections a port may have at once, and how many it has.
#[derive(Clone, Debug)]
pub struct PortLimit {
    port: u16,
    most: usize,
    /// All workers count together.
    pub(crate) open: Arc<AtomicUsize>,
}

impl ConnectionLimits {
    /// The limit of a port, if it has one of its own.
    pub(crate) fn of_port(&self, port: u16) -> Option<&PortLimit> {
        self.ports.iter().find(|limit| limit.port == port)
    }
}

impl PortLimit {
    /// At most so many to a port.
    pub fn new(port: u16, most: usize) -> Self {
        Self {
            port,
            most,
            open: Arc::default(),
        }
    }

    /// Whether there are more than there may be.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.open.load(Ordering::Relaxed) > self.most
    }
}

/// Fronts that are trusted to say whose connections they bring: ports that they connect to, and networks that they
/// come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fronts(pub Vec<(u16, IpNet)>);

impl Fronts {
    /// Whether who connects to the port from this address is one.
    pub(crate) fn are_trusted(&self, port: u16, address: IpAddr) -> bool {
        let mut fronts = self.0.iter();
        fronts.any(|(at, network)| *at == port && network.contains(&address))
    }
}

impl Default for Options {
    /// One worker for each CPU that this process may use, all addresses.
    fn default() -> Self {
        Self {
            workers: thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
            address: None,
            idle_timeout: Duration::from_hours(1),
            // Envoy's `request_headers_timeout` is off by default: a client that sends a byte an hour
            // keeps its connection. A minute is far more than any honest client needs.
            header_timeout: Duration::from_mins(1),
            dns: None,
            parity: Parity::default(),
            extended_connect: false,
            accept_http10: false,
            fronts: Fronts::default(),
            max_connections: ConnectionLimits::default(),
            max_memory: None,
        }
    }
}
