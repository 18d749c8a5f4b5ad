//! TCP connections shifted from one version of a service to another.

use std::{
    io::{Read as _, Write as _},
    process::Output,
    thread,
    time::Duration,
};

use nodegate_programs::Program;

use crate::{
    Case, Setting, same,
    scene::{Scene, limit, manifests},
};

const NAMESPACE: &str = "istio-io-tcp-traffic-shifting";
const EXTERNAL: (&str, u16) = ("192.168.96.50", 31400);

const SETTING: Setting = Setting {
    manifests: "s4",
    namespace: Some(NAMESPACE),
    nodes: 1,
};

pub(crate) const CASES: &[Case] = &[
    ("tcp_all_connections_go_to_v1", SETTING, all_to_v1),
    (
        "tcp_external_ip_and_node_port_both_lead_there",
        SETTING,
        frontends,
    ),
    (
        "tcp_half_closed_connections_get_their_answer",
        SETTING,
        half_close,
    ),
    ("tcp_eight_and_two_of_ten", SETTING, eight_and_two),
    (
        "tcp_open_connections_stay_where_they_are",
        SETTING,
        open_connections,
    ),
    ("tcp_target_port_defaults_to_port", SETTING, target_port),
];

/// What `date` prints in the documentation of Istio.
const DATE: &str = "Mon Nov 12 23:38:45 UTC 2018";

/// `(date; sleep …) | nc` as in the documentation of Istio, ten times at once; the lines that came
/// back.
fn ten(scene: &Scene, host: &str, (address, port): (&str, u16)) -> anyhow::Result<Vec<String>> {
    let port = port.to_string();
    let arguments = ["-N", "-w", &limit(), address, &port];
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = scene.testbed.spawn(host, Program::Nc, arguments)?;
        let mut input = client.stdin.take().expect("piped");
        writeln!(input, "{DATE}")?;
        clients.push((client, input));
    }
    thread::sleep(Duration::from_millis(300));
    // All at once, so that none waits for another one's end.
    let clients: Vec<_> = clients.into_iter().map(|(client, _)| client).collect();
    let mut lines = Vec::new();
    for client in clients {
        let output = client.wait_with_output()?;
        lines.extend(String::from_utf8(output.stdout)?.lines().map(str::to_owned));
    }
    Ok(lines)
}

/// `echo … | nc`: `nc -N` shuts down its side as soon as it has sent; the answer comes after that.
fn send(scene: &Scene, host: &str, address: &str, port: u16, text: &str) -> anyhow::Result<Output> {
    let arguments = ["-N", "-w", &limit(), address, &port.to_string()];
    scene.feed(host, Program::Nc, &arguments, text)
}

fn count(lines: &[String], prefix: &str) -> usize {
    lines.iter().filter(|line| line.starts_with(prefix)).count()
}

fn all_to_v1(scene: &Scene) -> anyhow::Result<()> {
    let lines = ten(scene, "client", EXTERNAL)?;
    same!((lines.len(), count(&lines, "one ")), (10, 10), "{lines:?}");
    anyhow::ensure!(
        lines.iter().all(|line| line.contains(DATE)),
        "the date is echoed: {lines:?}"
    );
    Ok(())
}

fn frontends(scene: &Scene) -> anyhow::Result<()> {
    let (pod, _) = scene.pod(NAMESPACE, "tcp-echo-v2")?;
    for (host, address) in [
        ("client", EXTERNAL),
        ("client", ("192.168.96.50", 32432)),
        ("node1", EXTERNAL),
        ("node1", ("192.168.96.50", 32432)),
        ("node1", ("10.106.130.216", 31400)),
        (&pod, EXTERNAL),
        (&pod, ("10.106.130.216", 31400)),
    ] {
        let (address, port) = address;
        let output = send(scene, host, address, port, "hello\n")?;
        same!(
            String::from_utf8(output.stdout)?,
            "one hello\n",
            "{address}:{port} from {host}"
        );
    }
    Ok(())
}

fn half_close(scene: &Scene) -> anyhow::Result<()> {
    let sent = "first\nsecond\nno newline";
    let output = send(scene, "client", EXTERNAL.0, EXTERNAL.1, sent)?;
    let text = String::from_utf8(output.stdout)?;
    let lines: Vec<_> = text.lines().collect();
    same!(
        lines,
        ["one first", "one second", "one no newline"],
        "the answer"
    );
    anyhow::ensure!(output.status.success(), "nc: {}", output.status);
    Ok(())
}

fn apply_80_20(scene: &Scene) -> anyhow::Result<()> {
    let report = scene
        .testbed
        .apply(&[manifests("s4-80-20")], Some(NAMESPACE))?;
    anyhow::ensure!(!report.has_errors(), "{report:?}");
    Ok(())
}

fn eight_and_two(scene: &Scene) -> anyhow::Result<()> {
    same!(
        count(&ten(scene, "client", EXTERNAL)?, "one "),
        10,
        "before"
    );
    apply_80_20(scene)?;
    for round in 1..=3 {
        let lines = ten(scene, "client", EXTERNAL)?;
        let shares = (count(&lines, "one "), count(&lines, "two "));
        same!(shares, (8, 2), "round {round}");
    }
    Ok(())
}

fn open_connections(scene: &Scene) -> anyhow::Result<()> {
    let mut open = Vec::new();
    for _ in 0..5 {
        let mut command = scene.testbed.command("client", Program::Nc)?;
        command.args(["-N", "-w", &limit(), EXTERNAL.0, &EXTERNAL.1.to_string()]);
        command
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped());
        let mut child = command.spawn()?;
        let mut input = child.stdin.take().expect("piped");
        let mut output = child.stdout.take().expect("piped");
        input.write_all(b"before\n")?;
        let mut answer = [0; 11];
        output.read_exact(&mut answer)?;
        same!(&answer, b"one before\n", "the first answer");
        open.push((child, input, output));
    }
    apply_80_20(scene)?;
    let lines = ten(scene, "client", EXTERNAL)?;
    same!(
        count(&lines, "two "),
        2,
        "new connections obey the new weights"
    );
    for (mut child, mut input, mut output) in open {
        input.write_all(b"after\n")?;
        drop(input);
        let mut rest = String::new();
        output.read_to_string(&mut rest)?;
        same!(rest, "one after\n", "an open connection stays");
        child.wait()?;
    }
    Ok(())
}

/// The Service names no targetPort.
fn target_port(scene: &Scene) -> anyhow::Result<()> {
    for port in [9000, 9001] {
        let services = scene.testbed.ps()?.services;
        let echo = services.iter().find(|service| service.name == "tcp-echo");
        let address = &echo
            .ok_or_else(|| anyhow::anyhow!("no tcp-echo"))?
            .cluster_ip;
        let text = String::from_utf8(send(scene, "node1", address, port, "hello\n")?.stdout)?;
        anyhow::ensure!(
            ["one hello\n", "two hello\n"].contains(&&*text),
            "{port}: {text:?}"
        );
    }
    Ok(())
}
