//! The file of versions that are in force although newer ones were refused.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use nodegate_resources::admission::{Kept, Store};

/// The file, and what is in it.
#[derive(Debug)]
pub(super) struct KeptFile {
    /// None: nothing is kept.
    path: Option<PathBuf>,
    /// None: there is no file, or nobody knows what is in it.
    text: Option<String>,
}

// === impl KeptFile ===

impl KeptFile {
    /// Lets the store begin with what is in the file.
    pub(super) fn open(path: Option<PathBuf>, store: &mut Store) -> Self {
        let Some(path) = path else {
            return Self {
                path: None,
                text: None,
            };
        };
        match fs::read_to_string(&path) {
            Ok(text) => match Kept::of_text(&text) {
                Ok(kept) => store.remember(kept),
                Err(error) => tracing::warn!("{} is not used: {error}", path.display()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!("{} cannot be read: {error}", path.display()),
        }
        Self {
            path: Some(path),
            text: None,
        }
    }

    /// Writes what the store keeps, if that is something else than what is in the file.
    pub(super) fn write(&mut self, store: &Store) {
        let Some(path) = &self.path else {
            return;
        };
        let kept = store.kept();
        let text = if kept.is_empty() {
            String::new()
        } else {
            match kept.text() {
                Ok(text) => text,
                Err(error) => return tracing::warn!("{} is not written: {error}", path.display()),
            }
        };
        if self.text.as_ref() == Some(&text) {
            return;
        }
        match put(path, &text) {
            Ok(()) => self.text = Some(text),
            Err(error) => tracing::warn!(
                "{} cannot be written: {error}; a restart will not know what is in force in place of what was \
                 refused",
                path.display()
            ),
        }
    }
}

/// Puts a text in the file's place, whole or not at all; nothing to keep needs no file.
fn put(path: &Path, text: &str) -> io::Result<()> {
    if text.is_empty() {
        return match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)
}
