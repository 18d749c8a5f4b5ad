//! `nodegate cleanup`

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;

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
    /// Where maps and links are pinned
    #[arg(
        long,
        env = "NODEGATE_PIN_DIR",
        default_value = "/sys/fs/bpf/nodegate",
        value_name = "DIR"
    )]
    pin_dir: PathBuf,
    /// How long connections may go on. It is over as soon as they are
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = super::duration)]
    drain: Duration,
}

impl Cleanup {
    /// Removes the pins and says which.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let cleaned = cleanup(&self.pin_dir, self.drain)?;
        if cleaned.removed.is_empty() {
            eprintln!("nothing is pinned in {}", self.pin_dir.display());
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
