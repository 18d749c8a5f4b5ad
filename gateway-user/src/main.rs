//! The `nodegate` command.

use std::process::ExitCode;

use clap::Parser as _;
use nodegate::cli;

/// It did not work, as opposed to: the answer is no.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    cli::main(cli::Cli::parse()).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(FAILED)
    })
}
