//! cgroups: what a node's cgroup programs see, and how processes are found again to end them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use patience::Deadline;

/// Makes a cgroup and those above it.
pub(crate) fn create(path: &Path) -> anyhow::Result<()> {
    make_directories(path).with_context(|| format!("making the cgroup {}", path.display()))
}

/// Makes a directory and those above it, although another testbed's `down` may be removing the
/// common ones, which it does when they are empty.
pub(crate) fn make_directories(path: &Path) -> io::Result<()> {
    for _ in 0..100 {
        match fs::create_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
    }
    fs::create_dir_all(path)
}

/// The processes of this cgroup, without those below it.
pub(crate) fn processes(path: &Path) -> Vec<Pid> {
    fs::read_to_string(path.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .map(Pid::from_raw)
        .collect()
}

/// The processes of the cgroup and those below it.
pub(crate) fn all_processes(path: &Path) -> Vec<Pid> {
    let groups = subtree(path);
    groups.iter().flat_map(|group| processes(group)).collect()
}

/// Sends a signal to the processes of this cgroup.
pub(crate) fn signal(path: &Path, signal: Signal) {
    for pid in processes(path) {
        // It may have ended meanwhile.
        let _ = kill(pid, signal);
    }
}

/// Waits until no process of the subtree lives; whether that happened in time.
pub(crate) fn wait_empty(path: &Path, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        // cgroup.events counts the subtree and leaves out zombies, unlike cgroup.procs
        // (Documentation/admin-guide/cgroup-v2.rst).
        let events = fs::read_to_string(path.join("cgroup.events")).unwrap_or_default();
        if !events.contains("populated 1") {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ends every process of the subtree and removes it. Does nothing when it is not there.
pub(crate) fn destroy(path: &Path) -> anyhow::Result<()> {
    let deadline = Deadline::new();
    loop {
        let tree = subtree(path);
        if tree.is_empty() {
            return Ok(());
        }
        // cgroup.kill ends the subtree at once, forks included; kernels before 5.14 lack it.
        if fs::write(path.join("cgroup.kill"), "1").is_err() {
            for group in &tree {
                signal(group, Signal::SIGKILL);
            }
        }
        wait_empty(path, Duration::from_millis(500));
        for group in &tree {
            match fs::remove_dir(group) {
                Err(error) if error.kind() != io::ErrorKind::NotFound && deadline.passed() => {
                    let left: Vec<i32> = processes(group).into_iter().map(Pid::as_raw).collect();
                    bail!(
                        "removing the cgroup {}: {error} (processes {left:?})",
                        group.display()
                    );
                }
                _ => {}
            }
        }
    }
}

/// The cgroup and those below it, children first.
fn subtree(path: &Path) -> Vec<PathBuf> {
    let mut tree = Vec::new();
    let Ok(entries) = fs::read_dir(path) else {
        return tree;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            tree.extend(subtree(&entry.path()));
        }
    }
    tree.push(path.into());
    tree
}
