//! `cargo xtask test`: all tests, from a clean checkout on.

use std::{
    io::{self, BufRead as _, BufReader, IsTerminal as _},
    process::{Command, ExitCode, ExitStatus},
};

use anyhow::Context as _;
use clap::Args;
use nodegate_testbed::cluster::parts::Parts;

use crate::{
    binaries::{self, Binaries},
    phases::Phases,
    results::Results,
    setup,
};

pub(crate) const EXAMPLES: &str = "\
Examples:
  cargo xtask test                        everything
  cargo xtask test -- -p nodegate --lib   the unit tests of one crate
  cargo xtask test -- --test e2e -- tcp   the end-to-end tests with `tcp` in their names
  TESTBED_PATIENCE=10 cargo xtask test    with ten times the patience, on a machine that is very slow

Ends with a line for each suite, the tests that failed, why tests were skipped, and where the time
went.";

#[derive(Debug, Args)]
pub(crate) struct Test {
    /// Arguments for `cargo test`, in place of `--workspace --no-fail-fast`
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Prepares, builds, and runs `cargo test` with the built nodegate.
pub(crate) fn run(test: Test) -> anyhow::Result<ExitCode> {
    let mut phases = Phases::default();
    let envoy = phases.time("set-up", prepare)?;
    let binaries = phases.time("build nodegate", binaries::build)?;
    let everything = ["--workspace", "--no-fail-fast"].map(String::from).to_vec();
    let arguments = if test.arguments.is_empty() {
        everything
    } else {
        test.arguments
    };
    let cargo = || cargo_test(&binaries, envoy.as_ref());
    let built = phases.time("build tests", || build(cargo()?, &arguments))?;
    let mut results = Results::default();
    let mut success = built.success();
    if success {
        let ended = phases.time("run tests", || follow(cargo()?, &arguments, &mut results))?;
        success = ended.success();
    }
    println!("\n{results}\n{phases}\n{}", results.counts());
    Ok(if success {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What tests need beside the compiler; where there is an Envoy. Tests that miss something are skipped.
fn prepare() -> anyhow::Result<Option<std::path::PathBuf>> {
    setup::toolchain()?;
    if let Err(unmet) = setup::tools(&setup::TESTS).and_then(|()| setup::machine()) {
        eprintln!("warning: {unmet:#}; the tests that need it are skipped");
    }
    // Where nobody has built it, its tests are skipped all the same.
    if Parts::find().is_ok()
        && let Err(unmet) = setup::tools(&setup::CLUSTER)
    {
        eprintln!("warning: {unmet:#}; the tests of a real Kubernetes are skipped");
    }
    let envoy = setup::envoy();
    if let Err(error) = &envoy {
        eprintln!("warning: {error:#}; the tests that compare with it are skipped");
    }
    Ok(envoy.ok())
}

fn cargo_test(binaries: &Binaries, envoy: Option<&std::path::PathBuf>) -> anyhow::Result<Command> {
    let mut cargo = setup::cargo();
    cargo
        .arg("test")
        .env("NODEGATE_BIN", &binaries.nodegate)
        .env("PATH", setup::path_with_linker()?)
        .envs(envoy.map(|program| (setup::ENVOY, program)))
        .current_dir(binaries::workspace());
    Ok(cargo)
}

fn build(mut cargo: Command, arguments: &[String]) -> anyhow::Result<ExitStatus> {
    let own = arguments.iter().take_while(|argument| *argument != "--");
    cargo.arg("--no-run").args(own);
    cargo.status().context("starting cargo")
}

/// Shows what cargo and the tests print, and reads it. The two streams share a pipe: cargo names the
/// suites on one, the suites tell their results on the other.
fn follow(
    mut cargo: Command,
    arguments: &[String],
    results: &mut Results,
) -> anyhow::Result<ExitStatus> {
    let (reader, writer) = io::pipe().context("making a pipe")?;
    if io::stderr().is_terminal() {
        cargo.env("CARGO_TERM_COLOR", "always");
    }
    let mut child = cargo
        .args(arguments)
        .stdout(writer.try_clone().context("sharing a pipe")?)
        .stderr(writer)
        .spawn()
        .context("starting cargo")?;
    // It holds the writing ends, and with them the pipe would never end.
    drop(cargo);
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        print!("{text}");
        results.line(&text);
        line.clear();
    }
    child.wait().context("waiting for cargo")
}
