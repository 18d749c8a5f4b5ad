//! `cargo xtask conformance`: Kubernetes' own tests against nodegate.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand};
use nodegate_programs::{Program, Use};
use nodegate_testbed::{
    cluster::{
        Cluster, Options,
        parts::{Parts, Purpose},
    },
    conformance::{
        self as suite, ALL, Choice, Event, KNOWN, Known, Report, Result as Test, SCTP, SERVICES,
        Verdict,
    },
    product,
};

use crate::{binaries, cluster, phases::Clock, setup, table};

/// Shown below `--help`.
pub(crate) const EXAMPLES: &str = r"Examples:
  cargo xtask conformance services                               half an hour and more
  cargo xtask conformance services --focus '\[Conformance\]'     what a conformant cluster must pass
  cargo xtask conformance services --focus 'session affinity' --keep
  cargo xtask cluster kubectl --name conformance logs -n nodegate-system ds/nodegate-redirector
  cargo xtask cluster down --name conformance
  cargo xtask conformance services --list

The first time it builds Kubernetes and its tests with Go, which takes a quarter of an hour and more. The tests
that can't pass here, and why, are in tests/conformance/known.txt. See docs/conformance.md.";

/// Lines of a failed test's own message that are shown.
const LINES: usize = 12;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Services, with nodegate in place of kube-proxy.
    ///
    /// Brings a cluster without kube-proxy up, deploys nodegate there, runs Kubernetes' own tests of Services
    /// and their endpoints, and takes the cluster down. Ends with 0 only if all tests passed that should.
    #[command(after_help = EXAMPLES)]
    Services(Services),
}

#[derive(Debug, Args)]
pub(crate) struct Services {
    /// Only the tests of networks whose names match, in Go's syntax [default: all of Services]
    #[arg(long, value_name = "REGEX")]
    focus: Option<String>,
    /// But not those
    #[arg(long, value_name = "REGEX")]
    skip: Option<String>,
    /// How many nodes, spread over three zones; some tests of traffic distribution want two in each.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// The cluster's name.
    #[arg(long, default_value = "conformance")]
    name: String,
    /// How many tests run at a time: they wait more than they work. Those that would disturb others run alone.
    #[arg(long, default_value_t = 8)]
    jobs: usize,
    /// Write a report for CI servers, too
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Say which tests would run, and do nothing.
    #[arg(long)]
    list: bool,
    /// Leave the cluster as it is, to look at; `cargo xtask cluster down` takes it away.
    #[arg(long)]
    keep: bool,
    /// Try this nodegate, rather than build one
    #[arg(long, value_name = "FILE", conflicts_with = "release")]
    binary: Option<PathBuf>,
    /// Build nodegate as it runs on nodes, which takes longer.
    #[arg(long)]
    release: bool,
}

/// Runs a subcommand.
pub(crate) fn run(command: &Command) -> anyhow::Result<ExitCode> {
    let Command::Services(services) = command;
    // Of programs a build needs Go, which no package has, and this one.
    setup::program(Program::Cc)?;
    let parts = cluster::build(Purpose::Conformance)?;
    let tests = services.tests(&parts)?;
    let known = known(&parts)?;
    if services.list {
        list(&tests, &known);
        return Ok(ExitCode::SUCCESS);
    }
    setup::tools(&[&setup::CLUSTER[..], &[Use::Product]].concat())?;
    setup::machine()?;
    // Before builds that may take minutes.
    Cluster::check_free(&services.name)?;
    let began = Instant::now();
    let workspace = binaries::workspace().canonicalize()?;
    let logs = workspace.join("target/conformance").join(&services.name);
    let cluster = services.cluster(parts, &logs)?;
    eprintln!(
        "conformance: {} tests, {} at a time; logs: {}",
        tests.len(),
        services.jobs,
        logs.display()
    );
    let mut report = Report::new(&tests, known);
    let mut tell = |event| progress(&mut report, event);
    let ran = suite::run(&cluster, &tests, services.jobs, &logs, &mut tell);
    if let Err(error) = suite::save_logs(&cluster, &logs) {
        eprintln!("conformance: nodegate's logs: {error:#}");
    }
    show(&report, &logs);
    if let Some(file) = &services.junit {
        suite::write_junit(&report, file)?;
    }
    if services.keep {
        let _ = cluster.keep();
    } else {
        cluster.down()?;
    }
    println!("\n{} in {}", summary(&report), Clock(began.elapsed()));
    ran?;
    Ok(if report.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Services {
    /// The tests that are chosen.
    fn tests(&self, parts: &Parts) -> anyhow::Result<Vec<String>> {
        let choice = match &self.focus {
            Some(focus) => Choice {
                focus: format!("{ALL}.*({focus})"),
                skip: self.skip.clone(),
            },
            None => Choice {
                focus: SERVICES.into(),
                skip: Some(
                    self.skip
                        .as_ref()
                        .map_or(SCTP.into(), |skip| format!("{SCTP}|{skip}")),
                ),
            },
        };
        let tests = suite::list(parts, &choice)?;
        ensure!(
            !tests.is_empty(),
            "no test matches (fix: cargo xtask conformance services --focus . --list shows all)"
        );
        Ok(tests)
    }

    /// A cluster with nodegate in it.
    fn cluster(&self, parts: Parts, logs: &Path) -> anyhow::Result<Cluster> {
        let nodegate = match (&self.binary, self.release) {
            (Some(binary), _) => binary.clone(),
            (None, true) => binaries::release()?.nodegate,
            (None, false) => binaries::build()?.nodegate,
        };
        let options = Options {
            nodes: self.nodes,
            kube_proxy: None,
            say,
            ..Options::new(&self.name, parts, binaries::node()?)
        };
        say("nodegate's image");
        std::fs::create_dir_all(logs).with_context(|| format!("making {}", logs.display()))?;
        let image = product::image(&nodegate, &logs.join("nodegate.tar"))?;
        let cluster = Cluster::up(&options)?;
        say("nodegate in place of kube-proxy");
        let deploy = binaries::workspace().join("deploy");
        let installed = suite::spread(&cluster)
            .and_then(|()| suite::images(&cluster))
            .and_then(|()| suite::install(&cluster, &image, &deploy));
        match installed {
            Ok(()) => Ok(cluster),
            Err(error) => {
                if self.keep {
                    let _ = cluster.keep();
                }
                Err(error)
            }
        }
    }
}

fn say(text: &str) {
    eprintln!("conformance: {text}");
}

/// The tests that can't pass here; an error for one that Kubernetes does not have.
fn known(parts: &Parts) -> anyhow::Result<Known> {
    const FILE: &str = "tests/conformance/known.txt";
    let known = suite::parse_known(KNOWN).context(FILE)?;
    let all: BTreeSet<_> = suite::list(parts, &Choice::focus(ALL))?
        .into_iter()
        .collect();
    let gone: Vec<_> = known.keys().filter(|name| !all.contains(*name)).collect();
    ensure!(
        gone.is_empty(),
        "{FILE}: Kubernetes has no test {gone:?} (fix: remove it, or write its new name)"
    );
    Ok(known)
}

fn list(tests: &[String], known: &Known) {
    for test in tests {
        let note = if known.contains_key(test) {
            "known "
        } else {
            "      "
        };
        println!("{note} {}", suite::short(test));
    }
    eprintln!("{} tests", tests.len());
}

/// A line for each test that ends; on a terminal, which one runs.
fn progress(report: &mut Report, event: Event) {
    let terminal = io::stderr().is_terminal();
    let clear = if terminal { "\r\x1b[K" } else { "" };
    match event {
        Event::Begun(name) => {
            if terminal {
                let short: String = suite::short(&name).chars().take(100).collect();
                eprint!("{clear}          {short}");
                // It is only shown.
                let _ = io::stderr().flush();
            }
        }
        Event::Ended(ended) => {
            let test = report.end(ended);
            eprintln!(
                "{clear}{:>3}/{}  {:<7}  {:>12}  {}",
                report.ended(),
                report.all(),
                test.verdict.word(),
                Clock(test.took).to_string(),
                suite::short(&test.name)
            );
            if test.verdict == Verdict::Failed {
                for line in test.why.lines().take(LINES) {
                    eprintln!("         {line}");
                }
            }
        }
    }
}

/// All tests in a table, and what is to be said of those that have not passed.
fn show(report: &Report, logs: &Path) {
    let results = report.results();
    let rows = results.iter().map(|test| {
        let took = Clock(test.took).to_string();
        vec![
            test.verdict.word().into(),
            took,
            suite::short(&test.name).into(),
        ]
    });
    println!();
    table::print(&["RESULT", "TIME", "TEST"], rows);
    for test in &results {
        if let Some(text) = explanation(test) {
            println!(
                "\n{}: {}\n  {text}",
                test.verdict.word(),
                suite::short(&test.name)
            );
        }
    }
    if !report.is_good() {
        println!("\nWhat the tests and nodegate say: {}", logs.display());
    }
}

fn explanation(test: &Test) -> Option<String> {
    let first = test.why.lines().find(|line| !line.trim().is_empty());
    let first = first.unwrap_or_default();
    match test.verdict {
        Verdict::Passed => None,
        Verdict::Surprise => Some(format!(
            "is in tests/conformance/known.txt (fix: remove it there): {first}"
        )),
        Verdict::Failed | Verdict::Known | Verdict::Skipped => Some(first.to_owned()),
    }
}

fn summary(report: &Report) -> String {
    let count = |verdict| report.count(verdict);
    let mut text = format!(
        "{} passed, {} failed, {} skipped, {} known",
        count(Verdict::Passed),
        count(Verdict::Failed),
        count(Verdict::Skipped),
        count(Verdict::Known)
    );
    let surprises = count(Verdict::Surprise);
    if surprises > 0 {
        // Writing to a String cannot fail.
        let _ = write!(text, ", {surprises} passed although known not to");
    }
    text
}
