//! What a proxy can't do without: `testbed-relay ADDRESS ENDPOINT` passes bytes on between each client
//! and a connection of its own to the endpoint, and looks at none of them. Two system calls and two
//! segments for a message, one thread, no runtime.
//!
//! For measuring what the kernel takes for a small question and its answer; messages that don't fit
//! into a socket's buffer end their connection.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
};

use anyhow::{Context as _, bail};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// The listener's token; those of connections are their places.
const LISTENER: u64 = u64::MAX;

struct Relay {
    listener: TcpListener,
    endpoint: SocketAddr,
    epoll: Epoll,
    /// A client, and then its connection to the endpoint; client, connection; and so on.
    connections: Vec<Option<TcpStream>>,
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, endpoint] = &arguments[..] else {
        bail!("usage: testbed-relay ADDRESS ENDPOINT");
    };
    let listener = TcpListener::bind(address).with_context(|| address.clone())?;
    let endpoint = endpoint.parse().with_context(|| endpoint.clone())?;
    Relay::new(listener, endpoint)?.run()
}

impl Relay {
    fn new(listener: TcpListener, endpoint: SocketAddr) -> anyhow::Result<Self> {
        listener.set_nonblocking(true)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(
            listener.as_fd(),
            EpollEvent::new(EpollFlags::EPOLLIN, LISTENER),
        )?;
        Ok(Self {
            listener,
            endpoint,
            epoll,
            connections: Vec::new(),
        })
    }

    fn run(mut self) -> anyhow::Result<()> {
        let mut events = [EpollEvent::empty(); 256];
        let mut buffer = [0; 16 * 1024];
        loop {
            let count = self.epoll.wait(&mut events, EpollTimeout::NONE)?;
            for event in &events[..count] {
                match event.data() {
                    LISTENER => self.accept()?,
                    place => self.pass_on(place as usize, &mut buffer),
                }
            }
        }
    }

    fn accept(&mut self) -> anyhow::Result<()> {
        loop {
            let client = match self.listener.accept() {
                Ok((client, _)) => client,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let endpoint = TcpStream::connect(self.endpoint)
                .with_context(|| format!("connecting to {}", self.endpoint))?;
            for stream in [client, endpoint] {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                // A read that takes less than it could has taken all, so that nothing is missed.
                let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
                let place = self.connections.len() as u64;
                self.epoll
                    .add(stream.as_fd(), EpollEvent::new(flags, place))?;
                self.connections.push(Some(stream));
            }
        }
    }

    /// What has come goes to the other side.
    fn pass_on(&mut self, place: usize, buffer: &mut [u8]) {
        let other = place ^ 1;
        let (Some(mut from), Some(mut to)) = (
            self.connections[place].as_ref(),
            self.connections[other].as_ref(),
        ) else {
            return;
        };
        let passed = loop {
            match from.read(buffer) {
                Ok(0) => break Err(io::Error::from(ErrorKind::UnexpectedEof)),
                Ok(length) => match to.write_all(&buffer[..length]) {
                    Ok(()) if length == buffer.len() => {}
                    written => break written,
                },
                Err(error) if error.kind() == ErrorKind::WouldBlock => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if passed.is_err() {
            // Closing takes them out of the epoll, too.
            self.connections[place] = None;
            self.connections[other] = None;
        }
    }
}
