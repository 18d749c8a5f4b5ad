//! How a cluster comes and goes.

use std::{fs, process::ExitCode, thread, time::Duration};

use anyhow::{Context as _, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use nodegate_programs::{Program, itself};
use nodegate_testbed::{
    cluster::{Cluster, Options, parts::Parts},
    image::{self, Process},
};

use crate::{VICTIM, services::options};

fn one_node(name: &str, parts: &Parts) -> Options {
    Options {
        nodes: 1,
        kube_proxy: None,
        ..options(name, parts)
    }
}

pub(crate) fn images(name: &str, parts: &Parts) -> anyhow::Result<()> {
    let cluster = Cluster::up(&one_node(name, parts))?;
    let directory = tempfile::tempdir()?;
    let archive = directory.path().join("image.tar");
    image::once(&archive, "localhost/ours:1", |root| {
        root.program(&Program::Cat.find().context("cat")?)?;
        fs::write(root.path().join("etc/word"), "loaded")?;
        Ok(Process::new(&["cat"], &["/etc/word"]))
    })?;
    cluster.load(&archive)?;
    let job = "
apiVersion: v1
kind: Pod
metadata: {name: ours}
spec:
  restartPolicy: Never
  containers: [{name: ours, image: 'localhost/ours:1', imagePullPolicy: Never}]
";
    cluster.apply(job)?;
    let limit = format!("--timeout={}s", patience::limit().as_secs());
    let succeeded = "--for=jsonpath={.status.phase}=Succeeded";
    cluster.ask(&["wait", succeeded, "pod/ours", &limit])?;
    let said = cluster.ask(&["logs", "ours"])?;
    ensure!(said == "loaded", "{said}");

    fs::write(&archive, "no archive")?;
    let error = format!("{:#}", cluster.load(&archive).expect_err("no image"));
    ensure!(error.contains("image.tar"), "{error}");
    cluster.down()
}

pub(crate) fn existing_name(name: &str, parts: &Parts) -> anyhow::Result<()> {
    let cluster = Cluster::up(&one_node(name, parts))?;
    let error = Cluster::up(&one_node(name, parts)).expect_err("two of a name");
    let error = error.to_string();
    ensure!(error.contains("down --name"), "{error}");
    let nodes = Cluster::open(name)?.ask(&["get", "nodes", "-o", "name"])?;
    ensure!(nodes.trim() == "node/node1", "{nodes}");
    cluster.down()?;
    // It may be gone already.
    Cluster::down_named(name)
}

/// Builds the cluster and waits for its end.
pub(crate) fn victim(name: &str) -> ExitCode {
    let up = || -> anyhow::Result<Cluster> { Cluster::up(&one_node(name, &Parts::find()?)) };
    let Ok(_cluster) = up() else {
        return ExitCode::FAILURE;
    };
    thread::sleep(Duration::from_mins(1));
    ExitCode::SUCCESS
}

pub(crate) fn killed_up(name: &str, _: &Parts) -> anyhow::Result<()> {
    for milliseconds in [10, 100, 500, 2000, 6000] {
        let mut child = itself()?.env(VICTIM, name).spawn()?;
        thread::sleep(Duration::from_millis(milliseconds));
        child.kill()?;
        child.wait()?;
        Cluster::down_named(name)?;
        crate::left::nothing_of(name, &crate::left::on_the_machine())?;
    }
    Ok(())
}

pub(crate) fn killed_node(name: &str, parts: &Parts) -> anyhow::Result<()> {
    let cluster = Cluster::up(&one_node(name, parts))?;
    // The one that has made the node, which its process 1 follows.
    let pids = cluster.names().state().join("pids/node1");
    let first: i32 = fs::read_to_string(&pids)?.trim().parse()?;
    let status = fs::read_to_string(format!("/proc/{first}/status"))?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    let parent = parent.context("process 1 has a parent")?.trim().parse()?;
    kill(Pid::from_raw(parent), Signal::SIGKILL)?;
    let process = format!("/proc/{first}/exe");
    patience::until(|| fs::read_link(&process).is_err().then_some(()))?;
    let answer = cluster.exec("node1", Program::Cat, ["/etc/hostname"]);
    let error = answer.expect_err("no node").to_string();
    ensure!(error == "node1 does not run", "{error}");
    cluster.down()
}
