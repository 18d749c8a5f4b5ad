//! Something that is made of files, and made again when they have changed.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use super::material::TlsError;

/// How often files are looked at, at most.
const LOOK: Duration = Duration::from_secs(1);

/// Something that is made of files. Shared by all workers.
#[derive(Debug)]
pub(super) struct Reloading<T> {
    files: Vec<PathBuf>,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    checked: Option<Instant>,
    stamps: Vec<Option<Stamp>>,
    loaded: Option<Arc<T>>,
    /// Why it can't be made.
    error: Option<TlsError>,
}

/// What tells a file from another one of the same path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: Option<SystemTime>,
}

// === impl Reloading ===

impl<T> Reloading<T> {
    pub(super) fn new(files: Vec<PathBuf>) -> Self {
        Self {
            files,
            state: Mutex::new(State {
                checked: None,
                stamps: Vec::new(),
                loaded: None,
                error: None,
            }),
        }
    }

    /// As it is now. `make` makes it when the files have changed; what it makes is called `what` in the log.
    pub(super) fn get(
        &self,
        what: &str,
        make: impl FnOnce() -> Result<T, TlsError>,
    ) -> Result<Arc<T>, TlsError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let fresh = state
            .checked
            .is_some_and(|checked| now.duration_since(checked) < LOOK);
        if !fresh {
            state.checked = Some(now);
            let stamps: Vec<_> = self.files.iter().map(|path| Stamp::of(path)).collect();
            if stamps != state.stamps || (state.loaded.is_none() && state.error.is_none()) {
                state.stamps = stamps;
                state.take(what, make());
            }
        }
        match (&state.loaded, &state.error) {
            (Some(loaded), _) => Ok(Arc::clone(loaded)),
            (None, Some(error)) => Err(error.clone()),
            (None, None) => Err(TlsError::Unusable("nothing was loaded".to_owned())),
        }
    }
}

// === impl State ===

impl<T> State<T> {
    fn take(&mut self, what: &str, made: Result<T, TlsError>) {
        match made {
            Ok(loaded) => {
                self.loaded = Some(Arc::new(loaded));
                self.error = None;
            }
            Err(error) => {
                let kept = self.loaded.is_some();
                tracing::warn!(%error, kept, "{what} can't be used");
                self.error = Some(error);
            }
        }
    }
}

// === impl Stamp ===

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: metadata.modified().ok(),
        })
    }
}
