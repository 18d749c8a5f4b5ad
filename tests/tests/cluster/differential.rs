//! The comparison with Istio by chance, in some minutes: that both gateways get what is generated, in HTTP/1.1, HTTP/2
//! and gRPC, that nothing differs in any of its parts but what is known, and that both take the same objects. `cargo xtask
//! differential` takes longer.

use anyhow::ensure;
use nodegate_testbed::{
    cluster::{Cluster, Options, parts::Parts},
    differential::{self, Part, Report, Stage},
    environment,
};

use crate::services::options;

/// How many cases: some of each kind, in about five minutes.
const CASES: u64 = 500;
/// How many objects are judged.
const OBJECTS: u64 = 1000;

/// What the parts that count for themselves compare of so many cases, at least.
const COUNTS: [(Part, &str, usize); 6] = [
    (Part::Shares, "routes", 40),
    (Part::Tcp, "connections", 1000),
    (Part::Changes, "changes", 40),
    (Part::Export, "routes", 100),
    (Part::Samples, "requests", 1000),
    (Part::Scripts, "requests", 700),
];

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
    eprintln!("{}", counted(&report));
    ensure!(
        report.is_clean(),
        "unknown differences: {:?} {:?}",
        report.unknown,
        report.tallies
    );
    has_compared(&report)?;
    let wanted = differential::Options::new(0, OBJECTS, findings.path().into());
    let verdicts = differential::verdicts(&stage, &wanted)?;
    eprintln!(
        "{} objects, {} of them refused by Istio",
        verdicts.objects, verdicts.refused
    );
    ensure!(
        verdicts.unknown.is_empty() && verdicts.refused * 4 > verdicts.objects,
        "{verdicts:?}"
    );
    stage.into_cluster().down()
}

/// Where most is refused, or all answers are the same, little has been compared.
fn has_compared(report: &Report) -> anyhow::Result<()> {
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
    for (part, what, least) in COUNTS {
        let tally = report.tallies.iter().find(|tally| tally.part == part);
        let counts = tally.into_iter().flat_map(|tally| &tally.counts);
        let count: usize = counts
            .filter(|(own, _)| *own == what)
            .map(|(_, count)| count)
            .sum();
        ensure!(count >= least, "{part}: {count} {what}, not {least}");
    }
    Ok(())
}

/// How much was compared.
fn counted(report: &Report) -> String {
    let parts = report.tallies.iter().map(|tally| {
        let counts = tally.counts.iter();
        let counts: Vec<_> = counts
            .map(|(what, count)| format!("{count} {what}"))
            .collect();
        format!("; {}: {}", tally.part, counts.join(", "))
    });
    let requests = format!(
        "{} requests, {} in HTTP/2, {} of gRPC, of {} cases",
        report.requests, report.streams, report.calls, report.cases
    );
    parts.fold(requests, |all, part| all + &part)
}
