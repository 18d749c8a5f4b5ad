//! A client that makes one connection after the other: this program again, on a host of the cluster.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, ExitCode, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use nodegate_programs::itself;
use nodegate_testbed::cluster::Cluster;
use serde::{Deserialize, Serialize};

/// Its value is a [`Task`].
const VARIABLE: &str = "CLUSTER_TEST_CLIENT";

/// What a client asks, until its standard input ends.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    /// Whom, each in turn from a thread of its own.
    pub(crate) to: Vec<SocketAddr>,
    pub(crate) host: String,
    pub(crate) path: String,
}

/// What became of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) good: usize,
    pub(crate) failed: usize,
    /// The first of those that failed.
    pub(crate) failures: Vec<String>,
}

/// A client at work.
pub(crate) struct Load(Child);

// === impl Load ===

impl Load {
    /// Begins, on the host outside.
    pub(crate) fn start(cluster: &Cluster, task: &Task) -> anyhow::Result<Self> {
        let mut client = cluster.enter("client", itself()?)?;
        client
            .env(VARIABLE, serde_json::to_string(task)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        Ok(Self(client.spawn()?))
    }

    /// Ends it; fails unless there were answers, and nothing else.
    pub(crate) fn end_flawless(mut self) -> anyhow::Result<Summary> {
        drop(self.0.stdin.take());
        let mut said = String::new();
        let output = self.0.stdout.take().context("it is piped")?;
        io::BufReader::new(output).read_to_string(&mut said)?;
        let summary: Summary = serde_json::from_str(&said).context("the client's summary")?;
        ensure!(summary.good > 0, "there were no answers: {summary:?}");
        ensure!(
            summary.failed == 0,
            "{} of {} requests failed: {:#?}",
            summary.failed,
            summary.failed + summary.good,
            summary.failures
        );
        Ok(summary)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Does the task that the environment has, if there is one.
pub(crate) fn run() -> Option<ExitCode> {
    let task = std::env::var(VARIABLE).ok()?;
    let Ok(task) = serde_json::from_str::<Task>(&task) else {
        return Some(ExitCode::FAILURE);
    };
    println!("{}", serde_json::to_string(&perform(&task)).ok()?);
    Some(ExitCode::SUCCESS)
}

fn perform(task: &Task) -> Summary {
    let begun = Instant::now();
    let (over, good) = (AtomicBool::new(false), AtomicUsize::new(0));
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let (over, good, failures) = (&over, &good, &failures);
        for to in &task.to {
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let at = begun.elapsed();
                    match request(*to, task) {
                        Ok(()) => drop(good.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => {
                            let told = format!(
                                "{to} after {at:.1?}, for {:.1?}: {error}",
                                begun.elapsed().saturating_sub(at)
                            );
                            let mut all = failures.lock().unwrap_or_else(PoisonError::into_inner);
                            all.push(told);
                        }
                    }
                    thread::sleep(PAUSE);
                }
            });
        }
        // Whatever ends it.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        over.store(true, Ordering::Relaxed);
    });
    let mut failures = failures
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let failed = failures.len();
    failures.truncate(10);
    Summary {
        good: good.into_inner(),
        failed,
        failures,
    }
}

/// Between two connections, so that others have a CPU too.
const PAUSE: Duration = Duration::from_millis(5);

/// A connection and a request; fails unless the answer is whole, and 200.
fn request(to: SocketAddr, task: &Task) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, patience::limit())?;
    stream.set_read_timeout(Some(patience::limit()))?;
    let (host, path) = (&task.host, &task.path);
    let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.is_empty() {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let is_whole = head.lines().any(|line| {
        let field = line.split_once(": ");
        field.is_some_and(|(name, value)| {
            name.eq_ignore_ascii_case("content-length") && value == body.len().to_string()
        })
    });
    if head.starts_with("HTTP/1.1 200 ") && is_whole {
        return Ok(());
    }
    Err(io::Error::other(format!("the answer is {answer:?}")))
}
