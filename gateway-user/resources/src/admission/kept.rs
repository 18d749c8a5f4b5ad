//! Versions of objects that are in force although newer ones were refused: as a text, so that a restart
//! does not lose them. Without, a mistake would do no harm until the next restart, and then take down what
//! it had not taken down before.

use std::{path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_yaml::Value;

use super::Store;
use crate::{
    manifest::Manifest,
    object::{Body, Object},
    validate::validate,
};

/// What is at the top of the text.
const LAYOUT: u32 = 1;

/// Versions that are in force although newer ones were refused.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    objects: Vec<Arc<Object>>,
}

/// A text that says no such thing.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// It is not YAML, or says something else.
    #[error("{0}")]
    Syntax(#[from] serde_yaml::Error),
    /// It was written by another version.
    #[error("it is of layout {0}, and not of {LAYOUT}")]
    Layout(u32),
}

#[derive(Serialize, Deserialize)]
struct Text {
    layout: u32,
    objects: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    /// The document that the object was in, whose text may be what cannot be read now.
    document: PathBuf,
    object: Value,
}

// === impl Kept ===

impl Kept {
    /// Whether there is nothing to keep.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The text. Secrets are not in it.
    ///
    /// # Errors
    /// Fails if an object cannot be written as YAML.
    pub fn text(&self) -> Result<String, KeptError> {
        let public = self
            .objects
            .iter()
            .filter(|object| !matches!(object.body, Body::Secret(_)));
        let entries = public.map(|object| {
            Ok(Entry {
                document: object.origin.file.to_path_buf(),
                object: serde_yaml::to_value(&object.body)?,
            })
        });
        let text = Text {
            layout: LAYOUT,
            objects: entries.collect::<Result<_, serde_yaml::Error>>()?,
        };
        Ok(serde_yaml::to_string(&text)?)
    }

    /// Reads a text. Objects that this version would refuse are left out.
    ///
    /// # Errors
    /// Fails if it is no such text, or of another version.
    pub fn of_text(text: &str) -> Result<Self, KeptError> {
        let Text { layout, objects } = serde_yaml::from_str(text)?;
        if layout != LAYOUT {
            return Err(KeptError::Layout(layout));
        }
        let objects = objects.into_iter().flat_map(|entry| {
            let manifest = Manifest::of_entry(entry.document, entry.object);
            manifest.objects
        });
        let good = objects.filter(|object| !validate(object).refused);
        Ok(Self {
            objects: good.collect(),
        })
    }
}

// === impl Store ===

impl Store {
    /// Begins with what was in force when the last process ended, before anything else is admitted.
    pub fn remember(&mut self, kept: Kept) {
        for object in kept.objects {
            self.accepted.insert(object.key.clone(), object);
        }
    }

    /// What is in force although something newer was refused.
    pub fn kept(&self) -> Kept {
        let refused = self.exceptions.objects.iter();
        Kept {
            objects: refused
                .filter_map(|key| self.accepted.get(key).cloned())
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: web, namespace: shop}\nspec:\n  hosts: [a.example]\n  http:\n  - timeout: 1.5s\n    match: [{uri: {prefix: /x}, headers: {h: {exact: v}}}]\n    route: [{destination: {host: web, subset: v1}, weight: 3}]\n    retries: {attempts: 2, perTryTimeout: 250ms}\n";

    fn admitted(store: &mut Store, text: &str) -> Vec<String> {
        let manifest = Manifest::parse("web.yaml".into(), text);
        let resources = store.admit([&manifest], Vec::new());
        resources.objects.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn what_a_mistake_left_in_force_is_in_force_after_a_restart() {
        let bad = GOOD.replace("weight: 3", "weight: -3");
        let mut before = Store::default();
        admitted(&mut before, GOOD);
        assert!(before.kept().is_empty());
        assert_eq!(admitted(&mut before, &bad), ["VirtualService shop/web"]);
        let text = before.kept().text().unwrap();

        let mut after = Store::default();
        assert_eq!(
            admitted(&mut after, &bad),
            [""; 0],
            "nothing to fall back on"
        );
        let mut after = Store::default();
        after.remember(Kept::of_text(&text).unwrap());
        assert_eq!(admitted(&mut after, &bad), ["VirtualService shop/web"]);
        let same = |store: &Store| store.current().objects.values().next().cloned().unwrap();
        assert_eq!(same(&after), same(&before));

        // It is gone with the object, and with the mistake.
        assert_eq!(admitted(&mut after, "# nothing\n"), [""; 0]);
        admitted(&mut before, GOOD);
        assert!(before.kept().is_empty());
    }

    #[test]
    fn a_file_that_cannot_be_read_keeps_what_it_held_over_a_restart() {
        let mut before = Store::default();
        admitted(&mut before, GOOD);
        assert_eq!(
            admitted(&mut before, "spec: ["),
            ["VirtualService shop/web"]
        );
        let text = before.kept().text().unwrap();
        let mut after = Store::default();
        after.remember(Kept::of_text(&text).unwrap());
        assert_eq!(admitted(&mut after, "spec: ["), ["VirtualService shop/web"]);
    }

    #[test]
    fn another_text_is_refused() {
        let error = Kept::of_text("layout: 0\nobjects: []\n").unwrap_err();
        assert_eq!(error.to_string(), "it is of layout 0, and not of 1");
        assert!(Kept::of_text("nonsense").is_err());
    }
}
