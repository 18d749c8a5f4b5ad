//! `nodegate cleanup`

use std::{process::ExitCode, time::Duration};

use clap::Args;

use super::attachment::PinDir;
use crate::datapath::cleanup::cleanup;

/// End the redirection: remove the pinned programs and maps of this node.
///
/// New connections are nobody's, or kube-proxy's, at once. Those that are translated packet by packet are
/// given time to end; those that were redirected at connect() need nothing. Stop nodegate first, or it
/// will miss them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodegate cleanup                  wait for connections, at most 30 seconds
  nodegate cleanup --drain 10m      give them longer
  nodegate cleanup --drain 0s       break them")]
pub struct Cleanup {
    #[command(flatten)]
    pins: PinDir,
    /// How long connections may go on. It is over as soon as they are
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = super::duration)]
    drain: Duration,
}

impl Cleanup {
    /// Removes the pins and says which.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let cleaned = cleanup(&self.pins.path, self.drain)?;
        if cleaned.removed.is_empty() {
            eprintln!("nothing is pinned in {}", self.pins.path.display());
        }
        for pin in cleaned.removed {
            println!("removed {}", pin.display());
        }
        if let Some(error) = cleaned.not_drained {
            eprintln!("warning: connections were not waited for: {error}");
        }
        if cleaned.broken > 0 {
            eprintln!(
                "{} flows were not over after {:?} and break (they may have longer: --drain)",
                cleaned.broken, self.drain
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}
