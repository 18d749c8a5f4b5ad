//! `cargo xtask fresh`: the README's two commands on a Debian that has nothing but Rust.
//!
//! A developer's machine has many programs by chance. Here nothing is left to chance: a bare Debian
//! root in a directory of its own, entered with namespaces, gets a toolchain and a clone, and has
//! to find the rest by `cargo xtask setup` alone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, ensure};
use clap::{Args, ValueEnum};
use nodegate_programs::Program;

use crate::{binaries, phases::Phases, setup};

pub(crate) mod inside;
mod root;

/// Shown below `--help`.
pub(crate) const EXAMPLES: &str = "\
Examples:
  cargo xtask fresh                    the demo and all tests, from nothing
  cargo xtask fresh --only demo        how long a newcomer waits for the first answer
  cargo xtask fresh --only ci --keep   what CI runs; the root stays, to look at
  cargo xtask fresh --only shell --keep

Needs root, 12 GB in --directory, and a way to the package registries: the network is the machine's own.
What is committed is tried, not the work tree.";

/// The root's name in its directory.
const ROOT: &str = "root";

#[derive(Debug, Args)]
pub(crate) struct Fresh {
    /// What to run in there
    #[arg(long, value_enum, default_value_t)]
    only: What,
    /// Where to build the root; must not exist [default: target/fresh]
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Debian's release
    #[arg(long, default_value = "bookworm")]
    suite: String,
    /// Leave the root, to look at: it is some gigabytes
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum What {
    /// The README's two commands: demo and test
    #[default]
    Both,
    /// The demo
    Demo,
    /// All tests
    Test,
    /// `.ci/run`
    Ci,
    /// A shell
    Shell,
}

impl What {
    /// The commands, in their order.
    fn commands(self) -> &'static [(Program, &'static [&'static str])] {
        const DEMO: (Program, &[&str]) = (Program::Cargo, &["xtask", "demo", "--once"]);
        const TEST: (Program, &[&str]) = (Program::Cargo, &["xtask", "test"]);
        match self {
            Self::Both => &[DEMO, TEST],
            Self::Demo => &[DEMO],
            Self::Test => &[TEST],
            Self::Ci => &[(Program::Bash, &[".ci/run"])],
            Self::Shell => &[(Program::Bash, &[])],
        }
    }
}

/// Builds the root, runs the commands in it, says how long each took, and removes it.
pub(crate) fn run(fresh: &Fresh) -> anyhow::Result<ExitCode> {
    nodegate_testbed::environment::root()?;
    let directory = match &fresh.directory {
        Some(directory) => std::path::absolute(directory)?,
        None => binaries::workspace().canonicalize()?.join("target/fresh"),
    };
    ensure!(
        !directory.exists(),
        "{} exists: remove it, or name another --directory",
        directory.display()
    );
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    let result = try_in(&directory.join(ROOT), fresh);
    if fresh.keep {
        eprintln!("fresh: {} stays", directory.display());
    } else {
        remove(&directory)?;
    }
    result
}

fn try_in(root: &Path, fresh: &Fresh) -> anyhow::Result<ExitCode> {
    let mut phases = Phases::default();
    eprintln!(
        "fresh: a bare Debian, Rust and a clone, in {} (a minute)",
        root.display()
    );
    phases.time("a bare Debian", || root::debootstrap(root, &fresh.suite))?;
    phases.time("Rust, as given", || {
        root::give_rust(root, &setup::sysroot()?)
    })?;
    phases.time("a clone", || root::clone(root, &binaries::workspace()))?;
    let mut code = ExitCode::SUCCESS;
    for &(program, arguments) in fresh.only.commands() {
        let name = [&[program.name()], arguments].concat().join(" ");
        eprintln!("fresh: {name}");
        let good = phases.time(&name, || inside::enter(root, program, arguments))?;
        if !good {
            eprintln!("fresh: {name} has failed");
            code = ExitCode::FAILURE;
        }
    }
    print!("{phases}");
    Ok(code)
}

/// Removes the root, but never what is mounted there.
fn remove(directory: &Path) -> anyhow::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading the mounts")?;
    ensure!(
        !is_mounted_below(&mounts, directory),
        "something is mounted below {}: unmount it, then remove the directory",
        directory.display()
    );
    fs::remove_dir_all(directory).with_context(|| format!("removing {}", directory.display()))
}

/// Whether a file system is mounted below a directory.
// proc_pid_mountinfo(5): the fifth field is the mount point.
fn is_mounted_below(mounts: &str, directory: &Path) -> bool {
    mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .any(|point| Path::new(point).starts_with(directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_in_the_root_is_seen() {
        let mounts = "22 1 0:5 / /proc rw - proc proc rw\n\
                      40 1 8:1 / /home/dev/target/fresh/root/dev rw - tmpfs tmpfs rw\n";
        assert!(is_mounted_below(
            mounts,
            Path::new("/home/dev/target/fresh")
        ));
        assert!(!is_mounted_below(
            mounts,
            Path::new("/home/dev/target/fresh2")
        ));
        assert!(!is_mounted_below(mounts, Path::new("/home/dev/target/fre")));
    }
}
