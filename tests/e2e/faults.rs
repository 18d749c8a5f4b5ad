//! Bad manifests: one message with the place and the fix; everything else goes on, and the broken
//! object's last good state stays.

use std::fs;

use nodegate_programs::Program;

use crate::{Case, one_node, same, scene::Scene};

pub(crate) const CASES: &[Case] = &[
    ("fault_a_yaml_error", one_node("s1"), yaml_error),
    (
        "fault_a_service_with_port_70000",
        one_node("s1"),
        port_70000,
    ),
    (
        "fault_two_services_on_one_node_port",
        one_node("s1"),
        one_node_port,
    ),
    (
        "fault_a_virtual_service_to_an_unknown_host",
        one_node("s1"),
        unknown_host,
    ),
    (
        "fault_check_says_the_same_in_advance",
        one_node("s1"),
        check,
    ),
];

const HOST: &str = "simple.baihl.io";
const BASE: &str = "http://192.168.170.137:31373";

/// Everything that worked still does.
fn all_works(scene: &Scene) -> anyhow::Result<()> {
    for path in ["/simple/nginx", "/simple/httpserver"] {
        let answer = scene.get("client", HOST, &format!("{BASE}{path}"))?;
        same!(answer.status, 200, "{path}");
    }
    Ok(())
}

/// Puts a file in place, waits until it is read everywhere, and gives the one new message that
/// names it, after checking its place.
fn message(scene: &Scene, file: &str, text: &str, line: usize) -> anyhow::Result<String> {
    fs::write(scene.testbed.manifests().join(file), text)?;
    for host in ["node1", &scene.gateway()?] {
        scene.run(host, Program::Nodegate, &["status", "--sync"])?;
    }
    let told: Vec<_> = scene
        .diagnostics(&scene.gateway()?)?
        .into_iter()
        .filter(|line| line.contains(file) && !line.starts_with("info"))
        .collect();
    same!(told.len(), 1, "messages about {file}: {told:?}");
    let message = told.into_iter().next().unwrap_or_default();
    anyhow::ensure!(
        message.contains(&format!("/{file}:{line}: ")),
        "no line {line}: {message}"
    );
    anyhow::ensure!(message.contains("(fix: "), "no fix: {message}");
    Ok(message)
}

fn nginx(node_port: u32, port: u32) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata:
  name: nginx
  namespace: simple
spec:
  type: NodePort
  clusterIP: 10.96.44.44
  ports:
  - name: http
    port: {port}
    targetPort: 80
    nodePort: {node_port}
  selector:
    app: nginx
"
    )
}

/// The stored nginx Service makes way for one in a file of our own.
fn own_nginx(scene: &Scene) -> anyhow::Result<()> {
    fs::write(scene.testbed.manifests().join("web.yaml"), nginx(30100, 80))?;
    fs::remove_file(scene.testbed.manifests().join("service_simple_nginx.yaml"))?;
    for host in ["node1", &scene.gateway()?] {
        scene.run(host, Program::Nodegate, &["status", "--sync"])?;
    }
    all_works(scene)?;
    nginx_answers(scene)
}

fn nginx_answers(scene: &Scene) -> anyhow::Result<()> {
    let answer = scene.curl("client", &["http://192.168.170.137:30100/"])?;
    same!(answer.status, 200, "nginx through its own node port");
    Ok(())
}

fn yaml_error(scene: &Scene) -> anyhow::Result<()> {
    own_nginx(scene)?;
    let broken = nginx(30100, 80).replace("    port: 80\n", "    port: [80\n");
    let message = message(scene, "web.yaml", &broken, 12)?;
    anyhow::ensure!(message.starts_with("error: "), "{message}");
    all_works(scene)?;
    nginx_answers(scene)
}

fn port_70000(scene: &Scene) -> anyhow::Result<()> {
    own_nginx(scene)?;
    let message = message(scene, "web.yaml", &nginx(30100, 70000), 11)?;
    anyhow::ensure!(
        message.contains("Service simple/nginx: spec.ports[0].port"),
        "{message}"
    );
    anyhow::ensure!(message.contains("70000"), "{message}");
    all_works(scene)?;
    nginx_answers(scene)
}

fn one_node_port(scene: &Scene) -> anyhow::Result<()> {
    own_nginx(scene)?;
    let message = message(scene, "web.yaml", &nginx(31373, 80), 13)?;
    anyhow::ensure!(message.contains("Service simple/nginx"), "{message}");
    anyhow::ensure!(
        message.contains("istio-system/istio-ingressgateway"),
        "{message}"
    );
    all_works(scene)?;
    nginx_answers(scene)
}

fn unknown_host(scene: &Scene) -> anyhow::Result<()> {
    let stored = scene
        .testbed
        .manifests()
        .join("virtualservice.networking.istio.io_simple_simple.yaml");
    let text = fs::read_to_string(&stored)?;
    let line = text.lines().position(|line| line.trim() == "host: nginx");
    let line = line.ok_or_else(|| anyhow::anyhow!("no such host in {text}"))? + 1;
    let broken = text.replace("host: nginx", "host: ngimx");
    let message = message(
        scene,
        "virtualservice.networking.istio.io_simple_simple.yaml",
        &broken,
        line,
    )?;
    anyhow::ensure!(
        message.contains("ngimx") && message.contains("nginx"),
        "{message}"
    );
    all_works(scene)?;

    // A new one is accepted, as istiod accepts it, and its route answers as Envoy's does.
    let new = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: later, namespace: simple}
spec:
  hosts: [simple.baihl.io]
  gateways: [simple-gateway]
  http:
  - match: [{uri: {prefix: /later}}]
    route:
    - destination:
        host: not-there-yet
";
    let message = crate::faults::message(scene, "later.yaml", new, 11)?;
    anyhow::ensure!(message.starts_with("warning: "), "{message}");
    let answer = scene.get("client", HOST, &format!("{BASE}/later"))?;
    same!(
        (answer.status, answer.body.as_str()),
        (503, ""),
        "a route to an unknown cluster"
    );
    all_works(scene)
}

fn check(scene: &Scene) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("web.yaml");
    fs::write(&path, nginx(30100, 70000))?;
    let output = scene.testbed.exec(
        "node1",
        Program::Nodegate,
        ["check".as_ref(), path.as_os_str()],
    )?;
    same!(output.status.code(), Some(1), "the exit status");
    let told = String::from_utf8(output.stderr)?;
    anyhow::ensure!(told.contains("web.yaml:11: Service simple/nginx"), "{told}");
    fs::write(&path, nginx(30100, 80))?;
    let output = scene.testbed.exec(
        "node1",
        Program::Nodegate,
        ["check".as_ref(), path.as_os_str()],
    )?;
    same!(
        output.status.code(),
        Some(0),
        "the exit status of a good manifest"
    );
    // The testbed asks it too, as a cluster asks its API server.
    let report = scene.testbed.apply_text(&nginx(30100, 70000))?;
    anyhow::ensure!(report.has_errors(), "{report:?}");
    all_works(scene)
}
