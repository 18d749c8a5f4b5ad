//! What becomes of a node when the cluster's memory goes back in time, and when the node begins anew while there
//! is no API server.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, ensure};
use nodegate_programs::{Program, own};
use nodegate_testbed::cluster::{Cluster, Options, parts::Parts};
use serde_json::Value;

use crate::{
    load::{Load, Task},
    services::{NODE_PORT, options, web},
    source::cut,
};

const NODE: &str = "node1";
/// Services of the same pods: one that is deleted, one that comes, after the state that comes back.
const DELETED: (&str, u16) = ("deleted", 30081);
const ADDED: (&str, u16) = ("added", 30082);

/// A redirector on the node, as a unit of the node's own would run it, until this is dropped.
struct Redirector<'c> {
    cluster: &'c Cluster,
    program: PathBuf,
    child: Option<Child>,
}

pub(crate) fn older_state_and_reboot(name: &str, parts: &Parts) -> anyhow::Result<()> {
    let cluster = Cluster::up(&Options {
        nodes: 1,
        kube_proxy: None,
        ..options(name, parts)
    })?;
    web(&cluster, 1)?;
    cluster.apply(&service(DELETED))?;
    let mut redirector = Redirector::start(&cluster)?;
    for port in [NODE_PORT, DELETED.1] {
        answers(&cluster, port, true)?;
    }
    let task = Task {
        to: vec![address(&cluster, NODE_PORT)?],
        host: "web".into(),
        path: "/hostname".into(),
    };
    let load = Load::start(&cluster, &task)?;
    an_older_state_comes_back(&cluster)?;
    load.end_flawless()
        .context("an older state of the cluster")?;
    redirector
        .reboots_without_the_api_server()
        .context("a start without the API server")?;
    drop(redirector);
    cluster.down()
}

/// What was deleted since is there again, and what was made is gone.
fn an_older_state_comes_back(cluster: &Cluster) -> anyhow::Result<()> {
    let copy = tempfile::tempdir()?;
    let kept = copy.path().join("etcd");
    cluster.restart_server(|etcd| copied(etcd, &kept))?;
    cluster.apply(&service(ADDED))?;
    cluster.ask(&["delete", "service", DELETED.0])?;
    answers(cluster, ADDED.1, true)?;
    answers(cluster, DELETED.1, false)?;
    // Versions that nobody has given out yet, as the older state sees it.
    for round in 0..50 {
        let label = format!("round={round}");
        cluster.ask(&["label", "--overwrite", "service", ADDED.0, &label])?;
    }
    cluster.restart_server(|etcd| {
        fs::remove_dir_all(etcd)?;
        copied(&kept, etcd)
    })?;
    answers(cluster, DELETED.1, true)?;
    answers(cluster, ADDED.1, false)
}

/// Copies a directory.
fn copied(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let there = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copied(&entry.path(), &there)?;
        } else {
            fs::copy(entry.path(), there)?;
        }
    }
    Ok(())
}

fn service((name, port): (&str, u16)) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  type: NodePort
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: 8080, nodePort: {port}}}]
"
    )
}

fn address(cluster: &Cluster, port: u16) -> anyhow::Result<SocketAddr> {
    let hosts = cluster.hosts();
    let known = hosts.iter().find(|(name, _)| name == NODE);
    let [address, _] = known.context(NODE)?.1;
    Ok(SocketAddr::new(address, port))
}

/// Waits until there is an answer on the node's port, or none any more.
fn answers(cluster: &Cluster, port: u16, expected: bool) -> anyhow::Result<()> {
    let limit = patience::silence().as_secs_f64().to_string();
    let url = format!("http://{}/hostname", address(cluster, port)?);
    let mut last = String::new();
    patience::try_until(|| -> anyhow::Result<_> {
        let output = cluster.exec("client", Program::Curl, ["-sSfm", &limit, &url])?;
        last = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok((output.status.success() == expected).then_some(()))
    })
    .with_context(|| format!("{url}, answers: {expected}; {last}"))
}

// === impl Redirector ===

impl<'c> Redirector<'c> {
    fn start(cluster: &'c Cluster) -> anyhow::Result<Self> {
        // Nodes have the cluster's own directory, and nothing else of this machine's.
        let program = cluster.names().state().join("nodegate");
        fs::copy(crate::nodegate()?, &program).context("copying nodegate")?;
        let mut redirector = Self {
            cluster,
            program,
            child: None,
        };
        redirector.run()?;
        Ok(redirector)
    }

    fn command(&self, words: &[&str]) -> anyhow::Result<Command> {
        let mut command = own(&self.program);
        command.args(words);
        self.cluster.enter(NODE, command)
    }

    fn run(&mut self) -> anyhow::Result<()> {
        let words = ["run", "--role", "redirector", "--services", "all"];
        let mut run = self.command(&words)?;
        run.args(["--node-name", NODE, "--state", "/var/lib/nodegate"])
            .arg("--kubeconfig")
            .arg(self.cluster.names().state().join("pki/admin.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.child = Some(run.spawn().context("starting nodegate")?);
        Ok(())
    }

    /// Its status; it fails where something is wrong, and says it all the same.
    fn status(&self) -> anyhow::Result<Value> {
        let output = self.command(&["status", "-o", "json"])?.output()?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_slice(&output.stdout).context(told)
    }

    /// Ends it in the node's own processes: our child is who entered the node for it.
    fn kill(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        let pid = self.status()?["pid"].to_string();
        let killed = self
            .cluster
            .exec(NODE, Program::Sh, ["-c", &format!("kill -9 {pid}")])?;
        ensure!(killed.status.success(), "{killed:?}");
        child.wait()?;
        Ok(())
    }

    /// Of what a reboot takes, all that is nodegate's: its process, programs, maps and rules. What is on the
    /// disk stays.
    fn reboots_without_the_api_server(&mut self) -> anyhow::Result<()> {
        cut(self.cluster, NODE, "--insert")?;
        self.kill()?;
        let output = self.command(&["cleanup", "--drain", "0s"])?.output()?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{told}");
        answers(self.cluster, NODE_PORT, false)?;
        self.run()?;
        for port in [NODE_PORT, DELETED.1] {
            answers(self.cluster, port, true)?;
        }
        let status = self.status()?;
        let source = &status["source"]["kubernetes"];
        ensure!(source["heard"] == false, "{source}");
        // It says how old it is what it goes by.
        ensure!(source["remembered"].is_number(), "{source}");
        cut(self.cluster, NODE, "--delete")
    }
}

impl Drop for Redirector<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("nodegate does not end: {error:#}");
        }
    }
}
