//! nodegate beside the real Istio, with objects and requests by chance.
//!
//! A case is a host with VirtualServices, and maybe a service of its own, and requests that are made for its
//! conditions or miss them by little. Hundreds of cases are applied at once to an API server; istiod tells an
//! Envoy what they mean, nodegate makes it out itself, and both are asked the same. What Istio refuses is left
//! out. Answers must be the same, and so must be what endpoints get of them: all that differs and is
//! [not known](differences) is made small and written down.
//!
//! ```no_run
//! use nodegate_testbed::{cluster::Cluster, differential::{Options, Stage, run}};
//!
//! # fn main() -> anyhow::Result<()> {
//! let mut stage = Stage::new(Cluster::open("istio")?, "target/debug/nodegate".as_ref())?;
//! let report = run(&mut stage, &Options::new(7, 200, "findings".into()))?;
//! assert!(report.findings.is_empty());
//! # Ok(())
//! # }
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use anyhow::Context as _;

mod behaviour;
mod case;
mod changes;
mod client;
mod compare;
mod differences;
mod export;
mod finding;
mod generate;
mod ground;
pub(crate) mod http2;
mod log;
mod minimize;
mod mutants;
mod names;
mod odd;
mod parts;
mod request;
mod samples;
mod scripts;
mod shares;
mod shrink;
mod stage;
mod taken;
mod tcp;
mod upstream;
mod verdicts;
mod wire;

pub use case::Case;
pub use compare::{Divergence, Lost, Outcome};
pub use differences::{Difference, MEANT, OPEN};
use differences::{Seen, known};
pub use finding::Finding;
pub use generate::case;
pub use log::Line;
pub use mutants::{Mutant, found, mutants};
pub use odd::Odd;
pub use parts::{Part, Tally};
pub use request::Request;
use stage::{Pair, Question};
pub use stage::{Stage, peer};
pub use taken::{Meant, VERDICTS};
pub use upstream::Report as Reported;
pub use verdicts::{Verdicts, verdicts};
pub use wire::{Headers, Message};

/// How much is compared.
#[derive(Clone, Debug)]
pub struct Options {
    /// Makes the same cases again.
    pub seed: u64,
    /// How many cases.
    pub cases: u64,
    /// What is compared.
    pub parts: Vec<Part>,
    /// How many requests for each of them.
    pub requests: usize,
    /// How many are applied at a time.
    pub batch: u64,
    /// Where findings are written to.
    pub directory: PathBuf,
    /// How many findings are made small; those that differ in the same are one.
    pub most: usize,
    /// Is told what is being done.
    pub say: fn(&str),
}

impl Options {
    /// As much as takes a minute or two.
    pub fn new(seed: u64, cases: u64, directory: PathBuf) -> Self {
        Self {
            seed,
            cases,
            parts: Part::ALL.into(),
            requests: 12,
            batch: 200,
            directory,
            most: 12,
            say: |_| {},
        }
    }
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// How many cases both gateways had.
    pub cases: usize,
    /// How many Istio refused, and why.
    pub refused: usize,
    /// What it says of refused objects, and how often.
    pub refusals: BTreeMap<String, usize>,
    /// How many requests were compared.
    pub requests: usize,
    /// How many of them in HTTP/2.
    pub streams: usize,
    /// How many of them calls of gRPC.
    pub calls: usize,
    /// Requests by the status that Istio answered with.
    pub statuses: BTreeMap<u16, usize>,
    /// Known differences that were met, by name: in how many requests.
    pub known: BTreeMap<&'static str, usize>,
    /// How many requests differ by what is not known, by aspects.
    pub unknown: BTreeMap<String, usize>,
    /// One of each, made small, and where it is written.
    pub findings: Vec<(Finding, PathBuf)>,
    /// What came of the other parts.
    pub tallies: Vec<Tally>,
}

/// What differs between two outcomes.
struct Verdict {
    known: BTreeSet<&'static str>,
    unknown: Vec<Divergence>,
}

/// Compares as many cases as are wanted.
pub fn run(stage: &mut Stage, options: &Options) -> anyhow::Result<Report> {
    let mut report = Report::default();
    for part in &options.parts {
        (options.say)(&format!("part {part}"));
        let tally = match part {
            Part::Requests => {
                requests(stage, options, &mut report)?;
                None
            }
            Part::Shares => Some(shares::compare(stage, options)?),
            Part::Tcp => Some(tcp::compare(stage, options)?),
            Part::Changes => Some(changes::compare(stage, options)?),
            Part::Export => Some(export::compare(stage, options)?),
            Part::Samples => Some(samples::compare(stage, options)?),
            Part::Scripts => Some(scripts::compare(stage, options)?),
        };
        report.tallies.extend(tally);
    }
    Ok(report)
}

/// Compares requests of random cases.
fn requests(stage: &mut Stage, options: &Options, report: &mut Report) -> anyhow::Result<()> {
    let mut findings = Vec::new();
    let mut number = 0;
    while number < options.cases {
        let count = options.batch.min(options.cases - number);
        (options.say)(&format!(
            "cases {number} to {} of {}",
            number + count - 1,
            options.cases
        ));
        findings.extend(batch(stage, options, number..number + count, report)?);
        number += count;
    }
    let texts = findings.iter().map(|finding| finding.text(options.seed));
    let all = texts.collect::<anyhow::Result<String>>()?;
    let file = options.directory.join(format!("{}-all.yaml", options.seed));
    fs::create_dir_all(&options.directory)
        .and_then(|()| fs::write(&file, all))
        .with_context(|| format!("writing {}", file.display()))?;
    let mut chosen = distinct(findings, options.most);
    if !chosen.is_empty() {
        (options.say)(&format!("making {} findings small", chosen.len()));
        minimize::minimize(stage, &mut chosen)?;
    }
    for (index, finding) in chosen.into_iter().enumerate() {
        let file = finding.write(options.seed, index, &options.directory)?;
        report.findings.push((finding, file));
    }
    Ok(())
}

// === impl Report ===

impl Report {
    /// Whether nothing differs but what is known.
    pub fn is_clean(&self) -> bool {
        self.unknown.is_empty() && self.tallies.iter().all(|tally| tally.unknown.is_empty())
    }
}

/// Applies some cases at once, and compares what becomes of their requests.
fn batch(
    stage: &mut Stage,
    options: &Options,
    numbers: std::ops::Range<u64>,
    report: &mut Report,
) -> anyhow::Result<Vec<Finding>> {
    let numbered = numbers.map(|number| (number, case(options.seed, number, options.requests)));
    let cases: Vec<_> = numbered
        .map(|(number, case)| (format!("h{number}"), number, case))
        .collect();
    let named: Vec<_> = cases
        .iter()
        .map(|(name, _, case)| (name.clone(), case))
        .collect();
    let applied = stage.apply(&named)?;
    for refusal in applied.refusals {
        *report.refusals.entry(refusal).or_default() += 1;
    }
    report.cases += applied.there.len();
    report.refused += cases.len() - applied.there.len();
    let there = cases
        .iter()
        .filter(|(name, ..)| applied.there.contains(name));
    let asked: Vec<_> = there
        .flat_map(|(name, number, case)| {
            let requests = case.requests.iter();
            requests.map(move |request| (*number, case, Question { name, request }))
        })
        .collect();
    let questions: Vec<_> = asked.iter().map(|(.., question)| *question).collect();
    let pairs = stage.ask_all(&questions)?;
    report.requests += pairs.len();
    for question in &questions {
        report.streams += usize::from(question.request.is_http2());
        report.calls += usize::from(question.request.is_grpc());
    }
    for [istio, _] in &pairs {
        *report.statuses.entry(istio.status).or_default() += 1;
    }
    let different: Vec<_> = asked
        .into_iter()
        .zip(pairs)
        .filter(|((.., question), pair)| {
            let verdict = judge(question.request, pair);
            for name in verdict.known {
                *report.known.entry(name).or_default() += 1;
            }
            !verdict.unknown.is_empty()
        })
        .map(|(asked, _)| asked)
        .collect();
    confirm(stage, different, report)
}

/// Asks once more: what does not differ again was not the configuration's doing.
fn confirm(
    stage: &Stage,
    different: Vec<(u64, &Case, Question<'_>)>,
    report: &mut Report,
) -> anyhow::Result<Vec<Finding>> {
    let questions: Vec<_> = different.iter().map(|(.., question)| *question).collect();
    let pairs = stage.ask_all(&questions)?;
    let mut findings = Vec::new();
    for ((number, case, question), pair) in different.into_iter().zip(pairs) {
        let divergences = judge(question.request, &pair).unknown;
        if divergences.is_empty() {
            continue;
        }
        let finding = Finding {
            number,
            case: case.clone(),
            request: question.request.clone(),
            divergences,
            pair,
        };
        *report.unknown.entry(signature(&finding)).or_default() += 1;
        findings.push(finding);
    }
    Ok(findings)
}

fn signature(finding: &Finding) -> String {
    let aspects: Vec<_> = finding.aspects().into_iter().collect();
    aspects.join(", ")
}

/// One finding for each set of aspects, those with the fewest first.
fn distinct(findings: Vec<Finding>, most: usize) -> Vec<Finding> {
    let mut by_aspects = BTreeMap::new();
    for finding in findings {
        let aspects = signature(&finding);
        by_aspects.entry(aspects).or_insert(finding);
    }
    let mut all: Vec<_> = by_aspects.into_values().collect();
    all.sort_by_key(|finding| finding.divergences.len());
    all.truncate(most);
    all
}

fn judge(request: &Request, pair: &Pair) -> Verdict {
    let [istio, nodegate] = pair;
    let mut verdict = Verdict {
        known: BTreeSet::new(),
        unknown: Vec::new(),
    };
    for found in compare::compare(istio, nodegate) {
        let seen = Seen {
            request,
            istio,
            nodegate,
        };
        match known(&found, &seen) {
            Some(difference) => drop(verdict.known.insert(difference.name)),
            None => verdict.unknown.push(found),
        }
    }
    verdict
}
