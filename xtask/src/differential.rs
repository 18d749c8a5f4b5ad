//! `cargo xtask differential`: nodegate beside what it is to do as.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::Context as _;

use clap::{
    Args, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use nodegate_programs::{Program, Use};
use nodegate_testbed::{
    cluster::{Cluster, parts::Purpose},
    differential::{self, MEANT, Mutant, OPEN, Part, Report, Stage, VERDICTS, Verdicts},
};

use crate::{binaries, cluster, phases::Clock, setup, table};

/// Shown below `--help`.
pub(crate) const EXAMPLES: &str = "\
Examples:
  cargo xtask differential istio                          200 cases, always the same
  cargo xtask differential istio --seed 7 --cases 1000
  cargo xtask differential istio --seed 7 --keep          leave the cluster, to try a finding there
  cargo xtask differential verdicts --cases 2000          who takes which objects
  cargo xtask differential mutants                        whether faults that are made on purpose are found
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
    /// Which objects are taken: by istiod's webhook, and by nodegate's and `nodegate check`.
    ///
    /// Brings up the same, makes objects with something odd or wrong in each, and hears what all say of them. Nothing
    /// is stored. What is judged otherwise and is not known is written to target/differential. Ends with 0 only if
    /// nothing is.
    Verdicts(Wanted),
    /// Whether the comparison finds faults that are made on purpose: those of `tests/mutants.yaml`.
    ///
    /// Each is made in a copy of the sources, below target/mutants, and built there, unless that was done before: the
    /// first takes as long as nodegate does, the others a minute. Ends with 0 only if all are found, and if without them nothing is.
    Mutants(Mutants),
}

#[derive(Debug, Args)]
pub(crate) struct Mutants {
    /// Makes the same cases again
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Within how many cases each must be found.
    #[arg(long, default_value_t = 2000)]
    cases: u64,
    /// Only those whose names have this in them
    #[arg(
        long,
        default_value = "",
        value_name = "WORD",
        hide_default_value = true
    )]
    only: String,
    /// Try this nodegate as the one without faults, rather than build one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Only build them
    #[arg(long)]
    prepare: bool,
    /// The cluster's name.
    #[arg(long, default_value = "mutants")]
    name: String,
}

#[derive(Debug, Args)]
pub(crate) struct Istio {
    #[command(flatten)]
    wanted: Wanted,
    /// How many requests for each.
    #[arg(long, default_value_t = 12)]
    requests: usize,
    /// Only these parts [default: all]
    #[arg(long = "only", value_name = "PART", value_delimiter = ',', value_parser = part())]
    parts: Vec<Part>,
}

/// How much is compared, and where.
#[derive(Debug, Args)]
pub(crate) struct Wanted {
    /// Makes the same cases again
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many cases: hosts with VirtualServices, or objects.
    #[arg(long, default_value_t = 200)]
    cases: u64,
    /// How many differences are written down, and made small where they can be.
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
    match command {
        Command::Istio(istio) => {
            let began = Instant::now();
            let report = on_stage(&istio.wanted, |stage, options| {
                let mut options = differential::Options {
                    requests: istio.requests,
                    ..options
                };
                if !istio.parts.is_empty() {
                    options.parts.clone_from(&istio.parts);
                }
                differential::run(stage, &options)
            })?;
            show(&report);
            println!("{}", parts(&report));
            println!("{} in {}", summary(&report), Clock(began.elapsed()));
            Ok(code(report.is_clean()))
        }
        Command::Mutants(mutants) => run_mutants(mutants),
        Command::Verdicts(wanted) => {
            let began = Instant::now();
            let verdicts = on_stage(wanted, |stage, options| {
                differential::verdicts(stage, &options)
            })?;
            show_verdicts(&verdicts);
            let unknown: usize = verdicts.unknown.values().sum();
            println!(
                "\n{} objects ({} refused by Istio), {unknown} judged otherwise in {}",
                verdicts.objects,
                verdicts.refused,
                Clock(began.elapsed())
            );
            Ok(code(verdicts.unknown.is_empty()))
        }
    }
}

/// Makes the faults, one after the other, and prints who was found.
fn run_mutants(wanted: &Mutants) -> anyhow::Result<ExitCode> {
    let workspace = binaries::workspace().canonicalize()?;
    let mut mutants = differential::mutants(&workspace)?;
    mutants.retain(|mutant| mutant.name.contains(&wanted.only));
    let peer = Wanted {
        seed: wanted.seed,
        cases: wanted.cases,
        most: 0,
        directory: None,
        binary: wanted.binary.clone(),
        name: wanted.name.clone(),
        keep: false,
    };
    let built = build_mutants(&workspace, &mutants)?;
    if wanted.prepare {
        return Ok(ExitCode::SUCCESS);
    }
    let rows = on_stage(&peer, |stage, options| {
        let options = differential::Options {
            // Most are found among the first.
            batch: 100,
            ..options
        };
        let good = stage.nodegate().to_owned();
        let (mut rows, mut most) = (Vec::new(), 0);
        for (mutant, binary) in mutants.iter().zip(&built) {
            say(&format!("{}: {}", mutant.name, mutant.what));
            stage.replace(binary)?;
            let found = differential::found(stage, &options)?;
            most = most.max(found.as_ref().map_or(0, |(cases, _)| *cases));
            let (cases, aspects) = found.map_or_else(
                || ("not found".to_owned(), String::new()),
                |(cases, aspects)| (cases.to_string(), aspects),
            );
            rows.push(vec![
                mutant.name.clone(),
                cases,
                aspects,
                mutant.what.clone(),
            ]);
        }
        say("no fault");
        stage.replace(&good)?;
        let options = differential::Options {
            cases: most.next_multiple_of(options.batch),
            ..options
        };
        Ok((rows, differential::found(stage, &options)?))
    })?;
    let (rows, without) = rows;
    if let Some((cases, aspects)) = without {
        println!("without a fault there is one, too, after {cases} cases: {aspects}\n");
        return Ok(ExitCode::FAILURE);
    }
    let all_found = rows.iter().all(|row| row[1] != "not found");
    table::print(&["MUTANT", "CASES", "DIFFERS IN", "WHAT"], rows);
    Ok(code(all_found))
}

/// Builds what has not been built of the same sources before, and tells where all of it is.
fn build_mutants(workspace: &Path, mutants: &[Mutant]) -> anyhow::Result<Vec<PathBuf>> {
    let place = workspace.join("target/mutants");
    let built = place.join("built");
    fs::create_dir_all(&built)?;
    let wanted: Vec<_> = mutants
        .iter()
        .map(|mutant| Ok(built.join(mutant.build(workspace)?)))
        .collect::<anyhow::Result<_>>()?;
    for (mutant, file) in mutants.iter().zip(&wanted) {
        if file.exists() {
            continue;
        }
        say(&format!("building {}", mutant.name));
        let copy = place.join("tree");
        mutant.make(workspace, &copy)?;
        let binary = binaries::mutant(&copy, &place.join("build"))?;
        let part = file.with_extension("part");
        fs::copy(&binary, &part).with_context(|| format!("writing {}", part.display()))?;
        fs::rename(&part, file)?;
    }
    // Those of other sources take room only.
    for entry in fs::read_dir(&built)? {
        let path = entry?.path();
        let named = |mutant: &Mutant| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&format!("{}-", mutant.name))
        };
        if mutants.iter().any(named) && !wanted.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(wanted)
}

fn code(is_good: bool) -> ExitCode {
    if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Brings both gateways up, lets something be done with them, and takes them down.
fn on_stage<T>(
    wanted: &Wanted,
    work: impl FnOnce(&mut Stage, differential::Options) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    // Of programs a build needs Go, which no package has, and this one.
    setup::program(Program::Cc)?;
    let parts = cluster::build(Purpose::Istio)?;
    setup::tools(&[&setup::CLUSTER[..], &[Use::Product]].concat())?;
    setup::machine()?;
    // Before builds that may take minutes.
    Cluster::check_free(&wanted.name)?;
    let envoy = setup::envoy()?;
    let nodegate = match &wanted.binary {
        Some(binary) => std::path::absolute(binary)?,
        None => binaries::build()?.nodegate,
    };
    let cluster = Cluster::up(&nodegate_testbed::cluster::Options {
        nodes: 0,
        istio: Some(differential::peer(envoy)),
        say,
        ..nodegate_testbed::cluster::Options::new(&wanted.name, parts, binaries::node()?)
    })?;
    let mut stage = Stage::new(cluster, &nodegate)?;
    let workspace = binaries::workspace().canonicalize()?;
    let directory = wanted.directory.clone();
    let directory = directory.unwrap_or_else(|| workspace.join("target/differential"));
    let options = differential::Options {
        most: wanted.most,
        say,
        ..differential::Options::new(wanted.seed, wanted.cases, directory)
    };
    let report = work(&mut stage, options);
    let cluster = stage.into_cluster();
    if wanted.keep {
        let _ = cluster.keep();
    } else {
        cluster.down()?;
    }
    report
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

/// What came of the parts that count for themselves: a line for each, and one for each difference.
fn parts(report: &Report) -> String {
    let mut lines = Vec::new();
    for tally in &report.tallies {
        let counts = tally.counts.iter();
        let counts: Vec<_> = counts
            .map(|(what, count)| format!("{count} {what}"))
            .collect();
        lines.push(format!(
            "{}: {}; {} differ",
            tally.part,
            counts.join(", "),
            tally.unknown.len()
        ));
        lines.extend(tally.unknown.iter().map(|what| format!("  {what}")));
    }
    lines.join("\n")
}

/// A part by its name.
fn part() -> impl TypedValueParser<Value = Part> {
    PossibleValuesParser::new(Part::ALL.map(Part::name)).map(|name| {
        let named = Part::ALL.into_iter().find(|part| part.name() == name);
        named.unwrap_or(Part::Requests)
    })
}

fn show_verdicts(verdicts: &Verdicts) {
    let known = VERDICTS.iter().filter_map(|meant| {
        let count = verdicts.known.get(meant.name)?;
        Some(vec![
            meant.name.to_owned(),
            count.to_string(),
            meant.reason.to_owned(),
        ])
    });
    let known: Vec<_> = known.collect();
    if !known.is_empty() {
        table::print(&["MEANT", "OBJECTS", "WHAT"], known);
        println!();
    }
    if !verdicts.unknown.is_empty() {
        let rows = verdicts.unknown.iter();
        let rows = rows.map(|(said, count)| vec![said.clone(), count.to_string()]);
        table::print(&["UNKNOWN", "OBJECTS"], rows);
        println!();
        for file in &verdicts.files {
            println!("{}", file.display());
        }
    }
}

fn summary(report: &Report) -> String {
    let unknown: usize = report.unknown.values().sum();
    format!(
        "{} requests ({} in HTTP/2, {} of gRPC) for {} cases ({} refused by Istio), {unknown} with unknown differences",
        report.requests, report.streams, report.calls, report.cases, report.refused
    )
}
