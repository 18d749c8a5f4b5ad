//! Which routes of a virtual host may match a path, without looking at all of them.

use std::collections::HashMap;

use http::{HeaderName, header::HOST};
use nodegate_model::gateway::{HttpRoute, MatchedHeader, PathMatch, ValueMatch};

use super::predicate::{self, Query};

/// From how many routes at one place on their headers are told apart by a table, too.
const MANY: usize = 8;

/// How many names of headers one place may have tables for. Routes by further names are tried one
/// after the other.
const NAMES: usize = 4;

/// Finds the first of a list of routes that a request matches.
///
/// It gives what trying them in order gives: an index only leaves out routes that cannot match, and
/// of those that are left, which come in several lists, the one that stands first is taken.
#[derive(Debug, Default)]
pub(super) struct Index {
    exact_case: Trie,
    /// Of routes for which upper and lower case are the same; its keys are in lower case.
    any_case: Trie,
}

/// A radix tree over paths.
#[derive(Debug)]
struct Trie {
    /// The first is the root.
    nodes: Vec<TrieNode>,
    fold: bool,
}

/// A place in a path.
#[derive(Debug, Default)]
struct TrieNode {
    /// What leads here from the node above.
    edge: Box<[u8]>,
    /// By the first byte of their edge, sorted.
    children: Vec<(u8, usize)>,
    /// Routes for all paths that begin like this.
    prefix: List,
    /// Routes for exactly this path.
    exact: List,
}

/// Routes at one place, by index, each list ascending.
#[derive(Debug, Default)]
struct List {
    any: Vec<usize>,
    /// Routes that want a header to have exactly a value.
    by_header: Vec<(HeaderName, ByValue)>,
}

type ByValue = HashMap<Box<[u8]>, Vec<usize>>;

impl Index {
    pub(super) fn new(routes: &[HttpRoute]) -> Self {
        let mut index = Self {
            exact_case: Trie::new(false),
            any_case: Trie::new(true),
        };
        for (at, route) in routes.iter().enumerate() {
            let trie = if route.matches.ignore_case {
                &mut index.any_case
            } else {
                &mut index.exact_case
            };
            match &route.matches.path {
                PathMatch::Exact(path) => trie.place(path.as_bytes()).exact.any.push(at),
                PathMatch::Prefix(prefix) => trie.place(prefix.as_bytes()).prefix.any.push(at),
                PathMatch::Regex(pattern) => {
                    let prefix = literal_prefix(pattern.as_str());
                    trie.place(prefix.as_bytes()).prefix.any.push(at);
                }
            }
        }
        for trie in [&mut index.exact_case, &mut index.any_case] {
            for node in &mut trie.nodes {
                node.prefix.split(routes);
                node.exact.split(routes);
            }
        }
        index
    }

    /// The first route that matches.
    pub(super) fn find(&self, routes: &[HttpRoute], query: &Query<'_>) -> Option<usize> {
        let mut best = None;
        self.exact_case.find(routes, query, &mut best);
        self.any_case.find(routes, query, &mut best);
        best
    }
}

impl Default for Trie {
    fn default() -> Self {
        Self::new(false)
    }
}

impl Trie {
    fn new(fold: bool) -> Self {
        Self {
            nodes: vec![TrieNode::default()],
            fold,
        }
    }

    /// The node of this key; made if there is none.
    fn place(&mut self, key: &[u8]) -> &mut TrieNode {
        let key = if self.fold {
            key.to_ascii_lowercase()
        } else {
            key.to_vec()
        };
        let mut rest = key.as_slice();
        let mut at = 0;
        while let Some(&first) = rest.first() {
            let children = &self.nodes[at].children;
            match children.binary_search_by_key(&first, |(byte, _)| *byte) {
                Err(slot) => {
                    let new = self.push(rest);
                    self.nodes[at].children.insert(slot, (first, new));
                    at = new;
                    break;
                }
                Ok(slot) => {
                    let child = children[slot].1;
                    let common = shared(&self.nodes[child].edge, rest);
                    rest = &rest[common..];
                    at = if common < self.nodes[child].edge.len() {
                        self.cut(at, slot, common)
                    } else {
                        child
                    };
                }
            }
        }
        &mut self.nodes[at]
    }

    fn push(&mut self, edge: &[u8]) -> usize {
        self.nodes.push(TrieNode {
            edge: edge.into(),
            ..TrieNode::default()
        });
        self.nodes.len() - 1
    }

    /// Puts a node into the middle of the edge to a child, and returns it.
    fn cut(&mut self, parent: usize, slot: usize, length: usize) -> usize {
        let child = self.nodes[parent].children[slot].1;
        let (upper, lower) = self.nodes[child].edge.split_at(length);
        let (upper, lower) = (upper.to_vec(), Box::<[u8]>::from(lower));
        let middle = self.push(&upper);
        self.nodes[middle].children.push((lower[0], child));
        self.nodes[child].edge = lower;
        self.nodes[parent].children[slot].1 = middle;
        middle
    }

    /// Walks along the path, and makes `best` the first of all routes on the way that match.
    fn find(&self, routes: &[HttpRoute], query: &Query<'_>, best: &mut Option<usize>) {
        let mut rest = query.path.as_bytes();
        let mut node = &self.nodes[0];
        loop {
            node.prefix.find(routes, query, best);
            let Some(&first) = rest.first() else {
                node.exact.find(routes, query, best);
                return;
            };
            let first = if self.fold {
                first.to_ascii_lowercase()
            } else {
                first
            };
            let Ok(slot) = node
                .children
                .binary_search_by_key(&first, |(byte, _)| *byte)
            else {
                return;
            };
            node = &self.nodes[node.children[slot].1];
            let Some((start, after)) = rest.split_at_checked(node.edge.len()) else {
                return;
            };
            let same = if self.fold {
                start.eq_ignore_ascii_case(&node.edge)
            } else {
                *start == *node.edge
            };
            if !same {
                return;
            }
            rest = after;
        }
    }
}

impl List {
    /// Moves routes to tables, if there are many.
    fn split(&mut self, routes: &[HttpRoute]) {
        if self.any.len() < MANY {
            return;
        }
        for at in std::mem::take(&mut self.any) {
            let wanted = routes[at].matches.headers.iter().find_map(|header| {
                match (&header.name, &header.value) {
                    (MatchedHeader::Field(name), ValueMatch::Exact(value))
                        if !header.invert && name != HOST =>
                    {
                        Some((name, value.as_bytes()))
                    }
                    _ => None,
                }
            });
            let Some((name, value)) = wanted else {
                self.any.push(at);
                continue;
            };
            let known = self.by_header.iter().position(|(known, _)| known == name);
            let slot = match known {
                Some(slot) => slot,
                None if self.by_header.len() < NAMES => {
                    self.by_header.push((name.clone(), HashMap::new()));
                    self.by_header.len() - 1
                }
                None => {
                    self.any.push(at);
                    continue;
                }
            };
            let (_, table) = &mut self.by_header[slot];
            table.entry(value.into()).or_default().push(at);
        }
    }

    fn find(&self, routes: &[HttpRoute], query: &Query<'_>, best: &mut Option<usize>) {
        first(&self.any, routes, query, best);
        for (name, table) in &self.by_header {
            for value in predicate::values(query, name) {
                if let Some(list) = table.get(value) {
                    first(list, routes, query, best);
                }
            }
        }
    }
}

/// Makes `best` the first of the list that matches, if it stands before `best`.
fn first(list: &[usize], routes: &[HttpRoute], query: &Query<'_>, best: &mut Option<usize>) {
    for &at in list {
        if best.is_some_and(|best| best < at) {
            return;
        }
        if predicate::check(&routes[at].matches, query).is_ok() {
            *best = Some(at);
            return;
        }
    }
}

/// How many bytes two keys share at the beginning.
fn shared(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// What every match of the expression begins with; may be less than there is.
fn literal_prefix(pattern: &str) -> &str {
    // An alternative may begin otherwise.
    if pattern.contains('|') {
        return "";
    }
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    let end = pattern.find(|c: char| r"\.+*?()[]{}^$".contains(c));
    let Some(end) = end else {
        return pattern;
    };
    let literal = &pattern[..end];
    // What may occur any number of times need not be there.
    if pattern[end..].starts_with(['*', '?', '{', '+']) {
        let last = literal.char_indices().next_back();
        return last.map_or("", |(last, _)| &literal[..last]);
    }
    literal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_end_where_choice_begins() {
        for (pattern, wanted) in [
            ("/api/v1/.*", "/api/v1/"),
            ("^/a/b$", "/a/b"),
            ("/ab*", "/a"),
            ("/ab?c", "/a"),
            ("/ab{0}c", "/a"),
            ("/ü?", "/"),
            ("/a|/b", ""),
            ("(?i)/a", ""),
            ("/a", "/a"),
            (".*", ""),
            ("*", ""),
        ] {
            assert_eq!(literal_prefix(pattern), wanted, "{pattern}");
        }
    }

    #[test]
    fn edges_are_cut_where_keys_part() {
        let mut trie = Trie::new(false);
        for (at, key) in ["/abc", "/abd", "/", "/abc/x", "/a", ""].iter().enumerate() {
            trie.place(key.as_bytes()).exact.any.push(at);
        }
        for (at, key) in ["/abc", "/abd", "/", "/abc/x", "/a", ""].iter().enumerate() {
            assert_eq!(trie.place(key.as_bytes()).exact.any, [at], "{key}");
        }
        // One node for each key, and one for `/ab`, where two of them part.
        assert_eq!(trie.nodes.len(), 7);
    }
}
