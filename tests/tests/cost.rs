//! What a request costs the proxy, counted: nothing here is timed, so a busy machine makes no
//! difference.

use std::{
    env,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ExitCode, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use nodegate_programs::{Program, own};
use nodegate_testbed::{
    environment::{self, Unmet},
    traffic::{Questions, Traffic, table},
};
use patience::Deadline;

/// Requests that are counted.
const REQUESTS: u64 = 10_000;
/// One read and one write for each message make four; the rest is what connections take.
const MOST_SYSTEM_CALLS: f64 = 4.1;
/// Many requests share a wait, but how many is up to the scheduler. One for each that comes and one for each
/// answer are the most that is needed.
const MOST_WAITS: f64 = 2.0;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let tools = Tools::find();
    if let Err(obstacle) = &tools {
        eprintln!("skipped: {obstacle:#}");
    }
    let missing = tools.is_err();
    let trial = Trial::test("a request takes four system calls", move || {
        let tools = tools.map_err(|error| format!("{error:#}"))?;
        four_system_calls(&tools).map_err(|error| Failed::from(format!("{error:#}")))
    });
    libtest_mimic::run(&arguments, vec![trial.with_ignored_flag(missing)]).exit_code()
}

#[derive(Debug)]
struct Tools {
    nodegate: PathBuf,
    strace: PathBuf,
}

impl Tools {
    fn find() -> anyhow::Result<Self> {
        environment::root()?;
        let nodegate = env::var_os("NODEGATE_BIN")
            .context("NODEGATE_BIN names no nodegate: run the tests with `cargo xtask test`")?;
        Ok(Self {
            nodegate: nodegate.into(),
            strace: Program::Strace
                .find()
                .ok_or(Unmet::Program(Program::Strace))?,
        })
    }
}

/// A process that ends with us.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn four_system_calls(tools: &Tools) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let mut traffic = Traffic::new(&["v0", "v1"])?;
    let hosts = table::hosts(20);
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let manifests = table::manifests(address.port(), &traffic.ports()?, &hosts);
    let nodegate = start(&tools.nodegate, directory.path(), &manifests, address)?;
    let questions = |requests| Questions {
        proxy: address,
        clients: 64,
        at_once: 64,
        requests,
        hosts: hosts.clone(),
        path: table::PATH.into(),
    };
    // Connections to the endpoints are made here.
    traffic.run(&questions(500))?.verify()?;
    let counts = directory.path().join("strace");
    let mut strace = trace(&tools.strace, &nodegate, &counts)?;
    traffic.run(&questions(REQUESTS))?.verify()?;
    // It writes what it has counted.
    interrupt(&strace.0)?;
    strace.0.wait()?;
    let text = fs::read_to_string(&counts)?;
    let waits = calls(&text, "epoll_wait") / REQUESTS as f64;
    let others = calls(&text, "total") / REQUESTS as f64 - waits;
    ensure!(
        (3.9..=MOST_SYSTEM_CALLS).contains(&others) && waits <= MOST_WAITS,
        "{others:.2} system calls per request and {waits:.2} waits, and not at most {MOST_SYSTEM_CALLS} and \
         {MOST_WAITS}:\n{text}"
    );
    Ok(())
}

fn start(
    program: &Path,
    directory: &Path,
    manifests: &str,
    address: SocketAddr,
) -> anyhow::Result<Running> {
    let place = directory.join("manifests");
    fs::create_dir(&place)?;
    fs::write(place.join("table.yaml"), manifests)?;
    let log = directory.join("log");
    let process = own(program)
        .args(["run", "--role", "proxy", "--workers", "1", "--manifests"])
        .arg(place)
        .arg("--admin")
        .arg(directory.join("admin.sock"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log)?)
        .spawn()
        .with_context(|| program.display().to_string())?;
    let mut running = Running(process);
    let deadline = Deadline::new();
    while TcpStream::connect(address).is_err() {
        if running.0.try_wait()?.is_some() || deadline.passed() {
            bail!("nodegate doesn't listen: {}", fs::read_to_string(&log)?);
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(running)
}

/// Counts a process's system calls, from when this returns on.
fn trace(strace: &Path, nodegate: &Running, counts: &Path) -> anyhow::Result<Running> {
    let pid = nodegate.0.id();
    let process = Program::Strace
        .at(strace)
        .args(["-f", "-c", "-o"])
        .arg(counts)
        .args(["-p", &pid.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut strace = Running(process);
    let deadline = Deadline::new();
    while !is_traced(pid)? {
        ensure!(strace.0.try_wait()?.is_none(), "strace can't attach");
        ensure!(!deadline.passed(), "strace doesn't attach");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(strace)
}

/// Whether all threads of a process are traced (proc_pid_status(5)).
fn is_traced(pid: u32) -> anyhow::Result<bool> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        if status.lines().any(|line| line == "TracerPid:\t0") {
            return Ok(false);
        }
    }
    Ok(true)
}

fn interrupt(process: &Child) -> anyhow::Result<()> {
    let pid = nix::unistd::Pid::from_raw(process.id().cast_signed());
    Ok(nix::sys::signal::kill(
        pid,
        nodegate_testbed::Signal::SIGINT,
    )?)
}

/// How many calls of that name `strace -c` has written, or in its last line in total:
/// `100.00 0.5 4 12345 2 total`. What it has not written it has not seen.
fn calls(text: &str, name: &str) -> f64 {
    let mut lines = text
        .lines()
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    lines
        .find(|fields| fields.last() == Some(&name))
        .and_then(|fields| fields.get(3)?.parse().ok())
        .unwrap_or(0.0)
}
