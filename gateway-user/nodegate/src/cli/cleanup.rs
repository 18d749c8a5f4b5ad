//! `nodegate cleanup`

use std::{ffi::OsStr, fs, path::Path, process::ExitCode, time::Duration};

use anyhow::bail;
use clap::Args;
use nodegate_datapath::{cleanup::cleanup, contents::Pins};
use tokio::signal::unix::{SignalKind, signal};

use super::{Plural, attachment::PinDir};

/// Seconds within which a running daemon has given a sign of life, with some to spare.
const ALIVE: u64 = 5;

/// End the redirection: remove the pinned programs and maps of this node.
///
/// New connections are nobody's, or kube-proxy's, at once. Those that are translated packet by packet are
/// given time to end; those that were redirected at connect() need nothing. Stop nodegate first.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodegate cleanup                  wait for connections, at most 30 seconds
  nodegate cleanup --drain 10m      give them longer
  nodegate cleanup --drain 0s       break them
  nodegate cleanup --stay           in a DaemonSet, which starts again what ends

Exit status: 0 nothing of nodegate is left, 2 nodegate still runs, or something
could not be removed.")]
pub struct Cleanup {
    #[command(flatten)]
    pins: PinDir,
    /// How long connections may go on. It is over as soon as they are
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = super::duration)]
    drain: Duration,
    /// Then do nothing until SIGTERM or SIGINT
    #[arg(long)]
    stay: bool,
}

impl Cleanup {
    /// Removes the pins and says which.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let code = self.remove()?;
        if self.stay {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(told_to_end())?;
        }
        Ok(code)
    }

    fn remove(&self) -> anyhow::Result<ExitCode> {
        if let Some(pid) = running(&self.pins.path) {
            bail!(
                "nodegate (pid {pid}) still runs here, and would not notice that its maps are gone \
                 (fix: stop it first)"
            );
        }
        let drain = self.drain;
        let cleaned = cleanup(&self.pins.path, drain, |alive| {
            eprintln!(
                "waiting for {}, at most {drain:?} (--drain)",
                Plural(alive, "connection")
            );
        })?;
        if cleaned.removed.is_empty() {
            eprintln!(
                "nothing of nodegate is pinned in {}",
                self.pins.path.display()
            );
        }
        for pin in cleaned.removed {
            println!("removed {}", pin.display());
        }
        for pin in cleaned.left {
            eprintln!("left {}: it is not nodegate's", pin.display());
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

/// The daemon that writes these maps, if it runs where we can see it.
fn running(pin_dir: &Path) -> Option<u32> {
    let daemon = Pins::open(pin_dir).ok()?.daemon().ok()??;
    // A number may be another process's by now, or that of another process namespace. The dead whom
    // nobody has buried yet have no program.
    let program = fs::read_link(format!("/proc/{}/exe", daemon.pid)).ok()?;
    let is_ours = program
        .file_name()
        .and_then(OsStr::to_str)?
        .starts_with("nodegate");
    (daemon.idle < ALIVE && is_ours).then_some(daemon.pid)
}

async fn told_to_end() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
