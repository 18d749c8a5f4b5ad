//! Where the redirector lives: options that several subcommands have.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use ipnet::IpNet;
use nodegate_datapath::uplinks;

/// What the kernel programs are attached to, and where they are pinned.
#[derive(Debug, Args)]
pub(super) struct Attachment {
    /// Interfaces on which packets from outside arrive [default: those with a default route, and cards with
    /// an address that node ports have, also those that come later]
    #[arg(
        long = "uplink",
        env = "NODEGATE_UPLINKS",
        value_name = "INTERFACE",
        value_delimiter = ','
    )]
    uplinks: Vec<String>,
    #[command(flatten)]
    pub(super) pins: PinDir,
    /// Directory of the cgroup whose processes are redirected [default: the root of cgroup2]
    #[arg(long, env = "NODEGATE_CGROUP", value_name = "DIR")]
    cgroup: Option<PathBuf>,
}

/// Where what is attached can be found again.
#[derive(Debug, Args)]
pub(super) struct PinDir {
    /// Where maps and links are pinned, on a BPF file system
    #[arg(
        long = "pin-dir",
        env = "NODEGATE_PIN_DIR",
        default_value = "/sys/fs/bpf/nodegate",
        value_name = "DIR"
    )]
    pub(super) path: PathBuf,
}

impl Attachment {
    /// The interfaces that were given, or else those that are found, with node ports on the node's addresses
    /// in these networks.
    pub(super) fn uplinks(&self, node_ports: &[IpNet]) -> anyhow::Result<Vec<String>> {
        if !self.uplinks.is_empty() {
            return Ok(self.uplinks.clone());
        }
        let uplinks = uplinks::find(node_ports)?;
        if uplinks.is_empty() {
            bail!(
                "no interface has a default route, or an address that node ports have (fix: \
                 --uplink INTERFACE, for each one on which packets from outside arrive)"
            );
        }
        Ok(uplinks)
    }

    /// Whether no interfaces were given.
    pub(super) const fn finds_uplinks(&self) -> bool {
        self.uplinks.is_empty()
    }

    /// The cgroup that was given, or else the root of the hierarchy.
    pub(super) fn cgroup(&self) -> anyhow::Result<PathBuf> {
        match &self.cgroup {
            Some(cgroup) => Ok(cgroup.clone()),
            None => cgroup2_root(),
        }
    }
}

/// The root of the cgroup2 hierarchy, wherever it is mounted.
fn cgroup2_root() -> anyhow::Result<PathBuf> {
    let mounts =
        std::fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    cgroup2_of(&mounts).context(
        "no cgroup2 hierarchy is mounted (fix: mount -t cgroup2 none /sys/fs/cgroup, or --cgroup)",
    )
}

fn cgroup2_of(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| Path::new(path).to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_wherever_it_is() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroup2_of(hybrid), Some("/sys/fs/cgroup/unified".into()));
        let unified = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert_eq!(cgroup2_of(unified), Some("/sys/fs/cgroup".into()));
        assert_eq!(cgroup2_of("proc /proc proc rw 0 0\n"), None);
    }
}
