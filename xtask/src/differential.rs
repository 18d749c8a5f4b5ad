//! `cargo xtask differential`: nodegate beside what it is to do as.

use std::{path::PathBuf, process::ExitCode, time::Instant};

use clap::{Args, Subcommand};
use nodegate_programs::{Program, Use};
use nodegate_testbed::{
    cluster::{Cluster, Istio as Peer, parts::Purpose},
    differential::{self, MEANT, OPEN, Report, Stage},
};

use crate::{binaries, cluster, phases::Clock, setup, table};

/// Shown below `--help`.
pub(crate) const EXAMPLES: &str = "\
Examples:
  cargo xtask differential istio                          200 cases, always the same
  cargo xtask differential istio --seed 7 --cases 1000
  cargo xtask differential istio --seed 7 --keep          leave the cluster, to try a finding there
  cargo xtask cluster kubectl --name differential apply -f target/differential/7-0-status.yaml
  cargo xtask cluster logs --name differential gateway.envoy

The first time it builds Kubernetes and Istio with Go, which takes half an hour and more. See
docs/differential.md.";

/// Refusals that are shown.
const REFUSALS: usize = 10;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The real istiod and Envoy, with Gateways, VirtualServices, DestinationRules and ServiceEntries by chance.
    ///
    /// Brings an API server and Istio up, with nodegate as a second gateway, applies cases, asks both the same,
    /// and takes all down. What differs and is not known is made small and written to target/differential. Ends
    /// with 0 only if nothing is.
    #[command(after_help = EXAMPLES)]
    Istio(Istio),
}

#[derive(Debug, Args)]
pub(crate) struct Istio {
    /// Makes the same cases again
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many cases: hosts with VirtualServices.
    #[arg(long, default_value_t = 200)]
    cases: u64,
    /// How many requests for each.
    #[arg(long, default_value_t = 12)]
    requests: usize,
    /// How many differences are made small and written down.
    #[arg(long, default_value_t = 12)]
    most: usize,
    /// Where they are written to [default: target/differential]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Try this nodegate, rather than build one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// The cluster's name.
    #[arg(long, default_value = "differential")]
    name: String,
    /// Leave the cluster as it is; `cargo xtask cluster down` takes it away.
    #[arg(long)]
    keep: bool,
}

/// Runs a subcommand.
pub(crate) fn run(command: &Command) -> anyhow::Result<ExitCode> {
    let Command::Istio(istio) = command;
    // Of programs a build needs Go, which no package has, and this one.
    setup::program(Program::Cc)?;
    let parts = cluster::build(Purpose::Istio)?;
    setup::tools(&[&setup::CLUSTER[..], &[Use::Product]].concat())?;
    setup::machine()?;
    // Before builds that may take minutes.
    Cluster::check_free(&istio.name)?;
    let envoy = setup::envoy()?;
    let nodegate = match &istio.binary {
        Some(binary) => std::path::absolute(binary)?,
        None => binaries::build()?.nodegate,
    };
    let began = Instant::now();
    let cluster = Cluster::up(&nodegate_testbed::cluster::Options {
        nodes: 0,
        istio: Some(Peer::new(envoy)),
        say,
        ..nodegate_testbed::cluster::Options::new(&istio.name, parts, binaries::node()?)
    })?;
    let mut stage = Stage::new(cluster, &nodegate)?;
    let workspace = binaries::workspace().canonicalize()?;
    let directory = istio.directory.clone();
    let report = differential::run(
        &mut stage,
        &differential::Options {
            requests: istio.requests,
            most: istio.most,
            say,
            ..differential::Options::new(
                istio.seed,
                istio.cases,
                directory.unwrap_or_else(|| workspace.join("target/differential")),
            )
        },
    );
    let cluster = stage.into_cluster();
    if istio.keep {
        let _ = cluster.keep();
    } else {
        cluster.down()?;
    }
    let report = report?;
    show(&report);
    println!("\n{} in {}", summary(&report), Clock(began.elapsed()));
    Ok(if report.unknown.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn say(text: &str) {
    eprintln!("differential: {text}");
}

fn show(report: &Report) {
    let statuses = report.statuses.iter();
    let statuses: Vec<_> = statuses
        .map(|(status, count)| format!("{count} × {status}"))
        .collect();
    println!("answers of Istio: {}", statuses.join(", "));
    if !report.refusals.is_empty() {
        println!("\nrefused by Istio:");
        let mut refusals: Vec<_> = report.refusals.iter().collect();
        refusals.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (refusal, count) in refusals.into_iter().take(REFUSALS) {
            println!("  {count} × {refusal}");
        }
    }
    for (title, known) in [("MEANT", MEANT), ("OPEN", OPEN)] {
        let counts = known.iter().filter_map(|difference| {
            let count = report.known.get(difference.name)?;
            Some(vec![
                difference.name.to_owned(),
                count.to_string(),
                difference.reason.to_owned(),
            ])
        });
        let rows: Vec<_> = counts.collect();
        if !rows.is_empty() {
            println!();
            table::print(&[title, "REQUESTS", "WHAT"], rows);
        }
    }
    if !report.unknown.is_empty() {
        println!();
        let rows = report.unknown.iter();
        let rows = rows.map(|(aspects, count)| vec![aspects.clone(), count.to_string()]);
        table::print(&["UNKNOWN", "REQUESTS"], rows);
        println!();
        for (_, file) in &report.findings {
            println!("{}", file.display());
        }
    }
}

fn summary(report: &Report) -> String {
    let unknown: usize = report.unknown.values().sum();
    format!(
        "{} requests for {} cases ({} refused by Istio), {unknown} with unknown differences",
        report.requests, report.cases, report.refused
    )
}
