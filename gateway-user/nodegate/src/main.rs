//! The `nodegate` command.

use std::process::ExitCode;

use clap::Parser as _;
use nodegate::cli;

/// It did not work, as opposed to: the answer is no.
const FAILED: u8 = 2;

fn main() -> ExitCode {
    cli::main(cli::Cli::parse()).unwrap_or_else(|error| {
        eprintln!("error: {}", text(&error));
        ExitCode::from(FAILED)
    })
}

/// The error and its causes in one line. Many say their cause themselves: each is said once.
fn text(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}
