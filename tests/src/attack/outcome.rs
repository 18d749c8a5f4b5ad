//! What comes of an attack, and what is made of that.

use std::fmt;

use serde::Serialize;

/// How far an attack gets: the less the stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// It is refused, or ended.
    Refused,
    /// It is taken, within bounds, and does nothing to others.
    Bounded,
    /// So many of its requests get to an endpoint, or so many of an endpoint's answers to a client.
    Through(usize),
}

/// What came of an attack on one proxy or node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// How far it got.
    pub reach: Reach,
    /// The same in a few words.
    pub told: String,
    /// What must hold whatever the attack is, and does not: others are served, nobody gets an answer to
    /// somebody else's request, memory is bounded.
    pub broken: Vec<String>,
}

/// One attack.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What is attacked.
    pub class: &'static str,
    /// The attack's name.
    pub name: &'static str,
    /// What the attacker does.
    pub about: &'static str,
    /// What came of it.
    pub nodegate: Outcome,
    /// What comes of it with Envoy; none where Envoy has no part in it, or is not there.
    pub envoy: Option<Outcome>,
    /// Why nodegate lets pass what Envoy refuses, if that is meant.
    pub meant: Option<&'static str>,
}

/// What is made of a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing is broken, and Envoy is no stricter.
    Holds,
    /// Envoy is stricter, and that is meant.
    Meant,
    /// What does not hold.
    Fails(Vec<String>),
}

/// All rows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// In the order in which they were tried.
    pub rows: Vec<Row>,
    /// Classes that could not be tried here, and why.
    pub skipped: Vec<(&'static str, String)>,
}

// === impl Outcome ===

impl Outcome {
    /// An outcome that breaks nothing so far.
    pub fn new(reach: Reach, told: impl Into<String>) -> Self {
        Self {
            reach,
            told: told.into(),
            broken: Vec::new(),
        }
    }
}

// === impl Row ===

impl Row {
    /// Whether it holds.
    pub fn verdict(&self) -> Verdict {
        let mut broken = self.nodegate.broken.clone();
        let stricter = self.envoy.as_ref().map(|envoy| envoy.reach);
        let is_laxer = stricter.is_some_and(|envoy| self.nodegate.reach > envoy);
        if is_laxer && self.meant.is_none() {
            broken.push("Envoy is stricter".into());
        }
        match (broken.is_empty(), is_laxer) {
            (false, _) => Verdict::Fails(broken),
            (true, true) => Verdict::Meant,
            (true, false) => Verdict::Holds,
        }
    }
}

// === impl Report ===

impl Report {
    /// Those that do not hold, and why.
    pub fn failed(&self) -> Vec<(&Row, Vec<String>)> {
        let rows = self.rows.iter();
        rows.filter_map(|row| match row.verdict() {
            Verdict::Fails(broken) => Some((row, broken)),
            Verdict::Holds | Verdict::Meant => None,
        })
        .collect()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Holds => f.write_str("holds"),
            Self::Meant => f.write_str("meant"),
            Self::Fails(broken) => write!(f, "FAILS: {}", broken.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(nodegate: Reach, envoy: Option<Reach>, meant: Option<&'static str>) -> Row {
        Row {
            class: "class",
            name: "name",
            about: "about",
            nodegate: Outcome::new(nodegate, ""),
            envoy: envoy.map(|reach| Outcome::new(reach, "")),
            meant,
        }
    }

    #[test]
    fn equal_or_stricter_holds() {
        use Reach::{Bounded, Refused, Through};
        for (nodegate, envoy) in [
            (Refused, None),
            (Through(2), None),
            (Refused, Some(Refused)),
            (Refused, Some(Through(1))),
            (Through(1), Some(Through(1))),
            (Bounded, Some(Through(1))),
        ] {
            assert_eq!(row(nodegate, envoy, None).verdict(), Verdict::Holds);
        }
        for (nodegate, envoy) in [(Through(1), Refused), (Through(2), Through(1))] {
            let verdict = row(nodegate, Some(envoy), None).verdict();
            assert_eq!(verdict, Verdict::Fails(vec!["Envoy is stricter".into()]));
            let verdict = row(nodegate, Some(envoy), Some("as the RFC says")).verdict();
            assert_eq!(verdict, Verdict::Meant);
        }
    }

    #[test]
    fn what_is_broken_is_never_meant() {
        let mut broken = row(Reach::Through(1), Some(Reach::Refused), Some("meant"));
        broken.nodegate.broken.push("it is gone".into());
        assert_eq!(broken.verdict().to_string(), "FAILS: it is gone");
        let report = Report {
            rows: vec![row(Reach::Refused, None, None), broken],
            skipped: Vec::new(),
        };
        assert_eq!(report.failed().len(), 1);
    }
}
