//! `cargo xtask test`: all tests, from a clean checkout on.

use std::process::{Command, ExitCode};

use anyhow::Context as _;
use clap::Args;

use crate::{binaries, setup};

pub(crate) const EXAMPLES: &str = "\
Examples:
  cargo xtask test                        everything
  cargo xtask test -- -p nodegate --lib   the unit tests of one crate
  cargo xtask test -- --test e2e -- tcp   the end-to-end tests with `tcp` in their names";

#[derive(Debug, Args)]
pub(crate) struct Test {
    /// Arguments for `cargo test`, in place of `--workspace --no-fail-fast`
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Prepares, builds, and runs `cargo test` with the built nodegate.
pub(crate) fn run(test: Test) -> anyhow::Result<ExitCode> {
    setup::toolchain()?;
    // Tests that need more than a compiler say so themselves, and are counted as ignored.
    if let Err(unmet) = setup::tools().and_then(|()| setup::machine()) {
        eprintln!("warning: {unmet:#}; the tests that need it are ignored");
    }
    let envoy = setup::envoy();
    if let Err(error) = &envoy {
        eprintln!("warning: {error:#}; the tests that compare with it are ignored");
    }
    let binaries = binaries::build()?;
    let everything = ["--workspace", "--no-fail-fast"].map(String::from).to_vec();
    let arguments = if test.arguments.is_empty() {
        everything
    } else {
        test.arguments
    };
    let status = Command::new(setup::cargo())
        .arg("test")
        .args(arguments)
        .env("NODEGATE_BIN", binaries.nodegate)
        .env("PATH", setup::path_with_linker()?)
        .envs(envoy.ok().map(|program| (setup::ENVOY, program)))
        .current_dir(binaries::workspace())
        .status()
        .context("starting cargo")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
