//! Clients: in this process, and in one of its own that is in the cgroup.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use libtest_mimic::Failed;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Makes this program a client; its value says what to do.
pub(crate) const CHILD: &str = "NODEGATE_TEST_SWAP_CHILD";

/// Whom to ask: by datagram or connection, and where.
type Targets = Vec<(bool, SocketAddr)>;

/// One connection, or one datagram and its answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Connection {
    /// Its place among the Services.
    pub(crate) service: usize,
    pub(crate) inside: bool,
    /// `CLOCK_MONOTONIC`, nanoseconds: before the first packet.
    pub(crate) start: u64,
    /// When the answer was there.
    pub(crate) end: u64,
    /// Who has answered.
    pub(crate) pod: Result<IpAddr, String>,
}

/// `CLOCK_MONOTONIC`, nanoseconds.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the clock can be read");
    Duration::from(time).as_nanos() as u64
}

/// Asks one target after the other until it is over, and all have been asked.
pub(crate) fn run(targets: &[(bool, SocketAddr)], over: &AtomicBool) -> Vec<Connection> {
    let mut connections = Vec::new();
    for (service, (udp, to)) in targets.iter().enumerate().cycle() {
        if connections.len() >= targets.len() && over.load(Ordering::Relaxed) {
            break;
        }
        let start = now();
        let pod = if *udp {
            by_datagram(*to)
        } else {
            by_connection(*to)
        };
        connections.push(Connection {
            service,
            inside: false,
            start,
            end: now(),
            pod: pod.map_err(|error| error.to_string()),
        });
    }
    connections
}

fn by_connection(to: SocketAddr) -> io::Result<IpAddr> {
    let mut stream = TcpStream::connect_timeout(&to, patience::limit())?;
    stream.set_read_timeout(Some(patience::limit()))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    text.parse().map_err(io::Error::other)
}

fn by_datagram(to: SocketAddr) -> io::Result<IpAddr> {
    let socket = match to {
        SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
    }?;
    socket.set_read_timeout(Some(patience::limit()))?;
    socket.send_to(b"who?", to)?;
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer)?;
    if from != to {
        return Err(io::Error::other(format!("{from} answers for {to}")));
    }
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    text.parse().map_err(io::Error::other)
}

/// The client in the cgroup, if this is to be it. Ends with its standard input.
pub(crate) fn child() -> Option<ExitCode> {
    let task = std::env::var(CHILD).ok()?;
    let done = serde_json::from_str(&task)
        .map_err(Failed::from)
        .and_then(be_client);
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{:?}", error.message());
            ExitCode::FAILURE
        }
    })
}

fn be_client((netns, cgroup, targets): (PathBuf, PathBuf, Targets)) -> Result<(), Failed> {
    // Before there is a socket.
    fs::write(cgroup.join("cgroup.procs"), "0")?;
    super::world::enter(&netns)?;
    let over = AtomicBool::new(false);
    let connections = thread::scope(|scope| {
        scope.spawn(|| {
            // Whatever ends it is the end.
            let _ = io::stdin().read_to_end(&mut Vec::new());
            over.store(true, Ordering::Relaxed);
        });
        run(&targets, &over)
    });
    let mut out = io::BufWriter::new(io::stdout().lock());
    for connection in connections {
        let inside = true;
        serde_json::to_writer(
            &mut out,
            &Connection {
                inside,
                ..connection
            },
        )?;
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

/// What the client in the cgroup says.
pub(crate) fn read(output: Option<impl Read>) -> Result<Vec<Connection>, Failed> {
    let output = output.ok_or("no pipe")?;
    BufReader::new(output)
        .lines()
        .map(|line| Ok(serde_json::from_str(&line?)?))
        .collect()
}
