//! The comparison with Istio by chance, briefly: that both gateways get what is generated, in HTTP/1.1, HTTP/2 and
//! gRPC, that nothing differs but what is known, and that both take the same objects. `cargo xtask differential` takes
//! longer.

use anyhow::ensure;
use nodegate_testbed::{
    cluster::{Cluster, Options, parts::Parts},
    differential::{self, Stage},
    environment,
};

use crate::services::options;

/// How many cases: some of each kind.
const CASES: u64 = 60;
/// How many objects are judged.
const OBJECTS: u64 = 300;

pub(crate) fn by_chance(name: &str, parts: &Parts) -> anyhow::Result<()> {
    let cluster = Cluster::up(&Options {
        nodes: 0,
        kube_proxy: None,
        istio: Some(differential::peer(environment::envoy()?)),
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
        report.is_clean(),
        "unknown differences: {:?} {:?}",
        report.unknown,
        report.tallies
    );
    // Where most is refused, or all answers are the same, little has been compared.
    let kinds = [200, 301, 404, 503];
    let counts = kinds.map(|status| report.statuses.get(&status).copied().unwrap_or(0));
    ensure!(
        report.refused * 4 < report.cases
            && counts.iter().all(|count| count * 50 > report.requests),
        "{report:?}"
    );
    ensure!(
        report.streams * 4 > report.requests && report.calls * 20 > report.requests,
        "{} requests in HTTP/2, {} calls of gRPC, of {}",
        report.streams,
        report.calls,
        report.requests
    );
    let wanted = differential::Options::new(0, OBJECTS, findings.path().into());
    let verdicts = differential::verdicts(&stage, &wanted)?;
    ensure!(
        verdicts.unknown.is_empty() && verdicts.refused * 4 > verdicts.objects,
        "{verdicts:?}"
    );
    stage.into_cluster().down()
}
