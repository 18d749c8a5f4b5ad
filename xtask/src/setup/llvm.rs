//! LLVM's tools, of the version that rustc has: they must understand each other's files.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use nodegate_testbed::environment;

use super::{Places, Rustc, tools};

/// Where `llvm-profdata` is. It is installed if it is missing.
pub(crate) fn llvm_profdata() -> anyhow::Result<PathBuf> {
    let rustc = Rustc::ask(&Places::find()?.sysroot)?;
    let name = format!("llvm-profdata-{}", rustc.llvm_major);
    let find = || environment::find_program(&name, &environment::search_path());
    if let Some(program) = find() {
        return Ok(program);
    }
    let package = format!("llvm-{}", rustc.llvm_major);
    tools::package(&package)
        .with_context(|| format!("`{name}` is missing: install it (apt-get install {package})"))?;
    match find() {
        Some(program) => Ok(program),
        None => bail!("the package {package} has no `{name}`"),
    }
}

/// The machine that rustc builds for by itself.
pub(crate) fn host() -> anyhow::Result<String> {
    Ok(Rustc::ask(&Places::find()?.sysroot)?.host)
}
