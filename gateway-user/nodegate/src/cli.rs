//! The command line: one file per subcommand.

use std::{fmt, net::IpAddr, path::PathBuf, process::ExitCode, sync::LazyLock, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use nix::sys::signal::{SigHandler, Signal, signal};
use nodegate_datapath::object;

mod api_server;
mod attachment;
pub mod check;
mod choices;
pub mod cleanup;
pub mod collect;
pub mod completions;
pub mod controller;
pub mod crds;
pub mod explain;
pub mod export;
pub mod iptables;
pub mod kube_proxy;
mod layout;
pub mod maps;
pub mod preflight;
pub mod run;
pub mod status;
mod table;
pub mod trace;

/// kube-proxy's Services in eBPF, and Istio's ingress gateway, on one node in one program.
#[derive(Debug, Parser)]
#[command(
    name = "nodegate",
    version = VERSION.as_str(),
    after_help = "\
Exit status: 0 success; 1 the answer is no (a manifest is wrong, a node is not
in sync); 2 it did not work."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// `0.1.0 (commit 0123456789ab, release)`
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let package = env!("CARGO_PKG_VERSION");
    let (commit, profile) = (object::COMMIT, object::PROFILE);
    format!("{package} (commit {commit}, {profile})")
});

/// What to do; each says of itself what that is, in the list and in its own help.
#[derive(Debug, Subcommand)]
pub enum Command {
    Run(Box<run::Run>),
    Trace(trace::Trace),
    Status(status::StatusCommand),
    Explain(Box<explain::Explain>),
    Maps(maps::Maps),
    Check(check::Args),
    Preflight(preflight::Preflight),
    Iptables(iptables::Iptables),
    Export(export::Export),
    Controller(controller::ControllerArgs),
    Collect(collect::Collect),
    Cleanup(cleanup::Cleanup),
    Crds(crds::Crds),
    Completions(completions::Completions),
}

/// Where a nodegate answers unless it is told otherwise.
const ADMIN: &str = "/run/nodegate/admin.sock";

/// Which running nodegate to ask.
#[derive(Clone, Debug, Args)]
pub struct Admin {
    /// Admin socket of the nodegate to ask
    #[arg(
        long,
        env = "NODEGATE_ADMIN",
        default_value = ADMIN,
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
    if !matches!(cli.command, Command::Run(_)) {
        end_with_the_reader();
    }
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
        Command::Controller(command) => command.run(),
        Command::Collect(command) => command.run(),
        Command::Cleanup(command) => command.run(),
        Command::Crds(command) => Ok(command.run()),
        Command::Completions(command) => command.run(),
    }
}

/// Lets the command end as others do when whoever reads its output has read enough, as in `… | head`.
/// Rust ignores SIGPIPE, which is right for a daemon.
fn end_with_the_reader() {
    // SAFETY: the default disposition is no handler, so no code of ours runs in a signal.
    let set = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    if let Err(error) = set {
        tracing::debug!(%error, "SIGPIPE stays ignored");
    }
}

/// Runs a future of a command that only asks.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(future)
}

/// `1 file`, `2 files`
struct Plural(usize, &'static str);

impl fmt::Display for Plural {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(count, noun) = self;
        write!(f, "{count} {noun}{}", if *count == 1 { "" } else { "s" })
    }
}

/// Reads a duration as people write it: `500ms`, `10s`, `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    let duration = text.parse::<jiff::SignedDuration>().ok();
    duration
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| {
            let fix = match text.parse::<u64>() {
                Ok(number) => format!("{number}s, {number}ms or {number}m"),
                Err(_) => "a number with a unit, such as 500ms, 10s or 2m".to_owned(),
            };
            format!("`{text}` is no duration (fix: {fix})")
        })
}

/// Reads a size as Kubernetes has it: `512Mi`.
fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 7] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("", 1),
    ];
    let unit = UNITS.iter().find(|(unit, _)| text.ends_with(unit));
    let size = unit.and_then(|(unit, bytes)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*bytes)
    });
    let size = size.filter(|size| *size > 0);
    size.ok_or_else(|| {
        format!("`{text}` is no size (fix: bytes, or a number with Ki, Mi or Gi, such as 512Mi)")
    })
}

/// Reads a network: `10.244.0.0/16`.
fn network(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| {
        let fix = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address).to_string(),
            Err(_) => "ADDRESS/LENGTH, such as 10.244.0.0/16 or fd00:10::/48".to_owned(),
        };
        format!("`{text}` is no network (fix: {fix})")
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Every command that does something, with those above it.
    fn leaves(command: &clap::Command) -> Vec<clap::Command> {
        let below: Vec<_> = command.get_subcommands().flat_map(leaves).collect();
        if below.is_empty() {
            return vec![command.clone()];
        }
        below
    }

    #[test]
    fn every_command_has_examples_and_tells_its_exit_status() {
        let leaves = leaves(&Cli::command());
        assert!(leaves.len() > 12, "{}", leaves.len());
        for command in leaves {
            let name = command.get_name();
            let after = command.get_after_help().unwrap_or_default().to_string();
            assert!(after.contains("Examples:\n  nodegate "), "{name}: {after}");
            assert!(after.contains("\nExit status: 0 "), "{name}: {after}");
            // clap breaks longer ones where they happen to end.
            let long: Vec<_> = after.lines().filter(|line| line.len() > 80).collect();
            assert_eq!(long, [""; 0], "{name}");
            for argument in command.get_arguments() {
                let about = argument.get_help().unwrap_or_default().to_string();
                assert!(!about.is_empty(), "{name}: {}", argument.get_id());
                assert!(!about.ends_with('.'), "{name}: {about}");
            }
        }
    }

    #[test]
    fn what_is_said_of_a_command_stands_in_its_own_help() {
        let mut command = Cli::command();
        let status = command.find_subcommand_mut("status").unwrap();
        let help = status.render_long_help().to_string();
        assert!(help.contains("when one was last alive"), "{help}");
    }

    #[test]
    fn networks() {
        assert_eq!(network("10.0.0.0/8").unwrap().prefix_len(), 8);
        assert_eq!(
            network("10.0.0.1").unwrap_err(),
            "`10.0.0.1` is no network (fix: 10.0.0.1/32)"
        );
        assert!(network("10.0.0.0/33").unwrap_err().contains("LENGTH"));
    }

    #[test]
    fn sizes() {
        for (text, wanted) in [("512Mi", 512 << 20), ("1G", 1_000_000_000), ("4096", 4096)] {
            assert_eq!(size(text), Ok(wanted));
        }
        for text in [
            "",
            "0",
            "-1",
            "Mi",
            "1.5Gi",
            "1Ti",
            "18446744073709551615Gi",
        ] {
            assert!(size(text).unwrap_err().contains("such as 512Mi"), "{text}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("2m"), Ok(Duration::from_mins(2)));
        assert_eq!(
            duration("5").unwrap_err(),
            "`5` is no duration (fix: 5s, 5ms or 5m)"
        );
        for text in ["-1s", "soon"] {
            assert!(duration(text).unwrap_err().contains("such as"), "{text}");
        }
    }
}
