//! The bare root, and what it is given.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use nodegate_programs::Program;

use crate::setup;

/// What somebody has who has Rust: rustup's own page asks for a C compiler and certificates.
const GIVEN: &str = "ca-certificates,gcc,libc6-dev";

/// Where the toolchain is in the root.
pub(super) const RUST: &str = "opt/rust";
/// Where the clone is in the root.
pub(super) const CLONE: &str = "root/nodegate";

/// Files by which this machine reaches its registries: copied where they exist.
const WAY_OUT: [&str; 4] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pip.conf",
];

/// Makes a Debian of essential packages only, and what is [`GIVEN`].
pub(super) fn debootstrap(root: &Path, suite: &str) -> anyhow::Result<()> {
    let mirror = setup::mirror()?;
    let mut command = setup::command(Program::Debootstrap)?;
    command
        .args(["--variant=minbase", &format!("--include={GIVEN}"), suite])
        .arg(root)
        .arg(&mirror);
    quietly(command)?;
    for file in WAY_OUT {
        give_file(root, Path::new(file), Path::new(file))?;
    }
    let cargo = setup::cargo_home()?;
    give_file(
        root,
        &cargo.join("config.toml"),
        Path::new("/root/.cargo/config.toml"),
    )
}

/// Copies the toolchain, without what `cargo xtask setup` is to bring, and without its manuals.
pub(super) fn give_rust(root: &Path, sysroot: &Path) -> anyhow::Result<()> {
    let skip = [sysroot.join("lib/rustlib/src"), sysroot.join("share/doc")];
    copy(sysroot, &root.join(RUST), &skip).with_context(|| format!("copying {}", sysroot.display()))
}

/// Clones what is committed.
pub(super) fn clone(root: &Path, workspace: &Path) -> anyhow::Result<()> {
    let mut command = setup::command(Program::Git)?;
    command
        .args(["clone", "--quiet", "--no-hardlinks"])
        .arg(workspace.canonicalize()?)
        .arg(root.join(CLONE));
    quietly(command)
}

/// Copies a file of this machine's to a place in the root.
fn give_file(root: &Path, file: &Path, place: &Path) -> anyhow::Result<()> {
    let to = root.join(place.strip_prefix("/").unwrap_or(place));
    if !file.is_file() {
        return Ok(());
    }
    let parent = to.parent().map_or_else(|| root.to_owned(), PathBuf::from);
    fs::create_dir_all(&parent)
        .and_then(|()| fs::copy(file, &to).map(drop))
        .with_context(|| format!("copying {} to {}", file.display(), to.display()))
}

/// Copies a tree with its links and permissions, without some directories.
fn copy(from: &Path, to: &Path, skip: &[PathBuf]) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, place) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if skip.contains(&path) {
            continue;
        }
        if kind.is_dir() {
            copy(&path, &place, skip)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(&path)?, &place)?;
        } else {
            fs::copy(&path, &place)?;
        }
    }
    Ok(())
}

/// Runs a command; an error with its last line when it fails.
fn quietly(mut command: Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .with_context(|| format!("starting {program}"))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(
        output.status.success(),
        "{program}: {}",
        said.trim().lines().last().unwrap_or_default()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_copied_without_what_is_skipped() {
        let place = tempfile::tempdir().unwrap();
        let from = place.path().join("from");
        fs::create_dir_all(from.join("lib/src")).unwrap();
        fs::create_dir_all(from.join("bin")).unwrap();
        fs::write(from.join("bin/rustc"), "program").unwrap();
        fs::write(from.join("lib/src/core.rs"), "source").unwrap();
        symlink("rustc", from.join("bin/cc")).unwrap();
        let to = place.path().join("to");
        copy(&from, &to, &[from.join("lib/src")]).unwrap();
        assert_eq!(fs::read(to.join("bin/rustc")).unwrap(), b"program");
        assert_eq!(
            fs::read_link(to.join("bin/cc")).unwrap(),
            Path::new("rustc")
        );
        assert!(to.join("lib").is_dir() && !to.join("lib/src").exists());
    }
}
