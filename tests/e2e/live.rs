//! Changes of manifests while things run: in force within a second, nothing dropped.

use std::{fs, time::Duration};

use anyhow::Context as _;

use nodegate_programs::Program;

use crate::{
    Case, one_node, same,
    scene::{Scene, limit, wait},
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

/// Changes something, and fails unless the path answers so within a second.
fn within_a_second(
    scene: &Scene,
    what: &str,
    change: impl FnOnce() -> std::io::Result<()>,
    (path, expected): (&str, u16),
) -> anyhow::Result<()> {
    let watch = scene.stopwatch();
    change()?;
    wait(|| Ok((status(scene, path)? == expected).then_some(()))).context(what.to_owned())?;
    let lap = watch.lap().below(Duration::from_secs(1));
    lap.with_context(|| what.to_owned())?;
    Ok(())
}

fn routes(scene: &Scene) -> anyhow::Result<()> {
    let file = scene.testbed.manifests().join("extra.yaml");
    same!(status(scene, "/one")?, 404, "before");
    let write = |path: &str| fs::write(&file, extra(path));
    within_a_second(scene, "adding", || write("/one"), ("/one", 200))?;
    within_a_second(scene, "changing", || write("/two"), ("/two", 200))?;
    same!(status(scene, "/one")?, 404, "the old route");
    within_a_second(scene, "removing", || fs::remove_file(&file), ("/two", 404))?;
    same!(status(scene, "/simple/nginx")?, 200, "the other routes");
    Ok(())
}

fn node_port(scene: &Scene) -> anyhow::Result<()> {
    let name = "service_istio-system_istio-ingressgateway.yaml";
    let file = scene.testbed.manifests().join(name);
    let text = fs::read_to_string(&file)?;
    let moved = text.replace("31373", "31374");
    anyhow::ensure!(moved != text, "the manifest has the node port: {text}");
    let watch = scene.stopwatch();
    fs::write(&file, moved)?;
    let answer = wait(|| {
        let answer = scene.get("client", HOST, "http://192.168.170.137:31374/simple/nginx")?;
        Ok((answer.exit == 0).then_some(answer))
    })?;
    let lap = watch.lap().below(Duration::from_secs(1));
    lap.context("moving the node port")?;
    same!(answer.status, 200, "the new node port");
    let old = scene.get("client", HOST, "http://192.168.170.137:31373/simple/nginx")?;
    same!(old.exit, 7, "the old node port");
    Ok(())
}

/// Four megabytes at one megabyte a second, while the Service's node port and the routes change.
fn download(scene: &Scene) -> anyhow::Result<()> {
    let url = "http://192.168.170.137:31373/simple/nginx/x?bytes=4000000";
    let download = scene.download("client", HOST, url)?;
    node_port(scene)?;
    let file = scene.testbed.manifests().join("extra.yaml");
    fs::write(&file, extra("/one"))?;
    scene.run("node1", Program::Nodegate, &["status", "--sync"])?;
    same!(download.end()?, "200 4000000", "the download");
    Ok(())
}

/// One connection, one request before the change and one after it.
fn keep_alive(scene: &Scene) -> anyhow::Result<()> {
    use std::io::{BufRead as _, BufReader, Write as _};
    let mut command = scene.testbed.command("client", Program::Nc)?;
    command.args(["-N", "-w", &limit(), "192.168.170.137", "31373"]);
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
    scene.run(&scene.gateway()?, Program::Nodegate, &["status", "--sync"])?;
    ask("HTTP/1.1 200 OK")?;
    drop(input);
    client.wait()?;
    Ok(())
}
