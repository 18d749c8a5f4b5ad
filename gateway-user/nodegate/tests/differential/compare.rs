//! What came of the flows on both nodes, and what must have.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::ensure;
use gateway_common::{
    decide::{Masquerade, Verdict},
    maps::Settings,
};
use nodegate_model::service::{IpFamily, ServicePort};

use crate::{
    agent::{Outcome, Seen},
    core::{Prediction, Tables},
    differences::{Case, DIFFERENCES},
    explained::Explained,
    flows::{ENOUGH, Flow, lanes},
    sides::{Load, Sides, is_nodes},
};

/// For the first look. A connection that is refused by a process of the node itself hears of it with the second SYN, after
/// a second: the first error comes while `connect()` still holds the socket (`tcp_v4_err`).
const PATIENCE: Duration = Duration::from_millis(1_600);

pub(crate) fn answers(seen: &Seen) -> impl Iterator<Item = (SocketAddr, IpAddr)> {
    seen.keys().filter_map(|outcome| match outcome {
        Outcome::Answered { at, from } => Some((*at, *from)),
        _ => None,
    })
}

/// How many flows there were, and how often which difference applied.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) flows: usize,
    pub(crate) attempts: usize,
    pub(crate) again: usize,
    pub(crate) differences: BTreeMap<&'static str, usize>,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.flows += other.flows;
        self.attempts += other.attempts;
        self.again += other.again;
        for (name, count) in &other.differences {
            *self.differences.entry(name).or_default() += count;
        }
    }
}

/// What came of a flow on the two nodes.
pub(crate) struct Both {
    pub(crate) theirs: Seen,
    pub(crate) ours: Seen,
}

/// Loads the Services into both nodes, and lets the flows go through both.
pub(crate) fn compare(
    sides: &mut Sides,
    load: &Load,
    flows: &[Flow],
) -> anyhow::Result<(Tally, Vec<Both>)> {
    let tables = sides.load(load)?;
    let explained = Explained::new(sides, load)?;
    let predictions: Vec<_> = flows
        .iter()
        .map(|flow| tables.predict(&flow.for_core()))
        .collect();
    let mut results = go(sides, flows, &predictions, PATIENCE)?;
    let mut tally = Tally {
        flows: flows.len(),
        ..Tally::default()
    };
    let judge = |index: usize, result: &Both| {
        let (flow, prediction) = (&flows[index], &predictions[index]);
        let difference = judge(&tables, load, flow, prediction, result)?;
        let claimants = claimants(load, flow);
        explained
            .check(flow, &claimants, prediction, &result.theirs)
            .map_err(|what| say(flow, prediction, result, &what))?;
        Ok::<_, String>(difference)
    };
    let wrong = |results: &[Both]| -> Vec<usize> {
        (0..flows.len())
            .filter(|index| judge(*index, &results[*index]).is_err())
            .collect()
    };
    // A machine that was busy for a moment is no difference; whatever is one stays.
    let again = wrong(&results);
    if !again.is_empty() {
        let pick = |index: &usize| flows[*index].clone();
        let predicted: Vec<_> = again
            .iter()
            .map(|index| predictions[*index].clone())
            .collect();
        let flows: Vec<_> = again.iter().map(pick).collect();
        let second = go(sides, &flows, &predicted, patience::limit())?;
        for (index, result) in again.iter().zip(second) {
            results[*index] = result;
        }
        tally.again = again.len();
    }
    let mut messages = Vec::new();
    for (index, result) in results.iter().enumerate() {
        tally.attempts += result.ours.values().sum::<usize>();
        match judge(index, result) {
            Ok(None) => {}
            Ok(Some(name)) => *tally.differences.entry(name).or_default() += 1,
            Err(message) => messages.push(message),
        }
    }
    let more = messages.len().saturating_sub(12);
    messages.truncate(12);
    ensure!(
        messages.is_empty(),
        "{}\nand {more} more\ncounters: {:?}",
        messages.join("\n"),
        sides.counters()?
    );
    Ok((tally, results))
}

fn go(
    sides: &mut Sides,
    flows: &[Flow],
    predictions: &[Prediction],
    patience: Duration,
) -> anyhow::Result<Vec<Both>> {
    let lanes = lanes(flows, predictions);
    let probes = lanes
        .iter()
        .flat_map(|lane| {
            // A lane's flows may be of both agents; each has its own part of it.
            let mut parts: BTreeMap<_, (Vec<usize>, Vec<_>)> = BTreeMap::new();
            for index in lane {
                let part = parts.entry(flows[*index].source.hooks()).or_default();
                part.0.push(*index);
                part.1.push(flows[*index].probe(&predictions[*index]));
            }
            parts
        })
        .collect::<Vec<_>>();
    let (order, probes): (Vec<_>, Vec<_>) = probes
        .into_iter()
        .map(|(hooks, (indices, probes))| (indices, (hooks, probes)))
        .unzip();
    let (theirs, ours) = sides.run(&probes, patience)?;
    let seen = theirs.into_iter().flatten().zip(ours.into_iter().flatten());
    let mut results: Vec<_> = order.into_iter().flatten().zip(seen).collect();
    results.sort_by_key(|(index, _)| *index);
    let results = results.into_iter();
    Ok(results
        .map(|(_, (theirs, ours))| Both { theirs, ours })
        .collect())
}

/// The Services that have what is connected to.
fn claimants<'l>(load: &'l Load, flow: &Flow) -> Vec<&'l ServicePort> {
    let services = load.services.iter();
    services.filter(|service| flow.is_for(service)).collect()
}

fn say(flow: &Flow, prediction: &Prediction, Both { theirs, ours }: &Both, what: &str) -> String {
    format!(
        "{flow}: {what}\n  kube-proxy: {theirs:?}\n  nodegate:   {ours:?}\n  explained:  {prediction:?}"
    )
}

/// Whether what happened is what had to; which difference explains that it is not the same on both.
fn judge(
    tables: &Tables,
    load: &Load,
    flow: &Flow,
    prediction: &Prediction,
    both: &Both,
) -> Result<Option<&'static str>, String> {
    let Both { theirs, ours } = both;
    let say = |what: &str| say(flow, prediction, both, what);
    agrees(flow, ours, prediction, true).map_err(|what| say(&what))?;
    let some = flow.affinity || prediction.masquerade.len() > ENOUGH;
    let same = if some && prediction.verdict == Verdict::Forward {
        agrees(flow, theirs, prediction, false).is_ok()
    } else {
        theirs.keys().eq(ours.keys())
    };
    if same {
        return Ok(None);
    }
    let knows = match flow.family() {
        IpFamily::V4 => load.config.v4.local.is_some(),
        IpFamily::V6 => load.config.v6.local.is_some(),
    };
    let flags = tables.settings.flags;
    let unknown = (!knows && flags & Settings::FLAG_KNOWS_PODS != 0).then(|| {
        let ignorant = tables.with_flags(flags & !Settings::FLAG_KNOWS_PODS);
        ignorant.predict(&flow.for_core())
    });
    let case = Case {
        flow,
        theirs,
        ours,
        prediction,
        claimants: claimants(load, flow),
        unknown,
    };
    let difference = DIFFERENCES
        .iter()
        .find(|difference| (difference.applies)(&case));
    difference
        .map(|difference| Some(difference.name))
        .ok_or_else(|| say("not the same"))
}

/// Whether what was seen is what is predicted. kube-proxy does not leave out the masquerading that
/// nodegate does.
pub(crate) fn agrees(
    flow: &Flow,
    seen: &Seen,
    prediction: &Prediction,
    elides: bool,
) -> Result<(), String> {
    let only = |outcome: Outcome| {
        if seen.keys().eq([&outcome]) {
            Ok(())
        } else {
            Err(format!("the explanation is {outcome:?}"))
        }
    };
    match prediction.verdict {
        Verdict::Pass => {
            let untouched = answers(seen).all(|(at, _)| at == flow.to);
            untouched
                .then_some(())
                .ok_or("it was translated".to_owned())
        }
        Verdict::Reject => only(Outcome::Refused),
        Verdict::Drop if prediction.by_socket && elides => {
            only(Outcome::Failed(libc::EHOSTUNREACH))
        }
        Verdict::Drop => only(Outcome::Silence),
        Verdict::Forward => {
            if let Some(other) = seen.keys().find(|o| !matches!(o, Outcome::Answered { .. })) {
                return Err(format!("{other:?}, but there are backends"));
            }
            for (at, from) in answers(seen) {
                let Some(masquerade) = prediction.masquerade.get(&at) else {
                    return Err(format!("{at} is none of its backends"));
                };
                let own = flow.source.address(flow.family());
                let nodes = match masquerade {
                    // What ends on the node itself does not pass POSTROUTING.
                    Masquerade::Yes if is_nodes(at.ip()) => own.is_none(),
                    Masquerade::Yes => true,
                    Masquerade::No => own.is_none(),
                    Masquerade::Elided => own.is_none() || !elides,
                };
                if nodes != is_nodes(from) || (!nodes && Some(from) != own) {
                    return Err(format!("{at} saw {from}, explained as {masquerade:?}"));
                }
            }
            let met: BTreeSet<_> = answers(seen).map(|(at, _)| at).collect();
            if flow.affinity {
                return if met.len() == 1 {
                    Ok(())
                } else {
                    Err(format!("the client did not stay: {met:?}"))
                };
            }
            let missing: Vec<_> = prediction
                .masquerade
                .keys()
                .filter(|at| !met.contains(at))
                .collect();
            if missing.is_empty() || met.len() >= ENOUGH {
                Ok(())
            } else {
                Err(format!("never met: {missing:?}"))
            }
        }
    }
}
