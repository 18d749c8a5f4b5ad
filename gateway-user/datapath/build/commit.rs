//! Which commit is built, read from the repository without git, which may not be installed.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The first digits of the commit that is checked out; none outside a repository. Cargo is told to look
/// again when it changes.
pub(crate) fn commit(workspace: &Path) -> Option<String> {
    let directory = repository(workspace)?;
    let head = watched(&directory.join("HEAD"))?;
    let name = match head.trim().strip_prefix("ref: ") {
        Some(reference) => resolve(&directory, reference)?,
        None => head.trim().to_owned(),
    };
    let digits = name.get(..12)?;
    let is_name = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_name.then(|| digits.to_owned())
}

/// `.git`, or what the file `.git` of a linked work tree points at (gitrepository-layout(5)).
fn repository(workspace: &Path) -> Option<PathBuf> {
    let place = workspace.join(".git");
    if place.is_dir() {
        return Some(place);
    }
    let text = fs::read_to_string(place).ok()?;
    Some(workspace.join(text.trim().strip_prefix("gitdir: ")?))
}

/// What a branch points at: in a file of its own, or among those that are packed.
fn resolve(directory: &Path, reference: &str) -> Option<String> {
    let common = fs::read_to_string(directory.join("commondir"));
    let common = common.map_or_else(|_| directory.to_owned(), |to| directory.join(to.trim()));
    if let Some(name) = watched(&common.join(reference)) {
        return Some(name.trim().to_owned());
    }
    let packed = watched(&common.join("packed-refs"))?;
    let line = packed.lines().find(|line| line.ends_with(reference))?;
    line.split(' ').next().map(str::to_owned)
}

fn watched(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    println!("cargo::rerun-if-changed={}", file.display());
    Some(text)
}
