//! Conditions that were seen, found again by what of a path they want: a VirtualService may have thousands.

use std::collections::HashMap;

use nodegate_model::gateway::{PathMatch, RouteMatch};

/// The conditions that were seen, each with its number.
#[derive(Default)]
pub(super) struct Earlier {
    /// By the text of their path, in lower case.
    by_text: HashMap<String, Vec<(RouteMatch, usize)>>,
    expressions: Vec<(RouteMatch, usize)>,
}

impl Earlier {
    pub(super) fn add(&mut self, matches: &RouteMatch, index: usize) {
        let one = (matches.clone(), index);
        match text(matches) {
            Some(text) => self.by_text.entry(text).or_default().push(one),
            None => self.expressions.push(one),
        }
    }

    /// Forgets those from this number on.
    pub(super) fn forget(&mut self, from: usize) {
        for some in self.by_text.values_mut() {
            some.retain(|(_, index)| *index < from);
        }
        self.expressions.retain(|(_, index)| *index < from);
    }

    /// The first of those that count and hold wherever `matches` does.
    pub(super) fn covering(
        &self,
        matches: &RouteMatch,
        counts: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let path = text(matches).unwrap_or_else(|| "/".to_owned());
        let ends = std::iter::once(0).chain(
            path.char_indices()
                .map(|(at, letter)| at + letter.len_utf8()),
        );
        let shorter = ends.filter_map(|end| self.by_text.get(&path[..end]));
        let candidates = shorter.flatten().chain(&self.expressions);
        let found = candidates.filter(|(one, index)| one.covers(matches) && counts(*index));
        found.map(|(_, index)| *index).min()
    }
}

fn text(matches: &RouteMatch) -> Option<String> {
    match &matches.path {
        PathMatch::Prefix(text) | PathMatch::Exact(text) => Some(text.to_ascii_lowercase()),
        PathMatch::Regex(_) => None,
    }
}
