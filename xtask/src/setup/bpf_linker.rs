//! bpf-linker, linked with rustc's own LLVM.
//!
//! The linker reads rustc's bitcode, so its LLVM must be rustc's. rustup's toolchains bring theirs
//! as a shared library: with that there is no package to install and no version to match.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use nodegate_programs::{Program, search_path};

use super::{Places, Rustc, cargo, file_name, say};

/// The release that is installed.
const VERSION: &str = "0.13.0";

/// Whether there is one for this rustc, which an earlier set-up has seen to.
pub(super) fn is_prepared(places: &Places) -> anyhow::Result<bool> {
    let libllvm = places.libllvm()?;
    Ok(find(places).is_some() && stamp(&prefix(places, &libllvm)).exists())
}

/// Builds bpf-linker unless there is one for this rustc.
pub(super) fn prepare(places: &Places) -> anyhow::Result<()> {
    if is_prepared(places)? {
        return Ok(());
    }
    let libllvm = places.libllvm()?;
    let prefix = prefix(places, &libllvm);
    let present = find(places);
    link(&prefix, &libllvm).with_context(|| format!("making {}", prefix.display()))?;
    // Somebody else's will do if it fits.
    if !present.is_some_and(|linker| fits(&linker, &libllvm)) {
        install(places, &prefix)?;
    }
    let stamp = stamp(&prefix);
    fs::write(&stamp, "").with_context(|| format!("writing {}", stamp.display()))
}

/// A file that says that the linker has been seen to.
fn stamp(prefix: &Path) -> PathBuf {
    prefix.join(format!("bpf-linker-{VERSION}"))
}

/// What `LLVM_PREFIX` points at, and the linker's rpath leads to: one for each libLLVM.
fn prefix(places: &Places, libllvm: &Path) -> PathBuf {
    places
        .install
        .join("share/nodegate")
        .join(file_name(libllvm))
}

fn find(places: &Places) -> Option<PathBuf> {
    let mut path = vec![places.install.join("bin")];
    if !places.isolated {
        path.extend(search_path());
    }
    nodegate_programs::find(Program::BpfLinker.name(), &path)
}

/// bpf-linker's build links `-lLLVM` from `$LLVM_PREFIX/lib`.
fn link(prefix: &Path, libllvm: &Path) -> io::Result<()> {
    let lib = prefix.join("lib");
    fs::create_dir_all(&lib)?;
    for name in ["libLLVM.so".to_string(), file_name(libllvm)] {
        let at = lib.join(name);
        match fs::remove_file(&at) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => symlink(libllvm, at)?,
        }
    }
    Ok(())
}

/// Whether a linker runs, is new enough, and has no other LLVM than rustc's. One that has LLVM
/// inside doesn't say which: its owner has chosen it.
fn fits(linker: &Path, libllvm: &Path) -> bool {
    let Ok(output) = Program::BpfLinker.at(linker).arg("--version").output() else {
        return false;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    output.status.success()
        && version(&said).is_some_and(|found| Some(found) >= version(VERSION))
        && fs::read(linker).is_ok_and(|binary| {
            let named = shared_llvm(&binary);
            named.is_none_or(|named| named == file_name(libllvm))
        })
}

/// The first three numbers of `bpf-linker 0.13.0`.
fn version(text: &str) -> Option<(u32, u32, u32)> {
    let word = text
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let mut numbers = word.split(['.', '-', '+']).map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??, numbers.next()??))
}

/// The name of the shared LLVM that a program is linked with.
fn shared_llvm(binary: &[u8]) -> Option<String> {
    let name = b"libLLVM";
    let mut rest = binary;
    // A name in the string table stands between zero bytes.
    while let Some(start) = rest.iter().position(|byte| *byte == 0) {
        rest = &rest[start + 1..];
        if rest.starts_with(name) {
            let end = rest.iter().position(|byte| *byte == 0)?;
            let found = String::from_utf8_lossy(&rest[..end]).into_owned();
            if found.contains(".so") {
                return Some(found);
            }
        }
    }
    None
}

fn install(places: &Places, prefix: &Path) -> anyhow::Result<()> {
    let rustc = Rustc::ask(&places.sysroot)?;
    say(&format!(
        "building bpf-linker {VERSION} with rustc's LLVM {} (half a minute)",
        rustc.llvm_major
    ));
    let output = cargo()
        .args([
            "install",
            &format!("bpf-linker@{VERSION}"),
            "--locked",
            "--force",
            "--quiet",
        ])
        .args([
            "--no-default-features",
            "--features",
            &format!("llvm-{}", rustc.llvm_major),
        ])
        .arg("--root")
        .arg(&places.install)
        .env("LLVM_PREFIX", prefix)
        // The work at link time is done inside LLVM: without optimization the build takes a
        // third of the time and gives the same objects.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "256")
        // Not from inside the workspace: its configuration is not bpf-linker's.
        .current_dir(&places.install)
        .output()
        .context("starting cargo install")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "building bpf-linker: {}: is there a C linker (build-essential) and a way to the crates' registry?",
        said.trim().lines().last().unwrap_or_default()
    );
    let built = Program::BpfLinker
        .at(places.install.join("bin/bpf-linker"))
        .arg("--version")
        .output()?;
    ensure!(
        built.status.success(),
        "the bpf-linker that was built does not run"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(version("bpf-linker 0.13.0\n"), Some((0, 13, 0)));
        assert!(version("bpf-linker 0.9.15") < version(VERSION));
        assert!(version("bpf-linker 0.20.1-dev") > version(VERSION));
        assert_eq!(version("bpf-linker"), None);
    }

    #[test]
    fn a_shared_llvm_is_found_in_the_string_table() {
        let binary = b"\x7fELF libLLVM is text\0libc.so.6\0libLLVM.so.22.1-rust-1.95.0-stable\0";
        assert_eq!(
            shared_llvm(binary).as_deref(),
            Some("libLLVM.so.22.1-rust-1.95.0-stable")
        );
        assert_eq!(shared_llvm(b"\x7fELF\0libc.so.6\0libLLVM needed\0"), None);
    }
}
