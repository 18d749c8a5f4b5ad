//! The client of the Service tests: this program again, on a host of the testbed. curl and nc don't
//! tell what a socket is told: whom it talks to, and how a call fails.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};
use nodegate_testbed::environment::patiently;
use serde::{Deserialize, Serialize};

/// Its value is a [`Task`]. Not `NODEGATE_…`: the testbed takes those away.
const VARIABLE: &str = "E2E_PROBE";

/// How long to wait for what must not come. Less than a second: then TCP tries again.
const SILENCE: Duration = Duration::from_millis(600);
/// The error of a socket that somebody else has ended.
const ABORTED: &str = "aborted";
/// Between two datagrams of a stream.
const PACE: Duration = Duration::from_millis(5);

/// How long an answer may take that must come.
fn patience() -> Duration {
    patiently(Duration::from_secs(3))
}

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
    /// Datagrams from one socket until it is killed; a line for each.
    UdpStream { to: SocketAddr, connected: bool },
    /// One connection with a request every now and then, until it is killed; a line for each.
    KeepAlive { to: SocketAddr },
    /// Connections from several threads until the standard input ends; then a [`Summary`].
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
    /// How long it took.
    pub(crate) took: Duration,
    /// Length of the answer.
    pub(crate) bytes: usize,
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
}

impl Task {
    pub(crate) fn tcp(to: SocketAddr) -> Self {
        Self::Tcp {
            to,
            times: 1,
            patience: patience(),
        }
    }

    pub(crate) fn udp(to: SocketAddr) -> Self {
        Self::Udp {
            to,
            times: 1,
            connected: false,
            size: 4,
            patience: patience(),
        }
    }

    /// From a socket that is connected: only it is told of ICMP errors (ip(7)).
    pub(crate) const fn connected(mut self) -> Self {
        if let Self::Udp { connected, .. } | Self::UdpStream { connected, .. } = &mut self {
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

    /// Expecting no answer.
    pub(crate) const fn expecting_silence(mut self) -> Self {
        if let Self::Tcp { patience, .. } | Self::Udp { patience, .. } = &mut self {
            *patience = SILENCE;
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

    fn failed(error: &io::Error) -> Self {
        let text = match error.kind() {
            ErrorKind::ConnectionRefused => "refused".into(),
            ErrorKind::TimedOut | ErrorKind::WouldBlock => "silence".into(),
            ErrorKind::ConnectionAborted => ABORTED.into(),
            // What sending says, where receiving says the former.
            _ if error.raw_os_error() == Some(nix::libc::EDESTADDRREQ) => ABORTED.into(),
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

    fn add(&mut self, reply: Reply) {
        self.slowest = self.slowest.max(reply.took);
        if let Some(pod) = &reply.pod {
            *self.pods.entry(pod.clone()).or_default() += 1;
            return;
        }
        self.failed += 1;
        if self.failures.len() < 5 {
            self.failures.push(reply);
        }
    }

    /// Fails unless there were connections, and all were answered.
    pub(crate) fn is_flawless(&self) -> anyhow::Result<()> {
        ensure!(self.total() > 0, "there were no connections");
        ensure!(
            self.failed == 0,
            "{} of {} connections failed: {:?}",
            self.failed,
            self.failed + self.total(),
            self.failures
        );
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
                say(&timed(|| request(to, patience, "GET /?json", 0)))?;
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
                say(&timed(|| {
                    datagram(&socket(to, connected, patience)?, to, connected, size)
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
        Task::UdpStream { to, connected } => {
            // What is lost stays lost: however long this waits, it is missed.
            let mut stream = socket(to, connected, patiently(SILENCE))?;
            loop {
                let reply = timed(|| datagram(&stream, to, connected, 4));
                let ended = reply.error.as_deref() == Some(ABORTED);
                say(&reply)?;
                if ended {
                    stream = again(to)?;
                }
                thread::sleep(PACE);
            }
        }
        Task::KeepAlive { to } => keep_alive(to)?,
        Task::Load { to, threads } => say(&load(to, threads))?,
        Task::Download { to, bytes } => {
            let what = format!("GET /?bytes={bytes}");
            say(&timed(|| request(to, 3 * patience(), &what, 0)))?;
        }
        Task::Upload { to, bytes } => {
            say(&timed(|| request(to, 3 * patience(), "POST /?json", bytes)))?;
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

fn timed(work: impl FnOnce() -> io::Result<Reply>) -> Reply {
    let start = Instant::now();
    let reply = work().unwrap_or_else(|error| Reply::failed(&error));
    Reply {
        took: start.elapsed(),
        ..reply
    }
}

/// A connection and an HTTP request.
fn request(to: SocketAddr, patience: Duration, what: &str, body: usize) -> io::Result<Reply> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
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
        ..Reply::default()
    })
}

/// A connection from a port that another one may have; 0: from any.
fn from_port(port: u16, to: SocketAddr) -> anyhow::Result<TcpStream> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let fd = socket::socket(family, SockType::Stream, SockFlag::empty(), None)?;
    socket::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let any = SockaddrStorage::from(SocketAddr::new(any, port));
    socket::bind(fd.as_raw_fd(), &any)?;
    socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    let stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(patience()))?;
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
    let stream = match TcpStream::connect_timeout(&to, patience()) {
        Ok(stream) => stream,
        Err(error) => return say(&Reply::failed(&error)),
    };
    stream.set_read_timeout(Some(patience()))?;
    let mut lines = BufReader::new(&stream);
    loop {
        let reply = timed(|| head(&stream, &mut lines));
        let failed = reply.pod.is_none();
        say(&reply)?;
        if failed {
            return Ok(());
        }
        thread::sleep(10 * PACE);
    }
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
fn again(to: SocketAddr) -> anyhow::Result<UdpSocket> {
    loop {
        match socket(to, true, SILENCE) {
            Ok(socket) => return Ok(socket),
            Err(error) => say(&Reply::failed(&error))?,
        }
        thread::sleep(PACE);
    }
}

/// A datagram and its answer: the pod's name, and what it was sent.
fn datagram(socket: &UdpSocket, to: SocketAddr, connected: bool, size: usize) -> io::Result<Reply> {
    let text = vec![b'x'; size];
    let mut answer = vec![0; 65536];
    let (length, peer) = if connected {
        socket.send(&text)?;
        (socket.recv(&mut answer)?, socket.peer_addr()?)
    } else {
        socket.send_to(&text, to)?;
        socket.recv_from(&mut answer)?
    };
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    let (pod, echo) = answer.split_once(' ').unwrap_or_default();
    if echo.as_bytes() != text {
        return Err(io::Error::other(format!("the answer is {answer:?}")));
    }
    Ok(Reply {
        pod: Some(pod.into()),
        peer: Some(peer),
        bytes: length,
        ..Reply::default()
    })
}

fn load(to: SocketAddr, threads: usize) -> Summary {
    let summary = Mutex::new(Summary::default());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let reply = timed(|| request(to, patience(), "GET /", 0));
                    summary
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .add(reply);
                }
            });
        }
        // Whatever ends it is the end.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        over.store(true, Ordering::Relaxed);
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
    pub(crate) fn until(&self, is_it: impl Fn(&Reply) -> bool) -> anyhow::Result<Vec<Reply>> {
        let deadline = Instant::now() + 2 * patience();
        let mut passed = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(reply) = self.lines.recv_timeout(left) else {
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

    /// All replies that have not been looked at.
    pub(crate) fn so_far(&self) -> Vec<Reply> {
        self.lines.try_iter().collect()
    }

    /// Ends a [`Task::Load`].
    pub(crate) fn summary(mut self) -> anyhow::Result<Summary> {
        drop(self.process.stdin.take());
        self.process.wait()?;
        // The reader has it all soon after the end.
        let deadline = Instant::now() + patience();
        loop {
            let line = self
                .last
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            if let Ok(summary) = serde_json::from_str(&line) {
                return Ok(summary);
            }
            ensure!(Instant::now() < deadline, "no summary: {line:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
