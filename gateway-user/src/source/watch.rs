//! Watching a directory: a thread that reads what changes and says what is in force then.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _, event::AccessKind};
use tokio::sync::{oneshot, watch};

use super::{
    SourceError,
    directory::{BEING_WRITTEN, Directory},
};
use crate::resources::{Resources, admission::Store, diagnostic::Diagnostic};

/// Changes that follow each other this closely are taken as one.
const QUIET: Duration = Duration::from_millis(50);

/// Where changes never stop, one is applied at least this often.
const PATIENCE: Duration = Duration::from_millis(250);

/// How often to look without being told: some file systems tell nothing.
const POLL: Duration = Duration::from_secs(2);

/// Watches manifests.
///
/// The thread behind it ends when this is dropped.
#[derive(Debug)]
pub struct Watcher {
    commands: mpsc::Sender<Command>,
    resources: watch::Receiver<Arc<Resources>>,
}

pub(super) enum Command {
    /// Something may have changed.
    Look,
    /// Look now and answer when it is done.
    Reload(oneshot::Sender<Arc<Resources>>),
    Stop,
}

/// The thread's state.
struct Worker {
    directory: Directory,
    store: Store,
    commands: mpsc::Receiver<Command>,
    resources: watch::Sender<Arc<Resources>>,
    /// Tells of changes; none where the system cannot.
    notifier: Option<RecommendedWatcher>,
    /// Whether a file was half written at the last look.
    unfinished: bool,
    /// What could not be read at the last look.
    troubles: Vec<Diagnostic>,
}

// === impl Watcher ===

impl Watcher {
    /// Reads `paths` (directories or files) and watches them from then on.
    pub fn start(paths: Vec<PathBuf>) -> Result<Self, SourceError> {
        Self::start_with(paths, notifier)
    }

    /// Like [`Self::start`], told of changes by what `notifier` makes.
    pub(super) fn start_with(
        paths: Vec<PathBuf>,
        notifier: impl FnOnce(mpsc::Sender<Command>) -> Option<RecommendedWatcher>,
    ) -> Result<Self, SourceError> {
        let directory = Directory::new(paths)?;
        let (commands, inbox) = mpsc::channel();
        let (sender, resources) = watch::channel(Arc::default());
        let mut worker = Worker {
            notifier: notifier(commands.clone()),
            directory,
            store: Store::default(),
            commands: inbox,
            resources: sender,
            unfinished: false,
            troubles: Vec::new(),
        };
        // First watch, then read: nothing falls in between.
        worker.watch();
        worker.look();
        thread::Builder::new()
            .name("manifests".into())
            .spawn(move || worker.run())
            .map_err(SourceError::Thread)?;
        Ok(Self {
            commands,
            resources,
        })
    }

    /// What is in force now.
    pub fn current(&self) -> Arc<Resources> {
        self.resources.borrow().clone()
    }

    /// Tells of every change of what is in force, or of what is wrong.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Resources>> {
        self.resources.clone()
    }

    /// Reads all changes that were made before this call; answers with what is in force then, which
    /// subscribers have been told of by that time.
    pub async fn reload(&self) -> Result<Arc<Resources>, SourceError> {
        let (sender, answer) = oneshot::channel();
        self.commands
            .send(Command::Reload(sender))
            .map_err(|_| SourceError::Stopped)?;
        answer.await.map_err(|_| SourceError::Stopped)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // If the thread has ended already, there is nobody to tell.
        drop(self.commands.send(Command::Stop));
    }
}

fn notifier(commands: mpsc::Sender<Command>) -> Option<RecommendedWatcher> {
    let notifier = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Our own reading makes events too.
        let is_reading = event.as_ref().is_ok_and(|event| match event.kind {
            EventKind::Access(AccessKind::Close(mode)) => mode != notify::event::AccessMode::Write,
            EventKind::Access(_) => true,
            _ => false,
        });
        if !is_reading {
            // The thread is gone when the process is about to end.
            drop(commands.send(Command::Look));
        }
    });
    notifier
        .inspect_err(|error| tracing::warn!("changes are noticed by polling only: {error}"))
        .ok()
}

// === impl Worker ===

impl Worker {
    fn run(mut self) {
        loop {
            let wait = if self.unfinished { BEING_WRITTEN } else { POLL };
            let waiting = match self.commands.recv_timeout(wait) {
                Ok(Command::Look) => self.settle(),
                Ok(Command::Reload(answer)) => Ok(vec![answer]),
                Err(RecvTimeoutError::Timeout) => {
                    // Directories that were replaced are watched again.
                    self.watch();
                    Ok(Vec::new())
                }
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            };
            let Ok(waiting) = waiting else {
                return;
            };
            self.look();
            // Whoever asks wants the file as it is meant to be.
            while !waiting.is_empty() && self.unfinished {
                thread::sleep(BEING_WRITTEN / 4);
                self.look();
            }
            for answer in waiting {
                // Whoever asked may have gone.
                drop(answer.send(self.store.current().clone()));
            }
        }
    }

    /// Waits until a burst of changes is over; answers who waits for the result.
    fn settle(&self) -> Result<Vec<oneshot::Sender<Arc<Resources>>>, Stopped> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.commands.recv_timeout(QUIET.min(left)) {
                Ok(Command::Look) if !left.is_zero() => {}
                Ok(Command::Reload(answer)) => return Ok(vec![answer]),
                Ok(Command::Look) | Err(RecvTimeoutError::Timeout) => return Ok(Vec::new()),
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return Err(Stopped),
            }
        }
    }

    fn look(&mut self) {
        let scan = self.directory.scan();
        self.unfinished = scan.unfinished;
        let version = self.store.current().version;
        if version != 0 && !scan.changed && scan.diagnostics == self.troubles {
            return;
        }
        self.troubles.clone_from(&scan.diagnostics);
        let manifests = self.directory.manifests();
        let resources = self.store.admit(manifests, scan.diagnostics);
        if resources.version != version {
            self.resources.send_replace(resources);
        }
    }

    fn watch(&mut self) {
        let Some(notifier) = &mut self.notifier else {
            return;
        };
        for path in self.directory.paths() {
            // A file that is replaced is another file: its directory has to be watched.
            let (path, mode) = if path.is_dir() {
                (path.as_path(), RecursiveMode::Recursive)
            } else {
                let parent = path.parent().filter(|parent| *parent != Path::new(""));
                (
                    parent.unwrap_or(Path::new(".")),
                    RecursiveMode::NonRecursive,
                )
            };
            // Not there now: the next poll tries again.
            drop(notifier.watch(path, mode));
        }
    }
}

/// The thread is to end.
struct Stopped;
