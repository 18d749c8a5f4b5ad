//! `cargo xtask dist`: nodegate for nodes, built with a profile of what it does there.
//!
//! Built once so that it notes what is done how often, run with traffic, and built again with those
//! notes: the compiler then knows what is worth its room.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use nodegate_programs::Program;

use crate::{bench, binaries, setup};

pub(crate) const ABOUT: &str = "\
Takes two builds with link-time optimization, about ten minutes on two cores, and half a minute of
traffic on loopback between them. The binary is target/dist/nodegate; deploy/Containerfile takes it
from there.";

/// Builds it, and says where it is.
pub(crate) fn run() -> anyhow::Result<()> {
    setup::toolchain()?;
    let merge = setup::llvm_profdata()?;
    let directory = binaries::workspace().canonicalize()?.join("target/dist");
    let notes = directory.join("notes");
    // Notes of another build are about something else.
    if notes.exists() {
        fs::remove_dir_all(&notes).with_context(|| notes.display().to_string())?;
    }
    fs::create_dir_all(&notes).with_context(|| notes.display().to_string())?;

    eprintln!("dist: building to take notes");
    let noting = build(
        &directory,
        &format!("-Cprofile-generate={}", notes.display()),
    )?;
    eprintln!("dist: taking notes");
    let files = notes.join("%p-%m.profraw");
    bench::train(&noting, &[("LLVM_PROFILE_FILE", &files)])?;
    let profile = directory.join("nodegate.profdata");
    merge_notes(&merge, &notes, &profile)?;
    eprintln!("dist: building with the notes");
    let built = build(&directory, &format!("-Cprofile-use={}", profile.display()))?;
    let binary = directory.join("nodegate");
    fs::copy(&built, &binary).with_context(|| binary.display().to_string())?;
    println!("{}", binary.display());
    Ok(())
}

/// Builds nodegate with a flag for all that runs on this machine.
fn build(directory: &Path, flag: &str) -> anyhow::Result<PathBuf> {
    // With a target named, build scripts and macros have no part in it.
    let target = setup::host()?;
    let arguments = ["--target", &target, "--target-dir"].map(OsStr::new);
    binaries::nodegate(arguments.into_iter().chain([directory.as_os_str()]), flag)
}

fn merge_notes(merge: &Path, notes: &Path, profile: &Path) -> anyhow::Result<()> {
    let taken: Vec<PathBuf> = fs::read_dir(notes)?
        .map(|entry| Ok(entry?.path()))
        .collect::<anyhow::Result<_>>()?;
    ensure!(
        !taken.is_empty(),
        "nothing was noted in {}",
        notes.display()
    );
    let output = Program::LlvmProfdata
        .at(merge)
        .args(["merge", "-o"])
        .arg(profile)
        .args(&taken)
        .output()
        .with_context(|| format!("starting {}", merge.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{} can't read the notes: {}",
        merge.display(),
        said.trim()
    );
    Ok(())
}
