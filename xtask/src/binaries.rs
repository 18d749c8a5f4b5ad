//! Building what a testbed runs.

use std::{
    ffi::OsStr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, ensure};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
pub(crate) use nodegate_testbed::Binaries;
use serde_json::Value;

use crate::setup;

/// What cargo is told to build.
const NODEGATE: [&str; 4] = ["--package", "nodegate", "--bin", "nodegate"];
const POD: [&str; 4] = ["--package", "testbed-pod", "--bin", "testbed-pod"];

/// A build that goes on beside the set-up, and ends with it.
#[derive(Debug)]
pub(crate) struct Ahead(Child);

/// Begins what [`build`] does, on a machine that is not set up yet: most of nodegate needs nothing of
/// the set-up, whose downloads and whose linking leave the machine with little to do. The kernel
/// programs can't be built so early, and what fails for that is built later.
pub(crate) fn ahead() -> anyhow::Result<Option<Ahead>> {
    if setup::has_linker()? || given()?.is_some() {
        return Ok(None);
    }
    let mut cargo = setup::cargo();
    cargo
        .args(["build", "--keep-going", "--quiet"])
        .args(NODEGATE)
        .args(POD)
        .current_dir(workspace())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // So that the compilers end with it.
        .process_group(0);
    Ok(Some(Ahead(cargo.spawn().context("starting cargo")?)))
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // It may have ended.
        let _ = killpg(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGINT);
        let _ = self.0.wait();
    }
}

/// Builds `nodegate` and the pods' server; cargo says what it does. With `NODEGATE_BIN` in the
/// environment that binary is taken, and the kernel programs' toolchain isn't needed.
pub(crate) fn build() -> anyhow::Result<Binaries> {
    let mut cargo = setup::cargo();
    cargo.args(["build", "--message-format", "json-render-diagnostics"]);
    cargo.args(POD);
    let given = given()?;
    if given.is_none() {
        setup::toolchain()?;
        cargo.args(NODEGATE);
        cargo.env("PATH", setup::path_with_linker()?);
    }
    let messages = run(cargo)?;
    Ok(Binaries {
        nodegate: given.map_or_else(|| executable(&messages, "nodegate"), Ok)?,
        pod: executable(&messages, "testbed-pod")?,
    })
}

/// Builds what makes namespaces a cluster's node.
pub(crate) fn node() -> anyhow::Result<PathBuf> {
    let mut cargo = setup::cargo();
    cargo
        .args(["build", "--message-format", "json-render-diagnostics"])
        .args(["--package", "nodegate-testbed", "--bin", "testbed-node"]);
    executable(&run(cargo)?, "testbed-node")
}

/// Builds the `nodegate` of other sources, in a directory of their own.
pub(crate) fn mutant(sources: &Path, target: &Path) -> anyhow::Result<PathBuf> {
    setup::toolchain()?;
    let mut cargo = setup::cargo();
    cargo
        .args(["build", "--message-format", "json-render-diagnostics"])
        .args(NODEGATE)
        .env("PATH", setup::path_with_linker()?)
        .env("CARGO_TARGET_DIR", target)
        // Lines of code are of no use here, and take most of the room.
        .env("CARGO_PROFILE_DEV_DEBUG", "0");
    executable(&run_in(cargo, sources)?, "nodegate")
}

/// The binary that the environment names.
fn given() -> anyhow::Result<Option<PathBuf>> {
    std::env::var_os("NODEGATE_BIN")
        .map(PathBuf::from)
        .map(|path| {
            std::path::absolute(&path).with_context(|| format!("NODEGATE_BIN: {}", path.display()))
        })
        .transpose()
}

/// Lets cargo build, and returns its messages.
fn run(cargo: Command) -> anyhow::Result<String> {
    run_in(cargo, &workspace())
}

fn run_in(mut cargo: Command, sources: &Path) -> anyhow::Result<String> {
    let output = cargo
        .current_dir(sources)
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo")?;
    ensure!(output.status.success(), "the build has failed, see above");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What a measurement runs.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) nodegate: PathBuf,
    pub(crate) traffic: PathBuf,
    pub(crate) relay: PathBuf,
}

/// Builds `nodegate` with link-time optimization, and what is needed for measuring it. With
/// `NODEGATE_BIN` in the environment that nodegate is taken.
pub(crate) fn release() -> anyhow::Result<Measured> {
    let mut cargo = release_build("nodegate-testbed", "testbed-traffic");
    cargo.args(["--bin", "testbed-relay"]);
    let given = given()?;
    if given.is_none() {
        setup::toolchain()?;
        cargo.args(["--package", "nodegate", "--bin", "nodegate"]);
        cargo.env("PATH", setup::path_with_linker()?);
    }
    let messages = run(cargo)?;
    Ok(Measured {
        nodegate: given.map_or_else(|| executable(&messages, "nodegate"), Ok)?,
        traffic: executable(&messages, "testbed-traffic")?,
        relay: executable(&messages, "testbed-relay")?,
    })
}

/// Builds `nodegate` in release mode, with further arguments for cargo and a flag for rustc.
pub(crate) fn nodegate<'a>(
    arguments: impl Iterator<Item = &'a OsStr>,
    flag: &str,
) -> anyhow::Result<PathBuf> {
    let mut cargo = release_build("nodegate", "nodegate");
    cargo
        .args(arguments)
        .env("PATH", setup::path_with_linker()?)
        .env_remove("RUSTFLAGS")
        .env("NODEGATE_BUILD_PROFILE", "dist")
        // Which separates flags by something that no path has in it.
        .env("CARGO_ENCODED_RUSTFLAGS", flag);
    executable(&run(cargo)?, "nodegate")
}

/// Builds the traffic for measuring `nodegate`.
pub(crate) fn traffic() -> anyhow::Result<PathBuf> {
    let cargo = release_build("nodegate-testbed", "testbed-traffic");
    executable(&run(cargo)?, "testbed-traffic")
}

/// Cargo, about to build a binary in release mode.
fn release_build(package: &str, binary: &str) -> Command {
    let mut cargo = setup::cargo();
    cargo
        .args(["build", "--release"])
        .args(["--message-format", "json-render-diagnostics"])
        .args(["--package", package, "--bin", binary]);
    cargo
}

/// Builds tests that are run elsewhere: packets, budget, e2e.
pub(crate) fn tests() -> anyhow::Result<[PathBuf; 3]> {
    let names = ["packets", "budget", "e2e"];
    let messages = run(test_build(
        &["nodegate-datapath", "nodegate-testbed"],
        &names,
    )?)?;
    let [packets, budget, e2e] = names.map(|name| executable(&messages, name));
    Ok([packets?, budget?, e2e?])
}

/// Builds the test that knows what packets cost.
pub(crate) fn budget() -> anyhow::Result<PathBuf> {
    setup::toolchain()?;
    let messages = run(test_build(&["nodegate-datapath"], &["budget"])?)?;
    executable(&messages, "budget")
}

/// Cargo, about to build tests.
fn test_build(packages: &[&str], names: &[&str]) -> anyhow::Result<Command> {
    let mut cargo = setup::cargo();
    cargo.args(["test", "--no-run"]);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    for package in packages {
        cargo.args(["--package", package]);
    }
    for name in names {
        cargo.args(["--test", name]);
    }
    cargo.env("PATH", setup::path_with_linker()?);
    Ok(cargo)
}

/// The root of the workspace.
pub(crate) fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where cargo has put a binary.
fn executable(messages: &str, name: &str) -> anyhow::Result<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo has built no `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_found_among_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"nodegate"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"nodegate"},"executable":"/t/nodegate"}"#,
            "\nnot json\n",
        );
        assert_eq!(
            executable(messages, "nodegate").unwrap(),
            PathBuf::from("/t/nodegate")
        );
        assert!(executable(messages, "testbed-pod").is_err());
    }
}
