//! Single documents in place of others, without a look at all that there is.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use nodegate_values::diagnostic::{self, Diagnostic, Diagnostics, ObjectKey};

use super::{Exceptions, Store};
use crate::{
    Resources,
    manifest::Manifest,
    object::{Body, Object},
    validate::validate,
};

/// A document in place of another one.
#[derive(Clone, Copy, Debug)]
pub struct Amendment<'m> {
    /// None: the document is new.
    pub before: Option<&'m Manifest>,
    /// None: there is no such document any more.
    pub after: Option<&'m Manifest>,
}

/// What amendments change.
#[derive(Debug, Default)]
struct Effect<'m> {
    /// The objects that stood in the documents, and those that stand there now.
    gone: BTreeMap<&'m ObjectKey, &'m Arc<Object>>,
    come: BTreeMap<&'m ObjectKey, &'m Arc<Object>>,
    /// What was wrong with them, and what is.
    unsaid: Vec<Diagnostic>,
    said: Vec<Diagnostic>,
}

// === impl Store ===

impl Store {
    /// Decides what is in force now that some documents say something else and all others what they said:
    /// what [`Self::admit`] would decide, at the cost of what has changed. None, and nothing is decided, if
    /// that takes a look at more.
    pub fn amend(&mut self, amendments: &[Amendment<'_>]) -> Option<Arc<Resources>> {
        if self.current.version == 0 {
            return None;
        }
        let effect = self.effect(amendments)?;
        let mut changed = false;
        for key in effect.gone.keys() {
            if !effect.come.contains_key(*key) {
                self.accepted.remove(*key);
                changed = true;
            }
        }
        for (key, object) in &effect.come {
            let held = self.accepted.get(*key);
            changed |= held.is_none_or(|held| held != *object);
            let object = object.shared(held);
            self.accepted.insert((*key).clone(), object);
        }
        let diagnostics = amended(&self.current.diagnostics, effect.unsaid, effect.said);
        if changed || diagnostics.is_some() {
            let same = || self.current.diagnostics.clone();
            self.put_in_force(diagnostics.unwrap_or_else(same));
        }
        Some(Arc::clone(&self.current))
    }

    /// None if it is not the amended documents alone that decide.
    fn effect<'m>(&self, amendments: &[Amendment<'m>]) -> Option<Effect<'m>> {
        let mut effect = Effect::default();
        for &Amendment { before, after } in amendments {
            let mut documents = before.into_iter().chain(after);
            if !documents.all(|document| self.exceptions.permit(document)) {
                return None;
            }
            let objects = |document: Option<&'m Manifest>| {
                let objects = document.map_or(&[][..], |document| &document.objects);
                objects
                    .iter()
                    .partition::<Vec<_>, _>(|one| stands_alone(one))
            };
            let ((gone, old), (come, new)) = (objects(before), objects(after));
            let mut pairs = old.iter().zip(&new);
            let same = |(old, new): (&&Arc<Object>, &&Arc<Object>)| old.is_the_same(new);
            if old.len() != new.len() || !pairs.all(same) {
                return None;
            }
            for object in gone {
                if effect.gone.insert(&object.key, object).is_some() {
                    return None;
                }
                effect.unsaid.extend(validate(object).diagnostics);
            }
            for object in come {
                let verdict = validate(object);
                let twice = effect.come.insert(&object.key, object).is_some();
                if twice || verdict.refused {
                    return None;
                }
                effect.said.extend(verdict.diagnostics);
            }
            let said = |document: Option<&Manifest>| {
                document.map_or_else(Vec::new, |document| document.diagnostics.clone())
            };
            effect.unsaid.extend(said(before));
            effect.said.extend(said(after));
        }
        let known = |key: &ObjectKey| self.accepted.contains_key(key);
        let exceptional = |key: &ObjectKey| self.exceptions.objects.contains(key);
        let is_plain = |key: &ObjectKey| !exceptional(key) && known(key);
        let is_new = |key: &ObjectKey| !exceptional(key) && !known(key);
        let keys = |objects: &BTreeMap<&'m ObjectKey, &'m Arc<Object>>| -> BTreeSet<&'m ObjectKey> {
            objects.keys().copied().collect()
        };
        let gone = keys(&effect.gone);
        let all_plain = gone.iter().all(|key| is_plain(key));
        // What is not from these documents and known all the same would be defined twice.
        let all_new = keys(&effect.come).difference(&gone).all(|key| is_new(key));
        (all_plain && all_new).then_some(effect)
    }
}

// === impl Exceptions ===

impl Exceptions {
    /// Whether a document is read as a whole.
    fn permit(&self, document: &Manifest) -> bool {
        !document.broken && document.unreadable.is_empty() && !self.files.contains(&document.file)
    }
}

/// Whether nothing is decided about any other object by this one, nor about this one by others: it claims
/// nothing that only one can have, and is no destination and has none.
fn stands_alone(object: &Object) -> bool {
    match object.body {
        Body::Pod(_)
        | Body::Node(_)
        | Body::Namespace(_)
        | Body::Secret(_)
        | Body::EndpointSlice(_)
        | Body::PodMaker(_)
        | Body::AuthorizationPolicy(_)
        | Body::RequestAuthentication(_) => true,
        Body::Service(_)
        | Body::Gateway(_)
        | Body::VirtualService(_)
        | Body::DestinationRule(_)
        | Body::ServiceEntry(_)
        | Body::WorkloadEntry(_) => false,
    }
}

/// Sorted messages without some and with others; none if they are the same as before.
fn amended(
    before: &[Diagnostic],
    mut unsaid: Vec<Diagnostic>,
    mut said: Vec<Diagnostic>,
) -> Option<Diagnostics> {
    diagnostic::sort(&mut unsaid);
    diagnostic::sort(&mut said);
    if unsaid == said {
        return None;
    }
    let mut unsaid = unsaid.into_iter().peekable();
    // Both are sorted in one way, and what is unsaid was said.
    let kept = before
        .iter()
        .filter(|said| unsaid.next_if_eq(*said).is_none());
    let mut after: Vec<_> = kept.cloned().chain(said).collect();
    diagnostic::sort(&mut after);
    Some(after.into())
}

#[cfg(test)]
mod tests;
