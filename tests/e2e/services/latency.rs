//! How soon a new endpoint serves.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::ensure;

use super::{SETTING, server, service};
use crate::{Case, probe::Task, scene::Scene};

pub(super) const CASES: &[Case] = &[(
    "services_endpoints_latency_should_not_be_very_high",
    SETTING,
    latency,
)];

/// Between a slice's file and the first connection that its endpoint answers.
fn latency(scene: &Scene) -> anyhow::Result<()> {
    // No selector: its slices are ours.
    scene.apply(
        &(service(
            "web",
            "clusterIP: 10.96.0.1, ports: [{name: http, port: 80, protocol: UDP}]",
        ) + &server("server-1", 1)
            + &server("server-2", 2)),
    )?;
    let slice = |pod: &str| -> anyhow::Result<String> {
        let (_, row) = scene.pod("default", pod)?;
        Ok(format!(
            "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-1, namespace: default, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: http, port: 80, protocol: UDP}}]
endpoints: [{{addresses: [{}], nodeName: {}, conditions: {{ready: true}}}}]
",
            row.address, row.node
        ))
    };
    let slices = [slice("server-1")?, slice("server-2")?];
    let file = scene.testbed.manifests().join("zz-slice.yaml");
    let stream = scene.start_probe(
        "node1",
        Task::UdpStream {
            to: "10.96.0.1:80".parse()?,
            connected: false,
        },
    )?;
    let mut took = Vec::new();
    for round in 0..10 {
        // Whole or not at all, as the API server's objects are.
        let fresh = file.with_extension("new");
        fs::write(&fresh, &slices[round % 2])?;
        let start = Instant::now();
        fs::rename(&fresh, &file)?;
        stream.until_pod(["server-1", "server-2"][round % 2])?;
        took.push(start.elapsed());
    }
    took.sort();
    eprintln!("endpoint latency: {took:?}");
    ensure!(
        took[4] < Duration::from_millis(500),
        "half of them: {took:?}"
    );
    ensure!(took[9] < Duration::from_secs(1), "the slowest: {took:?}");
    Ok(())
}
