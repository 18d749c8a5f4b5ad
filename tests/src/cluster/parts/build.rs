//! Building the parts with Go.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use nodegate_programs::Program;

use super::{
    AGNHOST_VERSION, Group, ISTIO, ISTIO_KINDS, ISTIO_SAMPLES, KUBERNETES, NGINX, PAUSE, Parts,
    Purpose, SAMPLES, cache, groups,
};
use crate::environment::Unmet;

/// The first Go that knows the directive `tool`; from there on go gets the one that `go.mod` asks for.
const OLDEST: (u32, u32) = (1, 24);
/// How often it is told how far a build is, when nothing else happens.
const TICK: Duration = Duration::from_secs(1);
/// Lines of go's that are kept for an error.
const KEPT: usize = 20;

/// Where a build is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A group begins.
    Begins {
        /// `kubernetes v1.36.3`
        group: String,
        /// CPU minutes from nothing.
        minutes: u32,
    },
    /// Modules come from their registry.
    Modules,
    /// Packages are compiled, and in the end linked.
    Packages {
        /// Those that had to be compiled.
        compiled: usize,
        /// All of the group.
        all: usize,
    },
    /// A group is built.
    Ends,
}

/// Builds what a purpose needs and what has not been built yet.
pub fn build(purpose: Purpose, report: &mut dyn FnMut(&Progress)) -> anyhow::Result<Parts> {
    if let Ok(parts) = Parts::find_for(purpose) {
        return Ok(parts);
    }
    check_go()?;
    let cache = cache()?;
    fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
    // Two commands at the same time would do the same work twice.
    let lock = cache.join("lock");
    let lock = File::create(&lock).with_context(|| format!("opening {}", lock.display()))?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .context("waiting for another build")?;
    for group in groups(purpose) {
        let place = group.place(&cache);
        if !place.is_dir() {
            report(&Progress::Begins {
                group: format!("{} {}", group.name, group.version()),
                minutes: group.minutes,
            });
            one(group, &place, report)
                .with_context(|| format!("building {} {}", group.name, group.version()))?;
            report(&Progress::Ends);
        }
    }
    Ok(Parts::find_for(purpose)?)
}

/// Builds a group; its directory is there when all of it is.
fn one(group: &Group, place: &Path, report: &mut dyn FnMut(&Progress)) -> anyhow::Result<()> {
    let parent = place.parent().context("the cache is a directory")?;
    let work = parent.join(format!("{}.new", group.name));
    // Of a build that was ended.
    let _ = fs::remove_dir_all(&work);
    let (sources, programs) = (work.join("sources"), work.join("programs"));
    for directory in [&sources, &programs] {
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    }
    for (name, text) in group.sources {
        fs::write(sources.join(name), text)?;
    }
    compile(group, &sources, &programs, report)?;
    for (theirs, ours) in group.programs {
        let from = programs.join(theirs);
        fs::rename(&from, programs.join(ours))
            .with_context(|| format!("go has built no {}", from.display()))?;
    }
    if group.beside.contains(&PAUSE) {
        of_kubernetes(&sources, &programs)?;
    }
    if group.beside.contains(&ISTIO_SAMPLES) {
        samples(&module(&sources, ISTIO)?, &programs.join(ISTIO_SAMPLES))?;
    }
    if group.beside.contains(&ISTIO_KINDS) {
        let kinds = module(&sources, ISTIO)?
            .join("manifests/charts/base/files")
            .join(ISTIO_KINDS);
        // Not its mode: modules are read-only.
        fs::read(&kinds)
            .and_then(|text| fs::write(programs.join(ISTIO_KINDS), text))
            .with_context(|| kinds.display().to_string())?;
    }
    if group.beside.contains(&NGINX) {
        nginx(&work, &programs.join(NGINX))?;
    }
    fs::rename(&programs, place).with_context(|| format!("making {}", place.display()))?;
    Ok(fs::remove_dir_all(&work)?)
}

/// Copies the samples out of Istio's module.
fn samples(module: &Path, place: &Path) -> anyhow::Result<()> {
    for name in SAMPLES {
        let (from, to) = (module.join(ISTIO_SAMPLES).join(name), place.join(name));
        let directory = to.parent().context("a sample has a directory")?;
        // Not its mode: modules are read-only.
        fs::create_dir_all(directory)
            .and_then(|()| fs::read(&from))
            .and_then(|text| fs::write(&to, text))
            .with_context(|| from.display().to_string())?;
    }
    Ok(())
}

fn compile(
    group: &Group,
    sources: &Path,
    programs: &Path,
    report: &mut dyn FnMut(&Progress),
) -> anyhow::Result<()> {
    report(&Progress::Modules);
    let list = ["list", "-deps"].iter().chain(group.targets);
    let listed = output(go(sources, list))?;
    let all = listed.lines().count();
    let mut command = go(sources, ["build", "-v"]);
    command
        .args(group.flags())
        .arg("-o")
        .arg(programs)
        .args(group.targets)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("starting go")?;
    let mut compiled = 0;
    let said = follow(&mut child, &mut |line| {
        compiled += usize::from(line.is_some_and(is_package));
        report(&Progress::Packages { compiled, all });
    })?;
    ensure!(
        child.wait()?.success(),
        "go build: {}",
        said.join(" | ").trim()
    );
    Ok(())
}

/// Tells each line of go's, and now and then that there is none; gives the last ones that are no progress.
fn follow(child: &mut Child, tell: &mut dyn FnMut(Option<&str>)) -> anyhow::Result<Vec<String>> {
    let lines = BufReader::new(child.stderr.take().context("go's errors")?).lines();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        lines
            .map_while(Result::ok)
            .try_for_each(|line| sender.send(line))
    });
    let mut said = Vec::new();
    loop {
        match receiver.recv_timeout(TICK) {
            Ok(line) => {
                tell(Some(&line));
                if !is_package(&line) && !line.starts_with("go: downloading ") {
                    said.push(line);
                    said.drain(..said.len().saturating_sub(KEPT));
                }
            }
            Err(RecvTimeoutError::Timeout) => tell(None),
            Err(RecvTimeoutError::Disconnected) => return Ok(said),
        }
    }
}

/// Whether a line of `go build -v` is the name of a package: what it says otherwise has spaces, or begins
/// with `#`.
fn is_package(line: &str) -> bool {
    !line.is_empty() && !line.contains([' ', '#', ':'])
}

/// What Kubernetes' module has beside Go: the C of pause, and the version of agnhost.
fn of_kubernetes(sources: &Path, programs: &Path) -> anyhow::Result<()> {
    let directory = module(sources, KUBERNETES)?;
    let version = directory.join("test/images/agnhost/VERSION");
    fs::copy(&version, programs.join(AGNHOST_VERSION))
        .with_context(|| version.display().to_string())?;
    let mut cc = Program::Cc.command();
    // Its image has no libraries.
    cc.args(["-Os", "-static", "-DVERSION=", "-o"])
        .arg(programs.join(PAUSE))
        .arg(directory.join("build/pause/linux/pause.c"));
    output(cc).map(drop)
}

/// Where a module's files are.
fn module(sources: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let directory = output(go(sources, ["list", "-m", "-f", "{{.Dir}}", name]))?;
    Ok(directory.trim().into())
}

/// What Debian's packages of nginx have, unpacked: nothing of it is installed, and started, here.
fn nginx(work: &Path, to: &Path) -> anyhow::Result<()> {
    let apt = |words: &[&str]| {
        let mut command = Program::AptGet.command();
        command.args(["-qq", "-o", "APT::Sandbox::User=root"]);
        command.args(words).current_dir(work);
        output(command)
    };
    let download = || apt(&["download", "nginx", "nginx-common"]);
    // The lists may be older than the archive.
    download().or_else(|_| apt(&["update"]).and_then(|_| download()))?;
    for entry in fs::read_dir(work)? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            let mut unpack = Program::DpkgDeb.command();
            unpack.arg("-x").arg(file).arg(to);
            output(unpack)?;
        }
    }
    Ok(())
}

fn go<S: AsRef<OsStr>>(directory: &Path, arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Program::GoTool.command();
    command
        .args(arguments)
        .current_dir(directory)
        // What they are linked with must not depend on this machine's C.
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off");
    command
}

/// What a command says; an error with its complaint when it fails. It may take as long as it wants: it
/// gets modules.
fn output(mut command: Command) -> anyhow::Result<String> {
    let program = command.get_program().to_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", program.display()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<_> = said.lines().collect();
    let last = said[said.len().saturating_sub(KEPT)..].join(" | ");
    bail!("{}: {last}", program.display())
}

/// Whether there is a Go that can read the `go.mod` files.
fn check_go() -> anyhow::Result<()> {
    if Program::GoTool.find().is_none() {
        return Err(Unmet::Program(Program::GoTool).into());
    }
    let said = output(go(Path::new("/"), ["env", "GOVERSION"]))?;
    let version = version(said.trim());
    ensure!(
        version.is_none_or(|version| version >= OLDEST),
        "{} is too old to build the cluster's parts: {}",
        said.trim(),
        Program::GoTool.remedy()
    );
    Ok(())
}

/// The major and minor number of `go1.26.8`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("go")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_told_from_complaints() {
        assert!(is_package("k8s.io/client-go/kubernetes"));
        for line in [
            "go: downloading k8s.io/api v0.36.3",
            "# k8s.io/api",
            "./main.go:3:8: no required module",
        ] {
            assert!(!is_package(line), "{line}");
        }
    }

    #[test]
    fn versions_of_go_are_compared_by_number() {
        assert!(version("go1.26.8").unwrap() > OLDEST);
        assert!(version("go1.19").unwrap() < OLDEST);
        // What is built from Go's sources: it is new enough.
        assert_eq!(version("devel go1.28-abc"), None);
    }
}
