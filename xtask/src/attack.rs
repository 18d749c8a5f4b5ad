//! `cargo xtask attack`: what attackers do, and what becomes of it.

use std::{path::PathBuf, process::ExitCode, time::Instant};

use clap::{
    Args, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use nodegate_testbed::{
    attack::{self, Class, H2SPEC, Options, Report, Row, Verdict},
    cluster::parts::Purpose,
};

use crate::{binaries, cluster, phases::Clock, setup, table};

/// Shown below `--help`.
pub(crate) const EXAMPLES: &str = "\
Examples:
  cargo xtask attack                          all attacks, a quarter of an hour
  cargo xtask attack --class http1,answers    only these
  cargo xtask attack --only rapid-reset       only those whose names have this in them
  cargo xtask attack --short                  floods of a twentieth; what the tests do
  cargo xtask attack -o json

Everything goes to loopback, or to a testbed's namespaces. Each attack is tried with nodegate and, where Envoy has a
part in it, with an Envoy that has the configuration of `nodegate export envoy`. An attack holds if others are served
meanwhile, nobody gets what is somebody else's, memory is bounded, and Envoy is no stricter. See docs/security.md.

Exit status: 0 all hold, 1 some don't, 2 nothing could be tried.";

/// What part of a flood a short try has.
const SHORT: usize = 20;

#[derive(Debug, Args)]
pub(crate) struct Attack {
    /// Only these classes [default: all]
    #[arg(long = "class", value_name = "CLASS", value_delimiter = ',', value_parser = class())]
    classes: Vec<Class>,
    /// Only attacks whose names have this in them
    #[arg(
        long,
        default_value = "",
        value_name = "WORD",
        hide_default_value = true
    )]
    only: String,
    /// Floods of a twentieth
    #[arg(long)]
    short: bool,
    /// Try this nodegate, rather than build one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// How the outcome is printed
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table
    Table,
    /// A table as documents have it
    Markdown,
    /// All that is known of each
    Json,
}

fn class() -> impl TypedValueParser<Value = Class> {
    PossibleValuesParser::new(Class::ALL.map(Class::name)).try_map(|name| {
        let mut all = Class::ALL.into_iter();
        all.find(|class| class.name() == name)
            .ok_or("no such class")
    })
}

/// Attacks, and shows what came of it.
pub(crate) fn run(wanted: Attack) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let envoy = setup::envoy();
    if let Err(error) = &envoy {
        eprintln!("warning: {error:#}; nothing is compared with Envoy");
    }
    let binaries = binaries::build()?;
    let parts = cluster::build(Purpose::Attack);
    if let Err(error) = &parts {
        eprintln!("warning: {error:#}; the public suites are skipped");
    }
    let options = Options {
        binaries: binaries::Binaries {
            nodegate: wanted.binary.unwrap_or(binaries.nodegate),
            pod: binaries.pod,
        },
        envoy: envoy.ok(),
        h2spec: parts.ok().map(|parts| parts.file(H2SPEC)),
        only: wanted.only,
        classes: if wanted.classes.is_empty() {
            Class::ALL.to_vec()
        } else {
            wanted.classes
        },
        part: if wanted.short { SHORT } else { 1 },
    };
    let mut tried = 0;
    let report = attack::run(&options, |row| {
        tried += 1;
        eprintln!(
            "{tried:>4} {:<8} {:<28} {}",
            row.class,
            row.name,
            row.verdict()
        );
    })?;
    show(&report, wanted.output)?;
    let failed = report.failed().len();
    eprintln!(
        "{} attacks, {failed} of which do not hold, in {}",
        report.rows.len(),
        Clock(began.elapsed())
    );
    Ok(match (report.rows.len(), failed) {
        (0, _) => ExitCode::from(2),
        (_, 0) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn show(report: &Report, format: Format) -> anyhow::Result<()> {
    for (class, why) in &report.skipped {
        eprintln!("skipped: {class}: {why}");
    }
    let theirs = |row: &Row| {
        row.envoy
            .as_ref()
            .map_or("-".to_owned(), |envoy| envoy.told.clone())
    };
    match format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&report.rows)?),
        Format::Markdown => {
            println!("| attack | what it does | nodegate | Envoy | |\n|---|---|---|---|---|");
            for row in &report.rows {
                println!(
                    "| `{}` | {} | {} | {} | {} |",
                    row.name,
                    row.about,
                    row.nodegate.told,
                    theirs(row),
                    row.verdict()
                );
            }
        }
        Format::Table => {
            let verdict = |row: &Row| match row.verdict() {
                Verdict::Fails(_) => "FAILS".to_owned(),
                verdict => verdict.to_string(),
            };
            let rows = report.rows.iter();
            let rows = rows.map(|row| {
                vec![
                    row.name.into(),
                    row.nodegate.told.clone(),
                    theirs(row),
                    verdict(row),
                ]
            });
            table::print(&["ATTACK", "NODEGATE", "ENVOY", "VERDICT"], rows);
        }
    }
    for (row, broken) in report.failed() {
        eprintln!("{} ({}):", row.name, row.about);
        for one in broken {
            eprintln!("  {one}");
        }
    }
    Ok(())
}
