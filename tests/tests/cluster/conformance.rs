//! nodegate in place of kube-proxy, tried by Kubernetes' own tests: a few of those that every conformant
//! cluster passes. `cargo xtask conformance services` runs all.

use std::path::Path;

use anyhow::{Context as _, ensure};
use nodegate_testbed::{
    cluster::{Cluster, Options, parts::Parts},
    conformance::{self, Event, Known, Report, Verdict},
    product,
};

use crate::services::options;

/// What makes a Service reachable, and what changes it while it is used.
const TESTS: [&str; 10] = [
    "API Server should provide secure master service [Conformance]",
    "EndpointSlice should support a Service with multiple endpoint IPs specified in multiple EndpointSlices [Conformance]",
    "EndpointSlice should support a Service with multiple ports specified in multiple EndpointSlices [Conformance]",
    "Services should be able to change the type from ExternalName to ClusterIP [Conformance]",
    "Services should be able to create a functioning NodePort service [Conformance]",
    "Services should be able to switch session affinity for service with type clusterIP [LinuxOnly] [Conformance]",
    "Services should have session affinity work for NodePort service [LinuxOnly] [Conformance]",
    "Services should serve a basic endpoint from pods [Conformance]",
    "Services should serve endpoints on same port and different protocols [Conformance]",
    "Services should serve multiport endpoints from pods [Conformance]",
];

pub(crate) fn services(name: &str, parts: &Parts) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let image = product::image(&crate::nodegate()?, &directory.path().join("nodegate.tar"))?;
    let cluster = Cluster::up(&Options {
        kube_proxy: None,
        ..options(name, parts)
    })?;
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    conformance::install(&cluster, &image, &deploy)?;

    let tests = TESTS.map(|test| format!("[sig-network] {test}")).to_vec();
    let mut report = Report::new(&tests, Known::new());
    let mut tell = |event| {
        if let Event::Ended(ended) = event {
            report.end(ended);
        }
    };
    conformance::run(&cluster, &tests, 2, directory.path(), &mut tell)?;
    let results = report.results();
    let failed = results
        .iter()
        .filter(|test| test.verdict != Verdict::Passed);
    let failed: Vec<_> = failed
        .map(|test| format!("{}: {}", test.name, test.why))
        .collect();
    if !failed.is_empty() {
        eprintln!("{}", said(directory.path()).context("the logs")?);
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    cluster.down()
}

/// What the suite says of failed tests: they are gone when people read it.
fn said(directory: &Path) -> anyhow::Result<String> {
    let mut said = String::new();
    for entry in std::fs::read_dir(directory)?.flatten() {
        if entry.path().extension().is_some_and(|end| end == "log") {
            said += &std::fs::read_to_string(entry.path())?;
        }
    }
    Ok(said)
}
