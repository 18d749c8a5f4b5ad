//! The parts of the comparison, and what came of those that count for themselves.

use std::fmt;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Requests of random cases, one at a time: answers, what endpoints get, and what is written down.
    Requests,
    /// How many of many requests go where weights and percentages lead them.
    Shares,
    /// Connections of TCP routes.
    Tcp,
    /// Changes of objects while requests flow.
    Changes,
    /// Names in what `nodegate export envoy` writes, and in what istiod tells Envoy.
    Export,
    /// Istio's own samples.
    Samples,
    /// The cases by hand of the tests against Envoy.
    Scripts,
}

/// How much a part has compared, and what differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// The part.
    pub part: Part,
    /// What was counted: of what, how much.
    pub counts: Vec<(&'static str, usize)>,
    /// What differs and is not known, in words.
    pub unknown: Vec<String>,
}

// === impl Part ===

impl Part {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Requests,
        Self::Shares,
        Self::Tcp,
        Self::Changes,
        Self::Export,
        Self::Samples,
        Self::Scripts,
    ];

    /// As the command line calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Shares => "shares",
            Self::Tcp => "tcp",
            Self::Changes => "changes",
            Self::Export => "export",
            Self::Samples => "samples",
            Self::Scripts => "scripts",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl Tally ===

impl Tally {
    pub(super) const fn new(part: Part) -> Self {
        Self {
            part,
            counts: Vec::new(),
            unknown: Vec::new(),
        }
    }

    /// So much more of something was compared.
    pub(super) fn add(&mut self, what: &'static str, count: usize) {
        let mut counts = self.counts.iter_mut();
        match counts.find(|(own, _)| *own == what) {
            Some((_, own)) => *own += count,
            None => self.counts.push((what, count)),
        }
    }

    /// Something differs.
    pub(super) fn differs(&mut self, what: String) {
        self.unknown.push(what);
    }
}
