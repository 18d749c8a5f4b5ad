//! How soon a new endpoint serves.

use std::{fs, time::Duration};

use anyhow::Context as _;

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
    let stream = scene.start_probe("node1", Task::stream("10.96.0.1:80".parse()?, false))?;
    let mut laps = Vec::new();
    for round in 0..10 {
        // Whole or not at all, as the API server's objects are.
        let fresh = file.with_extension("new");
        fs::write(&fresh, &slices[round % 2])?;
        let watch = scene.stopwatch();
        fs::rename(&fresh, &file)?;
        stream.until_pod(["server-1", "server-2"][round % 2])?;
        laps.push(watch.lap());
    }
    laps.sort_by_key(|lap| lap.took);
    eprintln!("endpoint latency: {laps:?}");
    laps[4]
        .below(Duration::from_millis(500))
        .context("half of them")?;
    laps[9]
        .below(Duration::from_secs(1))
        .context("the slowest")?;
    Ok(())
}
