//! A process that connects, and answers those who connect, in the namespaces of one side.
//!
//! The socket hooks see the processes of a cgroup, so those whose sockets they are to see and those
//! whose packets are to be seen by the device hooks only are two processes. Each enters the
//! namespaces that it is given to make its sockets there, and does all of its work in one event loop.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io::{self, BufRead as _, BufReader, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    pin::pin,
    process::{Child, ChildStdin, ChildStdout, Stdio},
    rc::Rc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use nix::sched::{CloneFlags, setns};
use nodegate_programs::itself;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    time::timeout,
};

use crate::world::Space;

/// The argument that makes the test binary an agent.
pub(crate) const ARGUMENT: &str = "--differential-agent";

/// How many attempts are under way at once, but for those that wait for an answer that may never
/// come: more would overflow the buffers of a socket that answers datagrams.
const AT_ONCE: usize = 160;
/// After how long an attempt is one of those.
const USUALLY: Duration = Duration::from_millis(100);

/// How to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Via {
    Tcp,
    /// A datagram on a socket that is connected.
    Connected,
    /// A datagram on a socket that is not.
    Unconnected,
}

/// Attempts to connect, one after the other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Probe {
    pub(crate) space: Space,
    /// None leaves the choice to the kernel.
    pub(crate) source: Option<IpAddr>,
    /// None is a port that has not been used in a while.
    pub(crate) port: Option<u16>,
    pub(crate) to: SocketAddr,
    pub(crate) via: Via,
    /// It ends when so many different answers came in at least so many attempts,
    pub(crate) wanted: usize,
    pub(crate) at_least: usize,
    /// or after so many attempts.
    pub(crate) at_most: usize,
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// Somebody answered.
    Answered {
        /// The address at which.
        at: SocketAddr,
        /// Whom they saw.
        from: IpAddr,
    },
    /// ECONNREFUSED
    Refused,
    /// Another error: its number.
    Failed(i32),
    /// Nothing happened.
    Silence,
    /// The answer came from somebody else than was asked.
    Strange(String),
}

/// How often what came of a probe's attempts.
pub(crate) type Seen = BTreeMap<Outcome, usize>;

#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// The namespaces' files, and from which port on the sockets are bound.
    Enter(BTreeMap<Space, PathBuf>, u16),
    /// Answer at these addresses. A TCP port is opened at all addresses.
    Listen(Vec<(Space, SocketAddr)>),
    /// Make the attempts of the lanes, one after the other within a lane. An attempt ends after so
    /// many milliseconds.
    Run(Vec<Vec<Probe>>, u64),
}

#[derive(Debug, Serialize, Deserialize)]
enum Reply {
    Done,
    Ran(Vec<Vec<Vec<(Outcome, usize)>>>),
    Failed(String),
}

/// An agent, seen by the test.
pub(crate) struct Agent {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It ends when its input does.
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

impl Agent {
    /// Starts one, in the cgroup, if one is given.
    pub(crate) fn start(
        spaces: BTreeMap<Space, PathBuf>,
        cgroup: Option<&Path>,
        first_port: u16,
    ) -> anyhow::Result<Self> {
        let mut child = itself()?
            .arg(ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting an agent")?;
        if let Some(cgroup) = cgroup {
            std::fs::write(cgroup.join("cgroup.procs"), child.id().to_string())
                .with_context(|| format!("moving an agent to {}", cgroup.display()))?;
        }
        let input = child.stdin.take();
        let output = child.stdout.take().context("the agent's output")?;
        let mut agent = Self {
            child,
            input,
            output: BufReader::new(output),
        };
        agent.ask(&Request::Enter(spaces, first_port))?;
        Ok(agent)
    }

    pub(crate) fn listen(&mut self, at: Vec<(Space, SocketAddr)>) -> anyhow::Result<()> {
        self.ask(&Request::Listen(at)).map(drop)
    }

    pub(crate) fn run(
        &mut self,
        lanes: Vec<Vec<Probe>>,
        patience: Duration,
    ) -> anyhow::Result<Vec<Vec<Seen>>> {
        let milliseconds = patience.as_millis() as u64;
        match self.ask(&Request::Run(lanes, milliseconds))? {
            Reply::Ran(lanes) => Ok(lanes
                .into_iter()
                .map(|lane| {
                    lane.into_iter()
                        .map(|seen| seen.into_iter().collect())
                        .collect()
                })
                .collect()),
            other => bail!("the agent gave {other:?}"),
        }
    }

    fn ask(&mut self, request: &Request) -> anyhow::Result<Reply> {
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        let input = self.input.as_mut().context("the agent's input")?;
        input
            .write_all(line.as_bytes())
            .context("asking an agent")?;
        line.clear();
        self.output.read_line(&mut line)?;
        match serde_json::from_str(&line).context("an agent's answer")? {
            Reply::Failed(message) => bail!("an agent failed: {message}"),
            reply => Ok(reply),
        }
    }
}

/// The agent's own side.
pub(crate) fn main() -> anyhow::Result<()> {
    let (_, most) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, most, most)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, serve())
}

async fn serve() -> anyhow::Result<()> {
    let mut input = tokio::io::BufReader::new(tokio::io::stdin());
    let mut work = Rc::new(Work::default());
    let mut line = String::new();
    while {
        line.clear();
        input.read_line(&mut line).await? > 0
    } {
        let reply = match serde_json::from_str(&line)? {
            Request::Enter(spaces, first_port) => match Work::new(&spaces, first_port) {
                Ok(new) => {
                    work = Rc::new(new);
                    Reply::Done
                }
                Err(error) => Reply::Failed(format!("{error:#}")),
            },
            Request::Listen(at) => match work.listen(&at) {
                Ok(()) => Reply::Done,
                Err(error) => Reply::Failed(format!("{error:#}")),
            },
            Request::Run(lanes, patience) => {
                work.clone()
                    .run(lanes, Duration::from_millis(patience))
                    .await
            }
        };
        let mut text = serde_json::to_string(&reply)?;
        text.push('\n');
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()?;
    }
    Ok(())
}

#[derive(Default)]
struct Work {
    spaces: BTreeMap<Space, File>,
    first_port: u16,
    next_port: RefCell<HashMap<(Space, Option<IpAddr>), u16>>,
    listening: RefCell<BTreeSet<(Space, SocketAddr, bool)>>,
}

/// How many ports an agent has for its sockets.
const PORTS: u16 = 20_000;

impl Work {
    fn new(spaces: &BTreeMap<Space, PathBuf>, first_port: u16) -> anyhow::Result<Self> {
        let open = |(space, path): (&Space, &PathBuf)| {
            let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
            anyhow::Ok((*space, file))
        };
        Ok(Self {
            spaces: spaces.iter().map(open).collect::<Result<_, _>>()?,
            first_port,
            ..Self::default()
        })
    }

    /// A socket in a namespace: the thread enters it, and the socket stays there.
    fn socket(&self, space: Space, address: IpAddr, via: Via) -> io::Result<Socket> {
        setns(self.spaces[&space].as_fd(), CloneFlags::CLONE_NEWNET)?;
        let domain = match address {
            IpAddr::V4(_) => Domain::IPV4,
            IpAddr::V6(_) => Domain::IPV6,
        };
        let socket = match via {
            Via::Tcp => Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?,
            _ => Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?,
        };
        socket.set_nonblocking(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        Ok(socket)
    }

    fn listen(&self, at: &[(Space, SocketAddr)]) -> anyhow::Result<()> {
        for &(space, address) in at {
            let any = match address {
                SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            let any = SocketAddr::new(any, address.port());
            if self.listening.borrow_mut().insert((space, any, true)) {
                let socket = self.socket(space, any.ip(), Via::Tcp)?;
                socket.set_reuse_address(true)?;
                socket
                    .bind(&any.into())
                    .with_context(|| format!("listening at {any} in {space:?}"))?;
                socket.listen(4096)?;
                tokio::task::spawn_local(answer_streams(TcpListener::from_std(socket.into())?));
            }
            if self.listening.borrow_mut().insert((space, address, false)) {
                let socket = self.socket(space, address.ip(), Via::Unconnected)?;
                // Nobody has the address; a route makes it local.
                match address {
                    SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
                    SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
                }
                socket.set_recv_buffer_size(1 << 20)?;
                socket
                    .bind(&address.into())
                    .with_context(|| format!("receiving at {address} in {space:?}"))?;
                let socket = UdpSocket::from_std(socket.into())?;
                tokio::task::spawn_local(answer_datagrams(socket, address));
            }
        }
        Ok(())
    }

    async fn run(self: Rc<Self>, lanes: Vec<Vec<Probe>>, patience: Duration) -> Reply {
        let permits = Rc::new(Semaphore::new(AT_ONCE));
        let lanes: Vec<_> = lanes
            .into_iter()
            .map(|lane| {
                let (work, permits) = (Rc::clone(&self), Rc::clone(&permits));
                tokio::task::spawn_local(async move {
                    let mut results = Vec::new();
                    for probe in lane {
                        let seen = work.probe(&probe, &permits, patience).await;
                        results.push(seen.into_iter().collect());
                    }
                    results
                })
            })
            .collect();
        let mut results = Vec::new();
        for lane in lanes {
            match lane.await {
                Ok(result) => results.push(result),
                Err(error) => return Reply::Failed(error.to_string()),
            }
        }
        Reply::Ran(results)
    }

    async fn probe(&self, probe: &Probe, permits: &Semaphore, patience: Duration) -> Seen {
        let mut seen = Seen::new();
        for attempts in 1..=probe.at_most {
            let permit = permits.acquire().await;
            let mut attempt = pin!(self.attempt(probe));
            let soon = timeout(USUALLY.min(patience), &mut attempt).await;
            let outcome = if let Ok(outcome) = soon {
                outcome
            } else {
                drop(permit);
                let rest = patience.saturating_sub(USUALLY);
                timeout(rest, attempt).await.unwrap_or(Outcome::Silence)
            };
            let ends = !matches!(outcome, Outcome::Answered { .. });
            *seen.entry(outcome).or_default() += 1;
            if ends || (attempts >= probe.at_least && seen.len() >= probe.wanted) {
                break;
            }
        }
        seen
    }

    async fn attempt(&self, probe: &Probe) -> Outcome {
        let result = match probe.via {
            Via::Tcp => self.connect(probe).await,
            Via::Connected | Via::Unconnected => self.send(probe).await,
        };
        result.unwrap_or_else(|error| match error.raw_os_error() {
            Some(libc::ECONNREFUSED) => Outcome::Refused,
            Some(number) => Outcome::Failed(number),
            None => Outcome::Strange(error.to_string()),
        })
    }

    /// A bound socket. No port is used twice in a while unless the probe says so, so that two flows never
    /// have the same addresses and ports behind different frontends at the same time.
    fn bound(&self, probe: &Probe) -> io::Result<Socket> {
        let socket = self.socket(probe.space, probe.to.ip(), probe.via)?;
        let any: IpAddr = match probe.to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        if let Some(port) = probe.port {
            socket.set_reuse_address(true)?;
            let source = SocketAddr::new(probe.source.unwrap_or(any), port);
            return socket.bind(&source.into()).map(|()| socket);
        }
        let mut next = self.next_port.borrow_mut();
        let next = next.entry((probe.space, probe.source)).or_default();
        for _ in 0..PORTS {
            let port = self.first_port + *next;
            *next = (*next + 1) % PORTS;
            let source = SocketAddr::new(probe.source.unwrap_or(any), port);
            match socket.bind(&source.into()) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                result => return result.map(|()| socket),
            }
        }
        Err(io::ErrorKind::AddrInUse.into())
    }

    async fn connect(&self, probe: &Probe) -> io::Result<Outcome> {
        let socket = self.bound(probe)?;
        // The port is free again at once.
        socket.set_linger(Some(Duration::ZERO))?;
        match socket.connect(&probe.to.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let mut stream = TcpStream::from_std(socket.into())?;
        stream.writable().await?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        let peer = stream.peer_addr()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(read_answer(&text, peer, probe.to))
    }

    async fn send(&self, probe: &Probe) -> io::Result<Outcome> {
        let socket = self.bound(probe)?;
        if probe.to.is_ipv4() {
            set_receive_errors(&socket, libc::IPPROTO_IP, libc::IP_RECVERR)?;
        } else {
            set_receive_errors(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVERR)?;
        }
        if probe.via == Via::Connected {
            socket.connect(&probe.to.into())?;
        }
        let socket = UdpSocket::from_std(socket.into())?;
        let sent = match probe.via {
            Via::Connected => socket.send(b"?").await,
            _ => socket.send_to(b"?", probe.to).await,
        };
        if let Err(error) = sent {
            // Where netfilter refuses what is sent, the call fails with EPERM, and the ICMP error
            // that says so comes after it.
            if error.raw_os_error() == Some(libc::EPERM) {
                tokio::task::yield_now().await;
                return Err(socket.take_error()?.unwrap_or(error));
            }
            return Err(error);
        }
        let mut buffer = [0; 256];
        let (length, from) = socket.recv_from(&mut buffer).await?;
        let text = String::from_utf8_lossy(&buffer[..length]);
        Ok(read_answer(&text, from, probe.to))
    }
}

fn set_receive_errors(socket: &Socket, level: i32, option: i32) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let on: libc::c_int = 1;
    // SAFETY: the pointer is to a live integer of the size given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What answers say: who answers, and whom they see.
fn read_answer(text: &str, from: SocketAddr, asked: SocketAddr) -> Outcome {
    if from != asked {
        return Outcome::Strange(format!("{asked} was asked, {from} answered"));
    }
    let words = text.split_once(' ').and_then(|(at, from)| {
        let from: SocketAddr = from.parse().ok()?;
        Some((at.parse().ok()?, from.ip()))
    });
    match words {
        Some((at, from)) => Outcome::Answered { at, from },
        None => Outcome::Strange(format!("the answer was {text:?}")),
    }
}

async fn answer_streams(listener: TcpListener) {
    loop {
        let Ok((mut stream, peer)) = listener.accept().await else {
            continue;
        };
        if let Ok(local) = stream.local_addr() {
            let _ = stream.write_all(format!("{local} {peer}").as_bytes()).await;
        }
    }
}

async fn answer_datagrams(socket: UdpSocket, local: SocketAddr) {
    let mut buffer = [0; 16];
    loop {
        if let Ok((_, peer)) = socket.recv_from(&mut buffer).await {
            let _ = socket
                .send_to(format!("{local} {peer}").as_bytes(), peer)
                .await;
        }
    }
}
