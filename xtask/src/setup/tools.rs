//! The programs that the testbed, the tests and the other chores start.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, bail};
use nodegate_programs::{Program, Use};
use nodegate_testbed::environment::{self, Unmet};

use super::say;

/// Installs what is missing of the programs that these need, where that needs no question: as root, with
/// apt-get.
pub(crate) fn prepare(needs: &[Use]) -> anyhow::Result<()> {
    install_missing(&Program::missing(needs))?;
    Ok(environment::programs(needs)?)
}

/// A command that starts a program that only some chores need. It is installed if it is missing.
pub(crate) fn command(program: Program) -> anyhow::Result<Command> {
    self::program(program).map(|place| program.at(place))
}

/// Where such a program is.
pub(crate) fn program(program: Program) -> anyhow::Result<PathBuf> {
    if let Some(found) = program.find() {
        return Ok(found);
    }
    install_missing(&[program])?;
    Ok(program.find().ok_or(Unmet::Program(program))?)
}

fn install_missing(missing: &[Program]) -> anyhow::Result<()> {
    let Some(first) = missing.first() else {
        return Ok(());
    };
    if environment::root().is_err() || Program::AptGet.find().is_none() {
        return Err(Unmet::Program(*first).into());
    }
    install(&packages(missing))
}

/// The packages that have the programs, each once.
fn packages(programs: &[Program]) -> Vec<&'static str> {
    let mut packages: Vec<&str> = programs.iter().filter_map(|one| one.package()).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

/// Installs packages, as root, with apt-get.
pub(super) fn install(packages: &[&str]) -> anyhow::Result<()> {
    environment::root()?;
    say(&format!("installing {} with apt-get", packages.join(", ")));
    // The lists may be old, or not there at all: then once more with new ones.
    let options = ["-y", "--no-install-recommends", "install"];
    let install = || run(&[&options[..], packages].concat());
    install().or_else(|error| {
        say("apt-get update");
        run(&["update"]).and_then(|()| install()).map_err(|_| error)
    })
}

/// Runs apt-get, and shows how far it is.
fn run(arguments: &[&str]) -> anyhow::Result<()> {
    let mut apt = Program::AptGet
        .command()
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting apt-get")?;
    let mut errors = apt.stderr.take().context("apt-get's errors")?;
    let said = thread::spawn(move || {
        let mut said = Vec::new();
        // What was read until an error is all there is.
        let _ = errors.read_to_end(&mut said);
        said
    });
    let output = apt.stdout.take().context("apt-get's output")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        if is_progress(&line) {
            say(&format!("  {line}"));
        }
    }
    if apt.wait()?.success() {
        return Ok(());
    }
    let said = said.join().unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let said = said.trim().lines().last().unwrap_or_default();
    bail!(
        "apt-get {}: {said}: install it by hand",
        arguments.join(" ")
    )
}

/// Whether a line of apt-get's says what it does and with what: `Need to get 5,123 kB of archives.`,
/// `Setting up conntrack (1:1.4.7-1+b2) ...`
fn is_progress(line: &str) -> bool {
    line.starts_with("Need to get ") || line.starts_with("Setting up ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_is_installed_once() {
        let programs: Vec<_> = Program::of(&[Use::Testbed, Use::Tests]).collect();
        let packages = packages(&programs);
        let count = |name: &str| packages.iter().filter(|package| **package == name).count();
        for package in ["iptables", "iproute2", "netcat-openbsd", "conntrack"] {
            assert_eq!(count(package), 1, "{package}");
        }
        assert_eq!(count("haproxy"), 0, "only what is asked for");
    }

    #[test]
    fn of_what_apt_says_the_steps_are_shown() {
        assert!(is_progress("Setting up conntrack (1:1.4.7-1+b2) ..."));
        assert!(!is_progress("Reading package lists..."));
    }
}
