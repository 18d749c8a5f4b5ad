//! What the API server and istiod would refuse about objects together, and what stays in force when
//! they do.
//!
//! Every reload looks at all candidates at once, so the order of files never matters, and what was
//! refused is admitted as soon as it is fine. Where a candidate is refused, the version that was
//! accepted last stays.

mod conflicts;
mod destinations;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use nodegate_values::diagnostic::{self, Diagnostic, ObjectKey, Severity};

use super::{Resources, manifest::Manifest, object::Object, validate::validate};

/// The accepted version of every object.
#[derive(Debug, Default)]
pub struct Store {
    current: Arc<Resources>,
    /// As in `current`, but with the newest place of each object.
    accepted: BTreeMap<ObjectKey, Arc<Object>>,
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
        manifests.sort_by(|a, b| a.file.cmp(&b.file));
        let mut round = Round {
            proposals: BTreeMap::new(),
            diagnostics,
        };
        round.propose(&manifests);
        round.keep(&manifests, &self.accepted);
        round.validate();
        round.settle_conflicts();
        round.check_destinations();
        self.accept(round)
    }

    fn accept(&mut self, round: Round) -> Arc<Resources> {
        let Round {
            proposals,
            mut diagnostics,
        } = round;
        diagnostic::sort(&mut diagnostics);
        self.accepted = proposals
            .into_iter()
            .filter_map(|(key, proposal)| Some((key, proposal.chosen?)))
            .collect();
        let current = &self.current;
        if current.version == 0
            || current.objects != self.accepted
            || current.diagnostics != diagnostics
        {
            self.current = Arc::new(Resources {
                version: current.version + 1,
                objects: self.accepted.clone(),
                diagnostics,
            });
        }
        self.current.clone()
    }
}

// === impl Proposal ===

impl Proposal {
    /// Falls back on the version before.
    fn refuse(&mut self) {
        let fell_back = self.refused;
        self.refused = true;
        self.chosen = if fell_back { None } else { self.last.clone() };
    }
}

// === impl Round ===

impl Round {
    /// Takes the candidates; of two for one object, the first by file and line.
    fn propose(&mut self, manifests: &[&Manifest]) {
        for manifest in manifests {
            self.diagnostics
                .extend(manifest.diagnostics.iter().cloned());
            for object in &manifest.objects {
                match self.proposals.entry(object.key.clone()) {
                    Entry::Vacant(entry) => {
                        entry.insert(Proposal::default()).chosen = Some(Arc::new(object.clone()));
                    }
                    Entry::Occupied(entry) => {
                        let Some(first) = &entry.get().chosen else {
                            continue;
                        };
                        let message =
                            format!("is defined twice; the one at {} counts", first.location());
                        let fix = "remove or rename one of them".to_owned();
                        let error = object.report(Severity::Error, "", message, fix);
                        self.diagnostics.push(error);
                    }
                }
            }
        }
    }

    /// Keeps what was accepted of objects that cannot be read now.
    fn keep(&mut self, manifests: &[&Manifest], accepted: &BTreeMap<ObjectKey, Arc<Object>>) {
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

    fn validate(&mut self) {
        for proposal in self.proposals.values_mut() {
            // What is kept was fine when it was accepted.
            let Some(candidate) = proposal.chosen.as_ref().filter(|_| !proposal.refused) else {
                continue;
            };
            let findings = validate(candidate);
            if diagnostic::has_errors(&findings) {
                proposal.refuse();
            }
            self.diagnostics.extend(findings);
        }
    }
}
