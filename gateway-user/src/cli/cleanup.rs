//! `nodegate cleanup`

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use crate::datapath;

/// Remove the pinned programs and maps of this node.
///
/// The redirection ends at once: connections that it translated packet by packet break, those that
/// it redirected at connect() go on. Stop nodegate first, or it will miss them.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  nodegate cleanup --pin-dir /sys/fs/bpf/nodegate")]
pub struct Cleanup {
    /// Where maps and links are pinned
    #[arg(
        long,
        env = "NODEGATE_PIN_DIR",
        default_value = "/sys/fs/bpf/nodegate",
        value_name = "DIR"
    )]
    pin_dir: PathBuf,
}

impl Cleanup {
    /// Removes the pins and says which.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let removed = datapath::cleanup(&self.pin_dir)?;
        if removed.is_empty() {
            eprintln!("nothing is pinned in {}", self.pin_dir.display());
        }
        for pin in removed {
            println!("removed {}", pin.display());
        }
        Ok(ExitCode::SUCCESS)
    }
}
