//! Entering the root: mounts and names of its own, this machine's processes and network.

use std::{
    env,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::Args;
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::{
        prctl,
        signal::{Signal, kill},
        wait::{WaitStatus, wait, waitpid},
    },
    unistd::{Pid, chdir, getpid, pivot_root},
};
use nodegate_programs::{Program, itself};

use super::root::{CLONE, RUST};

/// The subcommand that [`enter`] starts this program with: namespaces are joined by a process with one thread.
pub(crate) const SUBCOMMAND: &str = "fresh-inside";

/// Beginnings of the variables that tell package clients how to reach their registries.
const WAY_OUT: [&str; 8] = [
    "CARGO_HTTP_",
    "CARGO_NET_",
    "CARGO_REGISTR",
    "CARGO_SOURCE_",
    "GOPROXY",
    "PIP_",
    "SSL_CERT_",
    "TERM",
];

/// How often it is looked for what the command has left.
const ROUNDS: usize = 100;

/// What the process in the root is started with.
#[derive(Debug, Args)]
pub(crate) struct Inside {
    /// The root
    root: PathBuf,
    /// The command
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Runs a command in the root's clone; whether it succeeded. All that it has left ends with it.
pub(super) fn enter(root: &Path, program: Program, arguments: &[&str]) -> anyhow::Result<bool> {
    let status = itself()?
        .arg(SUBCOMMAND)
        .arg(root)
        .arg("--")
        .arg(program.name())
        .args(arguments)
        .status()
        .context("starting this program again")?;
    Ok(status.success())
}

/// The process between [`enter`] and the command: it mounts, starts the command, and ends what that leaves.
///
/// Processes keep the numbers that the kernel knows them by, as on a machine: a namespace of their own
/// would hide from nodegate who connects.
pub(crate) fn run(inside: &Inside) -> anyhow::Result<ExitCode> {
    // Whoever ends `enter` ends this.
    prctl::set_pdeathsig(Signal::SIGKILL).context("PR_SET_PDEATHSIG")?;
    // Orphans become children of this process, so that none is lost.
    prctl::set_child_subreaper(true).context("PR_SET_CHILD_SUBREAPER")?;
    let namespaces = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    unshare(namespaces).context("making namespaces")?;
    mounts(&inside.root)?;
    let result = command(&inside.command);
    end_all()?;
    result
}

/// Runs the command to its end, and buries orphans meanwhile, as init does.
fn command(words: &[OsString]) -> anyhow::Result<ExitCode> {
    let [program, arguments @ ..] = words else {
        bail!("no command");
    };
    let row = program.to_str().and_then(Program::named);
    let mut command = row.context("no such program is known")?.by_name();
    command.args(arguments).env_clear().envs(environment());
    command.current_dir(Path::new("/").join(CLONE));
    let child = command
        .spawn()
        .with_context(|| format!("starting {}", program.display()))?;
    let child = Pid::from_raw(child.id().cast_signed());
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, status)) if pid == child => {
                return Ok(exit_code(status == 0));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                bail!("{} was ended by {signal}", program.display())
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("waiting for the command"),
        }
    }
}

/// Ends what the command has left. With a child's end its own children become ours, so there are rounds.
fn end_all() -> anyhow::Result<()> {
    for _ in 0..ROUNDS {
        let children = children(getpid()).context("reading /proc")?;
        if children.is_empty() {
            return Ok(());
        }
        for child in children {
            // It may have ended meanwhile.
            let _ = kill(child, Signal::SIGKILL);
            let _ = waitpid(child, None);
        }
    }
    bail!("processes come faster than they are ended: look for them with ps")
}

/// A process's children.
// proc_pid_stat(5): the parent is the second field after the name, which stands in parentheses.
fn children(parent: Pid) -> io::Result<Vec<Pid>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let its_parent = fields.split_whitespace().nth(1);
        if its_parent.and_then(|text| text.parse().ok()) == Some(parent.as_raw()) {
            children.push(Pid::from_raw(pid));
        }
    }
    Ok(children)
}

/// The root becomes `/`, with the file systems that a machine has when it has just booted: no bpffs.
fn mounts(root: &Path) -> anyhow::Result<()> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    let bind = MsFlags::MS_REC | MsFlags::MS_BIND;
    mounted(None, Path::new("/"), None, private)?;
    mounted(Some("/dev"), &root.join("dev"), None, bind)?;
    // A mount point, as pivot_root(2) wants it; `ip netns exec` wants one too.
    mounted(root.to_str(), root, None, bind)?;
    mounted(
        Some("proc"),
        &root.join("proc"),
        Some("proc"),
        MsFlags::empty(),
    )?;
    mounted(
        Some("sysfs"),
        &root.join("sys"),
        Some("sysfs"),
        MsFlags::empty(),
    )?;
    let cgroups = root.join("sys/fs/cgroup");
    mounted(Some("cgroup2"), &cgroups, Some("cgroup2"), MsFlags::empty())?;
    for directory in ["run", "tmp"] {
        mounted(
            Some("tmpfs"),
            &root.join(directory),
            Some("tmpfs"),
            MsFlags::empty(),
        )?;
    }
    chdir(root).context("entering the root")?;
    // pivot_root(2): with the same directory twice the old root is stacked on the new one.
    pivot_root(".", ".").context("pivot_root")?;
    umount2(".", MntFlags::MNT_DETACH).context("leaving the old root")?;
    chdir("/").context("entering /")
}

fn mounted(
    source: Option<&str>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
) -> anyhow::Result<()> {
    mount(source, target, kind, flags, None::<&str>)
        .with_context(|| format!("mounting {} at {}", source.unwrap_or("-"), target.display()))
}

/// What a login has, and how registries are reached.
fn environment() -> Vec<(OsString, OsString)> {
    let path = format!(
        "/{RUST}/bin:/root/.cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    );
    let own = [("HOME", "/root"), ("PATH", &path), ("LANG", "C.UTF-8")];
    let own = own.map(|(name, value)| (name.into(), value.into()));
    env::vars_os()
        .filter(|(name, _)| {
            let name = name.to_string_lossy();
            WAY_OUT.iter().any(|beginning| name.starts_with(beginning))
                || name.to_ascii_lowercase().ends_with("_proxy")
        })
        .chain(own)
        .collect()
}

fn exit_code(success: bool) -> ExitCode {
    if success {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_found_by_their_parent() {
        let mut sleep = Program::Sleep.command().arg("60").spawn().unwrap();
        let pid = Pid::from_raw(sleep.id().cast_signed());
        let found = children(getpid()).unwrap();
        sleep.kill().unwrap();
        sleep.wait().unwrap();
        assert!(found.contains(&pid), "{found:?}");
        assert!(!children(getpid()).unwrap().contains(&pid));
    }
}
