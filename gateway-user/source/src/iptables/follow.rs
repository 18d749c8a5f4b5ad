//! A thread that reads rules again when something has changed.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use nodegate_model::service::IpFamily;
use tokio::sync::oneshot;

use super::{
    events,
    reader::{Reader, unreadable},
    save::{self, Choice, Program, Reading},
};
use crate::{
    error::SourceError,
    rules::Rules,
    source::{Change, Changes, Followed, Reload, Source, Status},
};

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

/// kube-proxy's rules in this network namespace as a source.
#[derive(Debug)]
pub struct KubeProxyRules {
    node: String,
}

/// Rules that are followed.
///
/// The threads behind it end when this is dropped.
#[derive(Debug)]
struct RulesWatcher {
    commands: mpsc::Sender<Command>,
    current: Current,
    _alive: Arc<()>,
}

/// What the rules say now.
type Current = Arc<Mutex<Arc<Rules>>>;

#[derive(Debug)]
enum Command {
    /// Something may have changed.
    Look,
    /// Read now and answer when it is done.
    Reload(oneshot::Sender<()>),
    Stop,
}

/// The thread's state.
struct Worker {
    choice: Choice,
    reader: Reader,
    commands: mpsc::Receiver<Command>,
    current: Current,
    changes: Box<dyn Changes>,
    /// Of what is in force.
    fingerprint: Option<u64>,
    /// How long the last reading took.
    took: Duration,
    /// When all programs were asked last.
    sought: Instant,
    /// Whether nf_tables tells of changes.
    hears: bool,
}

// === impl KubeProxyRules ===

impl KubeProxyRules {
    /// As they are for the node of this name.
    pub fn of_node(node: &str) -> Self {
        let node = node.to_owned();
        Self { node }
    }
}

impl Source for KubeProxyRules {
    /// Fails also if the rules are not kube-proxy's, or make no sense.
    fn follow(
        self: Box<Self>,
        changes: Box<dyn Changes>,
    ) -> Result<Box<dyn Followed>, SourceError> {
        let (commands, inbox) = mpsc::channel();
        let alive = Arc::new(());
        // First listen, then read: nothing falls in between.
        let told = commands.clone();
        let look = move || told.send(Command::Look).is_ok();
        let hears = events::listen(look, Arc::downgrade(&alive))
            .inspect_err(|error| {
                tracing::warn!("nf_tables' changes are noticed by polling: {error}");
            })
            .is_ok();
        let choice = save::choose()?;
        let reading = settled(&choice, None).map_err(|told| SourceError::Save { told })?;
        let mut reader = Reader::new(self.node);
        let first = Arc::new(reader.first(&choice, &reading)?);
        changes.tell(vec![Change::Services(Arc::clone(&first))]);
        let current = Arc::new(Mutex::new(first));
        let worker = Worker {
            choice,
            reader,
            commands: inbox,
            current: Arc::clone(&current),
            changes,
            fingerprint: Some(reading.fingerprint()),
            took: reading.took,
            sought: Instant::now(),
            hears,
        };
        thread::Builder::new()
            .name("rules".into())
            .spawn(move || worker.run())
            .map_err(SourceError::Thread)?;
        Ok(Box::new(RulesWatcher {
            commands,
            current,
            _alive: alive,
        }))
    }
}

// === impl RulesWatcher ===

impl Followed for RulesWatcher {
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
        let rules = now(&self.current);
        let programs = rules.programs.iter();
        Status {
            kind: "rules",
            read: programs.map(|name| (*name).to_owned()).collect(),
            services: Some(rules.services.len()),
            api_server: None,
        }
    }
}

fn now(current: &Current) -> Arc<Rules> {
    let current = current.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(&current)
}

impl Drop for RulesWatcher {
    fn drop(&mut self) {
        // The thread may have ended already.
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
                // The one who asked may have stopped waiting.
                let _ = answer.send(());
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

    /// Waits until a burst of changes is over; gives the sender of the answer to a reload that was asked for
    /// meanwhile.
    fn settle(&self) -> Result<Option<oneshot::Sender<()>>, Stopped> {
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
                let before = now(&self.current);
                unreadable(&self.choice, &before, &trouble)
            }
        };
        if rules == *now(&self.current) {
            return;
        }
        let rules = Arc::new(rules);
        self.changes
            .tell(vec![Change::Services(Arc::clone(&rules))]);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = rules;
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
