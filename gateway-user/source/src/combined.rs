//! Sources to the objects in force.
//!
//! Objects of all sources are admitted together: what two of them define twice, or what the one's need of
//! the other's, is seen whatever file or source it comes from.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use nodegate_resources::{
    Resources,
    admission::{Amendment, Store},
    manifest::Manifest,
};
use nodegate_values::diagnostic::Diagnostic;
use tokio::sync::watch;

use crate::{
    error::SourceError,
    kept::KeptFile,
    rules::Rules,
    source::{Change, Changes, Followed, Source, Status},
};

/// What is in force, of all sources.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Rises by one with every change; 0 before all sources have told what there is.
    pub version: u64,
    /// The objects.
    pub resources: Arc<Resources>,
    /// The Services that are read from something else than objects, and take the place of those of objects:
    /// of the first source that has some.
    pub rules: Option<Arc<Rules>>,
}

/// Sources that are followed, until this is dropped.
#[derive(Debug)]
pub struct Sources {
    followed: Vec<Box<dyn Followed>>,
    inputs: watch::Receiver<Arc<Inputs>>,
    /// Keeps the sender of `inputs`, also where there is no source.
    _combined: Arc<Mutex<Combined>>,
}

#[derive(Debug)]
struct Combined {
    held: Vec<Held>,
    store: Store,
    kept: KeptFile,
    inputs: watch::Sender<Arc<Inputs>>,
}

/// What a source holds.
#[derive(Debug, Default)]
struct Held {
    documents: BTreeMap<Arc<PathBuf>, Arc<Manifest>>,
    services: Option<Arc<Rules>>,
    troubles: Vec<Diagnostic>,
    /// Whether the source has told what there is.
    has_told: bool,
}

/// What changes do to objects.
#[derive(Debug, Default)]
struct Effect {
    /// The documents that were there before, by name; none where there was no such document.
    replaced: BTreeMap<Arc<PathBuf>, Option<Arc<Manifest>>>,
    /// Whether something else is wrong with the source than before.
    has_troubles: bool,
}

/// One source's way to all others.
#[derive(Debug)]
struct Slot {
    combined: Arc<Mutex<Combined>>,
    number: usize,
}

// === impl Sources ===

impl Sources {
    /// Reads what there is in all of them, and follows them from then on. Versions that stay in force although
    /// newer ones are refused are kept in the file `kept`, if there is to be one, for the next process.
    ///
    /// # Errors
    /// Fails if there is nothing to read from in one of them.
    pub fn start(
        sources: Vec<Box<dyn Source>>,
        kept: Option<PathBuf>,
    ) -> Result<Self, SourceError> {
        let (sender, inputs) = watch::channel(Arc::default());
        let mut store = Store::default();
        let kept = KeptFile::open(kept, &mut store);
        let combined = Arc::new(Mutex::new(Combined {
            held: sources.iter().map(|_| Held::default()).collect(),
            store,
            kept,
            inputs: sender,
        }));
        let followed = sources.into_iter().enumerate().map(|(number, source)| {
            let combined = Arc::clone(&combined);
            source.follow(Box::new(Slot { combined, number }))
        });
        let followed = followed.collect::<Result<_, _>>()?;
        Ok(Self {
            followed,
            inputs,
            _combined: combined,
        })
    }

    /// What is in force now.
    pub fn current(&self) -> Arc<Inputs> {
        self.inputs.borrow().clone()
    }

    /// Tells of every change of what is in force, or of what is wrong.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Inputs>> {
        self.inputs.clone()
    }

    /// Reads all changes that were made before this call; answers with what is in force then, which
    /// subscribers have been told of by that time.
    ///
    /// # Errors
    /// Fails if a source has stopped.
    pub async fn reload(&self) -> Result<Arc<Inputs>, SourceError> {
        for source in &self.followed {
            source.reload().await?;
        }
        Ok(self.current())
    }

    /// How each of them stands.
    pub fn status(&self) -> Vec<Status> {
        self.followed.iter().map(|source| source.status()).collect()
    }
}

// === impl Slot ===

impl Changes for Slot {
    fn tell(&self, changes: Vec<Change>) {
        // A thread that panicked while it held the lock has published nothing.
        let mut combined = self.combined.lock().unwrap_or_else(PoisonError::into_inner);
        combined.take(self.number, changes);
    }
}

// === impl Combined ===

impl Combined {
    fn take(&mut self, source: usize, changes: Vec<Change>) {
        let effect = self.held[source].take(changes);
        self.held[source].has_told = true;
        if !self.held.iter().all(|held| held.has_told) {
            // What only some of them say is no state to act on.
            return;
        }
        let current = self.inputs.borrow().clone();
        let resources = match effect {
            None => Arc::clone(&current.resources),
            Some(effect) => self.amend(source, &effect).unwrap_or_else(|| self.admit()),
        };
        let rules = self.held.iter().find_map(|held| held.services.clone());
        if resources.version != current.resources.version || rules != current.rules {
            self.inputs.send_replace(Arc::new(Inputs {
                version: current.version + 1,
                resources,
                rules,
            }));
        }
    }

    /// Goes on from what is in force, if that does for these changes.
    fn amend(&mut self, source: usize, effect: &Effect) -> Option<Arc<Resources>> {
        if effect.has_troubles {
            return None;
        }
        let documents = &self.held[source].documents;
        let amendments = effect.replaced.iter().map(|(name, before)| Amendment {
            before: before.as_deref(),
            after: documents.get(name).map(|document| &**document),
        });
        self.store.amend(&amendments.collect::<Vec<_>>())
    }

    fn admit(&mut self) -> Arc<Resources> {
        let documents = self.held.iter().flat_map(|held| held.documents.values());
        let troubles = self.held.iter().flat_map(|held| held.troubles.iter());
        let admitted = self.store.admit(
            documents.map(|document| &**document),
            troubles.cloned().collect(),
        );
        self.kept.write(&self.store);
        admitted
    }
}

// === impl Held ===

impl Held {
    /// Takes changes, and says what they do to objects; none: nothing.
    fn take(&mut self, changes: Vec<Change>) -> Option<Effect> {
        let mut effect = None;
        for change in changes {
            if let Change::Services(services) = change {
                self.services = Some(services);
                continue;
            }
            let effect = effect.get_or_insert_with(Effect::default);
            let (name, before) = match change {
                Change::Document(document) => {
                    let name = Arc::clone(&document.file);
                    let held = self.documents.get(&name);
                    if held.is_some_and(|held| held.says_the_same(&document)) {
                        // One copy of it is enough, as after a new list.
                        continue;
                    }
                    let before = self.documents.insert(Arc::clone(&name), document);
                    (name, before)
                }
                Change::Gone(name) => {
                    let before = self.documents.remove(&name);
                    (name, before)
                }
                Change::Troubles(troubles) => {
                    self.troubles = troubles;
                    effect.has_troubles = true;
                    continue;
                }
                Change::Services(_) => continue,
            };
            // What was there before the first of these changes counts.
            effect.replaced.entry(name).or_insert(before);
        }
        effect
    }
}
