//! The API server as nodegate's source: what comes, what stays while it is away, and what a start without
//! it goes by.
//!
//! nodegate runs as a process outside of the cluster, as a proxy, which needs no privilege.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, ensure};
use nodegate_programs::{Program, own};
use nodegate_testbed::cluster::{CONTROL_PLANE, Cluster, Options, parts::Parts};
use serde_json::Value;
use tempfile::TempDir;

use crate::services::options;

/// Where nodegate runs.
const HOST: &str = "client";

/// Istio's kinds, as `deploy/` has them.
const DEFINITIONS: &str = include_str!("../../../deploy/crds/istio.yaml");

/// A Gateway and where its requests go.
const ROUTES: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: web, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 8080, name: http, protocol: HTTP}
    hosts: ['*']
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: default}
spec:
  hosts: ['*']
  gateways: [web]
  http:
  - route: [{destination: {host: one, port: {number: 80}}}]
";

/// A nodegate that runs, until this is dropped.
struct Nodegate<'c> {
    cluster: &'c Cluster,
    directory: TempDir,
    program: PathBuf,
    child: Option<Child>,
}

impl<'c> Nodegate<'c> {
    fn new(cluster: &'c Cluster) -> anyhow::Result<Self> {
        let program = crate::nodegate()?;
        let mut nodegate = Self {
            cluster,
            directory: tempfile::tempdir()?,
            program,
            child: None,
        };
        nodegate.start()?;
        Ok(nodegate)
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("admin.sock")
    }

    fn kubeconfig(&self) -> PathBuf {
        self.cluster.names().state().join("pki/admin.conf")
    }

    /// What `nodegate status` says of all nodegates of the cluster; an error if it is not good.
    fn ask_cluster(&self, words: &[&str]) -> anyhow::Result<String> {
        let mut status = self.command(&["status"])?;
        status
            .args(words)
            .arg("--kubeconfig")
            .arg(self.kubeconfig());
        let output = status.output().context("nodegate status")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{words:?}: {said}");
        Ok(said)
    }

    fn command(&self, words: &[&str]) -> anyhow::Result<Command> {
        let mut command = own(&self.program);
        command.args(words).arg("--admin").arg(self.socket());
        self.cluster.enter(HOST, command)
    }

    fn start(&mut self) -> anyhow::Result<()> {
        let mut run = self.command(&["run", "--role", "proxy", "--node-name", "client"])?;
        run.args(["--report-to", "default"])
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .arg("--state")
            .arg(self.directory.path().join("state"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.child = Some(run.spawn().context("starting nodegate")?);
        Ok(())
    }

    fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Its status; none while it does not answer.
    fn status(&self) -> anyhow::Result<Option<Value>> {
        let mut status = self.command(&["status", "-o", "json"])?;
        let output = status.output().context("nodegate status")?;
        Ok(serde_json::from_slice(&output.stdout).ok())
    }

    /// Waits for a status of which something holds.
    fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let mut last = None;
        let found = patience::try_until(|| -> anyhow::Result<_> {
            last = self.status()?;
            Ok(last.clone().filter(|status| holds(status)))
        });
        found.with_context(|| format!("{what}: {}", last.unwrap_or_default()))
    }
}

impl Drop for Nodegate<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("nodegate does not end: {error:#}");
        }
    }
}

pub(crate) fn outage(name: &str, parts: &Parts) -> anyhow::Result<()> {
    let cluster = Cluster::up(&Options {
        nodes: 1,
        kube_proxy: None,
        ..options(name, parts)
    })?;
    preflight_asks_it(&cluster)?;
    cluster.apply(&service("one"))?;
    let mut nodegate = Nodegate::new(&cluster)?;
    kinds_come_when_they_are_defined(&cluster, &nodegate)?;
    changes_come(&cluster, &nodegate)?;
    what_was_seen_stays(&cluster, &mut nodegate)?;
    drop(nodegate);
    authors_are_told(&cluster)?;
    cluster.down()
}

/// `nodegate preflight` says whether the API server is where a start would look for it.
fn preflight_asks_it(cluster: &Cluster) -> anyhow::Result<()> {
    let ask = |servers: &[&str]| -> anyhow::Result<String> {
        let mut command = own(crate::nodegate()?);
        command
            .arg("preflight")
            .arg("--kubeconfig")
            .arg(cluster.names().state().join("pki/admin.conf"))
            .args(servers);
        // It fails here for want of what a redirector needs.
        let output = cluster.enter(HOST, command)?.output()?;
        let said = String::from_utf8(output.stdout)?;
        let line = said.lines().find(|line| line.contains(" api server "));
        line.map(str::to_owned).with_context(|| said.clone())
    };
    let line = ask(&[])?;
    let expected = line.starts_with("ok ") && line.contains(":6443, by kubeconfig");
    ensure!(expected && line.contains("v1."), "{line}");
    let line = ask(&["--api-server", "127.0.0.1:9"])?;
    let expected = line.starts_with("FAILED ") && line.contains("(fix: the host and port");
    ensure!(expected, "{line}");
    Ok(())
}

/// Of two controllers one writes, and `kubectl describe` shows it.
fn authors_are_told(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.apply(&service("one"))?;
    let mut controllers = Vec::new();
    for identity in ["one", "two"] {
        controllers.push(Controller::start(cluster, identity)?);
    }
    let limit = format!("--timeout={}s", patience::limit().as_secs());
    let described = || cluster.ask(&["describe", "virtualservice", "web"]);
    let shows = |what: &str| {
        let shown = patience::try_until(|| -> anyhow::Result<_> {
            Ok(Some(described()?).filter(|text| text.contains(what)))
        });
        shown.with_context(|| format!("{what}: {}", described().unwrap_or_default()))
    };
    let its_status_says = |status: &str, reason: &str| {
        let path =
            "jsonpath={.status.conditions[?(@.type==\"nodegate.io/Accepted\")]['status','reason']}";
        let expected = format!("{status} {reason}");
        let mut last = String::new();
        let found = patience::try_until(|| -> anyhow::Result<_> {
            last = cluster.ask(&["get", "virtualservice", "web", "-o", path])?;
            Ok((last == expected).then_some(()))
        });
        found.with_context(|| format!("{expected}: {last}"))
    };
    // One of them has the Lease, and has seen what is to be in force.
    cluster.ask(&["wait", "--for=create", "lease/nodegate-controller", &limit])?;
    cluster.apply(&ROUTES.replace("number: 80}}}", "number: 99999}}}"))?;
    shows("99999 is not a port")?;
    its_status_says("False", "Refused")?;
    who_starts_later_serves_what_was_accepted(cluster)?;
    cluster.apply(ROUTES)?;
    shows("nothing is wrong with it any more")?;
    its_status_says("True", "Accepted")?;
    let reasons = "jsonpath={.items[?(@.regarding.kind=='VirtualService')].reason}";
    let reasons = cluster.ask(&["get", "events.events.k8s.io", "-o", reasons])?;
    ensure!(
        reasons
            .split(' ')
            .filter(|reason| *reason == "Refused")
            .count()
            == 1,
        "two wrote: {reasons}"
    );
    Ok(())
}

/// One that has never seen the version in force goes by what the object's status has of it.
fn who_starts_later_serves_what_was_accepted(cluster: &Cluster) -> anyhow::Result<()> {
    let later = Nodegate::new(cluster)?;
    let status = later.until("the version that was accepted", |status| {
        status["snapshot"]["clusters"] == 1
    })?;
    let messages = status["diagnostics"].to_string();
    ensure!(messages.contains("99999 is not a port"), "{messages}");
    Ok(())
}

/// A controller that runs, until this is dropped.
struct Controller(Child);

impl Controller {
    fn start(cluster: &Cluster, identity: &str) -> anyhow::Result<Self> {
        let program = crate::nodegate()?;
        let mut command = own(program);
        command
            .args([
                "controller",
                "--namespace",
                "default",
                "--identity",
                identity,
            ])
            .arg("--kubeconfig")
            .arg(cluster.names().state().join("pki/admin.conf"));
        let mut command = cluster.enter(HOST, command)?;
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn().context("starting a controller")?))
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn kinds_come_when_they_are_defined(cluster: &Cluster, nodegate: &Nodegate) -> anyhow::Result<()> {
    let status = nodegate.until("ready without Istio's kinds", |status| {
        status["ready"] == true && status["source"]["kubernetes"]["heard"] == true
    })?;
    let messages = status["diagnostics"].to_string();
    ensure!(
        messages.contains("the cluster has no virtualservices"),
        "{messages}"
    );
    cluster.apply(DEFINITIONS)?;
    for kind in ["gateways", "virtualservices"] {
        let definition = format!("crd/{kind}.networking.istio.io");
        let limit = format!("--timeout={}s", patience::limit().as_secs());
        cluster.ask(&["wait", "--for=condition=Established", &definition, &limit])?;
    }
    cluster.apply(ROUTES)?;
    let status = nodegate.until("the routes are served", |status| {
        status["proxy"]["listeners"] == serde_json::json!([8080])
            && status["snapshot"]["clusters"] == 1
    })?;
    let messages = status["diagnostics"].to_string();
    ensure!(
        !messages.contains("the cluster has no virtualservices"),
        "{messages}"
    );
    Ok(())
}

fn changes_come(cluster: &Cluster, nodegate: &Nodegate) -> anyhow::Result<()> {
    let before = known(
        &nodegate.until("ready", |status| status["ready"] == true)?,
        "services",
    );
    cluster.apply(&service("two"))?;
    nodegate.until("a Service more", |status| {
        known(status, "services") == before + 1
    })?;
    let limit = format!("{}s", patience::limit().as_secs());
    nodegate.ask_cluster(&["--wait", "svc/default/two", "--timeout", &limit])?;
    let table = nodegate.ask_cluster(&["--cluster"])?;
    let row = table.lines().nth(1).unwrap_or_default();
    ensure!(
        row.starts_with("client") && row.contains("ready"),
        "{table}"
    );
    cluster.ask(&["delete", "service", "two"])?;
    nodegate.until("the Service is gone", |status| {
        known(status, "services") == before
    })?;
    // An author's mistake is told by the object's name, and the last good state stays.
    cluster.apply(&ROUTES.replace("number: 80}}}", "number: 99999}}}"))?;
    nodegate.until("the mistake is told", |status| {
        let messages = status["diagnostics"].to_string();
        messages.contains("error: VirtualService default/web: spec.http[0].route[0]")
    })?;
    cluster.apply(ROUTES)?;
    nodegate.until("the mistake is mended", |status| {
        !status["diagnostics"].to_string().contains("error:")
    })?;
    Ok(())
}

fn what_was_seen_stays(cluster: &Cluster, nodegate: &mut Nodegate) -> anyhow::Result<()> {
    let before = nodegate.until("ready", |status| status["ready"] == true)?;
    let state = nodegate.directory.path().join("state/proxy.journal");
    patience::until(|| is_whole(&state).then_some(())).context("no state is kept")?;

    cut(cluster, HOST, "--insert")?;
    let heard = |status: &Value| status["source"]["kubernetes"]["heard"] == true;
    let status = nodegate.until("the outage is seen", |status| !heard(status))?;
    cluster.ask(&["delete", "service", "one"])?;
    cluster.apply(&service("three"))?;
    ensure!(status["ready"] == true, "{status}");
    let messages = status["diagnostics"].to_string();
    ensure!(
        messages.contains("the API server does not answer"),
        "{messages}"
    );
    ensure!(
        status["snapshot"]["clusters"] == before["snapshot"]["clusters"],
        "{status}"
    );

    nodegate.kill()?;
    nodegate.start()?;
    let status = nodegate.until("ready by the last state", |status| status["ready"] == true)?;
    let remembered = &status["source"]["kubernetes"]["remembered"];
    ensure!(remembered.is_u64() && !heard(&status), "{status}");
    for what in ["services", "virtualservices", "endpointslices"] {
        ensure!(
            known(&status, what) == known(&before, what),
            "{what}: {status}"
        );
    }
    ensure!(
        status["proxy"]["listeners"] == before["proxy"]["listeners"],
        "{status}"
    );

    cut(cluster, HOST, "--delete")?;
    let after = nodegate.until("the API server is heard again", heard)?;
    ensure!(
        after["source"]["kubernetes"]["remembered"].is_null(),
        "{after}"
    );
    // One went, and one came.
    ensure!(
        known(&after, "services") == known(&before, "services"),
        "{after}"
    );
    let there = cluster.ask(&["get", "service", "-o", "name"])?;
    ensure!(
        there.contains("service/three") && !there.contains("service/one"),
        "{there}"
    );
    nodegate.until("what has changed meanwhile is told", |status| {
        status["diagnostics"].to_string().contains("one")
    })?;
    Ok(())
}

/// Lets the API server refuse all that a host sends it (`--insert`), or no longer (`--delete`).
pub(crate) fn cut(cluster: &Cluster, host: &str, how: &str) -> anyhow::Result<()> {
    let hosts = cluster.hosts();
    let known = hosts.iter().find(|(name, _)| name == host);
    let [address, _] = known.with_context(|| host.to_owned())?.1;
    let rule = format!("INPUT -s {address} -p tcp --dport 6443 -j REJECT --reject-with tcp-reset");
    let words = [how].into_iter().chain(rule.split(' '));
    let output = cluster.exec(CONTROL_PLANE, Program::Iptables, words)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{said}");
    Ok(())
}

/// How many objects of a kind nodegate knows.
fn known(status: &Value, kind: &str) -> u64 {
    let kinds = status["source"]["kubernetes"]["kinds"].as_array();
    let mut kinds = kinds.into_iter().flatten();
    let found = kinds.find(|known| known["kind"] == kind);
    found
        .and_then(|known| known["objects"].as_u64())
        .unwrap_or_default()
}

/// Whether a journal has been complete once.
fn is_whole(journal: &Path) -> bool {
    let text = std::fs::read_to_string(journal).unwrap_or_default();
    text.contains("{\"heard\":")
}

fn service(name: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  ports: [{{name: http, port: 80}}]
"
    )
}
