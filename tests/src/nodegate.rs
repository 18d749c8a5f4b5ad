//! Running nodegate: its environment on each host, waiting until it has applied everything.

use std::{
    ffi::OsString,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use nodegate_programs::{own, search_path};
use serde::Deserialize;

use crate::{
    cgroup,
    names::{Host, Names},
    process,
    state::State,
    workload::Pod,
};

/// The variables that a host's processes get. nodegate reads its settings from them, so that a
/// bare `nodegate status` on a host asks the right process.
pub(crate) fn environment(names: &Names, state: &State, host: &Host) -> Vec<(String, OsString)> {
    let mut variables: Vec<(&str, OsString)> = Vec::new();
    let pod = match host {
        Host::Client => return Vec::new(),
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
        let ips = format!("{},{}", pod.address, pod.address_v6);
        variables.push(("POD_IPS", ips.into()));
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
    }
    let own = match host {
        Host::Node(name) => state.layout.node(name),
        _ => None,
    };
    let own = own.and_then(|node| node.nodegate.as_ref());
    let own = own.into_iter().flat_map(|nodegate| &nodegate.env);
    variables
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .chain(own.map(|(name, value)| (name.clone(), value.into())))
        .collect()
}

/// Moves a command to a host: to its namespace and cgroup, with its variables and `nodegate` on PATH.
pub(crate) fn enter(
    names: &Names,
    state: &State,
    host: &Host,
    mut command: Command,
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
    for (name, _) in std::env::vars_os() {
        // Settings of another nodegate must not get in.
        if name
            .to_str()
            .is_some_and(|name| name.starts_with("NODEGATE_"))
        {
            command.env_remove(name);
        }
    }
    let path = std::iter::once(names.state().join("bin")).chain(search_path());
    command
        .env("PATH", std::env::join_paths(path)?)
        .envs(environment(names, state, host));
    process::enter(
        &mut command,
        &names.netns(host),
        &names.process_cgroup(host, node),
    )?;
    Ok(command)
}

/// Starts a host's nodegate: the redirector on a node, the proxy in a gateway pod.
pub(crate) fn start(names: &Names, state: &State, host: &Host) -> anyhow::Result<Pid> {
    let mut command = enter(names, state, host, own(&state.binaries.nodegate))?;
    command.args(arguments(state, host)?);
    let pid = process::detach(command, &names.log(host))?;
    let file = names.pid(host);
    fs::write(&file, pid.to_string()).with_context(|| format!("writing {}", file.display()))?;
    Ok(pid)
}

fn arguments(state: &State, host: &Host) -> anyhow::Result<Vec<String>> {
    match host {
        Host::Client => bail!("the client runs no nodegate: name a node or a gateway pod"),
        Host::Node(name) => {
            let node = state.layout.node(name);
            let node = node.with_context(|| {
                format!("no host `{host}`: `cargo xtask testbed ps` lists them")
            })?;
            let Some(nodegate) = &node.nodegate else {
                bail!("{host} runs no nodegate: testbed.yaml says `nodegate: false`");
            };
            Ok(merge(
                &[("--role", "redirector"), ("--services", "all")],
                &nodegate.args,
            ))
        }
        Host::Pod { .. } => {
            let gateway = state
                .pods
                .iter()
                .any(|pod| pod.gateway && pod.host() == *host);
            ensure!(
                gateway,
                "{host} runs no nodegate: name a node or a gateway pod"
            );
            Ok(merge(&[("--role", "proxy")], &[]))
        }
    }
}

/// `run` with these options, except those that the arguments give, and the arguments.
fn merge(options: &[(&str, &str)], arguments: &[String]) -> Vec<String> {
    let given = |option: &str| {
        let mut arguments = arguments.iter();
        arguments.any(|argument| {
            argument
                .strip_prefix(option)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        })
    };
    let mut all = vec!["run".to_owned()];
    for (option, value) in options {
        if !given(option) {
            all.extend([(*option).to_owned(), (*value).to_owned()]);
        }
    }
    all.extend(arguments.iter().cloned());
    all
}

/// Sends a signal to a host's nodegate. If it is one that ends it, waits for the end; from then on
/// nobody waits for this nodegate to apply anything, until it is started again.
pub(crate) fn signal(
    names: &Names,
    state: &State,
    host: &Host,
    signal: Signal,
) -> anyhow::Result<()> {
    arguments(state, host)?;
    let pid = running(names, state, host)
        .with_context(|| format!("nodegate on {host} does not run: start it with restart"))?;
    kill(pid, signal).with_context(|| format!("sending {signal} to nodegate on {host} ({pid})"))?;
    if !matches!(signal, Signal::SIGKILL | Signal::SIGTERM | Signal::SIGINT) {
        return Ok(());
    }
    // On its way out a process loses its program first, its cgroup later, and on a busy machine much later. A
    // zombie has neither.
    let program = format!("/proc/{pid}/exe");
    let has_ended = || fs::read_link(&program).is_err() && running(names, state, host).is_none();
    patience::until(|| has_ended().then_some(()))
        .with_context(|| format!("nodegate on {host} ({pid}) has not ended after {signal}"))?;
    forget(names, host);
    Ok(())
}

/// The process that is a host's nodegate.
fn running(names: &Names, state: &State, host: &Host) -> Option<Pid> {
    let pid = fs::read_to_string(names.pid(host)).ok()?.parse().ok()?;
    let pid = Pid::from_raw(pid);
    let node = match host {
        Host::Node(name) => name,
        _ => &state.pods.iter().find(|pod| pod.host() == *host)?.node,
    };
    // It may have ended, and another process have its number.
    cgroup::processes(&names.process_cgroup(host, node))
        .contains(&pid)
        .then_some(pid)
}

/// Starts a host's nodegate, after ending the one that runs without a chance to clean up; returns when
/// it has applied everything.
pub(crate) fn restart(names: &Names, state: &State, host: &Host) -> anyhow::Result<()> {
    arguments(state, host)?;
    if running(names, state, host).is_some() {
        signal(names, state, host, Signal::SIGKILL)?;
    }
    forget(names, host);
    let pid = start(names, state, host)?;
    process::await_file(&names.admin_socket(host), pid, &names.log(host))
        .with_context(|| format!("{host} is not ready"))?;
    sync(names, state, std::slice::from_ref(host))
}

/// Removes what a nodegate that has ended leaves, so that a new one does not seem ready at once.
pub(crate) fn forget(names: &Names, host: &Host) {
    for file in [names.pid(host), names.admin_socket(host)] {
        // It may have left neither.
        let _ = fs::remove_file(file);
    }
}

/// Waits until these hosts' nodegate has applied everything that is in the manifest directory now.
pub(crate) fn sync(names: &Names, state: &State, hosts: &[Host]) -> anyhow::Result<()> {
    let mut waiting: Vec<(&Host, Child)> = Vec::new();
    let limit = format!("{}s", patience::limit().as_secs());
    for host in hosts {
        let mut status = enter(names, state, host, own(&state.binaries.nodegate))?;
        let child = status
            .args(["status", "--sync", "--timeout", &limit])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(messages(names, host))?)
            .spawn()
            .with_context(|| format!("starting {}", state.binaries.nodegate.display()))?;
        waiting.push((host, child));
    }
    let mut failed = None;
    for (host, child) in &mut waiting {
        let status = process::wait(child)?;
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
        "nodegate on {host} has not applied the manifests within {:?}{said}; {}",
        patience::limit(),
        process::tail(&names.log(host))
    )
}

/// Hosts whose nodegate is to run: not those that have none, or where it was ended on purpose.
pub(crate) fn hosts(names: &Names, state: &State) -> Vec<Host> {
    let nodes = state
        .layout
        .nodes
        .iter()
        .map(|node| Host::Node(node.name.clone()));
    let gateways = state.pods.iter().filter(|pod| pod.gateway).map(Pod::host);
    nodes
        .chain(gateways)
        .filter(|host| names.pid(host).exists())
        .collect()
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
    let mut command = own(binary);
    command.args(["check", "-o", "json"]).args(files);
    let output = process::output(command)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_replace_options_of_the_same_name() {
        let defaults = [("--role", "redirector"), ("--services", "all")];
        let merged = |arguments: &[&str]| {
            let arguments: Vec<String> = arguments.iter().map(|&a| a.into()).collect();
            merge(&defaults, &arguments).join(" ")
        };
        assert_eq!(merged(&[]), "run --role redirector --services all");
        assert_eq!(
            merged(&["--services", "gateway", "--attach=clsact"]),
            "run --role redirector --services gateway --attach=clsact"
        );
        assert_eq!(
            merged(&["--role=all", "--services-x"]),
            "run --services all --role=all --services-x"
        );
    }
}
