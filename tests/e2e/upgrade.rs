//! A nodegate with another layout of the maps takes over, and no connection notices.
//!
//! The older one is this one, whose maps are made older: another version is stamped onto them, and `slots`
//! is replaced by a map with the elements of version 3. With a real older one in `NODEGATE_OLDER`, that one
//! runs before.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Stdio},
};

use anyhow::{Context as _, ensure};
use nodegate_programs::{Program, own};
use nodegate_testbed::Signal;
use serde_json::Value;

use crate::{
    Case,
    probe::Task,
    same,
    scene::{Scene, wait},
    services::{POD1, SETTING, web_on_both_nodes},
};

pub(crate) const CASES: &[Case] = &[(
    "upgrade_to_another_layout_breaks_no_connection",
    SETTING,
    another_layout,
)];

/// What stays the same map.
const SHARED: [&str; 4] = ["affinity", "conntrack", "fragments", "sockets"];

fn another_layout(scene: &Scene) -> anyhow::Result<()> {
    scene.apply(&web_on_both_nodes())?;
    let older = std::env::var_os("NODEGATE_OLDER").map(PathBuf::from);
    let older = older
        .map(|program| Older::run(scene, &program))
        .transpose()?;
    let mut loads = Vec::new();
    let mut streams = Vec::new();
    for (host, to) in [
        ("client", "192.168.170.11:30080"),
        ("client", "[fd00:c0::11]:30080"),
        (POD1, "10.96.0.1:80"),
        ("node1", "[fd00:96::1]:80"),
    ] {
        let to: SocketAddr = to.parse()?;
        loads.push((
            host,
            to,
            scene.start_probe(host, Task::Load { to, threads: 2 })?,
        ));
        let stream = Task::stream(to, host == "client");
        for task in [stream, Task::KeepAlive { to }] {
            streams.push((host, task, scene.start_probe(host, task)?));
        }
    }
    for (.., load) in &loads {
        load.until_pods(&["server-1", "server-2"])?;
    }
    if older.is_none() {
        scene.testbed.kill("node1", Signal::SIGKILL)?;
        make_older(scene)?;
    }
    // A real older one's flows may be laid out otherwise, and are copied then; its counters may be the same.
    let real = older.is_some();
    drop(older);
    let before = pinned(scene)?;
    let mut replies = Vec::new();
    for (host, task, stream) in &streams {
        replies.push(
            stream
                .go_on()
                .with_context(|| format!("{task:?} of {host}"))?,
        );
    }
    scene.testbed.restart("node1")?;
    let after = pinned(scene)?;
    let daemon = scene.run(
        "node1",
        Program::Nodegate,
        &["maps", "daemon", "-o", "json"],
    )?;
    let daemon: Value = serde_json::from_str(&daemon)?;
    ensure!(daemon["daemon"][0]["schema"].as_u64() > Some(3), "{daemon}");
    for (name, id) in &before {
        if real && ["conntrack", "counters"].contains(&name.as_str()) {
            continue;
        }
        let kept = SHARED.contains(&name.as_str()) || name.starts_with("link_");
        ensure!(
            kept == (after.get(name) == Some(id)),
            "{name} was {id}: {after:?}"
        );
    }
    for ((host, task, stream), replies) in streams.iter().zip(&mut replies) {
        replies.extend(
            stream
                .go_on()
                .with_context(|| format!("{task:?} of {host}"))?,
        );
    }
    for (host, to, load) in loads {
        let summary = load.summary()?;
        summary
            .is_flawless()
            .with_context(|| format!("{host} to {to}"))?;
    }
    for ((host, task, mut stream), mut replies) in streams.into_iter().zip(replies) {
        replies.extend(stream.end()?);
        let first = replies.first().and_then(|reply| reply.pod.clone());
        for reply in &replies {
            same!(reply.pod, first, "{task:?} of {host}: {reply:?}");
        }
    }
    Ok(())
}

/// A nodegate with an older layout.
struct Older(Child);

impl Older {
    /// In place of the one that runs.
    fn run(scene: &Scene, program: &std::path::Path) -> anyhow::Result<Self> {
        scene.testbed.kill("node1", Signal::SIGKILL)?;
        scene.run("node1", Program::Nodegate, &["cleanup"])?;
        let mut command = scene.testbed.enter("node1", own(program))?;
        command
            .args(["run", "--role", "redirector", "--services", "all"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let older = Self(command.spawn()?);
        wait(|| {
            let status = scene
                .testbed
                .exec("node1", Program::Nodegate, ["status", "--sync"])?;
            Ok(status.status.success().then_some(()))
        })
        .context("the older nodegate has not started")?;
        Ok(older)
    }
}

impl Drop for Older {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn make_older(scene: &Scene) -> anyhow::Result<()> {
    let directory = scene.testbed.pin_dir("node1");
    let settings = directory.join("settings");
    let settings = settings.to_str().context("a name in ASCII")?;
    let shown = scene.run(
        "node1",
        Program::Bpftool,
        &["-j", "map", "dump", "pinned", settings],
    )?;
    let elements: Vec<Value> = serde_json::from_str(&shown)?;
    let bytes = elements[0]["value"].as_array().context("no value")?;
    let mut bytes: Vec<&str> = bytes.iter().filter_map(Value::as_str).collect();
    bytes[0] = "0x03";
    let update = [
        "map", "update", "pinned", settings, "key", "0", "0", "0", "0", "value",
    ];
    scene.run("node1", Program::Bpftool, &[&update[..], &bytes].concat())?;
    // The programs go on with the one that they have.
    let slots = directory.join("slots");
    fs::remove_file(&slots)?;
    let slots = slots.to_str().context("a name in ASCII")?;
    let create = "type hash key 12 value 4 entries 524288 name slots flags 1";
    let create = format!("map create {slots} {create}");
    scene.run_line("node1", Program::Bpftool, &create)?;
    Ok(())
}

/// Ids of the maps and links that are pinned, by name.
fn pinned(scene: &Scene) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut ids = BTreeMap::new();
    for entry in fs::read_dir(scene.testbed.pin_dir("node1"))? {
        let path = entry?.path();
        ensure!(path.is_file(), "{} is left", path.display());
        let name = path.file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let kind = if name.starts_with("link_") {
            "link"
        } else {
            "map"
        };
        let pin = path.to_str().context("a name in ASCII")?;
        let text = scene.run(
            "node1",
            Program::Bpftool,
            &["-j", kind, "show", "pinned", pin],
        )?;
        let shown: Value = serde_json::from_str(&text)?;
        // Some versions print a list of one.
        let shown = shown.get(0).unwrap_or(&shown);
        let id = shown["id"].as_u64();
        ids.insert(name, id.with_context(|| format!("no id in {text}"))?);
    }
    Ok(ids)
}
