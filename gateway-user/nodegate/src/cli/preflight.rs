//! `nodegate preflight`

use std::process::ExitCode;

use clap::Args;
use nodegate_datapath::probe::{self, Check, CheckOutcome};

use super::{Output, attachment::Attachment};

/// Check whether nodegate can do its work on this machine, and how.
///
/// Changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodegate preflight
  nodegate preflight --uplink eth0 -o json | jq '.[] | select(.outcome != \"ok\")'

Exit status: 0 nodegate can do its work (warnings say with what limits), 1 it
cannot.")]
pub struct Preflight {
    #[command(flatten)]
    attachment: Attachment,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

impl Preflight {
    /// Checks and prints.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let cgroup = self.attachment.cgroup().ok();
        let uplinks = self.attachment.uplinks().unwrap_or_default();
        let checks = probe::all(&self.attachment.pins.path, cgroup.as_deref(), &uplinks);
        match self.output {
            Output::Json => println!("{}", serde_json::to_string_pretty(&checks)?),
            Output::Text => print(&checks),
        }
        let failed = checks
            .iter()
            .any(|check| check.outcome == CheckOutcome::Failed);
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
            CheckOutcome::Ok => "ok",
            CheckOutcome::Warning => "warning",
            CheckOutcome::Failed => "FAILED",
        };
        print!("{outcome:<9}{:<15}{}", check.name, check.found);
        match &check.fix {
            Some(fix) => println!(" (fix: {fix})"),
            None => println!(),
        }
    }
}
