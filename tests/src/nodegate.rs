//! Running nodegate: its environment on each host, waiting until it has applied everything.

use std::{
    ffi::OsString,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use nix::unistd::Pid;
use serde::Deserialize;

use crate::{
    names::{Host, Names},
    process,
    state::State,
    workload::Pod,
};

/// How long nodegate may take to apply a change, by its own count.
const SYNC: &str = "10s";
/// And by ours: it has to start and answer, too.
const SYNC_LIMIT: Duration = Duration::from_secs(20);

/// The variables that a host's processes get. nodegate reads its settings from them, so that a
/// bare `nodegate status` on a host asks the right process.
pub(crate) fn environment(
    names: &Names,
    state: &State,
    host: &Host,
) -> Vec<(&'static str, OsString)> {
    let mut variables: Vec<(&str, OsString)> = Vec::new();
    let pod = match host {
        Host::Client => return variables,
        Host::Node(_) => None,
        Host::Pod { .. } => state.pods.iter().find(|pod| pod.host() == *host),
    };
    let node = match host {
        Host::Node(node) => node.clone(),
        _ => pod.map(|pod| pod.node.clone()).unwrap_or_default(),
    };
    if let Some(pod) = pod {
        variables.push(("POD_NAME", pod.name.clone().into()));
        variables.push(("POD_NAMESPACE", pod.namespace.clone().into()));
        variables.push(("POD_IP", pod.address.to_string().into()));
    }
    variables.push(("NODE_NAME", node.clone().into()));
    variables.push(("NODEGATE_MANIFESTS", names.manifests().into()));
    // Pods other than gateways have no nodegate: theirs is the node's.
    let gateway = pod.is_some_and(|pod| pod.gateway);
    let admin = if gateway {
        host.clone()
    } else {
        Host::Node(node.clone())
    };
    variables.push(("NODEGATE_ADMIN", names.admin_socket(&admin).into()));
    if !gateway {
        variables.push(("NODEGATE_PIN_DIR", names.pin_dir(&node).into()));
        variables.push(("NODEGATE_CGROUP", names.node_cgroup(&node).into()));
        variables.push(("NODEGATE_UPLINKS", "eth0".into()));
    }
    variables
}

/// A command on a host: in its namespace and cgroup, with its variables and `nodegate` on PATH.
pub(crate) fn command(
    names: &Names,
    state: &State,
    host: &Host,
    program: impl AsRef<std::ffi::OsStr>,
) -> anyhow::Result<Command> {
    let node = match host {
        Host::Client => "",
        Host::Node(name) if state.layout.node(name).is_some() => name.as_str(),
        Host::Node(_) => bail!("no host `{host}`: `cargo xtask testbed ps` lists them"),
        Host::Pod { .. } => {
            let pod = state.pods.iter().find(|pod| pod.host() == *host);
            &pod.with_context(|| format!("no host `{host}`: `cargo xtask testbed ps` lists them"))?
                .node
        }
    };
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        // Settings of another nodegate must not get in.
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("NODEGATE_"))
        {
            command.env_remove(name);
        }
    }
    let mut path = names.state().join("bin").into_os_string();
    if let Some(rest) = std::env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    command
        .env("PATH", path)
        .envs(environment(names, state, host));
    process::enter(
        &mut command,
        &names.netns(host),
        &names.process_cgroup(host, node),
    )?;
    Ok(command)
}

/// Starts the redirector on a node.
pub(crate) fn start_redirector(names: &Names, state: &State, node: &str) -> anyhow::Result<Pid> {
    let host = Host::Node(node.into());
    let mut command = command(names, state, &host, &state.binaries.nodegate)?;
    command.args(["run", "--role", "redirector", "--services", "all"]);
    process::detach(command, &names.log(&host))
}

/// Starts the proxy in a gateway pod.
pub(crate) fn start_proxy(names: &Names, state: &State, pod: &Pod) -> anyhow::Result<Pid> {
    let host = pod.host();
    let mut command = command(names, state, &host, &state.binaries.nodegate)?;
    command.args(["run", "--role", "proxy"]);
    process::detach(command, &names.log(&host))
}

/// Waits until these hosts' nodegate has applied everything that is in the manifest directory now.
pub(crate) fn sync(names: &Names, state: &State, hosts: &[Host]) -> anyhow::Result<()> {
    let mut waiting: Vec<(&Host, Child)> = Vec::new();
    for host in hosts {
        let mut status = command(names, state, host, &state.binaries.nodegate)?;
        let child = status
            .args(["status", "--sync", "--timeout", SYNC])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(messages(names, host))?)
            .spawn()
            .with_context(|| format!("starting {}", state.binaries.nodegate.display()))?;
        waiting.push((host, child));
    }
    let mut failed = None;
    for (host, child) in &mut waiting {
        let status = process::wait(child, SYNC_LIMIT)?;
        if failed.is_none() && !status.is_some_and(|status| status.success()) {
            failed = Some(failure(names, host));
        }
        // Only a message's file.
        let _ = fs::remove_file(messages(names, host));
    }
    match failed {
        Some(message) => bail!(message),
        None => Ok(()),
    }
}

fn messages(names: &Names, host: &Host) -> std::path::PathBuf {
    names.state().join(format!(".sync-{}", host.slug()))
}

fn failure(names: &Names, host: &Host) -> String {
    let said = fs::read_to_string(messages(names, host)).unwrap_or_default();
    let said = said.trim().replace('\n', " | ");
    let said = if said.is_empty() {
        String::new()
    } else {
        format!(" ({said})")
    };
    format!(
        "nodegate on {host} has not applied the manifests within {SYNC}{said}; {}",
        process::tail(&names.log(host))
    )
}

/// Hosts that run nodegate.
pub(crate) fn hosts(state: &State) -> Vec<Host> {
    let nodes = state
        .layout
        .nodes
        .iter()
        .map(|node| Host::Node(node.name.clone()));
    let gateways = state.pods.iter().filter(|pod| pod.gateway).map(Pod::host);
    nodes.chain(gateways).collect()
}

/// A message of `nodegate check -o json`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Diagnostic {
    pub(crate) severity: String,
    pub(crate) location: Option<Location>,
    pub(crate) object: Option<Named>,
    #[serde(default)]
    field: Option<String>,
    message: String,
    #[serde(default)]
    fix: Option<String>,
}

/// A place in a manifest.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Location {
    pub(crate) file: std::path::PathBuf,
    pub(crate) line: usize,
}

/// An object that a message is about.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Named {
    pub(crate) kind: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

#[derive(Deserialize)]
struct Report {
    diagnostics: Vec<Diagnostic>,
}

impl Diagnostic {
    /// One line without the severity.
    pub(crate) fn text(&self) -> String {
        let mut parts = Vec::new();
        if let Some(place) = &self.location {
            parts.push(format!("{}:{}", place.file.display(), place.line));
        }
        if let Some(object) = &self.object {
            parts.push(format!(
                "{} {}/{}",
                object.kind, object.namespace, object.name
            ));
        }
        parts.extend(self.field.clone());
        parts.push(self.message.clone());
        let text = parts.join(": ");
        match &self.fix {
            Some(fix) => format!("{text} (fix: {fix})"),
            None => text,
        }
    }
}

/// What `nodegate check` says about files; an error with its message when it cannot say it.
pub(crate) fn check(
    binary: &Path,
    files: &[std::path::PathBuf],
) -> anyhow::Result<Vec<Diagnostic>> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let mut command = Command::new(binary);
    command.args(["check", "-o", "json"]).args(files);
    let output = process::output(command, Duration::from_secs(20))?;
    // It fails, too, when it has found errors; then it says them all the same.
    let report: Report = serde_json::from_slice(&output.stdout).with_context(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        format!(
            "nodegate check gives no report ({}): {}",
            output.status,
            said.trim().replace('\n', " | ")
        )
    })?;
    Ok(report.diagnostics)
}
