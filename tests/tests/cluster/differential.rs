//! The comparison with Istio by chance, briefly: that both gateways get what is generated, and that nothing
//! differs but what is known. `cargo xtask differential istio` takes longer.

use anyhow::ensure;
use nodegate_testbed::{
    cluster::{Cluster, Istio, Options, parts::Parts},
    differential::{self, Stage},
    environment,
};

use crate::services::options;

/// How many cases: some of each kind.
const CASES: u64 = 60;

pub(crate) fn by_chance(name: &str, parts: &Parts) -> anyhow::Result<()> {
    let cluster = Cluster::up(&Options {
        nodes: 0,
        kube_proxy: None,
        istio: Some(Istio::new(environment::envoy()?)),
        ..options(name, parts)
    })?;
    let mut stage = Stage::new(cluster, &crate::nodegate()?)?;
    let findings = tempfile::tempdir()?;
    let wanted = differential::Options {
        most: 3,
        ..differential::Options::new(0, CASES, findings.path().into())
    };
    let report = differential::run(&mut stage, &wanted)?;
    for (_, file) in &report.findings {
        eprintln!("{}", std::fs::read_to_string(file)?);
    }
    ensure!(
        report.unknown.is_empty(),
        "unknown differences: {:?}",
        report.unknown
    );
    // Where most is refused, or all answers are the same, little has been compared.
    let kinds = [200, 301, 404, 503];
    let counts = kinds.map(|status| report.statuses.get(&status).copied().unwrap_or(0));
    ensure!(
        report.refused * 4 < report.cases
            && counts.iter().all(|count| count * 50 > report.requests),
        "{report:?}"
    );
    stage.into_cluster().down()
}
