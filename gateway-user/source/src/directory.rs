//! A directory of manifests.
//!
//! Read are all `*.yaml`, `*.yml` and `*.json`, in subdirectories too. Hidden entries are not: in a
//! mounted ConfigMap each visible file is a link into the hidden `..data`, and an editor's swap file
//! is no manifest.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    io::{self, Read as _},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use nodegate_resources::manifest::Manifest;
use nodegate_values::diagnostic::{Diagnostic, Severity};

use crate::{error::SourceError, source::Change};

/// For how long a file that has become empty counts as one that is being written.
pub(super) const BEING_WRITTEN: Duration = Duration::from_millis(200);

/// How large a file may be. A cluster of 30,000 Services as one file has a fifth of it.
const LARGEST: u64 = if cfg!(test) { 1 << 16 } else { 256 << 20 };

/// Directories and files, and what was read from them.
#[derive(Debug)]
pub struct Directory {
    paths: Vec<PathBuf>,
    files: BTreeMap<PathBuf, File>,
}

/// A file that was read.
#[derive(Debug)]
struct File {
    stamp: Stamp,
    manifest: Arc<Manifest>,
    /// Since when it has been empty, if it held something before.
    empty_since: Option<Instant>,
}

/// Changes whenever the file's content does, as far as can be told without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// Seconds and nanoseconds.
    changed: (i64, i64),
}

/// What a look at the paths gave.
#[derive(Debug, Default)]
pub struct Scan {
    /// What differs from the look before: documents that are new, changed or gone.
    pub changes: Vec<Change>,
    /// Whether a file is still being written, so that another look is due soon.
    pub unfinished: bool,
    /// Paths that cannot be read now.
    pub diagnostics: Vec<Diagnostic>,
}

// === impl Directory ===

impl Directory {
    /// Takes note of the paths: directories or single files.
    ///
    /// # Errors
    /// Fails if one of them is not there now, or may not be read.
    pub fn new(paths: Vec<PathBuf>) -> Result<Self, SourceError> {
        for path in &paths {
            let readable = if path.is_dir() {
                fs::read_dir(path).map(drop)
            } else {
                fs::File::open(path).map(drop)
            };
            readable.map_err(|source| SourceError::Unreadable {
                path: path.clone(),
                source,
            })?;
        }
        Ok(Self {
            paths,
            files: BTreeMap::new(),
        })
    }

    /// The paths, as they were named to us.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// What the files hold, as of the last [`Self::scan`].
    pub fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        self.files.values().map(|file| &*file.manifest)
    }

    /// Reads what is new or has changed.
    pub fn scan(&mut self) -> Scan {
        let mut scan = Scan::default();
        let mut found = BTreeSet::new();
        for path in self.paths.clone() {
            let mut listing = Listing::default();
            match listing.path(&path, true) {
                Ok(()) => found.extend(listing.files),
                Err(error) => {
                    // What was read from it stays: the directory is being replaced, or has been unmounted.
                    let under = self.files.keys().filter(|file| file.starts_with(&path));
                    found.extend(under.cloned());
                    scan.diagnostics.push(gone(&path, &error));
                }
            }
        }
        let gone = self.files.extract_if(.., |path, _| !found.contains(path));
        let gone = gone.map(|(_, file)| Change::Gone(Arc::clone(&file.manifest.file)));
        scan.changes.extend(gone);
        for path in found {
            self.read(path, &mut scan);
        }
        scan
    }

    fn read(&mut self, path: PathBuf, scan: &mut Scan) {
        let metadata = fs::metadata(&path);
        let stamp = metadata.as_ref().map(Stamp::of);
        let is_named = self.paths.contains(&path);
        let known = self.files.get_mut(&path);
        let stamp = match (stamp, known) {
            (Ok(stamp), Some(known)) => {
                if stamp.length == 0 && known.is_being_written() {
                    scan.unfinished = true;
                    return;
                }
                if stamp == known.stamp && known.empty_since.is_none() {
                    return;
                }
                stamp
            }
            (Ok(stamp), None) => stamp,
            (Err(error), _) => {
                // Gone since it was listed, or with the whole directory, which is told already: it
                // stays as it was read.
                if path.is_symlink() {
                    scan.diagnostics.push(gone(&path, error));
                }
                return;
            }
        };
        let manifest = match text(&path, is_named) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => Manifest::parse(path.clone(), &text),
                Err(error) => {
                    let error = io::Error::new(io::ErrorKind::InvalidData, error.utf8_error());
                    Manifest::unreadable(path.clone(), &error)
                }
            },
            Err(error) => Manifest::unreadable(path.clone(), &error),
        };
        let manifest = Arc::new(manifest);
        scan.changes.push(Change::Document(Arc::clone(&manifest)));
        let file = File {
            stamp,
            manifest,
            empty_since: None,
        };
        self.files.insert(path, file);
    }
}

/// What a file holds. A pipe in a directory may never say anything, and what is no file may never end; one that
/// was named is read to its end, as in `… | nodegate check /dev/stdin`.
fn text(path: &Path, is_named: bool) -> io::Result<Vec<u8>> {
    let wrong = |text: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    if !is_named && !fs::metadata(path)?.is_file() {
        return wrong("it is no regular file (fix: rename it, or put a file in its place)");
    }
    let mut bytes = Vec::new();
    let file = fs::OpenOptions::new().read(true).open(path)?;
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        let larger = format!("it is larger than {LARGEST} bytes (fix: several files)");
        return wrong(&larger);
    }
    Ok(bytes)
}

fn is_manifest(path: &Path) -> bool {
    path.extension()
        .and_then(OsStr::to_str)
        .is_some_and(|extension| matches!(extension, "yaml" | "yml" | "json"))
}

fn gone(path: &Path, error: &io::Error) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        location: None,
        object: None,
        field: None,
        message: format!(
            "cannot read {}: {error}; what was read from it stays in force",
            path.display()
        ),
        fix: None,
    }
}

// === impl File ===

impl File {
    /// Whether a file that is empty now is so only since a moment: editors truncate before they
    /// write.
    fn is_being_written(&mut self) -> bool {
        if self.stamp.length == 0 {
            return false;
        }
        let since = *self.empty_since.get_or_insert_with(Instant::now);
        since.elapsed() < BEING_WRITTEN
    }
}

// === impl Stamp ===

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The manifests under a path.
#[derive(Debug, Default)]
struct Listing {
    files: Vec<PathBuf>,
    /// Directories on the way, so that a link to a parent does not lead around in circles.
    inside: Vec<(u64, u64)>,
}

// === impl Listing ===

impl Listing {
    /// Notes the manifests at `path`; a file that was `named` is one whatever its name.
    fn path(&mut self, path: &Path, named: bool) -> io::Result<()> {
        let metadata = fs::metadata(path)?;
        if !metadata.is_dir() {
            if named || is_manifest(path) {
                self.files.push(path.to_owned());
            }
            return Ok(());
        }
        let identity = (metadata.dev(), metadata.ino());
        if self.inside.contains(&identity) {
            return Ok(());
        }
        self.inside.push(identity);
        let entries = fs::read_dir(path)?;
        for entry in entries {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            match self.path(&entry.path(), false) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // A link to nowhere may be one whose target is being replaced; anything else
                    // was removed while we look.
                    if is_manifest(&entry.path()) && entry.path().is_symlink() {
                        self.files.push(entry.path());
                    }
                }
                result => result?,
            }
        }
        self.inside.pop();
        Ok(())
    }
}
