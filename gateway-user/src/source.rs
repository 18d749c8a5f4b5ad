//! Where resources come from: a directory of manifests, or files, and what changes there.

pub mod directory;
#[cfg(test)]
mod tests;
mod watch;

use std::{io, path::PathBuf};

pub use watch::Watcher;

/// Why there is nothing to read from.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The path is not there, or may not be read.
    #[error(
        "cannot read manifests from {path}: {source} (name a directory or file that is there)",
        path = path.display()
    )]
    Unreadable {
        /// The path, as it was named to us.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The thread that watches cannot be started.
    #[error("cannot start watching for changes: {0}")]
    Thread(#[source] io::Error),
    /// The thread that watches has ended.
    #[error("the manifests are no longer watched: the watcher has stopped")]
    Stopped,
}
