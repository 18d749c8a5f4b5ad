//! Labels that nobody has: how they are written, and which were meant.

use std::collections::{BTreeMap, BTreeSet};

use nodegate_values::spelling::nearest;

pub(super) type Labels = BTreeMap<String, String>;

/// As `kubectl -l` has them.
pub(super) fn written(labels: &Labels) -> String {
    let labels: Vec<_> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    labels.join(", ")
}

/// A label whose value is misspelled, as those have it that there are.
pub(super) fn meant<'l>(
    labels: &Labels,
    known: impl Iterator<Item = &'l Labels>,
) -> Option<String> {
    let known: Vec<_> = known.collect();
    labels.iter().find_map(|(key, value)| {
        let values: BTreeSet<_> = known.iter().filter_map(|labels| labels.get(key)).collect();
        if values.contains(value) {
            return None;
        }
        let near = nearest(value, values)?;
        Some(format!("did you mean `{key}: {near}`?"))
    })
}
