//! Process 1 of a node: what makes namespaces a machine.
//!
//! A node has its own processes, name, mounts, cgroup root and IPC. Its files are this machine's as of
//! its start; what it writes goes to memory and ends with it, but for the directories that containers and
//! their images are in.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::{
        prctl,
        signal::{SigSet, Signal},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, chdir, getpid, pivot_root, sethostname},
};
use nodegate_programs::itself;
use serde::{Deserialize, Serialize};

/// What a node is to be like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Its name.
    pub name: String,
    /// An empty directory, for the mount that its root is in.
    pub root: PathBuf,
    /// The cgroup of its processes, as the machine knows it; the one above it is the node's root.
    pub cgroup: PathBuf,
    /// Directories of this machine's, and where the node has them.
    pub directories: Vec<(PathBuf, PathBuf)>,
    /// Files that are the node's own, and what is in them.
    pub files: Vec<(PathBuf, String)>,
    /// Settings of the kernel that seem to be so.
    pub settings: Vec<(PathBuf, String)>,
    /// Is written when the node is there: its process 1, as the machine counts it.
    pub pid: PathBuf,
}

/// What the process is told that becomes process 1.
const INSIDE: &str = "--inside";

/// `testbed-node SPEC.json`: makes the namespaces, and a process in them. Lives as long as the node.
pub fn run(arguments: &[std::ffi::OsString]) -> anyhow::Result<()> {
    match arguments {
        [file] => outside(file.as_ref()),
        [word, file] if word == INSIDE => inside(&Spec::read(file.as_ref())?),
        _ => anyhow::bail!("usage: testbed-node SPEC.json"),
    }
}

impl Spec {
    fn read(file: &Path) -> anyhow::Result<Self> {
        let text = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        serde_json::from_slice(&text).with_context(|| file.display().to_string())
    }
}

fn outside(file: &Path) -> anyhow::Result<()> {
    let spec = Spec::read(file)?;
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWCGROUP;
    unshare(namespaces).context("making namespaces")?;
    // Off the root that the node now has: controllers can't be handed on from a cgroup that has processes
    // (Documentation/admin-guide/cgroup-v2.rst, "No Internal Process Constraint").
    fs::write(spec.cgroup.join("cgroup.procs"), "0")
        .with_context(|| format!("entering {}", spec.cgroup.display()))?;
    let mut child = itself()?
        .arg(INSIDE)
        .arg(file)
        .spawn()
        .context("starting process 1")?;
    let status = child.wait().context("waiting for process 1")?;
    // Somebody who takes the node down ends it.
    ensure!(status.code().is_none(), "process 1 has ended: {status}");
    Ok(())
}

fn inside(spec: &Spec) -> anyhow::Result<()> {
    // Whoever ends the process outside ends the node.
    prctl::set_pdeathsig(Signal::SIGKILL).context("PR_SET_PDEATHSIG")?;
    ensure!(getpid() == Pid::from_raw(1), "this is no process 1");
    // As the machine counts it: our /proc is still the machine's.
    let pid = fs::read_link("/proc/self").context("reading /proc")?;
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    // So that none comes between a look and the wait.
    children.thread_block().context("blocking SIGCHLD")?;
    sethostname(&spec.name).context("setting the host's name")?;
    mounts(spec)?;
    settings(spec)?;
    for (file, text) in &spec.files {
        own(file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    // Volumes of pods must be seen in the mounts of others on the node.
    mounted(
        None,
        Path::new("/"),
        None,
        MsFlags::MS_REC | MsFlags::MS_SHARED,
    )?;
    announce(&spec.pid, &pid)?;
    loop {
        bury()?;
        children.wait().context("waiting for children")?;
    }
}

/// Says that the node is there: the file has all of it at once.
fn announce(file: &Path, pid: &Path) -> anyhow::Result<()> {
    let new = file.with_extension("new");
    let write = || -> std::io::Result<()> {
        File::create(&new)?.write_all(pid.as_os_str().as_encoded_bytes())?;
        fs::rename(&new, file)
    };
    write().with_context(|| format!("writing {}", file.display()))
}

/// Takes note of the end of all children that have ended: processes whose parents have gone are ours.
fn bury() -> anyhow::Result<()> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("waiting for children"),
        }
    }
}

/// The root: this machine's files below, what the node writes above them.
fn mounts(spec: &Spec) -> anyhow::Result<()> {
    let (none, bind) = (MsFlags::empty(), MsFlags::MS_REC | MsFlags::MS_BIND);
    mounted(
        None,
        Path::new("/"),
        None,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
    )?;
    // The upper layer can't be below the lower one, so it is in another file system.
    mounted(Some("tmpfs"), &spec.root, Some("tmpfs"), none)?;
    let [upper, work, root] = ["upper", "work", "root"].map(|name| spec.root.join(name));
    for directory in [&upper, &work, &root] {
        fs::create_dir(directory).with_context(|| directory.display().to_string())?;
    }
    let layers = format!(
        "lowerdir=/,upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    let kind = Some("overlay");
    mount(kind, &root, kind, none, Some(layers.as_str())).context("mounting the root")?;
    mounted(Some("/dev"), &root.join("dev"), None, bind)?;
    for (kind, place) in [
        ("proc", "proc"),
        ("sysfs", "sys"),
        ("cgroup2", "sys/fs/cgroup"),
        ("bpf", "sys/fs/bpf"),
        ("tmpfs", "run"),
    ] {
        mounted(Some(kind), &root.join(place), Some(kind), none)?;
    }
    for (source, target) in &spec.directories {
        let target = root.join(target.strip_prefix("/")?);
        fs::create_dir_all(&target).with_context(|| target.display().to_string())?;
        mounted(source.to_str(), &target, None, MsFlags::MS_BIND)?;
    }
    chdir(&root).context("entering the root")?;
    // pivot_root(2): with the same directory twice the old root is stacked on the new one.
    pivot_root(".", ".").context("pivot_root")?;
    umount2(".", MntFlags::MNT_DETACH).context("leaving the old root")?;
    chdir("/").context("entering /")
}

/// Files that stand for settings of the whole machine, which kubelet wants to change.
fn settings(spec: &Spec) -> anyhow::Result<()> {
    let directory = Path::new("/run/settings");
    fs::create_dir_all(directory)?;
    for (index, (setting, value)) in spec.settings.iter().enumerate() {
        let file = directory.join(index.to_string());
        fs::write(&file, format!("{value}\n"))?;
        // A kernel without it has nothing to hide.
        if setting.exists() {
            mounted(file.to_str(), setting, None, MsFlags::MS_BIND)?;
        }
    }
    Ok(())
}

/// A file of the node's own, also where the machine has a link.
fn own(file: &Path, text: &str) -> std::io::Result<()> {
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::write(file, text)
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
