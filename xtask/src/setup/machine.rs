//! The running kernel: root, mounts, type information.

use anyhow::Context as _;
use nix::mount::{MsFlags, mount};
use nodegate_testbed::environment::{self, BPFFS, Unmet};

use super::say;

/// Checks what a testbed needs of the running system, and mounts bpffs if that is all it lacks.
pub(crate) fn prepare() -> anyhow::Result<()> {
    environment::root()?;
    environment::cgroup2()?;
    if environment::bpffs() == Err(Unmet::Bpffs) {
        say(&format!("mounting bpffs at {BPFFS}"));
        let (kind, flags) = (Some("bpf"), MsFlags::empty());
        mount(kind, BPFFS, kind, flags, None::<&str>).with_context(|| {
            format!(
                "mount -t bpf bpf {BPFFS}: boot a kernel with CONFIG_BPF_SYSCALL, or start the \
                 container privileged"
            )
        })?;
    }
    environment::btf()?;
    Ok(())
}
