//! The house holds: crates use only crates below them, no files import each other in a circle, and what
//! is started is named by the table of programs.
//!
//! All of it is read from the sources. A module and its own children may use each other: they are one
//! subject in several files.

#![cfg(test)]

use std::path::{Path, PathBuf};

mod arguments;
mod circles;
mod floors;
mod imports;

/// The root of the workspace.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
