//! Changes of manifests while things run: in force within a second, nothing dropped.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::{
    Case, one_node, same,
    scene::{Scene, wait},
};

pub(crate) const CASES: &[Case] = &[
    (
        "live_a_route_comes_changes_and_goes_within_a_second",
        one_node("s1"),
        routes,
    ),
    (
        "live_a_node_port_moves_within_a_second",
        one_node("s1"),
        node_port,
    ),
    ("live_a_download_survives_changes", one_node("s1"), download),
    (
        "live_keep_alive_connections_obey_new_routes",
        one_node("s1"),
        keep_alive,
    ),
];

const HOST: &str = "simple.baihl.io";

/// A second route to nginx, with this path.
fn extra(path: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: extra, namespace: simple}}
spec:
  hosts: [{HOST}]
  gateways: [simple-gateway]
  http:
  - match: [{{uri: {{exact: {path}}}}}]
    route: [{{destination: {{host: nginx}}}}]
"
    )
}

fn status(scene: &Scene, path: &str) -> anyhow::Result<u16> {
    Ok(scene
        .get(
            "client",
            HOST,
            &format!("http://192.168.170.137:31373{path}"),
        )?
        .status)
}

/// How long it takes until the path answers so.
fn until(scene: &Scene, path: &str, expected: u16) -> anyhow::Result<Duration> {
    let start = Instant::now();
    wait(Duration::from_secs(5), || {
        Ok((status(scene, path)? == expected).then_some(()))
    })?;
    Ok(start.elapsed())
}

fn within_a_second(what: &str, took: Duration) -> anyhow::Result<()> {
    anyhow::ensure!(took < Duration::from_secs(1), "{what} took {took:?}");
    Ok(())
}

fn routes(scene: &Scene) -> anyhow::Result<()> {
    let file = scene.testbed.manifests().join("extra.yaml");
    same!(status(scene, "/one")?, 404, "before");
    fs::write(&file, extra("/one"))?;
    within_a_second("adding", until(scene, "/one", 200)?)?;
    fs::write(&file, extra("/two"))?;
    within_a_second("changing", until(scene, "/two", 200)?)?;
    same!(status(scene, "/one")?, 404, "the old route");
    fs::remove_file(&file)?;
    within_a_second("removing", until(scene, "/two", 404)?)?;
    same!(status(scene, "/simple/nginx")?, 200, "the other routes");
    Ok(())
}

fn node_port(scene: &Scene) -> anyhow::Result<()> {
    let name = "service_istio-system_istio-ingressgateway.yaml";
    let file = scene.testbed.manifests().join(name);
    let text = fs::read_to_string(&file)?;
    let moved = text.replace("31373", "31374");
    anyhow::ensure!(moved != text, "the manifest has the node port: {text}");
    fs::write(&file, moved)?;
    let start = Instant::now();
    let answer = wait(Duration::from_secs(5), || {
        let answer = scene.get("client", HOST, "http://192.168.170.137:31374/simple/nginx")?;
        Ok((answer.exit == 0).then_some(answer))
    })?;
    within_a_second("moving", start.elapsed())?;
    same!(answer.status, 200, "the new node port");
    let old = scene.get("client", HOST, "http://192.168.170.137:31373/simple/nginx")?;
    same!(old.exit, 7, "the old node port");
    Ok(())
}

/// Eight megabytes at one megabyte a second, while the Service's node port and the routes change.
fn download(scene: &Scene) -> anyhow::Result<()> {
    let url = "http://192.168.170.137:31373/simple/nginx/x?bytes=4000000";
    let mut command = scene.testbed.command("client", "curl")?;
    command.args([
        "-s",
        "--limit-rate",
        "1M",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %{size_download}",
    ]);
    command
        .args(["-H", "Host: simple.baihl.io", url])
        .stdout(std::process::Stdio::piped());
    let download = command.spawn()?;
    std::thread::sleep(Duration::from_millis(500));
    node_port(scene)?;
    let file = scene.testbed.manifests().join("extra.yaml");
    fs::write(&file, extra("/one"))?;
    scene.run("node1", &["nodegate", "status", "--sync"])?;
    let output = download.wait_with_output()?;
    same!(
        String::from_utf8_lossy(&output.stdout),
        "200 4000000",
        "the download"
    );
    Ok(())
}

/// One connection, one request before the change and one after it.
fn keep_alive(scene: &Scene) -> anyhow::Result<()> {
    use std::io::{BufRead as _, BufReader, Write as _};
    let mut command = scene.testbed.command("client", "nc")?;
    command.args(["-N", "-w", "10", "192.168.170.137", "31373"]);
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped());
    let mut client = command.spawn()?;
    let mut input = client.stdin.take().expect("piped");
    let mut output = BufReader::new(client.stdout.take().expect("piped"));
    let mut ask = |expected: &str| -> anyhow::Result<()> {
        input.write_all(format!("HEAD /one HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes())?;
        let mut line = String::new();
        output.read_line(&mut line)?;
        same!(line.trim_end(), expected, "the status line");
        while line.trim_end() != "" {
            line.clear();
            anyhow::ensure!(
                output.read_line(&mut line)? > 0,
                "the connection was closed"
            );
        }
        Ok(())
    };
    ask("HTTP/1.1 404 Not Found")?;
    fs::write(scene.testbed.manifests().join("extra.yaml"), extra("/one"))?;
    scene.run(&scene.gateway()?, &["nodegate", "status", "--sync"])?;
    ask("HTTP/1.1 200 OK")?;
    drop(input);
    client.wait()?;
    Ok(())
}
