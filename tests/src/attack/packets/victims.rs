//! Clients of a node port who were there before the attack.

use std::{
    io::{self, Write as _},
    net::{SocketAddr, SocketAddrV4, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};

use crate::attack::neighbour::answer;

/// Between two rounds of requests.
const PAUSE: Duration = Duration::from_millis(100);

/// Connections, and a socket for datagrams, through a node port. They are of the namespace in which they are made,
/// and may be used from any.
#[derive(Debug)]
pub(super) struct Victims {
    to: SocketAddrV4,
    connections: Vec<TcpStream>,
    datagrams: UdpSocket,
}

// === impl Victims ===

impl Victims {
    /// Connects, and asks once on each connection.
    pub(super) fn connect(to: SocketAddrV4, count: usize) -> anyhow::Result<Self> {
        let mut connections = Vec::new();
        for _ in 0..count {
            let mut stream = open(to)?;
            ask(&mut stream).context("a first request")?;
            connections.push(stream);
        }
        let datagrams = UdpSocket::bind("0.0.0.0:0")?;
        datagrams.set_read_timeout(Some(patience::silence()))?;
        datagrams.connect(to)?;
        Ok(Self {
            to,
            connections,
            datagrams,
        })
    }

    /// Where they come from.
    pub(super) fn addresses(&self) -> Vec<SocketAddrV4> {
        let addresses = self.connections.iter().map(TcpStream::local_addr);
        let addresses = addresses.filter_map(Result::ok);
        addresses
            .filter_map(|address| match address {
                SocketAddr::V4(address) => Some(address),
                SocketAddr::V6(_) => None,
            })
            .collect()
    }

    /// Asks on one connection after the other until it is told to stop: none is idle for long, and something is
    /// under way all the time. What fails is found by [`Self::broken`].
    pub(super) fn live_until(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            for stream in &mut self.connections {
                // A connection that has failed once fails again.
                let _ = ask(stream);
            }
            thread::sleep(PAUSE);
        }
    }

    /// What is broken: connections that do not live, datagrams without an answer, and, if somebody new cannot
    /// connect, that. It is to be called in the namespace.
    pub(super) fn broken(&mut self) -> Vec<String> {
        let mut broken = Vec::new();
        let all = self.connections.len();
        let failures: Vec<_> = self
            .connections
            .iter_mut()
            .filter_map(|stream| ask(stream).err())
            .collect();
        if let Some(first) = failures.first() {
            broken.push(format!(
                "{} of {all} connections are lost: {first:#}",
                failures.len()
            ));
        }
        if let Err(error) = self.datagram() {
            broken.push(format!("datagrams are not answered: {error:#}"));
        }
        if let Err(error) = open(self.to)
            .map_err(Into::into)
            .and_then(|mut stream| ask(&mut stream))
        {
            broken.push(format!("nobody new is served: {error:#}"));
        }
        broken
    }

    /// A datagram may be lost on any way: somebody who waits asks again.
    fn datagram(&self) -> anyhow::Result<()> {
        let mut buffer = [0; 2048];
        patience::try_until(|| -> anyhow::Result<Option<()>> {
            self.datagrams.send(b"hello")?;
            match self.datagrams.recv(&mut buffer) {
                Ok(length) if buffer[..length].ends_with(b"hello") => Ok(Some(())),
                Ok(length) => bail!(
                    "somebody else's: {:?}",
                    String::from_utf8_lossy(&buffer[..length])
                ),
                Err(_) => Ok(None),
            }
        })
    }
}

fn open(to: SocketAddrV4) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience::limit()))?;
    Ok(stream)
}

/// Asks on a connection, which is kept.
fn ask(stream: &mut TcpStream) -> anyhow::Result<()> {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: victim\r\n\r\n")?;
    let answer = answer(stream)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "it got {answer:?}");
    Ok(())
}
