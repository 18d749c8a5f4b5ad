//! Differences in words.

use std::{fmt, net::SocketAddr};

use super::{ChainDiff, ChainDiffKind, Change};
use crate::services::Treatment;

/// Who is compared, in words.
#[derive(Clone, Copy, Debug)]
pub struct Words {
    /// Of a Service port that is only expected.
    pub missing: &'static str,
    /// Of one that is only found.
    pub unexpected: &'static str,
    /// Of endpoints that are only expected.
    pub lacks: &'static str,
    /// Of endpoints that are only found.
    pub has: &'static str,
    /// Before what is expected.
    pub expected: &'static str,
    /// Before what is found.
    pub found: &'static str,
    /// Where there is no such frontend.
    pub nothing: &'static str,
}

impl Words {
    /// Rules, against the Services that they should implement.
    pub const RULES: Self = Self {
        missing: "there are no rules for it",
        unexpected: "there are rules for it, but no such Service",
        lacks: "missing",
        has: "unexpected",
        expected: "expected",
        found: "found",
        nothing: "no rules",
    };

    /// The loaded maps, against rules.
    pub const MAPS: Self = Self {
        missing: "there are rules for it, but the maps have nothing",
        unexpected: "the maps have it, but there are no rules for it",
        lacks: "only in the rules",
        has: "only in the maps",
        expected: "rules",
        found: "maps",
        nothing: "nothing",
    };
}

impl Change {
    /// The change, in the words of what is compared.
    pub fn told(&self, words: Words) -> impl fmt::Display {
        fmt::from_fn(move |f| self.write(f, words))
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, words: Words) -> fmt::Result {
        let Words {
            expected: a,
            found: b,
            ..
        } = words;
        match self {
            Self::Missing => f.write_str(words.missing),
            Self::Unexpected => f.write_str(words.unexpected),
            Self::Frontend {
                frontend,
                expected,
                found,
            } => {
                let path = |path: &Option<Treatment>| {
                    path.as_ref()
                        .map_or(words.nothing.into(), ToString::to_string)
                };
                let (expected, found) = (path(expected), path(found));
                write!(f, "{frontend}: {a}: {expected}; {b}: {found}")
            }
            Self::Endpoints {
                local,
                missing,
                unexpected,
            } => {
                let whose = if *local { " on this node" } else { "" };
                let list = |what: &str, list: &[SocketAddr]| {
                    let list: Vec<_> = list.iter().map(ToString::to_string).collect();
                    (!list.is_empty()).then(|| format!("{what}: {}", list.join(", ")))
                };
                let lists = [list(words.lacks, missing), list(words.has, unexpected)];
                let lists: Vec<_> = lists.into_iter().flatten().collect();
                write!(f, "endpoints{whose} {}", lists.join("; "))
            }
            Self::Affinity { expected, found } => {
                let seconds = |seconds: &Option<u32>| {
                    seconds.map_or("not at all".into(), |seconds| format!("{seconds} s"))
                };
                let (expected, found) = (seconds(expected), seconds(found));
                write!(
                    f,
                    "clients stay with an endpoint: {a}: {expected}; {b}: {found}"
                )
            }
            Self::HealthCheckNodePort { expected, found } => {
                let port = |port: &Option<u16>| port.map_or("none".into(), |port| port.to_string());
                let (expected, found) = (port(expected), port(found));
                write!(f, "health check node port: {a}: {expected}; {b}: {found}")
            }
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, Words::RULES)
    }
}

impl fmt::Display for ChainDiff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, chain, .. } = self;
        let what = match self.kind {
            ChainDiffKind::Rules => "has other rules",
            ChainDiffKind::Order => "has its rules in another order",
            ChainDiffKind::Missing => "is not there",
            ChainDiffKind::Stale => "belongs to no Service or endpoint",
        };
        write!(f, "{table} {chain} {what}")?;
        for line in &self.missing {
            write!(f, "\n    - {line}")?;
        }
        for line in &self.unexpected {
            write!(f, "\n    + {line}")?;
        }
        Ok(())
    }
}
