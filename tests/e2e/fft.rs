//! A three-replica service behind a gateway whose load balancer address never comes.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use anyhow::Context as _;

use crate::{
    Case, one_node, same,
    scene::{Scene, wait},
};

pub(crate) const CASES: &[Case] = &[
    (
        "fft_a_pending_load_balancer_is_a_working_service",
        one_node("s0"),
        pending,
    ),
    (
        "fft_paths_match_as_envoy_matches_them",
        one_node("s0"),
        paths,
    ),
    ("fft_all_replicas_answer", one_node("s0"), replicas),
    (
        "fft_a_replica_that_goes_takes_no_request_with_it",
        one_node("s0"),
        scale_down,
    ),
];

fn node_port(scene: &Scene) -> anyhow::Result<String> {
    let address = scene.testbed.nodes()?[0].address;
    let services = scene.testbed.ps()?.services;
    let service = services
        .iter()
        .find(|service| service.name == "istio-ingressgateway");
    let ports = &service
        .ok_or_else(|| anyhow::anyhow!("no gateway Service"))?
        .ports;
    let port = ports
        .iter()
        .find(|port| port.name == "http2")
        .and_then(|port| port.node_port);
    same!(port, Some(30001), "the node port of the manifest");
    Ok(format!("http://{address}:30001"))
}

fn pending(scene: &Scene) -> anyhow::Result<()> {
    let base = node_port(scene)?;
    for (host, url) in [
        ("client", format!("{base}/")),
        ("node1", format!("{base}/")),
        ("node1", "http://10.110.100.72/".to_owned()),
    ] {
        let answer = scene.curl(host, &[&url])?;
        same!((answer.exit, answer.status), (0, 404), "{url} from {host}");
    }
    let told = scene.diagnostics("node1")?;
    let pending = told
        .iter()
        .find(|line| line.contains("load balancer address pending"));
    let pending = pending.ok_or_else(|| anyhow::anyhow!("not told: {told:?}"))?;
    anyhow::ensure!(
        pending.contains("30001") && pending.contains("10.110.100.72"),
        "{pending}"
    );
    Ok(())
}

fn paths(scene: &Scene) -> anyhow::Result<()> {
    let base = node_port(scene)?;
    for (path, status) in [
        ("/fft", 200),
        ("/fftX", 200),
        ("/fft/1024?n=2", 200),
        ("/metrics", 200),
        ("/metrics?x=1", 200),
        ("/metrics/", 404),
        ("/metricsX", 404),
        ("/FFT", 404),
        ("/", 404),
    ] {
        let answer = scene.curl("client", &[&format!("{base}{path}")])?;
        same!(answer.status, status, "{path}");
        if status == 404 {
            same!(answer.body, "", "the body of {path}");
        } else {
            same!(answer.seen_path(), path, "{path} as the pod sees it");
        }
    }
    Ok(())
}

/// Answers by pod.
fn shares(scene: &Scene, url: &str, requests: usize) -> anyhow::Result<BTreeMap<String, usize>> {
    let mut shares = BTreeMap::new();
    for _ in 0..requests {
        let answer = scene.curl("client", &[url])?;
        if let Some(pod) = answer.header("x-testbed-pod") {
            *shares.entry(pod.to_owned()).or_default() += 1;
        }
    }
    Ok(shares)
}

/// The status codes of requests one after the other, for as long as it goes on.
fn statuses(
    scene: &Scene,
    url: &str,
    over: &AtomicBool,
    answered: &AtomicUsize,
) -> anyhow::Result<Vec<u16>> {
    let mut statuses = Vec::new();
    while !over.load(Ordering::Relaxed) {
        statuses.push(scene.curl("client", &[url])?.status);
        answered.store(statuses.len(), Ordering::Relaxed);
    }
    Ok(statuses)
}

fn replicas(scene: &Scene) -> anyhow::Result<()> {
    let shares = shares(scene, &format!("{}/fft", node_port(scene)?), 30)?;
    same!(shares.len(), 3, "pods that have answered ({shares:?})");
    // Least requests, drawn at random: even only in the long run.
    same!(shares.values().sum::<usize>(), 30, "answers ({shares:?})");
    Ok(())
}

fn scale_down(scene: &Scene) -> anyhow::Result<()> {
    let url = format!("{}/fft", node_port(scene)?);
    let over = AtomicBool::new(false);
    let answered = AtomicUsize::new(0);
    let (scaled, statuses) = thread::scope(|scope| {
        let requests = scope.spawn(|| statuses(scene, &url, &over, &answered));
        let scaled = scale(scene, &url, &answered);
        over.store(true, Ordering::Relaxed);
        (scaled, requests.join())
    });
    scaled?;
    let statuses = statuses.map_err(|_| anyhow::anyhow!("the client has panicked"))??;
    let total = statuses.len();
    let bad: Vec<_> = statuses.iter().filter(|status| **status != 200).collect();
    anyhow::ensure!(bad.is_empty(), "{} of {total} requests: {bad:?}", bad.len());
    Ok(())
}

/// Changes the replicas, and waits until there were requests enough meanwhile.
fn scale(scene: &Scene, url: &str, answered: &AtomicUsize) -> anyhow::Result<()> {
    let manifest = std::fs::read_to_string(crate::scene::manifests("s0/app.yaml"))?;
    for replicas in [1, 4, 2] {
        let scaled = manifest.replace("replicas: 3", &format!("replicas: {replicas}"));
        anyhow::ensure!(scaled != manifest, "the manifest has three replicas");
        scene.testbed.apply_text(&scaled)?;
        same!(shares(scene, url, 60)?.len(), replicas, "pods that answer");
    }
    wait(|| Ok((answered.load(Ordering::Relaxed) > 50).then_some(())))
        .context("more than 50 requests")
}
