//! `nodegate preflight`

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum};

use crate::datapath::{
    node,
    probe::{self, Check, Outcome},
};

/// Check whether nodegate can do its work on this machine, and how.
///
/// Changes nothing. Exit status 0 if it can, 1 if something fails.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodegate preflight
  nodegate preflight --uplink eth0 -o json | jq '.[] | select(.outcome != \"ok\")'")]
pub struct Preflight {
    /// Interfaces on which packets from outside arrive [default: those with a default route]
    #[arg(
        long = "uplink",
        env = "NODEGATE_UPLINKS",
        value_name = "INTERFACE",
        value_delimiter = ','
    )]
    uplinks: Vec<String>,
    /// Where maps and links would be pinned
    #[arg(
        long,
        env = "NODEGATE_PIN_DIR",
        default_value = "/sys/fs/bpf/nodegate",
        value_name = "DIR"
    )]
    pin_dir: PathBuf,
    /// Directory of the cgroup [default: the root of cgroup2]
    #[arg(long, env = "NODEGATE_CGROUP", value_name = "DIR")]
    cgroup: Option<PathBuf>,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Output {
    /// For people
    #[default]
    Text,
    /// JSON
    Json,
}

impl Preflight {
    /// Checks and prints.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let cgroup = self.cgroup.or_else(|| super::run::cgroup2_root().ok());
        let uplinks = if self.uplinks.is_empty() {
            node::default_uplinks().unwrap_or_default()
        } else {
            self.uplinks
        };
        let checks = probe::all(&self.pin_dir, cgroup.as_deref(), &uplinks);
        match self.output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&checks)?),
            Output::Text => print(&checks),
        }
        let failed = checks.iter().any(|check| check.outcome == Outcome::Failed);
        Ok(if failed {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}

fn print(checks: &[Check]) {
    for check in checks {
        let outcome = match check.outcome {
            Outcome::Ok => "ok",
            Outcome::Warning => "warning",
            Outcome::Failed => "FAILED",
        };
        print!("{outcome:<9}{:<15}{}", check.name, check.found);
        match &check.fix {
            Some(fix) => println!(" (fix: {fix})"),
            None => println!(),
        }
    }
}
