//! The place that a cluster stands on: its names, hosts and programs, and how to do something there.

use std::{ffi::OsString, fs, path::PathBuf, process::Command, thread, time::Duration};

use anyhow::{Context as _, bail, ensure};
use nix::{sys::signal::kill, unistd::Pid};
use nodegate_programs::{Program, search_path};
use patience::{Deadline, Late};
use serde_json::Value;

use super::{
    parts::Parts,
    pki::{ADMIN, Pki},
    plan::{CONTROL_PLANE, Plan, runs_pods},
};
use crate::{
    cgroup,
    names::{Host, Names},
    process,
};

/// Between two questions that cost a process each.
const PAUSE: Duration = Duration::from_millis(100);

/// A cluster's place.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) names: Names,
    pub(super) plan: Plan,
    pub(super) parts: Parts,
}

/// Something of the cluster's that runs.
pub(super) struct Running {
    pid: Pid,
    log: PathBuf,
}

impl Site {
    pub(super) fn pki(&self) -> Pki {
        Pki::of(&self.names.state())
    }

    /// The log of something on a host.
    pub(super) fn log(&self, host: &Host, what: &str) -> PathBuf {
        let file = match host {
            Host::Node(name) if name == CONTROL_PLANE => what.to_owned(),
            host => format!("{}.{what}", host.slug()),
        };
        self.names.state().join("logs").join(file + ".log")
    }

    /// A host's own directory.
    pub(super) fn directory(&self, host: &Host) -> PathBuf {
        self.names.state().join("hosts").join(host.slug())
    }

    /// The host that a user means.
    pub(super) fn host(&self, text: &str) -> anyhow::Result<Host> {
        let host: Host = text.parse()?;
        let known = match &host {
            Host::Client => true,
            Host::Node(name) => self.plan.layout.node(name).is_some(),
            Host::Pod { .. } => bail!("`{text}` is no host: cargo xtask cluster kubectl exec"),
        };
        let nodes = self.plan.layout.nodes.iter().map(|node| node.name.as_str());
        let nodes: Vec<_> = nodes.collect();
        ensure!(known, "no host `{text}`: client, {}", nodes.join(", "));
        Ok(host)
    }

    /// Moves a command to a host: to its cgroup and its network, on a node to all that the node has of its
    /// own.
    pub(super) fn enter(&self, host: &Host, mut command: Command) -> anyhow::Result<Command> {
        command = match host {
            Host::Node(name) if runs_pods(name) => {
                let pid = self.first_process(host);
                let pid = pid.with_context(|| format!("{host} does not run"))?;
                let arguments = ["--target", &pid.to_string(), "--all", "--"];
                let mut entered = Program::Nsenter.around(arguments, &command);
                process::join(&mut entered, &self.cgroup(host))?;
                entered
            }
            host => {
                let (netns, cgroup) = (self.names.netns(host), self.cgroup(host));
                process::enter(&mut command, &netns, &cgroup)?;
                command
            }
        };
        command
            .env("PATH", self.path()?)
            .env("KUBECONFIG", self.pki().kubeconfig(ADMIN))
            // Where kubelet has its containers and images.
            .env("CONTAINERD_NAMESPACE", "k8s.io");
        Ok(command)
    }

    /// A node's process 1, if it lives.
    fn first_process(&self, host: &Host) -> Option<Pid> {
        let pid = fs::read_to_string(self.names.pid(host)).ok()?;
        let pid = Pid::from_raw(pid.trim().parse().ok()?);
        // It may have ended, and another process have its number.
        let lives = cgroup::processes(&self.cgroup(host)).contains(&pid);
        lives.then_some(pid)
    }

    /// The cgroup of a host's processes.
    pub(super) fn cgroup(&self, host: &Host) -> PathBuf {
        let node = match host {
            Host::Node(name) => name,
            _ => "",
        };
        self.names.process_cgroup(host, node)
    }

    fn path(&self) -> anyhow::Result<OsString> {
        let path = self.parts.directories().chain(search_path());
        Ok(std::env::join_paths(path)?)
    }

    /// Starts one of the parts on a host, on its own.
    pub(super) fn start(
        &self,
        host: &Host,
        program: Program,
        arguments: &[String],
    ) -> anyhow::Result<Running> {
        let mut command = self.parts.command(program);
        command.args(arguments);
        self.launch(host, program.name(), command)
    }

    /// Starts a command on a host, on its own, with a log of that name.
    pub(super) fn launch(
        &self,
        host: &Host,
        name: &str,
        command: Command,
    ) -> anyhow::Result<Running> {
        let command = self.enter(host, command)?;
        let log = self.log(host, name);
        let pid = process::detach(command, &log)?;
        Ok(Running { pid, log })
    }

    /// What the API server says to a question; nothing while it does not answer.
    pub(super) fn get(&self, path: &str) -> anyhow::Result<Option<Value>> {
        let text = self.ask(&format!("{}{path}", Plan::server()))?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// What a server of the control plane says; nothing if that is no success.
    pub(super) fn ask(&self, url: &str) -> anyhow::Result<Option<String>> {
        self.ask_from(&control_plane(), url)
    }

    /// What a server says to a host; nothing if that is no success.
    pub(super) fn ask_from(&self, host: &Host, url: &str) -> anyhow::Result<Option<String>> {
        let pki = self.pki();
        let mut curl = self.enter(host, Program::Curl.by_name())?;
        curl.args(["--silent", "--fail", "--max-time", "5", "--cacert"])
            .arg(pki.authority())
            .arg("--cert")
            .arg(pki.certificate(ADMIN))
            .arg("--key")
            .arg(pki.key(ADMIN))
            .arg(url);
        let output = process::output(curl)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(output.status.success().then_some(text))
    }
}

impl Running {
    /// Asks again and again until there is an answer; an error when it has ended. All of a cluster begins
    /// at the same time, on few CPUs: it may take twice as long as other things.
    pub(super) fn until<T>(
        &self,
        what: &str,
        mut ask: impl FnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let context = || format!("{what}; {}", process::tail(&self.log));
        let deadline = Deadline::outer();
        loop {
            let last = deadline.passed();
            if let Some(answer) = ask().with_context(context)? {
                return Ok(answer);
            }
            self.check().with_context(context)?;
            if last {
                return Err(anyhow::Error::new(Late).context(context()));
            }
            thread::sleep(PAUSE);
        }
    }

    /// An error if it has ended.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let ended = || format!("it has ended; {}", process::tail(&self.log));
        kill(self.pid, None).with_context(ended)
    }
}

/// The host of the control plane.
pub(super) fn control_plane() -> Host {
    Host::Node(CONTROL_PLANE.into())
}
