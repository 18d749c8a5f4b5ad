//! System tools that the testbed and the tests call.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, bail};
use nodegate_testbed::environment::{self, Tool, Unmet};

use super::say;

/// Installs the tools that are missing where that needs no question: as root, with apt-get.
pub(crate) fn prepare() -> anyhow::Result<()> {
    let missing = environment::missing_tools();
    if missing.is_empty() {
        return Ok(());
    }
    install_missing(&missing)?;
    match environment::missing_tools().first() {
        Some(tool) => Err(Unmet::Tool(tool.program, tool.package).into()),
        None => Ok(()),
    }
}

fn install_missing(missing: &[Tool]) -> anyhow::Result<()> {
    let Some(first) = missing.first() else {
        return Ok(());
    };
    let apt = environment::find_program("apt-get", &environment::search_path());
    if environment::root().is_err() || apt.is_none() {
        return Err(Unmet::Tool(first.program, first.package).into());
    }
    let packages = packages(missing);
    say(&format!("installing {} with apt-get", packages.join(", ")));
    // The lists may be old, or not there at all: then once more with new ones.
    if let Err(error) = install(&packages) {
        say("apt-get update");
        run(&["-qq", "update"])
            .and_then(|()| install(&packages))
            .map_err(|_| error)?;
    }
    Ok(())
}

/// Where a program is that only some commands call. It is installed if it is missing.
pub(crate) fn program(name: &'static str, package: &'static str) -> anyhow::Result<PathBuf> {
    let find = || environment::find_program(name, &environment::search_path());
    if let Some(program) = find() {
        return Ok(program);
    }
    install_missing(&[Tool {
        program: name,
        package,
    }])?;
    find().ok_or_else(|| Unmet::Tool(name, package).into())
}

/// Installs a package, as root, with apt-get.
pub(super) fn package(package: &str) -> anyhow::Result<()> {
    environment::root()?;
    say(&format!("installing {package} with apt-get"));
    install(&[package]).or_else(|error| {
        run(&["-qq", "update"])
            .and_then(|()| install(&[package]))
            .map_err(|_| error)
    })
}

/// The packages that have the tools, each once.
fn packages(tools: &[Tool]) -> Vec<&'static str> {
    let mut packages: Vec<&str> = tools.iter().map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn install(packages: &[&str]) -> anyhow::Result<()> {
    let options = ["-qq", "-y", "--no-install-recommends", "install"];
    run(&[&options[..], packages].concat())
}

fn run(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .context("starting apt-get")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.trim().lines().last().unwrap_or_default();
    bail!(
        "apt-get {}: {said}: install it by hand",
        arguments.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_has_its_package_once() {
        let packages = packages(environment::TOOLS);
        assert_eq!(
            packages
                .iter()
                .filter(|package| **package == "iptables")
                .count(),
            1
        );
        for package in ["iproute2", "netcat-openbsd", "util-linux"] {
            assert!(packages.contains(&package), "{package}");
        }
    }
}
