//! `cargo xtask bench packet`: what a packet costs, on this machine. The test `budget` measures.

use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::Args;
use nodegate_testbed::environment;

use crate::binaries;

pub(crate) const EXAMPLES: &str = "\
Examples:
  cargo xtask bench packet           ten seconds
  cargo xtask bench packet --long    a minute";

/// For how long it is measured.
#[derive(Debug, Args)]
pub(crate) struct PacketBench {
    /// Measure for longer: less noise
    #[arg(long)]
    long: bool,
}

impl PacketBench {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        environment::root()?;
        let what = if self.long {
            "nanoseconds-long"
        } else {
            "nanoseconds"
        };
        let status = nodegate_programs::own(binaries::budget()?)
            .env("NODEGATE_BUDGET", what)
            .status()
            .context("starting the measurement")?;
        ensure!(status.success(), "nothing was measured, see above");
        Ok(ExitCode::SUCCESS)
    }
}
