//! Four hosts behind one Gateway: add-ons by name, by path and by user agent, and a canary with a time
//! limit; the gateway's node port is moved while it serves.

use std::{fs, ops::Range, time::Duration};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use nodegate_programs::Program;

use crate::{
    Case, one_node, same,
    scene::{Answer, Scene, wait},
};

pub(crate) const CASES: &[Case] = &[
    (
        "workshop_hosts_lead_to_their_add_ons",
        one_node("s3"),
        add_ons,
    ),
    (
        "workshop_one_in_ten_gets_the_canary",
        one_node("s3"),
        canary,
    ),
    (
        "workshop_a_slow_answer_is_given_up_after_two_seconds",
        one_node("s3"),
        timeout,
    ),
    (
        "workshop_slow_answers_are_asked_for_three_times",
        one_node("s3"),
        retries,
    ),
    (
        "workshop_a_download_goes_on_while_the_node_port_is_patched",
        one_node("s3"),
        patch,
    ),
];

const WHOAMI: &str = "whoami.127.0.0.1.nip.io";
const FIREFOX: &str =
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_10; rv:33.0) Gecko/20100101 Firefox/33.0";

/// `kubectl patch svc istio-ingressgateway` with the node port 30080.
fn patch_node_port(scene: &Scene) -> anyhow::Result<String> {
    let file = scene
        .testbed
        .manifests()
        .join("service_istio-system_istio-ingressgateway.yaml");
    let text = fs::read_to_string(&file)?;
    let patched = text.replace("30018", "30080");
    ensure!(patched != text, "the manifest has the node port: {text}");
    fs::write(&file, patched)?;
    let base = format!("http://{}:30080", scene.testbed.nodes()?[0].address);
    wait(|| {
        let answer = scene.get("client", "nobody", &format!("{base}/"))?;
        Ok((answer.exit == 0).then_some(()))
    })?;
    Ok(base)
}

/// What the pod says about the request that it answers.
fn said(answer: &Answer) -> anyhow::Result<Value> {
    ensure!(answer.status == 200, "{answer:?}");
    serde_json::from_str(&answer.body).with_context(|| answer.body.clone())
}

fn add_ons(scene: &Scene) -> anyhow::Result<()> {
    let base = patch_node_port(scene)?;
    let get = |name: &str, path: &str, agent: &str| {
        let host = format!("Host: {name}");
        scene.curl(
            "client",
            &["-A", agent, "-H", &host, &format!("{base}{path}")],
        )
    };
    for (name, path, agent, pod, port) in [
        (
            "GRAFANA.127.0.0.1.NIP.IO:30080",
            "/",
            "curl",
            "grafana",
            3000,
        ),
        ("grafana.127.0.0.1.nip.io", "/x", "curl", "grafana", 3000),
        (
            "jaeger.127.0.0.1.nip.io",
            "/jaeger/search",
            "curl",
            "jaeger",
            16686,
        ),
        (
            "prometheus.127.0.0.1.nip.io",
            "/graph",
            FIREFOX,
            "prometheus",
            9090,
        ),
        (WHOAMI, "/", "curl", "whoami", 80),
    ] {
        let said = said(&get(name, path, agent)?).with_context(|| name.to_owned())?;
        let its = said["pod"].as_str().unwrap_or_default();
        ensure!(its.starts_with(pod), "{name}{path}: {its}");
        same!(said["port"], port, "{name}{path}: the pod's port");
        same!(said["path"], path, "{name}{path}: the path");
    }
    for (name, path, agent) in [
        ("jaeger.127.0.0.1.nip.io", "/", "curl"),
        ("prometheus.127.0.0.1.nip.io", "/graph", "curl"),
        (
            "prometheus.127.0.0.1.nip.io",
            "/graph",
            &FIREFOX.to_lowercase(),
        ),
        ("kiali.127.0.0.1.nip.io", "/", "curl"),
    ] {
        let answer = get(name, path, agent)?;
        same!(
            (answer.status, answer.body.as_str()),
            (404, ""),
            "{name}{path} for {agent}"
        );
    }
    // The node's own processes reach it by the loopback address.
    let local = scene.get("node1", WHOAMI, "http://127.0.0.1:30080/")?;
    said(&local)?;
    Ok(())
}

fn canary(scene: &Scene) -> anyhow::Result<()> {
    let base = patch_node_port(scene)?;
    let (mut one, mut two) = (0, 0);
    for _ in 0..100 {
        let said = said(&scene.get("client", WHOAMI, &base)?)?;
        match said["labels"]["version"].as_str() {
            Some("v1") => one += 1,
            Some("v2") => two += 1,
            _ => anyhow::bail!("neither version: {said}"),
        }
    }
    same!((one, two), (90, 10), "requests to v1 and v2");
    Ok(())
}

/// Asks for something slow, which must be given up after so long.
fn given_up(scene: &Scene, url: &str, after: Range<Duration>) -> anyhow::Result<()> {
    // What a change makes nodegate do must not excuse anything here.
    for host in ["node1", &scene.gateway()?] {
        scene.run(host, Program::Nodegate, &["status", "--sync"])?;
    }
    let watch = scene.stopwatch();
    let answer = scene.get("client", WHOAMI, url)?;
    watch.lap().within(after)?;
    same!(
        (answer.status, answer.body.as_str()),
        (504, "upstream request timeout"),
        "the answer"
    );
    Ok(())
}

fn timeout(scene: &Scene) -> anyhow::Result<()> {
    let base = patch_node_port(scene)?;
    let after = Duration::from_secs(2)..Duration::from_millis(2200);
    given_up(scene, &format!("{base}/?wait=60s"), after)?;
    let quick = scene.get("client", WHOAMI, &format!("{base}/?wait=1s"))?;
    same!(quick.status, 200, "within the time limit");
    Ok(())
}

fn retries(scene: &Scene) -> anyhow::Result<()> {
    let base = format!("http://{}:30018", scene.testbed.nodes()?[0].address);
    scene.testbed.apply_text(
        "apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata: {name: whoami}
spec:
  hosts: [whoami.127.0.0.1.nip.io]
  gateways: [addon-gateway]
  http:
  - name: slow
    retries: {attempts: 2, perTryTimeout: 2s, retryOn: 'connect-failure,refused-stream,5xx'}
    route:
    - destination: {host: whoami, subset: v1}
",
    )?;
    let gateway = scene.gateway()?;
    let trace = scene.trace(&gateway)?;
    // Two pauses of up to 24 and 74 ms, and what everything else takes.
    let after = Duration::from_secs(6)..Duration::from_millis(6250);
    given_up(scene, &format!("{base}/?wait=60s"), after)?;
    let line = trace.wait_for(|line| line["status"] == 504)?;
    same!(line["attempts"], 3, "requests to the pod: {line}");
    same!(line["route"], "slow", "the route: {line}");
    Ok(())
}

fn patch(scene: &Scene) -> anyhow::Result<()> {
    let address = scene.testbed.nodes()?[0].address;
    let url = format!("http://{address}:30018/?bytes=3000000");
    let download = scene.download("client", "grafana.127.0.0.1.nip.io", &url)?;
    let watch = scene.stopwatch();
    let base = patch_node_port(scene)?;
    let lap = watch.lap().below(Duration::from_secs(1));
    lap.context("patching")?;
    said(&scene.get("client", WHOAMI, &base)?)?;
    let old = scene.get("client", WHOAMI, &format!("http://{address}:30018/"))?;
    same!((old.exit, old.status), (7, 0), "the old node port");
    same!(
        download.end()?,
        "200 3000000",
        "the download through the old node port"
    );
    Ok(())
}
