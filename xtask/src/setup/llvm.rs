//! LLVM's tools, of the version that rustc has: they must understand each other's files.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use nodegate_programs::{Program, find, search_path};

use super::{Places, Rustc, tools};

/// Where `llvm-profdata` is. It is installed if it is missing.
pub(crate) fn llvm_profdata() -> anyhow::Result<PathBuf> {
    let rustc = Rustc::ask(&Places::find()?.sysroot)?;
    // The program and the package without a number are of Debian's own version.
    let name = format!("{}-{}", Program::LlvmProfdata.name(), rustc.llvm_major);
    let find = || find(&name, &search_path());
    if let Some(program) = find() {
        return Ok(program);
    }
    let package = Program::LlvmProfdata.package().context("its package")?;
    let package = format!("{package}-{}", rustc.llvm_major);
    tools::install(&[&package])
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
