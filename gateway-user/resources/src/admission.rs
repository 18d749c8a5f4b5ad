//! What the API server and istiod would refuse about objects together, and what stays in force when
//! they do.
//!
//! Every reload looks at all candidates at once, so the order of files never matters, and what was
//! refused is admitted as soon as it is fine. Where a candidate is refused, the version that was
//! accepted last stays. Where only objects have changed that nothing is decided by but themselves, such as
//! EndpointSlices, [`Store::amend`] comes to the same result without a look at all others.

mod amend;
mod conflicts;
mod destinations;
mod kept;
mod rehearsal;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    path::PathBuf,
    sync::Arc,
};

use nodegate_sharing::SharedMap;
use nodegate_values::diagnostic::{self, Diagnostic, Diagnostics, ObjectKey, Severity};

use super::{Resources, manifest::Manifest, object::Object, validate::validate};

pub use amend::Amendment;
pub use kept::{Kept, KeptError};

/// The accepted version of every object.
#[derive(Debug, Default)]
pub struct Store {
    current: Arc<Resources>,
    /// As in `current`, but with the newest place of each object.
    accepted: SharedMap<ObjectKey, Arc<Object>>,
    exceptions: Exceptions,
}

/// What the manifests say that is not in force just because they say it.
#[derive(Debug, Default)]
struct Exceptions {
    /// Objects that were refused, are defined twice, or cannot be read in one of the places.
    objects: BTreeSet<ObjectKey>,
    /// Files that cannot be read as a whole.
    files: BTreeSet<Arc<PathBuf>>,
}

/// An object in the course of a reload.
#[derive(Debug, Default)]
struct Proposal {
    /// The version that was accepted last.
    last: Option<Arc<Object>>,
    /// The version that will be in force.
    chosen: Option<Arc<Object>>,
    /// Whether a newer version than `chosen` was refused.
    refused: bool,
}

/// A reload.
struct Round {
    proposals: BTreeMap<ObjectKey, Proposal>,
    exceptions: Exceptions,
    diagnostics: Vec<Diagnostic>,
}

// === impl Store ===

impl Store {
    /// What is in force.
    pub fn current(&self) -> &Arc<Resources> {
        &self.current
    }

    /// Decides what is in force now that `manifests` is all there is. `diagnostics` is what is wrong
    /// with where they come from.
    pub fn admit<'m>(
        &mut self,
        manifests: impl IntoIterator<Item = &'m Manifest>,
        diagnostics: Vec<Diagnostic>,
    ) -> Arc<Resources> {
        let mut manifests: Vec<_> = manifests.into_iter().collect();
        // The API server's objects come first: of two for one object, theirs counts.
        manifests.sort_by_key(|manifest| (manifest.provenance, &manifest.file));
        let mut round = Round {
            proposals: BTreeMap::new(),
            exceptions: Exceptions::of(&manifests),
            diagnostics,
        };
        round.propose(&manifests, &self.accepted);
        round.keep(&manifests, &self.accepted);
        round.fall_back(&manifests);
        round.validate();
        round.settle_conflicts();
        round.check_destinations();
        self.accept(round)
    }

    fn accept(&mut self, round: Round) -> Arc<Resources> {
        let Round {
            proposals,
            exceptions,
            mut diagnostics,
        } = round;
        diagnostic::sort(&mut diagnostics);
        self.exceptions = exceptions;
        self.accepted = proposals
            .into_iter()
            .filter_map(|(key, proposal)| {
                if proposal.refused {
                    self.exceptions.objects.insert(key.clone());
                }
                Some((key, proposal.chosen?))
            })
            .collect();
        let current = &self.current;
        let is_other = self
            .accepted
            .changes_since(&current.objects)
            .any(|change| change.before != change.after);
        if current.version == 0 || is_other || *current.diagnostics != diagnostics[..] {
            self.put_in_force(diagnostics.into());
        }
        self.current.clone()
    }

    /// Makes what is accepted what is in force.
    fn put_in_force(&mut self, diagnostics: Diagnostics) {
        self.current = Arc::new(Resources {
            version: self.current.version + 1,
            objects: self.accepted.clone(),
            diagnostics,
        });
    }
}

// === impl Exceptions ===

impl Exceptions {
    /// Those that manifests tell of themselves.
    fn of(manifests: &[&Manifest]) -> Self {
        let unreadable = manifests.iter().flat_map(|manifest| &manifest.unreadable);
        let broken = manifests.iter().filter(|manifest| manifest.broken);
        Self {
            objects: unreadable.cloned().collect(),
            files: broken.map(|manifest| Arc::clone(&manifest.file)).collect(),
        }
    }
}

// === impl Proposal ===

impl Proposal {
    /// Refuses the candidate if something is wrong with it; says what is.
    fn validate(&mut self) -> Vec<Diagnostic> {
        // What is kept was fine when it was accepted.
        let Some(candidate) = self.chosen.as_ref().filter(|_| !self.refused) else {
            return Vec::new();
        };
        let verdict = validate(candidate);
        if verdict.refused {
            self.refuse();
        }
        verdict.diagnostics
    }

    /// Falls back on the version before.
    fn refuse(&mut self) {
        let fell_back = self.refused;
        self.refused = true;
        self.chosen = if fell_back { None } else { self.last.clone() };
    }
}

// === impl Round ===

impl Round {
    /// Takes the candidates; of two for one object, the first by file and line. One that is what was
    /// accepted is that itself, and not a copy.
    fn propose(&mut self, manifests: &[&Manifest], accepted: &SharedMap<ObjectKey, Arc<Object>>) {
        for manifest in manifests {
            self.diagnostics
                .extend(manifest.diagnostics.iter().cloned());
            for object in &manifest.objects {
                match self.proposals.entry(object.key.clone()) {
                    Entry::Vacant(entry) => {
                        let candidate = object.shared(accepted.get(&object.key));
                        entry.insert(Proposal::default()).chosen = Some(candidate);
                    }
                    Entry::Occupied(entry) => {
                        let Some(first) = &entry.get().chosen else {
                            continue;
                        };
                        let message = match first.location() {
                            Some(place) => format!("is defined twice; the one at {place} counts"),
                            None => "is defined twice; the API server's counts".into(),
                        };
                        let fix = "remove or rename one of them".to_owned();
                        let error = object.report(Severity::Error, "", message, fix);
                        self.diagnostics.push(error);
                        self.exceptions.objects.insert(object.key.clone());
                    }
                }
            }
        }
    }

    /// Keeps what was accepted of objects that cannot be read now.
    fn keep(&mut self, manifests: &[&Manifest], accepted: &SharedMap<ObjectKey, Arc<Object>>) {
        for (key, last) in accepted {
            if let Some(proposal) = self.proposals.get_mut(key) {
                proposal.last = Some(last.clone());
                continue;
            }
            let unreadable = manifests.iter().any(|manifest| {
                manifest.unreadable.contains(key)
                    // It may be the one that does not parse.
                    || (manifest.broken && manifest.file == last.origin.file)
            });
            if unreadable {
                let proposal = Proposal {
                    last: Some(last.clone()),
                    chosen: Some(last.clone()),
                    refused: true,
                };
                self.proposals.insert(key.clone(), proposal);
            }
        }
    }

    /// Gives those that have no version in force the one that others say was accepted last.
    fn fall_back(&mut self, manifests: &[&Manifest]) {
        for object in manifests.iter().filter_map(|it| it.last_accepted.as_ref()) {
            if validate(object).refused {
                continue;
            }
            let unreadable = manifests
                .iter()
                .any(|it| it.unreadable.contains(&object.key));
            let proposal = match self.proposals.entry(object.key.clone()) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) if unreadable => entry.insert(Proposal {
                    chosen: Some(Arc::clone(object)),
                    refused: true,
                    ..Proposal::default()
                }),
                Entry::Vacant(_) => continue,
            };
            proposal.last.get_or_insert_with(|| Arc::clone(object));
        }
    }

    fn validate(&mut self) {
        for proposal in self.proposals.values_mut() {
            self.diagnostics.extend(proposal.validate());
        }
    }
}
