//! The machine is not as it should be, or changes while nodegate runs.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use nodegate_programs::Program;

use crate::{
    Case, Setting,
    kube_proxy::Nodegate,
    probe::Task,
    same,
    scene::{Scene, wait},
    services::{both_protocols, cluster_ips, server, service},
};

pub(crate) const CASES: &[Case] = &[
    (
        "fault_an_uplink_is_renamed_goes_and_comes_back",
        SETTING,
        uplink,
    ),
    (
        "fault_a_card_without_a_default_route_comes_later_and_has_node_ports",
        SETTING,
        another_card,
    ),
    (
        "fault_a_process_listens_on_a_node_port",
        SETTING,
        node_port_taken,
    ),
    (
        "fault_what_the_machine_lacks_is_named_and_nothing_is_touched",
        SETTING,
        lacking,
    ),
    (
        "fault_endpoints_flap_a_hundred_times_a_second",
        SETTING,
        flapping,
    ),
];

/// node1 has no nodegate to begin with.
const SETTING: Setting = Setting {
    manifests: "kube-proxy",
    namespace: None,
    nodes: 2,
};

const NODE_PORT: &str = "192.168.170.11:30080";
/// The node on its second uplink.
const SECOND: &str = "10.98.0.11:30080";

fn serve(scene: &Scene, node_port: u16) -> anyhow::Result<()> {
    let spec = format!(
        "type: NodePort, {}, selector: {{app: server}}, {}",
        cluster_ips(1),
        both_protocols(node_port)
    );
    scene.apply(&(service("web", &spec) + &server("server-1", 1)))
}

fn answers_soon(scene: &Scene, to: &str) -> anyhow::Result<()> {
    let to: SocketAddr = to.parse()?;
    wait(|| {
        let replies = scene.probe("client", Task::tcp(to).expecting_silence())?;
        Ok(replies
            .iter()
            .all(|reply| reply.pod.is_some())
            .then_some(()))
    })
    .with_context(|| format!("{to} does not answer"))?;
    scene.answers("client", Task::tcp(to), &["server-1"])?;
    scene.answers("client", Task::udp(to), &["server-1"])
}

fn ip(line: &str) -> anyhow::Result<()> {
    let output = Program::Ip
        .command()
        .args(line.split_whitespace())
        .output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {line}: {told}");
    Ok(())
}

/// A second wire between the client and node1.
fn second_uplink(scene: &Scene) -> anyhow::Result<()> {
    let names = scene.testbed.names();
    let [client, node] = [
        names.netns(&"client".parse()?),
        names.netns(&"node1".parse()?),
    ];
    ip(&format!(
        "-n {node} link add second type veth peer name second netns {client}"
    ))?;
    for (netns, address) in [(&client, "10.98.0.1/24"), (&node, "10.98.0.11/24")] {
        ip(&format!("-n {netns} addr add {address} dev second"))?;
        ip(&format!("-n {netns} link set second up"))?;
    }
    Ok(())
}

fn uplink(scene: &Scene) -> anyhow::Result<()> {
    serve(scene, 30080)?;
    second_uplink(scene)?;
    let _nodegate = Nodegate::run(
        scene,
        &[
            "--services",
            "all",
            "--uplink",
            "eth0",
            "--uplink",
            "second",
        ],
    )?;
    answers_soon(scene, SECOND)?;
    // Down for the moment, as udev does it.
    for step in ["second down", "second name other", "other up"] {
        scene.run_line("node1", Program::Ip, &format!("link set {step}"))?;
    }
    for _ in 0..5 {
        answers_soon(scene, SECOND).context("under another name")?;
        std::thread::sleep(Duration::from_secs(1));
    }
    scene.run("node1", Program::Ip, &["link", "delete", "other"])?;
    wait(|| Ok((links(scene)? == 0).then_some(()))).context("links of the device that is gone")?;
    answers_soon(scene, NODE_PORT).context("the other uplink")?;
    second_uplink(scene)?;
    answers_soon(scene, SECOND).context("made anew")?;
    let log = std::fs::read_to_string(scene.testbed.log(&"node1".parse()?))?;
    same!(
        log.matches("the device is gone").count(),
        1,
        "told in {log}"
    );
    Ok(())
}

/// Nobody has named it: it is served. With others named, it is told of.
fn another_card(scene: &Scene) -> anyhow::Result<()> {
    serve(scene, 30080)?;
    let nodegate = Nodegate::run(scene, &["--services", "all"])?;
    answers_soon(scene, NODE_PORT)?;
    second_uplink(scene)?;
    answers_soon(scene, SECOND).context("a card that has come")?;
    let datapath = |what: &str| -> anyhow::Result<serde_json::Value> {
        Ok(scene.status("node1")?["datapath"][what].clone())
    };
    same!(
        datapath("uplinks")?,
        serde_json::json!(["eth0", "second"]),
        "uplinks"
    );
    same!(datapath("left_out")?, serde_json::json!([]), "left out");
    // It has lost its address for a moment, as with DHCP.
    let change = |what: &str| {
        let line = format!("addr {what} 10.98.0.11/24 dev second");
        scene.run_line("node1", Program::Ip, &line)
    };
    change("del")?;
    std::thread::sleep(Duration::from_secs(3));
    ensure!(links(scene)? > 0, "detached");
    change("add")?;
    answers_soon(scene, SECOND).context("with its address again")?;
    drop(nodegate);
    let nodegate = Nodegate::run(scene, &["--services", "all", "--uplink", "eth0"])?;
    answers_soon(scene, NODE_PORT).context("the card that was named")?;
    same!(
        datapath("left_out")?,
        serde_json::json!(["second"]),
        "left out"
    );
    let log = std::fs::read_to_string(scene.testbed.log(&"node1".parse()?))?;
    ensure!(log.contains("node ports have an address there"), "{log}");
    let told = scene.run(
        "node1",
        Program::Nodegate,
        &["preflight", "--uplink", "eth0"],
    )?;
    ensure!(
        told.contains("node ports have addresses on second"),
        "{told}"
    );
    drop(nodegate);
    Ok(())
}

/// Pinned links to the second uplink.
fn links(scene: &Scene) -> anyhow::Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir(scene.testbed.pin_dir("node1"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        count += usize::from(name.ends_with("_second") || name.ends_with("_other"));
    }
    Ok(count)
}

fn node_port_taken(scene: &Scene) -> anyhow::Result<()> {
    serve(scene, 30080)?;
    let _nodegate = Nodegate::run(scene, &["--services", "all"])?;
    let log = || std::fs::read_to_string(scene.testbed.log(&"node1".parse()?)).context("the log");
    ensure!(!log()?.contains("a process listens"), "{}", log()?);
    let mut listener = scene
        .testbed
        .spawn("node1", Program::Nc, ["-l", "-k", "30090"])?;
    let told = wait(|| {
        let sockets = scene.run("node1", Program::Cat, &["/proc/net/tcp"])?;
        Ok(sockets.contains(":758A 00000000:0000 0A").then_some(()))
    })
    .context("nc does not listen")
    .and_then(|()| {
        serve(scene, 30090)?;
        wait(|| Ok(log()?.contains("tcp 30090").then_some(())))
            .with_context(|| format!("not told: {}", log().unwrap_or_default()))?;
        // The Service has it all the same.
        answers_soon(scene, "192.168.170.11:30090")
    });
    let _ = listener.kill();
    let _ = listener.wait();
    told?;
    same!(log()?.matches("a process listens").count(), 1, "{}", log()?);
    Ok(())
}

/// A nodegate that cannot work says why, and leaves the programs of the one before in force.
fn lacking(scene: &Scene) -> anyhow::Result<()> {
    serve(scene, 30080)?;
    drop(Nodegate::run(scene, &["--services", "all"])?);
    answers_soon(scene, NODE_PORT)?;
    let pin_dir = scene.testbed.pin_dir("node1");
    let count = || -> anyhow::Result<usize> { Ok(std::fs::read_dir(&pin_dir)?.count()) };
    let pins = count()?;
    for (capabilities, line, words) in [
        ("-bpf,-perfmon,-sys_admin", "", &["CAP_BPF"][..]),
        (
            "",
            "--pin-dir /tmp/nodegate-no-bpffs",
            &["/tmp/nodegate-no-bpffs", "mount -t bpf"],
        ),
        ("", "--cgroup /tmp", &["cgroup /tmp: ", "--cgroup"]),
        ("", "--uplink nowhere0", &["nowhere0", "--uplink"]),
    ] {
        let mut command = Program::Nodegate.by_name();
        command.args(["run", "--role", "redirector", "--services", "all"]);
        command.args(line.split_whitespace());
        if !capabilities.is_empty() {
            command = Program::Setpriv.around(["--bounding-set", capabilities], &command);
        }
        let line = format!("{command:?}");
        let output = scene
            .testbed
            .output("node1", command)
            .context("it goes on")?;
        let told = String::from_utf8_lossy(&output.stderr);
        let ended = output.status.code().is_some_and(|code| code != 0);
        ensure!(ended, "{line}: {}: {told}", output.status);
        for word in words {
            ensure!(told.contains(word), "{line} does not name {word}: {told}");
        }
        answers_soon(scene, NODE_PORT).with_context(|| format!("after {line}"))?;
        same!(count()?, pins, "pins after {line}");
    }
    Ok(())
}

/// The last state counts, and what flows in between goes to one or the other.
fn flapping(scene: &Scene) -> anyhow::Result<()> {
    let spec = format!(
        "type: NodePort, {}, {}",
        cluster_ips(1),
        both_protocols(30080)
    );
    // No selector: its slices are ours.
    scene.apply(&(service("web", &spec) + &server("server-1", 1) + &server("server-2", 2)))?;
    let slice = |pod: &str| -> anyhow::Result<String> {
        let (_, row) = scene.pod("default", pod)?;
        Ok(format!(
            "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, namespace: default, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: tcp, port: 80}}, {{name: udp, port: 80, protocol: UDP}}]
endpoints: [{{addresses: [{}], nodeName: {}, conditions: {{ready: true}}}}]
",
            row.address, row.node
        ))
    };
    let slices = [slice("server-1")?, slice("server-2")?];
    let file = scene.testbed.manifests().join("zz-slice.yaml");
    std::fs::write(&file, &slices[0])?;
    let _nodegate = Nodegate::run(scene, &["--services", "all"])?;
    let to: SocketAddr = NODE_PORT.parse()?;
    scene.answers("client", Task::tcp(to), &["server-1"])?;
    let generation = || -> anyhow::Result<u64> {
        let status = scene.status("node1")?;
        let applied = status["datapath"]["applied"].as_u64();
        applied.with_context(|| format!("no generation in {status}"))
    };
    let before = generation()?;
    let load = scene.start_probe("client", Task::Load { to, threads: 2 })?;
    let begun = Instant::now();
    for round in 1..=300 {
        // Whole or not at all, as the API server's objects are.
        let fresh = file.with_extension("new");
        std::fs::write(&fresh, &slices[round % 2])?;
        std::fs::rename(&fresh, &file)?;
        std::thread::sleep(Duration::from_millis(10));
    }
    std::fs::write(&file, &slices[1])?;
    let took = begun.elapsed();
    scene.run("node1", Program::Nodegate, &["status", "--sync"])?;
    scene.answers("client", Task::tcp(to), &["server-2"])?;
    scene.answers("client", Task::udp(to), &["server-2"])?;
    load.summary()?.is_flawless()?;
    let applied = generation()? - before;
    // Changes that follow each other within 50 ms are taken as one.
    let most = took.as_millis() as u64 / 25;
    ensure!(
        (1..most).contains(&applied),
        "{applied} generations in {took:?}: they should be few"
    );
    Ok(())
}
