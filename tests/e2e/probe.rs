//! The client of the Service tests: this program again, on a host of the testbed. curl and nc don't
//! tell what a socket is told: whom it talks to, and how a call fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use nix::{
    getsockopt_impl, libc, sockopt_impl,
    sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt},
    time::{ClockId, clock_gettime},
};
use patience::{Deadline, Lap, Stopwatch};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

/// Its value is a [`Task`]. Not `NODEGATE_…`: the testbed takes those away.
const VARIABLE: &str = "E2E_PROBE";

/// The error of a socket that somebody else has ended.
const ABORTED: &str = "aborted";
/// Between two datagrams of a stream.
const PACE: Duration = Duration::from_millis(5);

/// What a client does.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Task {
    /// One connection and request after the other.
    Tcp {
        to: SocketAddr,
        times: usize,
        patience: Duration,
    },
    /// One datagram after the other, each from a socket of its own.
    Udp {
        to: SocketAddr,
        times: usize,
        /// Whether the socket is connected, or names the destination each time.
        connected: bool,
        /// Bytes of the datagram.
        size: usize,
        patience: Duration,
    },
    /// A request each on two connections from one port that are open at the same time.
    SamePort { to: [SocketAddr; 2] },
    /// A connection and request each, the second from the first one's port when that one is closed; so
    /// many times.
    PortAgain { to: [SocketAddr; 2], times: usize },
    /// A request, or a datagram, from a socket that is bound.
    From {
        local: SocketAddr,
        to: SocketAddr,
        datagram: bool,
    },
    /// A request over Multipath TCP, whose connections are sockets that the kernel makes.
    Multipath { to: SocketAddr },
    /// A datagram to each from one socket, there and back again; each is answered before the next.
    Round { to: [SocketAddr; 3] },
    /// One datagram after the other from one socket until the standard input ends; a line for each.
    UdpStream {
        to: SocketAddr,
        connected: bool,
        patience: Duration,
    },
    /// One connection with a request every now and then, until the standard input ends; a line for each.
    KeepAlive { to: SocketAddr },
    /// Connections from several threads until the standard input ends; a line for the first that each pod
    /// answers, at the end a [`Summary`].
    Load { to: SocketAddr, threads: usize },
    /// A request for this many bytes.
    Download { to: SocketAddr, bytes: usize },
    /// A request with a body of this many bytes.
    Upload { to: SocketAddr, bytes: usize },
}

/// What became of one connection or datagram.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Reply {
    /// The pod that has answered.
    pub(crate) pod: Option<String>,
    /// How it failed: `refused`, `silence`, `unreachable`, `aborted`, or what the system says.
    pub(crate) error: Option<String>,
    /// Whom the socket talks to, as it is told (getpeername; of a datagram, recvmsg).
    pub(crate) peer: Option<SocketAddr>,
    /// Whom the pod sees.
    pub(crate) seen: Option<SocketAddr>,
    /// When it began, by the clock that all processes have ([`now`]).
    pub(crate) asked: Duration,
    /// How long it took.
    pub(crate) took: Duration,
    /// How much of that the client, or the kernel for it, has waited for a CPU.
    pub(crate) held_up: Duration,
    /// Length of the answer.
    pub(crate) bytes: usize,
    /// How long the connection took to be there.
    pub(crate) connected: Duration,
    /// What the client's kernel has sent again.
    pub(crate) resent: Resent,
}

/// What the client's kernel has sent again on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Resent {
    /// Its SYN, so many times.
    pub(crate) syns: u32,
    /// Segments after that.
    pub(crate) segments: u32,
}

/// What became of many connections.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// How many each pod has answered.
    pub(crate) pods: BTreeMap<String, usize>,
    /// How many failed.
    pub(crate) failed: usize,
    /// The first of them.
    pub(crate) failures: Vec<Reply>,
    /// The longest.
    pub(crate) slowest: Duration,
    /// Those for which a segment was sent again.
    pub(crate) resent: Vec<Reply>,
}

impl Task {
    pub(crate) fn tcp(to: SocketAddr) -> Self {
        Self::Tcp {
            to,
            times: 1,
            patience: patience::limit(),
        }
    }

    pub(crate) fn udp(to: SocketAddr) -> Self {
        Self::Udp {
            to,
            times: 1,
            connected: false,
            size: 4,
            patience: patience::limit(),
        }
    }

    pub(crate) fn stream(to: SocketAddr, connected: bool) -> Self {
        Self::UdpStream {
            to,
            connected,
            patience: patience::limit(),
        }
    }

    /// From a socket that is connected: only it is told of ICMP errors (ip(7)).
    pub(crate) const fn connected(mut self) -> Self {
        if let Self::Udp { connected, .. } = &mut self {
            *connected = true;
        }
        self
    }

    pub(crate) const fn times(mut self, count: usize) -> Self {
        if let Self::Tcp { times, .. } | Self::Udp { times, .. } = &mut self {
            *times = count;
        }
        self
    }

    pub(crate) const fn size(mut self, bytes: usize) -> Self {
        if let Self::Udp { size, .. } = &mut self {
            *size = bytes;
        }
        self
    }

    /// Expecting no answer, or a stream that goes on without.
    pub(crate) const fn expecting_silence(mut self) -> Self {
        if let Self::Tcp { patience, .. }
        | Self::Udp { patience, .. }
        | Self::UdpStream { patience, .. } = &mut self
        {
            *patience = patience::silence();
        }
        self
    }

    /// Lets a command that starts this program do this instead of testing.
    pub(crate) fn prepare(self, mut command: Command) -> anyhow::Result<Command> {
        command.env(VARIABLE, serde_json::to_string(&self)?);
        Ok(command)
    }
}

impl Reply {
    pub(crate) fn is_refused(&self) -> bool {
        self.error.as_deref() == Some("refused")
    }

    pub(crate) fn is_silence(&self) -> bool {
        self.error.as_deref() == Some("silence")
    }

    pub(crate) fn lap(&self) -> Lap {
        Lap {
            took: self.took,
            held_up: self.held_up,
        }
    }

    /// Whether the network has lost a packet of it, as far as what was sent again tells.
    ///
    /// Acknowledgements come from the kernel, whatever becomes of the pod's process: TCP sends again what
    /// has none after a second in case of a SYN, else after 200 ms at least (`TCP_TIMEOUT_INIT` and
    /// `TCP_RTO_MIN` in include/net/tcp.h). An earlier SYN was answered: the pod still had the last
    /// connection from this port in TIME-WAIT, perhaps another client's behind the same masquerade, whose
    /// acknowledgement lets the client reset it and try again in some milliseconds (`TCP_TIMEOUT_MIN`).
    pub(crate) fn has_lost_a_packet(&self) -> bool {
        let Resent { syns, segments } = self.resent;
        let waited = |limit: Duration| self.held_up >= limit;
        let syn = Duration::from_secs(1);
        let lost_syn = syns > 0 && self.connected >= syn && !waited(syn);
        let lost_segment = segments > 0 && !waited(Duration::from_millis(200) * segments);
        lost_syn || lost_segment
    }

    fn failed(error: &io::Error) -> Self {
        let text = match error.kind() {
            ErrorKind::ConnectionRefused => "refused".into(),
            ErrorKind::TimedOut | ErrorKind::WouldBlock => "silence".into(),
            ErrorKind::ConnectionAborted => ABORTED.into(),
            // What sending says, where receiving says the former.
            _ if error.raw_os_error() == Some(libc::EDESTADDRREQ) => ABORTED.into(),
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "unreachable".into(),
            _ => error.to_string(),
        };
        Self {
            error: Some(text),
            ..Self::default()
        }
    }
}

impl Summary {
    pub(crate) fn total(&self) -> usize {
        self.pods.values().sum()
    }

    /// Whether it is a pod's first.
    fn add(&mut self, reply: Reply) -> bool {
        self.slowest = self.slowest.max(reply.took);
        if reply.resent != Resent::default() {
            self.resent.push(reply.clone());
        }
        if let Some(pod) = &reply.pod {
            let count = self.pods.entry(pod.clone()).or_default();
            *count += 1;
            return *count == 1;
        }
        self.failed += 1;
        if self.failures.len() < 5 {
            self.failures.push(reply);
        }
        false
    }

    /// Fails unless there were connections, and all were answered: none was refused, reset or closed, and none
    /// waited in vain for as long as tests wait. Being slow is no failure.
    pub(crate) fn is_flawless(&self) -> anyhow::Result<()> {
        ensure!(self.total() > 0, "there were no connections");
        ensure!(
            self.failed == 0,
            "{} of {} connections failed: {:?}",
            self.failed,
            self.failed + self.total(),
            self.failures
        );
        let lost = self.resent.iter().find(|reply| reply.has_lost_a_packet());
        ensure!(lost.is_none(), "a packet was lost: {lost:?}");
        Ok(())
    }
}

/// Does the task that the environment has, if there is one.
pub(crate) fn run() -> Option<ExitCode> {
    let task = std::env::var(VARIABLE).ok()?;
    let done = serde_json::from_str(&task)
        .map_err(anyhow::Error::from)
        .and_then(perform);
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    })
}

fn perform(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Tcp {
            to,
            times,
            patience,
        } => {
            for _ in 0..times {
                say(&watched(|| request(to, patience, "GET /?json", 0)))?;
            }
        }
        Task::Udp {
            to,
            times,
            connected,
            size,
            patience,
        } => {
            for _ in 0..times {
                let text = vec![b'x'; size];
                say(&watched(|| {
                    datagram(&socket(to, connected, patience)?, to, connected, &text)
                }))?;
            }
        }
        Task::SamePort {
            to: [first, second],
        } => {
            let one = from_port(0, first)?;
            let other = from_port(one.local_addr()?.port(), second)?;
            for stream in [&one, &other, &one, &other] {
                say(&timed(|| head(stream, &mut BufReader::new(stream))))?;
            }
        }
        Task::PortAgain {
            to: [first, second],
            times,
        } => {
            for _ in 0..times {
                let (reply, port) = closed_from(0, first)?;
                say(&reply)?;
                say(&watched(|| Ok(closed_from(port, second)?.0)))?;
            }
        }
        Task::From {
            local,
            to,
            datagram: false,
        } => say(&timed(|| {
            let stream = from(local, to)?;
            head(&stream, &mut BufReader::new(&stream))
        }))?,
        Task::From {
            local,
            to,
            datagram: true,
        } => say(&timed(|| {
            let socket = UdpSocket::bind(local)?;
            socket.set_read_timeout(Some(patience::limit()))?;
            datagram(&socket, to, false, b"from here")
        }))?,
        Task::Multipath { to } => say(&watched(|| multipath(to)))?,
        Task::Round { to } => {
            let socket = socket(to[0], false, patience::limit())?;
            let back = to.iter().rev();
            for (number, to) in (0..).zip(to.iter().chain(back)) {
                let text = format!("round {number}");
                say(&timed(|| datagram(&socket, *to, false, text.as_bytes())))?;
            }
        }
        Task::UdpStream {
            to,
            connected,
            patience,
        } => udp_stream(to, connected, patience)?,
        Task::KeepAlive { to } => keep_alive(to)?,
        Task::Load { to, threads } => say(&load(to, threads))?,
        Task::Download { to, bytes } => {
            let what = format!("GET /?bytes={bytes}");
            say(&timed(|| request(to, patience::limit(), &what, 0)))?;
        }
        Task::Upload { to, bytes } => {
            say(&timed(|| {
                request(to, patience::limit(), "POST /?json", bytes)
            }))?;
        }
    }
    Ok(())
}

fn say<T: Serialize>(line: &T) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, line)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// CLOCK_MONOTONIC.
pub(crate) fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Into::into)
}

fn timed(work: impl FnOnce() -> io::Result<Reply>) -> Reply {
    let (asked, before) = (now(), patience::held_up());
    let reply = work().unwrap_or_else(|error| Reply::failed(&error));
    Reply {
        asked,
        took: now().saturating_sub(asked),
        held_up: patience::held_up().saturating_sub(before),
        ..reply
    }
}

/// As [`timed`], for what is judged by its time.
fn watched(work: impl FnOnce() -> io::Result<Reply>) -> Reply {
    let watch = Stopwatch::start();
    let reply = timed(work);
    let Lap { held_up, .. } = watch.lap();
    Reply { held_up, ..reply }
}

/// A connection and an HTTP request.
fn request(to: SocketAddr, patience: Duration, what: &str, body: usize) -> io::Result<Reply> {
    let began = now();
    let stream = TcpStream::connect_timeout(&to, patience)?;
    let connected = now().saturating_sub(began);
    ask(stream, connected, patience, what, body)
}

fn multipath(to: SocketAddr) -> io::Result<Reply> {
    let (began, patience) = (now(), patience::limit());
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::MPTCP))?;
    socket.connect_timeout(&to.into(), patience)?;
    let connected = now().saturating_sub(began);
    ask(socket.into(), connected, patience, "GET /?json", 0)
}

/// The same from a port that another connection may have had; 0: from any. The port that it is.
fn closed_from(port: u16, to: SocketAddr) -> io::Result<(Reply, u16)> {
    let began = now();
    let stream = from_port(port, to)?;
    let connected = now().saturating_sub(began);
    let port = stream.local_addr()?.port();
    let reply = ask(stream, connected, patience::limit(), "GET /?json", 0)?;
    Ok((reply, port))
}

/// A request on a connection, which the pod closes.
fn ask(
    mut stream: TcpStream,
    connected: Duration,
    patience: Duration,
    what: &str,
    body: usize,
) -> io::Result<Reply> {
    let syns = retransmissions(&stream);
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let head = format!(
        "{what} HTTP/1.1\r\nHost: test\r\nContent-Length: {body}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(&vec![b'x'; body])?;
    let peer = stream.peer_addr()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let segments = retransmissions(&stream).saturating_sub(syns);
    let cut = || io::Error::new(ErrorKind::UnexpectedEof, "the answer is cut short");
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .ok_or_else(cut)?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let header = |name: &str| {
        head.lines()
            .filter_map(|line| line.split_once(": "))
            .find_map(|(known, value)| (known == name).then(|| value.to_owned()))
    };
    let body = &answer[end + 4..];
    if header("content-length").is_some_and(|length| length != body.len().to_string()) {
        return Err(cut());
    }
    let said: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    Ok(Reply {
        pod: header("x-testbed-pod"),
        peer: Some(peer),
        seen: said["peer"].as_str().and_then(|peer| peer.parse().ok()),
        bytes: body.len(),
        connected,
        resent: Resent { syns, segments },
        ..Reply::default()
    })
}

sockopt_impl!(
    /// What the kernel knows about a connection (tcp(7)).
    TcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    libc::tcp_info
);

/// How many segments this side has sent again.
fn retransmissions(stream: &TcpStream) -> u32 {
    socket::getsockopt(stream, TcpInfo).map_or(0, |info| info.tcpi_total_retrans)
}

/// A connection from a port that another one may have; 0: from any.
fn from_port(port: u16, to: SocketAddr) -> io::Result<TcpStream> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    from(SocketAddr::new(any, port), to)
}

fn from(local: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let fd = socket::socket(family, SockType::Stream, SockFlag::empty(), None)?;
    socket::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(local))?;
    socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    let stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(patience::limit()))?;
    Ok(stream)
}

/// A request on a connection that stays open.
fn head(mut stream: &TcpStream, lines: &mut BufReader<&TcpStream>) -> io::Result<Reply> {
    stream.write_all(b"HEAD / HTTP/1.1\r\nHost: test\r\n\r\n")?;
    let mut pod = None;
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if let Some(name) = line.strip_prefix("x-testbed-pod: ") {
            pod = Some(name.trim_end().to_owned());
        }
        if line.trim_end().is_empty() {
            break;
        }
    }
    Ok(Reply {
        pod,
        peer: Some(stream.peer_addr()?),
        ..Reply::default()
    })
}

/// Requests on one connection; ends with the first that fails.
fn keep_alive(to: SocketAddr) -> anyhow::Result<()> {
    let stream = match TcpStream::connect_timeout(&to, patience::limit()) {
        Ok(stream) => stream,
        Err(error) => return say(&Reply::failed(&error)),
    };
    stream.set_read_timeout(Some(patience::limit()))?;
    let mut lines = BufReader::new(&stream);
    let over = end_of_input();
    while !over.load(Ordering::Relaxed) {
        let reply = timed(|| head(&stream, &mut lines));
        let failed = reply.pod.is_none();
        say(&reply)?;
        if failed {
            break;
        }
        thread::sleep(10 * PACE);
    }
    Ok(())
}

/// Each datagram has a number: however late an answer comes, it is not another one's. A lost one never
/// gets its answer, so that the end of patience tells it from a late one.
fn udp_stream(to: SocketAddr, connected: bool, patience: Duration) -> anyhow::Result<()> {
    let mut stream = socket(to, connected, patience)?;
    let over = end_of_input();
    for number in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let text = format!("{number:08}");
        let reply = timed(|| datagram(&stream, to, connected, text.as_bytes()));
        let ended = reply.error.as_deref() == Some(ABORTED);
        say(&reply)?;
        if ended {
            stream = again(to, patience, &over)?;
        }
        thread::sleep(PACE);
    }
    Ok(())
}

/// Becomes true with the end of the standard input, whatever ends it.
fn end_of_input() -> Arc<AtomicBool> {
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        told.store(true, Ordering::Relaxed);
    });
    over
}

fn socket(to: SocketAddr, connected: bool, patience: Duration) -> io::Result<UdpSocket> {
    let socket = match to {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    }?;
    socket.set_read_timeout(Some(patience))?;
    if connected {
        socket.connect(to)?;
    }
    Ok(socket)
}

/// A connected socket, as soon as there is somebody to connect to; a line for each attempt.
fn again(to: SocketAddr, patience: Duration, over: &AtomicBool) -> anyhow::Result<UdpSocket> {
    loop {
        match socket(to, true, patience) {
            Err(error) if !over.load(Ordering::Relaxed) => say(&Reply::failed(&error))?,
            socket => return Ok(socket?),
        }
        thread::sleep(PACE);
    }
}

/// A datagram and its answer: the pod's name, and what it was sent.
fn datagram(socket: &UdpSocket, to: SocketAddr, connected: bool, text: &[u8]) -> io::Result<Reply> {
    if connected {
        socket.send(text)?;
    } else {
        socket.send_to(text, to)?;
    }
    let mut answer = vec![0; 65536];
    loop {
        let (length, peer) = if connected {
            (socket.recv(&mut answer)?, socket.peer_addr()?)
        } else {
            socket.recv_from(&mut answer)?
        };
        let answer = String::from_utf8_lossy(&answer[..length]);
        let (pod, echo) = answer.split_once(' ').unwrap_or_default();
        if echo.as_bytes() == text {
            return Ok(Reply {
                pod: Some(pod.into()),
                peer: Some(peer),
                bytes: length,
                ..Reply::default()
            });
        }
        // Not the late one of a datagram that has been given up.
        if echo.len() != text.len() || echo.as_bytes() > text {
            return Err(io::Error::other(format!("the answer is {answer:?}")));
        }
    }
}

fn load(to: SocketAddr, threads: usize) -> Summary {
    let summary = Mutex::new(Summary::default());
    let over = end_of_input();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let watch = Stopwatch::start();
                let mut before = watch.lap().held_up;
                while !over.load(Ordering::Relaxed) {
                    let mut reply = timed(|| request(to, patience::limit(), "GET /", 0));
                    let now = watch.lap().held_up;
                    reply.held_up = now.saturating_sub(std::mem::replace(&mut before, now));
                    let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
                    if summary.add(reply.clone()) {
                        // Without a reader there is no test any more.
                        let _ = say(&reply);
                    }
                }
            });
        }
    });
    summary.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// A client that goes on by itself.
pub(crate) struct Running {
    process: Child,
    lines: Receiver<Reply>,
    /// What it said on its standard output last.
    last: Arc<Mutex<String>>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> anyhow::Result<Self> {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = process.stdout.take().context("piped")?;
        let (sender, lines) = mpsc::channel();
        let last = Arc::new(Mutex::new(String::new()));
        let kept = Arc::clone(&last);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(reply) = serde_json::from_str(&line) {
                    // The test may have gone on.
                    let _ = sender.send(reply);
                }
                *kept.lock().unwrap_or_else(PoisonError::into_inner) = line;
            }
        });
        Ok(Self {
            process,
            lines,
            last,
        })
    }

    /// Waits for a reply of which this holds; gives all up to it.
    pub(crate) fn until(
        &self,
        mut is_it: impl FnMut(&Reply) -> bool,
    ) -> anyhow::Result<Vec<Reply>> {
        let deadline = Deadline::outer();
        let mut passed = Vec::new();
        loop {
            let Ok(reply) = self.lines.recv_timeout(deadline.left()) else {
                let last = passed.last();
                bail!("not among {} replies; the last is {last:?}", passed.len());
            };
            let found = is_it(&reply);
            passed.push(reply);
            if found {
                return Ok(passed);
            }
        }
    }

    /// Waits until this pod answers.
    pub(crate) fn until_pod(&self, pod: &str) -> anyhow::Result<Vec<Reply>> {
        self.until(|reply| reply.pod.as_deref() == Some(pod))
            .with_context(|| format!("an answer of {pod}"))
    }

    /// Waits until each of these pods has answered.
    pub(crate) fn until_pods(&self, pods: &[&str]) -> anyhow::Result<Vec<Reply>> {
        let mut missing: BTreeSet<&str> = pods.iter().copied().collect();
        let replies = self.until(|reply| {
            missing.remove(reply.pod.as_deref().unwrap_or_default());
            missing.is_empty()
        });
        replies.with_context(|| format!("answers of {pods:?}"))
    }

    /// All replies up to the first of what is asked from now on.
    pub(crate) fn go_on(&self) -> anyhow::Result<Vec<Reply>> {
        let now = now();
        self.until(|reply| reply.asked >= now)
    }

    /// Lets the client end with what it does, and gives all replies that have not been looked at.
    pub(crate) fn end(&mut self) -> anyhow::Result<Vec<Reply>> {
        drop(self.process.stdin.take());
        let deadline = Deadline::outer();
        let mut replies = Vec::new();
        loop {
            match self.lines.recv_timeout(deadline.left()) {
                Ok(reply) => replies.push(reply),
                Err(RecvTimeoutError::Disconnected) => return Ok(replies),
                Err(RecvTimeoutError::Timeout) => bail!("the client does not end"),
            }
        }
    }

    /// Ends a [`Task::Load`].
    pub(crate) fn summary(mut self) -> anyhow::Result<Summary> {
        self.end()?;
        let line = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        serde_json::from_str(&line).with_context(|| format!("no summary: {line:?}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
