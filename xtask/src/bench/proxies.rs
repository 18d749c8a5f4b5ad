//! The proxies that are compared, each with one thread that serves, on one CPU.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use nodegate_programs::{Program, own};
use nodegate_testbed::{measure, traffic::table};

use super::haproxy;

/// How long one may take to start.
const PATIENCE: Duration = Duration::from_mins(1);

/// What can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    Nodegate,
    /// Another nodegate: --baseline
    Baseline,
    Haproxy,
    /// HAProxy with a rule for each route
    HaproxyRules,
    Envoy,
    /// No proxy: bytes passed on unseen, which is what the kernel takes from all of them
    Relay,
}

/// Where the programs are.
#[derive(Clone, Debug, Default)]
pub(super) struct Programs {
    pub(super) nodegate: PathBuf,
    pub(super) baseline: PathBuf,
    pub(super) haproxy: PathBuf,
    pub(super) envoy: PathBuf,
    pub(super) relay: PathBuf,
}

/// What they serve.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// For files.
    pub(super) directory: PathBuf,
    /// Ports of the two endpoints.
    pub(super) endpoints: Vec<u16>,
    pub(super) hosts: Vec<String>,
}

/// A proxy that serves; ended when dropped.
#[derive(Debug)]
pub(super) struct Proxy {
    process: Child,
    pub(super) address: SocketAddr,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nodegate => "nodegate",
            Self::Baseline => "baseline",
            Self::Haproxy => "haproxy",
            Self::HaproxyRules => "haproxy-rules",
            Self::Envoy => "envoy",
            Self::Relay => "relay",
        }
    }
}

impl Proxy {
    /// Starts one on a CPU.
    pub(super) fn start(
        kind: Kind,
        programs: &Programs,
        served: &Table,
        cpu: usize,
    ) -> anyhow::Result<Self> {
        let directory = served.directory.join(kind.name());
        fs::create_dir_all(&directory)?;
        let address = free_address()?;
        let command = match kind {
            Kind::Nodegate => run_nodegate(&programs.nodegate, &directory, address, served)?,
            Kind::Baseline => run_nodegate(&programs.baseline, &directory, address, served)?,
            Kind::Haproxy => {
                let hosts = directory.join("hosts.map");
                fs::write(&hosts, haproxy::table(&served.hosts))?;
                let hosts = hosts.to_string_lossy();
                let text = haproxy::configuration(address, &served.endpoints, &hosts);
                run_haproxy(&programs.haproxy, &directory, &text)?
            }
            Kind::HaproxyRules => {
                let text = haproxy::rules(address, &served.endpoints, &served.hosts);
                run_haproxy(&programs.haproxy, &directory, &text)?
            }
            Kind::Envoy => run_envoy(programs, &directory, address, served)?,
            Kind::Relay => run_relay(&programs.relay, address, served)?,
        };
        Self::run(command, &directory, address, cpu)
    }

    /// Starts a nodegate whose command is changed before: with other variables, or under another program.
    pub(super) fn start_changed(
        change: impl FnOnce(Command) -> Command,
        programs: &Programs,
        served: &Table,
        cpu: usize,
    ) -> anyhow::Result<Self> {
        let directory = served.directory.join("changed");
        fs::create_dir_all(&directory)?;
        let address = free_address()?;
        let command = run_nodegate(&programs.nodegate, &directory, address, served)?;
        Self::run(change(command), &directory, address, cpu)
    }

    fn run(
        mut command: Command,
        directory: &Path,
        address: SocketAddr,
        cpu: usize,
    ) -> anyhow::Result<Self> {
        let program = command.get_program().to_owned();
        let log = directory.join("log");
        command
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?);
        measure::pin(&mut command, cpu)?;
        let process = command
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let mut proxy = Self { process, address };
        proxy.wait(&log)?;
        Ok(proxy)
    }

    fn wait(&mut self, log: &Path) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address).is_err() {
            let ended = self.process.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let said = fs::read_to_string(log).unwrap_or_default();
                bail!("it doesn't listen on {}: {}", self.address, said.trim());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// CPU time that it has had.
    pub(super) fn cpu_time(&self) -> anyhow::Result<Duration> {
        Ok(measure::cpu_time(self.process.id())?)
    }

    /// Memory that it has to itself.
    pub(super) fn memory(&self) -> anyhow::Result<u64> {
        Ok(measure::memory(self.process.id())?)
    }

    /// Asks it to end, and waits for that.
    pub(super) fn end(mut self) -> anyhow::Result<()> {
        let pid = Pid::from_raw(self.process.id().cast_signed());
        kill(pid, Signal::SIGTERM).context("asking it to end")?;
        let deadline = Instant::now() + PATIENCE;
        while self.process.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "it doesn't end");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended by itself, which the traffic has noticed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(super) fn free_address() -> anyhow::Result<SocketAddr> {
    // Nobody gets the port of a closed listener without asking for it, for a while.
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn run_nodegate(
    program: &Path,
    directory: &Path,
    address: SocketAddr,
    served: &Table,
) -> anyhow::Result<Command> {
    let manifests = write_manifests(directory, address.port(), served)?;
    let mut command = own(program);
    command
        .args(["run", "--role", "proxy", "--workers", "1", "--manifests"])
        .arg(manifests)
        .arg("--admin")
        .arg(directory.join("admin.sock"))
        .args(["--node-name", "bench", "--drain", "0s"]);
    Ok(command)
}

fn run_haproxy(program: &Path, directory: &Path, configuration: &str) -> anyhow::Result<Command> {
    let file = directory.join("haproxy.cfg");
    fs::write(&file, configuration)?;
    let mut command = Program::Haproxy.at(program);
    command.arg("-db").arg("-f").arg(file);
    Ok(command)
}

fn run_envoy(
    programs: &Programs,
    directory: &Path,
    address: SocketAddr,
    served: &Table,
) -> anyhow::Result<Command> {
    let manifests = write_manifests(directory, address.port(), served)?;
    let exported = own(&programs.nodegate)
        .args(["export", "envoy", "--admin-port", "0", "--listen"])
        .arg(address.ip().to_string())
        .arg("--manifests")
        .arg(manifests)
        .output()?;
    let said = String::from_utf8_lossy(&exported.stderr);
    ensure!(exported.status.success(), "nodegate export envoy: {said}");
    let file = directory.join("bootstrap.json");
    fs::write(&file, exported.stdout)?;
    let mut command = Program::Envoy.at(&programs.envoy);
    command
        .arg("--config-path")
        .arg(file)
        .args(["--concurrency", "1", "--log-level", "error"])
        .arg("--disable-hot-restart");
    Ok(command)
}

fn run_relay(program: &Path, address: SocketAddr, served: &Table) -> anyhow::Result<Command> {
    let port = served.endpoints.first().context("no endpoint")?;
    let mut command = own(program);
    command.arg(address.to_string());
    command.arg(SocketAddr::from((Ipv4Addr::LOCALHOST, *port)).to_string());
    Ok(command)
}

fn write_manifests(directory: &Path, port: u16, served: &Table) -> anyhow::Result<PathBuf> {
    let manifests = directory.join("manifests");
    fs::create_dir_all(&manifests)?;
    let text = table::manifests(port, &served.endpoints, &served.hosts);
    fs::write(manifests.join("table.yaml"), text)?;
    Ok(manifests)
}
