//! What became of a request on both sides, side by side.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use super::{
    log::Line,
    upstream::Report,
    wire::{Headers, Message},
};

/// Headers whose values are never the same: only that they are there is compared.
const VARYING: [&str; 3] = ["date", "x-envoy-upstream-service-time", "x-request-id"];

/// Headers that gateways add, beside those that begin with `x-envoy-`.
const OWN: [&str; 9] = [
    "content-length",
    "date",
    "host",
    "location",
    "server",
    "transfer-encoding",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-request-id",
];

/// What became of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Why there is nothing at all.
    pub lost: Option<Lost>,
    /// Statuses of interim answers.
    pub interim: Vec<u16>,
    /// 0 if the connection ended without an answer.
    pub status: u16,
    /// The answer.
    pub answer: Message,
    /// With which error the stream was reset, in HTTP/2.
    pub reset: Option<u32>,
    /// With which error the connection was said to end, in HTTP/2.
    pub away: Option<u32>,
    /// Whether the connection could have been used for another request, where that was tried.
    pub kept: Option<bool>,
    /// The port that the client came from.
    pub port: u16,
    /// What the gateway has written down.
    pub line: Option<Line>,
    /// What endpoints got, in the order in which they did.
    pub reports: Vec<Report>,
}

/// Why nothing becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Nobody listens.
    Refused,
    /// The connection stays, and nothing comes.
    Silent,
}

/// Something in which the two differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Divergence {
    /// `status`, `header location`, `at alpha: header x-a`, …
    pub aspect: String,
    /// What it is with Istio.
    pub istio: String,
    /// What it is with nodegate.
    pub nodegate: String,
}

/// All in which two outcomes differ.
pub(super) fn compare(istio: &Outcome, nodegate: &Outcome) -> Vec<Divergence> {
    let mut found = Found::default();
    found.check("lost", &istio.lost, &nodegate.lost);
    found.check("status", &istio.status, &nodegate.status);
    found.check("interim", &istio.interim, &nodegate.interim);
    found.message("", &istio.answer, &nodegate.answer);
    found.check("reset", &istio.reset, &nodegate.reset);
    found.check("away", &istio.away, &nodegate.away);
    found.check("kept", &istio.kept, &nodegate.kept);
    found.lines(istio.line.as_ref(), nodegate.line.as_ref());
    let endpoints = |outcome: &Outcome| -> Vec<_> {
        let mut all: Vec<_> = outcome.reports.iter().map(|one| one.endpoint).collect();
        // Copies for mirrors come when they come.
        all.sort_unstable();
        all
    };
    let (theirs, ours) = (endpoints(istio), endpoints(nodegate));
    found.check("endpoints", &theirs, &ours);
    if theirs == ours {
        for (theirs, ours) in sorted(istio).into_iter().zip(sorted(nodegate)) {
            let what = format!("at {}: ", theirs.endpoint);
            let (theirs, ours) = (&theirs.message, &ours.message);
            found.check(&format!("{what}request"), &theirs.start, &ours.start);
            found.message(&what, theirs, ours);
        }
    }
    found.0.dedup();
    found.0
}

/// Reports by endpoint; attempts at the same one stay in order.
fn sorted(outcome: &Outcome) -> Vec<&Report> {
    let mut reports: Vec<_> = outcome.reports.iter().collect();
    reports.sort_by_key(|report| report.endpoint);
    reports
}

#[derive(Default)]
struct Found(Vec<Divergence>);

impl Found {
    fn check<T: PartialEq + Debug + ?Sized>(&mut self, aspect: &str, istio: &T, nodegate: &T) {
        if istio != nodegate {
            self.0.push(Divergence {
                aspect: aspect.to_owned(),
                istio: format!("{istio:?}"),
                nodegate: format!("{nodegate:?}"),
            });
        }
    }

    fn lines(&mut self, istio: Option<&Line>, nodegate: Option<&Line>) {
        let (Some(istio), Some(nodegate)) = (istio, nodegate) else {
            self.check("log", &istio.is_some(), &nodegate.is_some());
            return;
        };
        for ((name, theirs), (_, ours)) in istio.fields().zip(nodegate.fields()) {
            self.check(&format!("log {name}"), theirs, ours);
        }
    }

    fn message(&mut self, what: &str, istio: &Message, nodegate: &Message) {
        self.values(
            &format!("{what}trailer"),
            &istio.trailers,
            &nodegate.trailers,
        );
        if self.values(&format!("{what}header"), &istio.headers, &nodegate.headers) {
            let [theirs, ours] = [istio, nodegate].map(|message| order(message, false));
            self.check(&format!("{what}order"), &theirs, &ours);
            if theirs == ours {
                let [theirs, ours] = [istio, nodegate].map(|message| order(message, true));
                self.check(&format!("{what}order with its own"), &theirs, &ours);
            }
        }
        let text = |message: &Message| String::from_utf8_lossy(&message.body).into_owned();
        self.check(&format!("{what}body"), &text(istio), &text(nodegate));
        self.check(&format!("{what}cut"), &istio.cut, &nodegate.cut);
    }

    /// Whether both have the same names, equally often.
    fn values(&mut self, what: &str, istio: &Headers, nodegate: &Headers) -> bool {
        let (theirs, ours) = (values(istio), values(nodegate));
        let names: BTreeSet<_> = theirs.keys().chain(ours.keys()).collect();
        let mut same = true;
        for name in names {
            let (theirs, ours) = (theirs.get(name), ours.get(name));
            same &= theirs.map(Vec::len) == ours.map(Vec::len);
            self.check(&format!("{what} {name}"), &theirs, &ours);
        }
        same
    }
}

/// The names of headers in order and as they are written; without those that a gateway adds itself, or with
/// them.
fn order(message: &Message, with_own: bool) -> String {
    let names = message.headers.iter().map(|(name, _)| name.as_str());
    let is_own = |name: &str| {
        let name = name.to_lowercase();
        OWN.contains(&name.as_str()) || name.starts_with("x-envoy-")
    };
    let names: Vec<_> = names.filter(|name| with_own || !is_own(name)).collect();
    names.join(", ")
}

/// Values by the names of headers.
fn values(headers: &Headers) -> BTreeMap<String, Vec<&str>> {
    let mut all = BTreeMap::<_, Vec<_>>::new();
    for (name, value) in headers {
        let name = name.to_lowercase();
        let varies = VARYING.contains(&name.as_str());
        let value = if varies { "(varies)" } else { value };
        all.entry(name).or_default().push(value);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: u16, headers: &[(&str, &str)], endpoints: &[&'static str]) -> Outcome {
        let header = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Outcome {
            status,
            answer: Message {
                headers: headers.iter().map(header).collect(),
                ..Message::default()
            },
            reports: endpoints
                .iter()
                .map(|&endpoint| Report {
                    endpoint,
                    message: Message::default(),
                })
                .collect(),
            ..Outcome::default()
        }
    }

    fn aspects(istio: &Outcome, nodegate: &Outcome) -> Vec<String> {
        let found = compare(istio, nodegate).into_iter();
        found.map(|divergence| divergence.aspect).collect()
    }

    #[test]
    fn what_differs_is_named_and_what_always_varies_is_not() {
        let istio = outcome(200, &[("date", "now"), ("x-a", "1"), ("x-b", "2")], &["a"]);
        let same = outcome(200, &[("date", "then"), ("x-a", "1"), ("x-b", "2")], &["a"]);
        assert!(aspects(&istio, &same).is_empty());
        let turned = outcome(200, &[("date", "now"), ("x-b", "2"), ("x-a", "1")], &["a"]);
        assert_eq!(aspects(&istio, &turned), ["order"]);
        let turned = outcome(200, &[("x-a", "1"), ("date", "now"), ("x-b", "2")], &["a"]);
        assert_eq!(aspects(&istio, &turned), ["order with its own"]);
        let other = outcome(404, &[("date", "now"), ("x-a", "2")], &["a", "a"]);
        assert_eq!(
            aspects(&istio, &other),
            ["status", "header x-a", "header x-b", "endpoints"]
        );
    }

    #[test]
    fn copies_may_come_in_any_order() {
        let istio = outcome(200, &[], &["a", "mirror"]);
        let nodegate = outcome(200, &[], &["mirror", "a"]);
        assert!(aspects(&istio, &nodegate).is_empty());
    }
}
