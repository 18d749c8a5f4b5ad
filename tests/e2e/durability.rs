//! nodegate dies, and traffic goes on; it comes back, and takes over what is there.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use anyhow::Context as _;
use nodegate_programs::Program;
use nodegate_testbed::Signal;
use patience::Lap;
use serde_json::Value;

use crate::{
    Case, one_node, same,
    scene::{Scene, limit, wait},
};

pub(crate) const CASES: &[Case] = &[
    (
        "durable_preflight_finds_what_is_wrong",
        one_node("s1"),
        preflight,
    ),
    (
        "durable_a_killed_redirector_leaves_traffic_flowing",
        one_node("s1"),
        killed,
    ),
    (
        "durable_what_is_pinned_tells_when_nodegate_was_last_alive",
        one_node("s1"),
        last_alive,
    ),
    (
        "durable_a_restart_adopts_maps_and_links",
        one_node("s1"),
        adopted,
    ),
    (
        "durable_maps_of_a_newer_layout_are_not_touched",
        one_node("s1"),
        newer_layout,
    ),
    (
        "durable_what_the_verifier_refuses_changes_nothing",
        one_node("s1"),
        refused,
    ),
    (
        "durable_a_second_nodegate_for_the_same_maps_is_refused",
        one_node("s1"),
        second,
    ),
    (
        "durable_what_somebody_else_removes_is_put_back_and_told",
        one_node("s1"),
        removed,
    ),
    (
        "durable_a_trace_ends_with_its_client",
        one_node("s1"),
        trace_ends,
    ),
    (
        "durable_cleanup_ends_the_redirection",
        one_node("s1"),
        cleanup,
    ),
    (
        "durable_clsact_serves_where_there_is_no_tcx",
        one_node("s1"),
        clsact,
    ),
];

const HOST: &str = "simple.baihl.io";
const URL: &str = "http://192.168.170.137:31373/simple/nginx";

/// SIGKILL to the node's nodegate.
fn kill(scene: &Scene) -> anyhow::Result<()> {
    scene.testbed.kill("node1", Signal::SIGKILL)
}

/// A nodegate that is started by hand; it ends with the testbed.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(scene: &Scene, arguments: &[&str]) -> anyhow::Result<Started> {
    let mut command = scene.testbed.command("node1", Program::Nodegate)?;
    command
        .args(["run", "--role", "redirector", "--services", "all"])
        .args(arguments);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let started = Started(command.spawn()?);
    wait(|| {
        let status = scene
            .testbed
            .exec("node1", Program::Nodegate, ["status", "--sync"])?;
        Ok(status.status.success().then_some(()))
    })
    .context("nodegate has not started")?;
    Ok(started)
}

/// One keep-alive connection through the node port.
struct Connection {
    client: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Connection {
    fn open(scene: &Scene) -> anyhow::Result<Self> {
        let mut command = scene.testbed.command("client", Program::Nc)?;
        command.args(["-N", "-w", &limit(), "192.168.170.137", "31373"]);
        let mut client = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(client.stdout.take().context("piped")?);
        Ok(Self { client, output })
    }

    fn ask(&mut self) -> anyhow::Result<()> {
        let input = self.client.stdin.as_mut().context("piped")?;
        let request = format!("HEAD /simple/nginx HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        input.write_all(request.as_bytes())?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        same!(line.trim_end(), "HTTP/1.1 200 OK", "the status line");
        while line.trim_end() != "" {
            line.clear();
            anyhow::ensure!(
                self.output.read_line(&mut line)? > 0,
                "the connection was closed"
            );
        }
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

fn new_connections_work(scene: &Scene) -> anyhow::Result<()> {
    for (host, url) in [
        ("client", URL),
        ("node1", URL),
        ("node1", "http://10.96.190.18/simple/nginx"),
    ] {
        same!(
            scene.get(host, HOST, url)?.status,
            200,
            "a new connection from {host}"
        );
    }
    Ok(())
}

fn killed(scene: &Scene) -> anyhow::Result<()> {
    let mut open = Connection::open(scene)?;
    open.ask()?;
    kill(scene)?;
    open.ask().context("an open connection, without nodegate")?;
    new_connections_work(scene).context("without nodegate")?;
    scene.testbed.restart("node1")?;
    open.ask()
        .context("an open connection, after the restart")?;
    new_connections_work(scene).context("after the restart")
}

fn last_alive(scene: &Scene) -> anyhow::Result<()> {
    let metrics = || {
        let socket = scene.testbed.admin_socket("node1")?;
        let socket = socket.to_str().context("a name in ASCII")?;
        let url = "http://nodegate/metrics";
        scene.run(
            "node1",
            Program::Curl,
            &["-sS", "--unix-socket", socket, url],
        )
    };
    let age = |text: &str| -> anyhow::Result<f64> {
        let name = "nodegate_datapath_heartbeat_age_seconds ";
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        Ok(line
            .with_context(|| format!("no {name}in {text}"))?
            .parse()?)
    };
    // It says so every two seconds, whatever else happens.
    let watch = scene.stopwatch();
    thread::sleep(Duration::from_secs(6));
    let silent = Lap {
        took: Duration::from_secs_f64(age(&metrics()?)?),
        ..watch.lap()
    };
    let silent = silent.below(Duration::from_secs(5));
    silent.context("without a sign of life")?;
    let daemon = || -> anyhow::Result<Value> {
        let text = scene.run(
            "node1",
            Program::Nodegate,
            &["maps", "daemon", "-o", "json"],
        )?;
        Ok(serde_json::from_str::<Value>(&text)?["daemon"][0].take())
    };
    let pid = scene.status("node1")?["pid"].clone();
    wait(|| {
        let alive = daemon()?;
        same!(alive["pid"], pid, "the daemon's process");
        Ok((alive["ran"].as_u64() >= Some(4)).then_some(()))
    })
    .context("the time that it has run")?;

    let watch = scene.stopwatch();
    kill(scene)?;
    thread::sleep(Duration::from_secs(4));
    let dead = daemon()?;
    same!(dead["pid"], pid, "the process that is gone");
    let idle = dead["idle"].as_u64().map(Duration::from_secs);
    let idle = Lap {
        took: idle.context("no age")?,
        ..watch.lap()
    };
    let most = watch.lap().took + Duration::from_secs(5);
    idle.within(Duration::from_secs(4)..most)
        .context("since its last sign of life")?;
    let shown = scene.run("node1", Program::Nodegate, &["maps"])?;
    anyhow::ensure!(
        shown.starts_with("PID ") && shown.contains("s ago"),
        "{shown}"
    );
    let output = scene.testbed.exec("node1", Program::Nodegate, ["status"])?;
    same!(output.status.code(), Some(2), "the exit status");
    let told = String::from_utf8(output.stderr)?;
    for part in [
        "no nodegate answers at",
        &format!("(pid {pid}) was last alive"),
        "as of generation",
    ] {
        anyhow::ensure!(told.contains(part), "no `{part}` in {told}");
    }
    scene.testbed.restart("node1")?;
    anyhow::ensure!(daemon()?["pid"] != pid, "the new process says nothing");
    Ok(())
}

/// Ids of the links and maps that are pinned, by name.
fn pinned(scene: &Scene) -> anyhow::Result<Vec<(String, u64)>> {
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(scene.testbed.pin_dir("node1"))? {
        let path = entry?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let kind = if name.starts_with("link_") {
            "link"
        } else {
            "map"
        };
        let pin = path.to_str().unwrap_or_default();
        let text = scene.run(
            "node1",
            Program::Bpftool,
            &["-j", kind, "show", "pinned", pin],
        )?;
        let shown: Value = serde_json::from_str(&text)?;
        // Some versions print a list of one.
        let shown = shown.get(0).unwrap_or(&shown);
        ids.push((
            name,
            shown["id"]
                .as_u64()
                .with_context(|| format!("no id in {text}"))?,
        ));
    }
    ids.sort();
    Ok(ids)
}

/// Whether packet programs have links on this kernel.
fn has_tcx(scene: &Scene) -> anyhow::Result<bool> {
    let told = scene.run("node1", Program::Nodegate, &["preflight"])?;
    Ok(told.contains("tcx on eth0"))
}

fn adopted(scene: &Scene) -> anyhow::Result<()> {
    let before = pinned(scene)?;
    // 19 maps; links of 8 socket programs, and with tcx of 2 packet programs.
    let expected = if has_tcx(scene)? { 31 } else { 29 };
    same!(before.len(), expected, "pins: {before:?}");
    let dump = |map: &str| {
        let pin = scene.testbed.pin_dir("node1").join(map);
        scene.run(
            "node1",
            Program::Bpftool,
            &["-j", "map", "dump", "pinned", &pin.to_string_lossy()],
        )
    };
    let services = dump("services")?;
    kill(scene)?;
    // A change that is made while nobody looks: it is the difference that is written.
    let report = scene.testbed.manifests().join("extra.yaml");
    std::fs::write(
        report,
        "apiVersion: v1
kind: Service
metadata: {name: extra, namespace: simple}
spec: {clusterIP: 10.96.55.55, selector: {app: nginx}, ports: [{port: 80}]}
",
    )?;
    scene.testbed.restart("node1")?;
    same!(pinned(scene)?, before, "links and maps after the restart");
    let after: Vec<Value> = serde_json::from_str(&dump("services")?)?;
    for element in serde_json::from_str::<Vec<Value>>(&services)? {
        anyhow::ensure!(after.contains(&element), "{element} was changed");
    }
    // The new cluster IP and its guard.
    same!(
        after.len(),
        serde_json::from_str::<Vec<Value>>(&services)?.len() + 2,
        "frontends"
    );
    new_connections_work(scene)
}

/// The first field of `settings` is the layout's version.
fn newer_layout(scene: &Scene) -> anyhow::Result<()> {
    kill(scene)?;
    let pin = scene.testbed.pin_dir("node1").join("settings");
    let pin = pin.to_str().unwrap_or_default();
    let shown = scene.run(
        "node1",
        Program::Bpftool,
        &["-j", "map", "dump", "pinned", pin],
    )?;
    let elements: Vec<Value> = serde_json::from_str(&shown)?;
    let bytes: Vec<&str> = elements[0]["value"]
        .as_array()
        .context("no value")?
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let before = pinned(scene)?;
    let mut update = vec!["map", "update", "pinned", pin, "key", "0", "0", "0", "0"];
    update.extend(["value", "0x99", "0", "0", "0"]);
    update.extend(&bytes[4..]);
    scene.run("node1", Program::Bpftool, &update)?;
    let output = scene
        .testbed
        .exec("node1", Program::Nodegate, ["run", "--role", "redirector"])?;
    same!(output.status.code(), Some(2), "the exit status");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    anyhow::ensure!(
        told.contains("layout 153,") && told.contains("run the newer one"),
        "{told}"
    );
    same!(pinned(scene)?, before, "links and maps");
    new_connections_work(scene).context("with the maps as they were")
}

/// Whatever it has been told to serve: the first one goes on.
fn second(scene: &Scene) -> anyhow::Result<()> {
    let before = pinned(scene)?;
    let empty = tempfile::tempdir()?;
    let manifests = empty.path().to_str().context("a name in ASCII")?;
    let admin = empty.path().join("other.sock");
    let admin = admin.to_str().context("a name in ASCII")?;
    let arguments = [
        "run",
        "--role=redirector",
        "--manifests",
        manifests,
        "--admin",
        admin,
    ];
    let output = scene.testbed.exec("node1", Program::Nodegate, arguments)?;
    same!(output.status.code(), Some(2), "the exit status");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    for part in ["another nodegate (pid ", "works on the maps in ", "(fix: "] {
        anyhow::ensure!(told.contains(part), "no `{part}` in {told}");
    }
    same!(pinned(scene)?, before, "links and maps");
    new_connections_work(scene)?;
    // When that one has gone, the place is free.
    kill(scene)?;
    scene.testbed.restart("node1")
}

/// By hand, one after the other.
fn removed(scene: &Scene) -> anyhow::Result<()> {
    let pins = scene.testbed.pin_dir("node1");
    let log = scene.testbed.log(&scene.testbed.host("node1")?);
    let told = |parts: &[&str]| {
        wait(|| {
            let log = std::fs::read_to_string(&log)?;
            let is_it = |line: &str| parts.iter().all(|part| line.contains(part));
            Ok(log.lines().any(is_it).then_some(()))
        })
        .with_context(|| format!("nobody told of {parts:?}"))
    };
    let names = || -> anyhow::Result<Vec<String>> {
        Ok(pinned(scene)?.into_iter().map(|(name, _)| name).collect())
    };
    let before = names()?;
    let put_back = |what: &str| {
        wait(|| Ok((names()? == before).then_some(())))
            .with_context(|| format!("{what}: no pin"))?;
        new_connections_work(scene).with_context(|| what.to_owned())
    };
    let link = |program: &str| {
        let is_it = |name: &&String| name.starts_with(&format!("link_{program}"));
        before.iter().find(is_it).context("a link").cloned()
    };
    // A pin of a map, whose next reader would find nothing.
    std::fs::remove_file(pins.join("services"))?;
    told(&["somebody else has removed or replaced the pin", "services"])?;
    put_back("a map's pin removed")?;
    // A link of packets: its pin was all that held it.
    let ingress = link("ingress")?;
    std::fs::remove_file(pins.join(&ingress))?;
    told(&["somebody else has removed the link", &ingress])?;
    put_back("a link's pin removed")?;
    // Links that are still pinned.
    for program in ["egress", "connect4"] {
        let link = link(program)?;
        let pin = pins.join(&link);
        let pin = pin.to_str().context("a name in ASCII")?;
        scene.run(
            "node1",
            Program::Bpftool,
            &["link", "detach", "pinned", pin],
        )?;
        told(&["somebody else has removed the link", &link])?;
        put_back("a link detached")?;
    }
    // Elements.
    let services = pins.join("services");
    let services = services.to_str().context("a name in ASCII")?;
    let dump = ["-j", "map", "dump", "pinned", services];
    let shown = scene.run("node1", Program::Bpftool, &dump)?;
    let elements: Vec<Value> = serde_json::from_str(&shown)?;
    for element in &elements {
        let key = element["key"].as_array().context("no key")?;
        let key: Vec<&str> = key.iter().filter_map(Value::as_str).collect();
        let delete = ["map", "delete", "pinned", services, "key"];
        scene.run("node1", Program::Bpftool, &[&delete[..], &key].concat())?;
    }
    told(&["somebody else has changed the maps"])?;
    wait(|| {
        let shown = scene.run("node1", Program::Bpftool, &dump)?;
        let now: Vec<Value> = serde_json::from_str(&shown)?;
        Ok((now.len() == elements.len()).then_some(()))
    })
    .context("the elements are not put back")?;
    put_back("elements deleted")
}

/// However it ends: the kernel stops reporting.
fn trace_ends(scene: &Scene) -> anyhow::Result<()> {
    let tracing = || -> anyhow::Result<bool> {
        let settings = scene.testbed.pin_dir("node1").join("settings");
        let settings = settings.to_str().context("a name in ASCII")?;
        let dump = ["-j", "map", "dump", "pinned", settings];
        let shown = scene.run("node1", Program::Bpftool, &dump)?;
        let elements: Vec<Value> = serde_json::from_str(&shown)?;
        // `schema`, then `trace`.
        Ok(elements[0]["value"][4] != "0x00")
    };
    let begins = || scene.trace("node1");
    // Killed, while nothing happens that it would be told.
    drop(begins()?);
    wait(|| Ok((!tracing()?).then_some(()))).context("after SIGKILL")?;
    let trace = begins()?;
    anyhow::ensure!(tracing()?, "there is a trace");
    drop(trace);
    wait(|| Ok((!tracing()?).then_some(()))).context("after the second one")?;
    scene.run("node1", Program::Nodegate, &["trace", "--for", "500ms"])?;
    wait(|| Ok((!tracing()?).then_some(()))).context("after --for")
}

/// Without CAP_PERFMON, the kernel's verifier has stricter rules, and refuses the programs.
fn refused(scene: &Scene) -> anyhow::Result<()> {
    let mut open = Connection::open(scene)?;
    open.ask()?;
    kill(scene)?;
    let state = || -> anyhow::Result<_> {
        let links = scene.run("node1", Program::Bpftool, &["-j", "link", "show"])?;
        let links: Vec<Value> = serde_json::from_str(&links)?;
        let programs: Vec<_> = links
            .iter()
            .map(|link| (link["id"].as_u64(), link["prog_id"].as_u64()))
            .collect();
        let settings = scene.testbed.pin_dir("node1").join("settings");
        let settings = settings.to_str().unwrap_or_default();
        let settings = scene.run(
            "node1",
            Program::Bpftool,
            &["map", "dump", "pinned", settings],
        )?;
        // Other trials have links too.
        let own = pinned(scene)?;
        let is_own = |id: Option<u64>| own.iter().any(|(_, own)| Some(*own) == id);
        let programs: Vec<_> = programs.into_iter().filter(|(id, _)| is_own(*id)).collect();
        Ok((own, programs, settings))
    };
    let before = state()?;
    let mut command = Program::Nodegate.by_name();
    command.args(["run", "--role=redirector", "--services=all"]);
    let few = ["--bounding-set=-all,+bpf,+net_admin,+net_raw,+dac_override"];
    let output = scene
        .testbed
        .output("node1", Program::Setpriv.around(few, &command))?;
    same!(output.status.code(), Some(2), "the exit status");
    let told = String::from_utf8(output.stderr)?;
    for part in [
        "the kernel refuses the program connect4: ",
        "this process has no CAP_PERFMON",
        "(fix: run it with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
        "what was attached before stays",
        "the verifier's last ",
    ] {
        anyhow::ensure!(told.contains(part), "no `{part}` in {told}");
    }
    let lines = told.lines().filter(|line| line.starts_with("  ")).count();
    anyhow::ensure!((3..=40).contains(&lines), "{lines} lines: {told}");
    same!(state()?, before, "maps, links, programs and settings");
    open.ask().context("an open connection")?;
    new_connections_work(scene)?;
    scene.testbed.restart("node1")?;
    open.ask().context("an open connection, after the restart")
}

/// Every check of a node that works is fine, and JSON says the same.
fn preflight(scene: &Scene) -> anyhow::Result<()> {
    let told = scene.run("node1", Program::Nodegate, &["preflight"])?;
    anyhow::ensure!(told.lines().count() >= 10, "{told}");
    anyhow::ensure!(!told.contains("FAILED"), "{told}");
    let json = scene.run("node1", Program::Nodegate, &["preflight", "-o", "json"])?;
    let checks: Vec<Value> = serde_json::from_str(&json)?;
    same!(checks.len(), told.lines().count(), "checks");
    // A node that does not forward cannot do the work.
    scene.set("node1", "ipv4/ip_forward", "0")?;
    let output = scene
        .testbed
        .exec("node1", Program::Nodegate, ["preflight"])?;
    same!(output.status.code(), Some(1), "the exit status");
    let told = String::from_utf8(output.stdout)?;
    anyhow::ensure!(told.contains("sysctl -w net.ipv4.ip_forward=1"), "{told}");
    Ok(())
}

fn cleanup(scene: &Scene) -> anyhow::Result<()> {
    let refused = scene
        .testbed
        .exec("node1", Program::Nodegate, ["cleanup"])?;
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    same!(
        refused.status.code(),
        Some(2),
        "beside a running nodegate: {told}"
    );
    anyhow::ensure!(told.contains("stop it first"), "{told}");
    new_connections_work(scene)?;
    kill(scene)?;
    scene.run("node1", Program::Nodegate, &["cleanup"])?;
    anyhow::ensure!(
        !scene.testbed.pin_dir("node1").exists(),
        "something is pinned still"
    );
    same!(
        scene.get("client", HOST, URL)?.exit,
        7,
        "curl's exit status"
    );
    let rules = scene.run("node1", Program::Iptables, &["-t", "nat", "-S"])?;
    anyhow::ensure!(!rules.contains("NODEGATE"), "{rules}");
    scene.testbed.restart("node1")?;
    new_connections_work(scene)
}

fn clsact(scene: &Scene) -> anyhow::Result<()> {
    kill(scene)?;
    scene.run("node1", Program::Nodegate, &["cleanup"])?;
    for _ in 0..2 {
        let started = start(scene, &["--attach", "clsact"])?;
        let filters = scene.run(
            "node1",
            Program::Tc,
            &["filter", "show", "dev", "eth0", "ingress"],
        )?;
        same!(
            filters.matches("direct-action").count(),
            1,
            "filters: {filters}"
        );
        new_connections_work(scene)?;
        drop(started);
        new_connections_work(scene).context("without nodegate")?;
    }
    Ok(())
}
