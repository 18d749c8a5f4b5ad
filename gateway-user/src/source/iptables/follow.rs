//! A thread that reads rules again when something has changed.

use std::{
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{oneshot, watch};

use super::{
    SourceError, events,
    reader::{Reader, Rules, unreadable},
    save::{self, Choice, Program, Reading},
};
use crate::model::service::IpFamily;

/// Changes that follow each other this closely are taken as one. Also the time between two readings that
/// must be the same: legacy iptables takes one table after the other.
const QUIET: Duration = Duration::from_millis(50);

/// Where changes never stop, rules are read at least this often.
const PATIENCE: Duration = Duration::from_millis(250);

/// So often they are read again until two readings are the same.
const ATTEMPTS: usize = 10;

/// How often to read where nothing tells of changes.
const POLL: Duration = Duration::from_millis(500);

/// Reading takes at most one part in this of the time.
const SHARE: u32 = 20;

/// How often to look for the rules of a family that has had none.
const SEEK: Duration = Duration::from_secs(30);

/// How often to read where changes are told of.
const BACKSTOP: Duration = Duration::from_secs(10);

/// Follows this node's rules.
///
/// The threads behind it end when this is dropped.
#[derive(Debug)]
pub struct RulesWatcher {
    commands: mpsc::Sender<Command>,
    rules: watch::Receiver<Arc<Rules>>,
    _alive: Arc<()>,
}

#[derive(Debug)]
pub(super) enum Command {
    /// Something may have changed.
    Look,
    /// Read now and answer when it is done.
    Reload(oneshot::Sender<Arc<Rules>>),
    Stop,
}

/// The thread's state.
struct Worker {
    choice: Choice,
    reader: Reader,
    commands: mpsc::Receiver<Command>,
    rules: watch::Sender<Arc<Rules>>,
    /// Of what is in force.
    fingerprint: Option<u64>,
    /// How long the last reading took.
    took: Duration,
    /// When all programs were asked last.
    sought: Instant,
    /// Whether nf_tables tells of changes.
    hears: bool,
}

// === impl RulesWatcher ===

impl RulesWatcher {
    /// Reads the rules of this network namespace, for the node `node`, and follows them from then on.
    ///
    /// # Errors
    /// Fails if nothing can read them, if they are not kube-proxy's, or make no sense.
    pub fn start(node: &str) -> Result<Self, SourceError> {
        let (commands, inbox) = mpsc::channel();
        let alive = Arc::new(());
        // First listen, then read: nothing falls in between.
        let hears = events::listen(commands.clone(), Arc::downgrade(&alive))
            .inspect_err(|error| {
                tracing::warn!("nf_tables' changes are noticed by polling: {error}");
            })
            .is_ok();
        let choice = save::choose()?;
        let reading = settled(&choice, None).map_err(|told| SourceError::Save { told })?;
        let mut reader = Reader::new(node.to_owned());
        let first = Rules {
            version: 1,
            ..reader.first(&choice, &reading)?
        };
        let (sender, rules) = watch::channel(Arc::new(first));
        let worker = Worker {
            choice,
            reader,
            commands: inbox,
            rules: sender,
            fingerprint: Some(reading.fingerprint()),
            took: reading.took,
            sought: Instant::now(),
            hears,
        };
        thread::Builder::new()
            .name("rules".into())
            .spawn(move || worker.run())
            .map_err(SourceError::Thread)?;
        Ok(Self {
            commands,
            rules,
            _alive: alive,
        })
    }

    /// What the rules say now.
    pub fn current(&self) -> Arc<Rules> {
        self.rules.borrow().clone()
    }

    /// Tells of every change of the Services, or of what is wrong with the rules.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Rules>> {
        self.rules.clone()
    }

    /// Reads all changes that were made before this call; answers with what is in force then, which
    /// subscribers have been told of by that time.
    pub async fn reload(&self) -> Result<Arc<Rules>, SourceError> {
        let (sender, answer) = oneshot::channel();
        self.commands
            .send(Command::Reload(sender))
            .map_err(|_| SourceError::Stopped)?;
        answer.await.map_err(|_| SourceError::Stopped)
    }
}

impl Drop for RulesWatcher {
    fn drop(&mut self) {
        // If the thread has ended already, there is nobody to tell.
        drop(self.commands.send(Command::Stop));
    }
}

/// Reads until two readings are the same, or `first` and one are.
fn settled(choice: &Choice, first: Option<Reading>) -> Result<Reading, String> {
    let mut reading = match first {
        Some(first) => first,
        None => save::read(choice)?,
    };
    for _ in 0..ATTEMPTS {
        thread::sleep(QUIET);
        let again = save::read(choice)?;
        if again.fingerprint() == reading.fingerprint() {
            break;
        }
        reading = again;
    }
    Ok(reading)
}

// === impl Worker ===

impl Worker {
    fn run(mut self) {
        loop {
            let waiting = match self.commands.recv_timeout(self.pause()) {
                Ok(Command::Look) => self.settle(),
                Ok(Command::Reload(answer)) => Ok(Some(answer)),
                Err(RecvTimeoutError::Timeout) => Ok(None),
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            };
            let Ok(waiting) = waiting else {
                return;
            };
            self.look();
            if let Some(answer) = waiting {
                // Whoever asked may have gone.
                drop(answer.send(self.rules.borrow().clone()));
            }
        }
    }

    fn pause(&self) -> Duration {
        if self.hears && self.choice.programs.iter().copied().all(Program::is_nft) {
            BACKSTOP
        } else {
            POLL.max(self.took * SHARE)
        }
    }

    /// Waits until a burst of changes is over; answers who waits for the result.
    fn settle(&self) -> Result<Option<oneshot::Sender<Arc<Rules>>>, Stopped> {
        // Where reading takes long, changes may wait as long.
        let deadline = Instant::now() + PATIENCE.max(self.took);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.commands.recv_timeout(QUIET.min(left)) {
                Ok(Command::Look) if !left.is_zero() => {}
                Ok(Command::Reload(answer)) => return Ok(Some(answer)),
                Ok(Command::Look) | Err(RecvTimeoutError::Timeout) => return Ok(None),
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return Err(Stopped),
            }
        }
    }

    fn look(&mut self) {
        let rules = match self.read() {
            Ok(Some(reading)) => {
                self.fingerprint = Some(reading.fingerprint());
                self.reader.take(&self.choice, &reading)
            }
            Ok(None) => return,
            Err(trouble) => {
                self.fingerprint = None;
                let before = self.rules.borrow().clone();
                unreadable(&self.choice, &before, &trouble)
            }
        };
        self.rules.send_if_modified(|current| {
            let version = current.version;
            let rules = Rules { version, ..rules };
            let changed = rules != **current;
            if changed {
                *current = Arc::new(Rules {
                    version: version + 1,
                    ..rules
                });
            }
            changed
        });
    }

    /// The rules, if they have changed.
    fn read(&mut self) -> Result<Option<Reading>, String> {
        if self.choice.programs.len() < IpFamily::ALL.len() && self.sought.elapsed() > SEEK {
            self.sought = Instant::now();
            self.seek();
        }
        let reading = save::read(&self.choice)?;
        self.took = reading.took;
        if self.fingerprint == Some(reading.fingerprint()) {
            return Ok(None);
        }
        let mut reading = settled(&self.choice, Some(reading))?;
        if reading.lacks_rules() && self.seek() {
            // kube-proxy has gone over to the other iptables.
            reading = settled(&self.choice, None)?;
        }
        Ok(Some(reading))
    }

    /// Chooses the programs again; answers whether they are others.
    fn seek(&mut self) -> bool {
        // While there are no rules anywhere, those of before are waited for.
        let Ok(choice) = save::choose() else {
            return false;
        };
        let is_better =
            choice.programs.len() >= self.choice.programs.len() && choice != self.choice;
        if is_better {
            self.choice = choice;
        }
        is_better
    }
}

/// The thread is to end.
struct Stopped;
