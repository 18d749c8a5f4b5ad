//! TCP connections shifted from one version of a service to another.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Output, Stdio},
    thread,
    time::Duration,
};

use anyhow::Context as _;
use nodegate_programs::Program;
use serde_json::Value;

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
    (
        "tcp_weights_are_exact_whoever_follows_the_route",
        SETTING,
        in_all_modes,
    ),
    (
        "tcp_what_the_kernel_cannot_do_the_proxy_does",
        SETTING,
        not_in_the_kernel,
    ),
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

/// A connection that is used for long.
struct Open {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Open {
    fn new(scene: &Scene, host: &str) -> anyhow::Result<Self> {
        let mut command = scene.testbed.command(host, Program::Nc)?;
        command.args(["-N", "-w", &limit(), EXTERNAL.0, &EXTERNAL.1.to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Ok(Self {
            child,
            input,
            output,
        })
    }

    fn ask(&mut self, line: &str) -> anyhow::Result<String> {
        writeln!(self.input, "{line}")?;
        let mut answer = String::new();
        self.output.read_line(&mut answer)?;
        Ok(answer)
    }

    fn end(self) -> anyhow::Result<()> {
        let Self {
            mut child, input, ..
        } = self;
        drop(input);
        child.wait()?;
        Ok(())
    }
}

fn open_connections(scene: &Scene) -> anyhow::Result<()> {
    let mut open = Vec::new();
    for _ in 0..5 {
        let mut connection = Open::new(scene, "client")?;
        same!(
            connection.ask("before")?,
            "one before\n",
            "the first answer"
        );
        open.push(connection);
    }
    apply_80_20(scene)?;
    let lines = ten(scene, "client", EXTERNAL)?;
    same!(
        count(&lines, "two "),
        2,
        "new connections obey the new weights"
    );
    for mut connection in open {
        same!(
            connection.ask("after")?,
            "one after\n",
            "an open connection stays"
        );
        connection.end()?;
    }
    Ok(())
}

/// Divides connections by these weights, with an annotation that says who is to.
fn shift(scene: &Scene, mode: &str, (one, two): (u32, u32)) -> anyhow::Result<()> {
    let route = |version: &str, weight: u32| {
        format!(
            "{{destination: {{host: tcp-echo, port: {{number: 9000}}, subset: {version}}}, weight: {weight}}}"
        )
    };
    let report = scene.testbed.apply_text(&format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
         metadata: {{name: tcp-echo, namespace: {NAMESPACE}, annotations: {{nodegate.io/tcp-shifting: {mode}}}}}\n\
         spec: {{hosts: ['*'], gateways: [tcp-echo-gateway], tcp: [{{match: [{{port: 31400}}], route: [{}, {}]}}]}}\n",
        route("v1", one),
        route("v2", two),
    ))?;
    anyhow::ensure!(!report.has_errors(), "{report:?}");
    Ok(())
}

/// How many connections the kernel has sent to destinations of TCP routes.
fn by_kernel(scene: &Scene) -> anyhow::Result<u64> {
    let arguments = ["maps", "shares", "-o", "json"];
    let output = scene.run("node1", Program::Nodegate, &arguments)?;
    let shown: Value = serde_json::from_str(&output)?;
    let rows = shown["shares"].as_array().context("a list")?.iter();
    Ok(rows.filter_map(|row| row["connections"].as_u64()).sum())
}

/// Weights are changed, and who follows the route, while connections are open that stay where they are.
fn in_all_modes(scene: &Scene) -> anyhow::Result<()> {
    let (pod, _) = scene.pod(NAMESPACE, "tcp-echo-v2")?;
    let mut open = Vec::new();
    for mode in ["auto", "kernel", "proxy", "auto"] {
        for weights in [(100, 0), (80, 20), (50, 50), (0, 100)] {
            shift(scene, mode, weights)?;
            let expected = ((weights.0 / 10) as usize, (weights.1 / 10) as usize);
            for host in ["client", "node1", &pod] {
                let before = by_kernel(scene)?;
                let lines = ten(scene, host, EXTERNAL)?;
                let shares = (count(&lines, "one "), count(&lines, "two "));
                same!(shares, expected, "{mode}, {weights:?}, from {host}");
                let taken = by_kernel(scene)? - before;
                let wanted = if mode == "proxy" { 0 } else { 10 };
                same!(
                    taken,
                    wanted,
                    "{mode}, {weights:?}, from {host}: the kernel's"
                );
            }
            let mut connection = Open::new(scene, "client")?;
            let first = connection.ask("first")?;
            open.push((first.replace("first", "last"), connection));
        }
    }
    for (expected, mut connection) in open {
        same!(connection.ask("last")?, expected, "an open connection");
        connection.end()?;
    }
    Ok(())
}

fn not_in_the_kernel(scene: &Scene) -> anyhow::Result<()> {
    let report = scene.testbed.apply_text(&format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
         metadata: {{name: tcp-echo-destination, namespace: {NAMESPACE}}}\n\
         spec: {{host: tcp-echo, trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: 100}}}}}}, subsets: \
         [{{name: v1, labels: {{version: v1}}}}, {{name: v2, labels: {{version: v2}}}}]}}\n"
    ))?;
    anyhow::ensure!(!report.has_errors(), "{report:?}");
    shift(scene, "kernel", (80, 20))?;
    let lines = ten(scene, "client", EXTERNAL)?;
    let shares = (count(&lines, "one "), count(&lines, "two "));
    same!(shares, (8, 2), "by the proxy");
    same!(by_kernel(scene)?, 0, "by the kernel");
    let told = scene.diagnostics("node1")?;
    let is_it = |line: &String| line.contains("spec.tcp[0]") && line.contains("maxConnections");
    anyhow::ensure!(told.iter().any(is_it), "status: {told:?}");
    let target = format!("{}:{}", EXTERNAL.0, EXTERNAL.1);
    let arguments = ["explain", "192.168.96.1", &target, "-o", "json"];
    let output = scene.run("node1", Program::Nodegate, &arguments)?;
    let answer: Value = serde_json::from_str(&output)?;
    let why = answer["shift"]["against_kernel"].as_str();
    anyhow::ensure!(
        why.is_some_and(|why| why.contains("maxConnections")),
        "{why:?}"
    );
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
