//! How much of the memory that the process may have is left.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use nix::unistd::{SysconfVar, sysconf};

/// Of the memory that it may have, the process takes so many percent before clients are refused: what they have sent
/// and not been answered must have room.
const SCARCE: u64 = 90;

static IS_SCARCE: AtomicBool = AtomicBool::new(false);

/// Whether nearly all is taken.
pub(crate) fn is_scarce() -> bool {
    IS_SCARCE.load(Relaxed)
}

/// Looks how much is taken of what may be; without a limit there is nothing to see.
pub(crate) fn look(most: Option<u64>) {
    let Some(most) = most else {
        return;
    };
    if let Some(taken) = taken() {
        IS_SCARCE.store(taken >= most / 100 * SCARCE, Relaxed);
    }
}

/// Memory of the process that is in use, in bytes (proc_pid_statm(5): its resident pages).
fn taken() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    pages.checked_mul(page.try_into().ok()?)
}

/// What the cgroups that the process is in allow it: the lowest of their limits (`memory.max` of the kernel's
/// Documentation/admin-guide/cgroup-v2.rst); none if they have none.
pub fn allowed() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    lowest(Path::new("/sys/fs/cgroup"), Path::new(own))
}

fn lowest(root: &Path, group: &Path) -> Option<u64> {
    let groups = group.ancestors().map(|group| root.join(group));
    let limit = |group: PathBuf| -> Option<u64> {
        let text = fs::read_to_string(group.join("memory.max")).ok()?;
        text.trim().parse().ok()
    };
    groups.filter_map(limit).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_limit_counts() {
        let root = tempfile::tempdir().unwrap();
        let pod = root.path().join("kubepods/pod1");
        fs::create_dir_all(pod.join("container")).unwrap();
        let container = Path::new("kubepods/pod1/container");
        assert_eq!(lowest(root.path(), container), None);
        fs::write(pod.join("container/memory.max"), "max\n").unwrap();
        assert_eq!(lowest(root.path(), container), None);
        fs::write(pod.join("memory.max"), "268435456\n").unwrap();
        fs::write(root.path().join("kubepods/memory.max"), "1073741824\n").unwrap();
        assert_eq!(lowest(root.path(), container), Some(268_435_456));
        assert_eq!(lowest(root.path(), Path::new("")), None);
    }

    #[test]
    fn the_process_takes_some() {
        let taken = taken().unwrap();
        assert!(taken > 1 << 20, "{taken}");
    }
}
