//! A directory that is watched: a thread that reads what changes, and tells of it.

use std::{
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use nodegate_values::diagnostic::Diagnostic;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _, event::AccessKind};
use tokio::sync::oneshot;

use crate::{
    directory::{BEING_WRITTEN, Directory},
    error::SourceError,
    source::{Change, Changes, Followed, Reload, Source, Status},
};

/// Changes that follow each other this closely are taken as one.
const QUIET: Duration = Duration::from_millis(50);

/// Where changes never stop, one is applied at least this often.
const PATIENCE: Duration = Duration::from_millis(250);

/// How often to look without being told: some file systems tell nothing.
const POLL: Duration = Duration::from_secs(2);

/// Manifests as a source: directories, or single files.
#[derive(Debug)]
pub struct Manifests {
    paths: Vec<PathBuf>,
    notifier: fn(mpsc::Sender<Command>) -> Option<RecommendedWatcher>,
}

/// Manifests that are watched.
///
/// The thread behind it ends when this is dropped.
#[derive(Debug)]
struct Watcher {
    commands: mpsc::Sender<Command>,
    paths: Vec<PathBuf>,
}

#[derive(Debug)]
pub(super) enum Command {
    /// Something may have changed.
    Look,
    /// Look now and answer when it is done.
    Reload(oneshot::Sender<()>),
    Stop,
}

/// The thread's state.
struct Worker {
    directory: Directory,
    commands: mpsc::Receiver<Command>,
    changes: Box<dyn Changes>,
    /// Tells of changes; none where the system cannot.
    notifier: Option<RecommendedWatcher>,
    /// Whether a file was half written at the last look.
    unfinished: bool,
    /// What could not be read at the last look; none before the first.
    troubles: Option<Vec<Diagnostic>>,
}

// === impl Manifests ===

impl Manifests {
    /// Those at `paths`.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths, notifier }
    }

    /// The same where the system tells of no changes.
    #[cfg(test)]
    pub(super) fn unnotified(paths: Vec<PathBuf>) -> Self {
        let notifier = |_| None;
        Self { paths, notifier }
    }
}

impl Source for Manifests {
    fn follow(
        self: Box<Self>,
        changes: Box<dyn Changes>,
    ) -> Result<Box<dyn Followed>, SourceError> {
        let Self { paths, notifier } = *self;
        let directory = Directory::new(paths.clone())?;
        let (commands, inbox) = mpsc::channel();
        let mut worker = Worker {
            notifier: notifier(commands.clone()),
            directory,
            commands: inbox,
            changes,
            unfinished: false,
            troubles: None,
        };
        // First watch, then read: nothing falls in between.
        worker.watch();
        worker.look();
        thread::Builder::new()
            .name("manifests".into())
            .spawn(move || worker.run())
            .map_err(SourceError::Thread)?;
        Ok(Box::new(Watcher { commands, paths }))
    }
}

// === impl Watcher ===

impl Followed for Watcher {
    fn reload(&self) -> Reload<'_> {
        Box::pin(async {
            let (sender, answer) = oneshot::channel();
            self.commands
                .send(Command::Reload(sender))
                .map_err(|_| SourceError::Stopped)?;
            answer.await.map_err(|_| SourceError::Stopped)
        })
    }

    fn status(&self) -> Status {
        let paths = self.paths.iter();
        Status {
            kind: "manifests",
            read: paths.map(|path| path.display().to_string()).collect(),
            services: None,
            api_server: None,
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // The thread may have ended already.
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
            // A reload is answered with the files as their writers mean them, not half written.
            while !waiting.is_empty() && self.unfinished {
                thread::sleep(BEING_WRITTEN / 4);
                self.look();
            }
            for answer in waiting {
                // The one who asked may have stopped waiting.
                let _ = answer.send(());
            }
        }
    }

    /// Waits until a burst of changes is over; gives the sender of the answer to a reload that was asked for
    /// meanwhile.
    fn settle(&self) -> Result<Vec<oneshot::Sender<()>>, Stopped> {
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
        let mut changes = scan.changes;
        // The first look is told of also where nothing is found.
        if self.troubles.as_ref() != Some(&scan.diagnostics) {
            self.troubles = Some(scan.diagnostics.clone());
            changes.push(Change::Troubles(scan.diagnostics));
        }
        if !changes.is_empty() {
            self.changes.tell(changes);
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
