//! The command line: one file per subcommand.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

mod attachment;
pub mod check;
pub mod cleanup;
pub mod completions;
pub mod explain;
pub mod export;
pub mod iptables;
pub mod maps;
pub mod preflight;
pub mod run;
pub mod status;
pub mod trace;

/// kube-proxy's Services in eBPF, and Istio's ingress gateway, on one node in one program.
#[derive(Debug, Parser)]
#[command(
    name = "nodegate",
    version,
    after_help = "Exit status: 0 success; 1 the answer is no (a manifest is wrong, a node is not in sync); 2 it did not work."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve: redirect connections to Services, proxy requests, or both
    Run(Box<run::Run>),
    /// Show every decision as it is made
    Trace(trace::Trace),
    /// Show what a running nodegate serves, and whether it is up to date
    Status(status::StatusCommand),
    /// Explain what becomes of a connection or a request, and why
    Explain(Box<explain::Explain>),
    /// Show what the loaded maps hold
    Maps(maps::Maps),
    /// Look for mistakes in manifests, without running anything
    Check(check::Args),
    /// Check whether this machine has what nodegate needs
    Preflight(preflight::Preflight),
    /// Write, read and compare kube-proxy's iptables rules
    Iptables(iptables::Iptables),
    /// Print what manifests mean, for another program
    Export(export::Export),
    /// End the redirection: remove pinned programs and maps
    Cleanup(cleanup::Cleanup),
    /// Print a completion script for a shell
    Completions(completions::Completions),
}

/// Which running nodegate to ask.
#[derive(Clone, Debug, Args)]
pub struct Admin {
    /// Admin socket of the nodegate to ask
    #[arg(
        long,
        env = "NODEGATE_ADMIN",
        default_value = "/run/nodegate/admin.sock",
        value_name = "SOCKET"
    )]
    pub admin: PathBuf,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// Runs the command.
pub fn main(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Run(command) => command.run(),
        Command::Trace(command) => command.run(),
        Command::Status(command) => command.run(),
        Command::Explain(command) => command.run(),
        Command::Maps(command) => command.run(),
        Command::Check(command) => check::run(command),
        Command::Preflight(command) => command.run(),
        Command::Iptables(command) => command.run(),
        Command::Export(command) => command.run(),
        Command::Cleanup(command) => command.run(),
        Command::Completions(command) => command.run(),
    }
}

/// Runs a future of a command that only asks.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(future)
}

/// Reads a duration as people write it: `500ms`, `10s`, `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<jiff::SignedDuration>()
        .map_err(|error| error.to_string())
        .and_then(|duration| Duration::try_from(duration).map_err(|error| error.to_string()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("2m"), Ok(Duration::from_mins(2)));
        assert!(duration("-1s").is_err());
        assert!(duration("soon").is_err());
    }
}
