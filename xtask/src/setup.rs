//! Preparing the machine, without a word when there is nothing to do.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use nodegate_programs::{Program, Use};

mod archive;
mod bpf_linker;
mod envoy;
mod llvm;
mod machine;
mod rust_src;
mod tools;

pub(crate) use archive::unpack;
pub(crate) use envoy::{PROGRAM as ENVOY, prepare as envoy};
pub(crate) use llvm::{host, llvm_profdata};
pub(crate) use machine::prepare as machine;
pub(crate) use rust_src::mirror;
pub(crate) use tools::{command, prepare as tools, program};

/// Names a directory to install to, in place of the toolchain's and cargo's own: for trying the
/// set-up itself, without touching what is there.
const ROOT: &str = "NODEGATE_SETUP_ROOT";

/// What building needs of programs.
const BUILD: [Use; 2] = [Use::Build, Use::Setup];
/// What a testbed with nodegate in it needs.
pub(crate) const TESTBED: [Use; 2] = [Use::Product, Use::Testbed];
/// What tests in it need, and those beside it.
pub(crate) const TESTS: [Use; 3] = [Use::Product, Use::Testbed, Use::Tests];

/// What a cluster needs beside Go.
pub(crate) const CLUSTER: [Use; 2] = [Use::Testbed, Use::Cluster];

/// Everything.
pub(crate) fn all() -> anyhow::Result<()> {
    toolchain()?;
    tools(&[&BUILD[..], &TESTS].concat())?;
    machine()
}

/// What building the kernel programs needs.
pub(crate) fn toolchain() -> anyhow::Result<()> {
    tools(&[Use::Build])?;
    let places = Places::find()?;
    rust_src::prepare(&places)?;
    bpf_linker::prepare(&places)
}

/// Whether an earlier set-up has seen to the linker of the kernel programs.
pub(crate) fn has_linker() -> anyhow::Result<bool> {
    bpf_linker::is_prepared(&Places::find()?)
}

/// The cargo that runs us, or the one on PATH.
pub(crate) fn cargo() -> Command {
    match env::var_os("CARGO") {
        Some(place) => Program::Cargo.at(place),
        None => Program::Cargo.command(),
    }
}

/// PATH with the directory that `cargo install` puts bpf-linker in.
pub(crate) fn path_with_linker() -> anyhow::Result<OsString> {
    let places = Places::find()?;
    let path = env::var_os("PATH").unwrap_or_default();
    let all = std::iter::once(places.install.join("bin")).chain(env::split_paths(&path));
    Ok(env::join_paths(all)?)
}

/// Where things are.
#[derive(Debug)]
struct Places {
    /// The toolchain's root.
    sysroot: PathBuf,
    /// The root that the standard library's source belongs below.
    source: PathBuf,
    /// `cargo install --root`.
    install: PathBuf,
    /// Whether `install` is searched alone, and not PATH too.
    isolated: bool,
}

impl Places {
    fn find() -> anyhow::Result<Self> {
        let sysroot = sysroot()?;
        if let Some(root) = env::var_os(ROOT) {
            let root = std::path::absolute(root)?;
            return Ok(Self {
                sysroot,
                source: root.clone(),
                install: root,
                isolated: true,
            });
        }
        Ok(Self {
            source: sysroot.clone(),
            sysroot,
            install: cargo_home()?,
            isolated: false,
        })
    }

    /// rustc's own libLLVM: its name says LLVM's and rustc's versions.
    fn libllvm(&self) -> anyhow::Result<PathBuf> {
        let lib = self.sysroot.join("lib");
        let mut found: Vec<PathBuf> = fs::read_dir(&lib)
            .with_context(|| format!("reading {}", lib.display()))?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| file_name(path).starts_with("libLLVM.so."))
            .collect();
        found.sort();
        found.pop().with_context(|| {
            format!(
                "{} has no libLLVM.so: install Rust with rustup, from https://rustup.rs",
                lib.display()
            )
        })
    }
}

/// Where cargo keeps its registries, its configuration and what it installs.
pub(crate) fn cargo_home() -> anyhow::Result<PathBuf> {
    match env::var_os("CARGO_HOME") {
        Some(home) => Ok(PathBuf::from(home)),
        None => Ok(env::home_dir()
            .context("HOME is not set: set it, or CARGO_HOME")?
            .join(".cargo")),
    }
}

/// The toolchain's root: two above the cargo that runs us, which is faster than asking rustc.
pub(crate) fn sysroot() -> anyhow::Result<PathBuf> {
    if let Some(cargo) = env::var_os("CARGO")
        && let Some(root) = Path::new(&cargo).parent().and_then(Path::parent)
        && root.join("lib/rustlib").is_dir()
    {
        return Ok(root.into());
    }
    let output = Program::Rustc
        .command()
        .args(["--print", "sysroot"])
        .output()
        .context("starting rustc: install Rust with rustup, from https://rustup.rs")?;
    ensure!(
        output.status.success(),
        "rustc --print sysroot: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(PathBuf::from(
        String::from_utf8_lossy(&output.stdout).trim(),
    ))
}

/// What `rustc -vV` says.
#[derive(Debug, PartialEq, Eq)]
struct Rustc {
    /// `1.95.0`
    release: String,
    /// `22`
    llvm_major: String,
    /// `x86_64-unknown-linux-gnu`
    host: String,
}

impl Rustc {
    fn ask(sysroot: &Path) -> anyhow::Result<Self> {
        let rustc = sysroot.join("bin/rustc");
        let output = Program::Rustc
            .at(&rustc)
            .arg("-vV")
            .output()
            .with_context(|| format!("starting {}", rustc.display()))?;
        Self::parse(&String::from_utf8_lossy(&output.stdout)).with_context(|| {
            format!(
                "{} -vV doesn't say its release, host and LLVM version",
                rustc.display()
            )
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        Some(Self {
            release: field("release: ")?.trim().into(),
            llvm_major: field("LLVM version: ")?.split('.').next()?.trim().into(),
            host: field("host: ")?.trim().into(),
        })
    }
}

/// One line about what is being done.
pub(crate) fn say(text: &str) {
    eprintln!("set-up: {text}");
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rustc_is_understood() {
        let text = "rustc 1.95.0 (59807616e 2026-04-14)\nhost: x86_64-unknown-linux-gnu\n\
                    release: 1.95.0\nLLVM version: 22.1.2\n";
        let rustc = Rustc::parse(text).unwrap();
        assert_eq!(
            (rustc.release.as_str(), rustc.llvm_major.as_str()),
            ("1.95.0", "22")
        );
        assert_eq!(rustc.host, "x86_64-unknown-linux-gnu");
        assert_eq!(Rustc::parse("rustc 1.95.0\n"), None);
    }
}
