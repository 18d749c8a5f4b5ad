//! The running kernel: root, mounts, type information.

use std::process::Command;

use anyhow::{Context as _, ensure};
use nodegate_testbed::environment::{self, BPFFS, Unmet};

use super::say;

/// Checks what a testbed needs of the running system, and mounts bpffs if that is all it lacks.
pub(crate) fn prepare() -> anyhow::Result<()> {
    environment::root()?;
    environment::cgroup2()?;
    if environment::bpffs() == Err(Unmet::Bpffs) {
        say(&format!("mounting bpffs at {BPFFS}"));
        let output = Command::new("mount")
            .args(["-t", "bpf", "bpf", BPFFS])
            .output()
            .context("starting mount")?;
        ensure!(
            output.status.success(),
            "mount -t bpf bpf {BPFFS}: {}: load the kernel with CONFIG_BPF_SYSCALL, or start the \
             container privileged",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    environment::btf()?;
    Ok(())
}
