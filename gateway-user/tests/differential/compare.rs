//! What came of the flows on both nodes, and what must have.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::ensure;
use gateway_common::{
    decide::{Masquerade, Reason, Verdict},
    maps::Settings,
};
use nodegate::model::service::{IpFamily, ServicePort};

use crate::{
    agent::{Outcome, Seen},
    core::{Prediction, Tables},
    flows::{ENOUGH, Flow, Source, lanes},
    sides::{Load, Sides, is_nodes},
};

/// A connection that is refused by a process of the node itself hears of it with the second SYN, after
/// a second: the first error comes while `connect()` still holds the socket (`tcp_v4_err`).
const PATIENCE: Duration = Duration::from_millis(1_600);
/// The second look at what is not as it should be.
const MORE_PATIENCE: Duration = Duration::from_millis(4_000);

/// A way in which nodegate means to be different from kube-proxy.
pub(crate) struct Difference {
    pub(crate) name: &'static str,
    pub(crate) reason: &'static str,
    /// Whether this is it.
    applies: fn(&Case<'_>) -> bool,
}

/// All of them: the only tolerance of these tests. `docs/differences.md` has the same list.
pub(crate) const DIFFERENCES: [Difference; 9] = [
    Difference {
        name: "sockets-keep-their-source",
        reason: "a pod's socket connects to the backend itself, so replies need no masquerading, and \
                 the backend sees the pod where kube-proxy shows it the node",
        applies: |case| {
            case.flow.source == Source::Pod && case.same_backends() && case.ours_keep_source()
        },
    },
    Difference {
        name: "the-node-comes-from-the-address-towards-the-backend",
        reason: "a process's source address is chosen for where its socket connects to: the backend, \
                 where with kube-proxy it is the frontend",
        applies: |case| {
            let nodes = |seen: &Seen| answers(seen).all(|(_, from)| is_nodes(from));
            case.flow.source == Source::Node
                && case.same_backends()
                && nodes(case.theirs)
                && nodes(case.ours)
        },
    },
    Difference {
        name: "sockets-hear-of-drops",
        reason: "where kube-proxy drops the packets of a connection, a socket gets EHOSTUNREACH at once \
                 instead of waiting for its time-out",
        applies: |case| {
            let told = Outcome::Failed(libc::EHOSTUNREACH);
            case.prediction.verdict == Verdict::Drop
                && case.prediction.by_socket
                && case.is_dropped()
                && case.ours.keys().eq([&told])
        },
    },
    Difference {
        name: "unknown-ports-of-cluster-ips-are-refused",
        reason: "a cluster IP is nobody's address; a socket that asks for a port that its Service does \
                 not have gets ECONNREFUSED, where kube-proxy lets packets go to wherever the \
                 default route leads",
        applies: |case| {
            case.prediction.reason == Reason::NoSuchPort
                && case.prediction.by_socket
                && case.ours.keys().eq([&Outcome::Refused])
        },
    },
    Difference {
        name: "the-node-is-refused-too",
        reason: "kube-proxy refuses in OUTPUT what is for a cluster IP only: a process of the node that \
                 connects to an external IP without endpoints waits, and nodegate refuses it",
        applies: |case| {
            case.prediction.reason == Reason::NoEndpoints
                && case.flow.source == Source::Node
                && case.is_dropped()
                && case.ours.keys().eq([&Outcome::Refused])
        },
    },
    Difference {
        name: "only-served-node-ports-are-dropped",
        reason: "kube-proxy's DROP for a node port without local endpoints is for all of the node's \
                 addresses, those too on which it serves none (::1, or others than \
                 --nodeport-addresses); nodegate leaves these to whoever listens there",
        applies: |case| {
            let ip = case.flow.to.ip();
            case.prediction.verdict == Verdict::Pass
                && case.is_dropped()
                && (ip.is_loopback() || is_nodes(ip))
                && case.ours.keys().eq([&Outcome::Refused])
        },
    },
    Difference {
        name: "a-frontend-claimed-twice-goes-to-the-first-by-name",
        reason: "where two Services claim an address and port, the one whose rule comes first wins with \
                 kube-proxy, and that changes with every sync",
        applies: |case| {
            case.claimants.len() > 1
                && answers(case.theirs).count() == case.theirs.len()
                && answers(case.theirs).all(|(at, _)| {
                    let has = |service: &&ServicePort| {
                        service
                            .endpoints
                            .iter()
                            .any(|endpoint| endpoint.socket() == at)
                    };
                    case.claimants.iter().any(has)
                })
        },
    },
    Difference {
        name: "the-node-and-each-pod-are-one-client",
        reason: "a socket has no address yet when its backend is chosen, so session affinity goes by its \
                 network namespace, where kube-proxy goes by the packets' source: a node's process that \
                 connects to its node port by another address of the node may get another backend",
        // Two flows are needed to see it: `chance::affinity` does.
        applies: |_| false,
    },
    Difference {
        name: "pods-are-known-in-both-families",
        reason: "kube-proxy knows pods of the families that --cluster-cidr has a network of; nodegate \
                 knows this node's by their devices and network namespaces",
        applies: |case| {
            case.unknown.as_ref().is_some_and(|unknown| {
                agrees(case.flow, case.theirs, unknown, false).is_ok()
                    || (case.is_dropped() && unknown.verdict == Verdict::Drop)
            })
        },
    },
];

/// What is known of a flow that went differently on the two nodes.
pub(crate) struct Case<'c> {
    flow: &'c Flow,
    theirs: &'c Seen,
    ours: &'c Seen,
    prediction: &'c Prediction,
    /// Services that have this address and port.
    claimants: Vec<&'c ServicePort>,
    /// What would be done if pods were not known, where kube-proxy does not know them.
    unknown: Option<Prediction>,
}

impl Case<'_> {
    fn same_backends(&self) -> bool {
        let backends =
            |seen: &Seen| -> BTreeSet<SocketAddr> { answers(seen).map(|(at, _)| at).collect() };
        let (theirs, ours) = (backends(self.theirs), backends(self.ours));
        let known = |at: &SocketAddr| self.prediction.masquerade.contains_key(at);
        if self.flow.affinity {
            return theirs.len() == 1 && ours.len() == 1 && theirs.iter().all(known);
        }
        theirs == ours && !ours.is_empty()
    }

    /// Everybody sees the pod here; there, the pod or the node.
    fn ours_keep_source(&self) -> bool {
        let own = self.flow.source.address(self.flow.family());
        answers(self.ours).all(|(_, from)| Some(from) == own)
            && answers(self.theirs).all(|(_, from)| Some(from) == own || is_nodes(from))
    }

    /// EPERM is what sendto() says when netfilter drops what is sent.
    fn is_dropped(&self) -> bool {
        let mut theirs = self.theirs.keys();
        theirs.all(|seen| matches!(seen, Outcome::Silence | Outcome::Failed(libc::EPERM)))
    }
}

fn answers(seen: &Seen) -> impl Iterator<Item = (SocketAddr, IpAddr)> {
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
        judge(&tables, load, &flows[index], &predictions[index], result)
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
        let second = go(sides, &flows, &predicted, MORE_PATIENCE)?;
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

/// Whether what happened is what had to; which difference explains that it is not the same on both.
fn judge(
    tables: &Tables,
    load: &Load,
    flow: &Flow,
    prediction: &Prediction,
    Both { theirs, ours }: &Both,
) -> Result<Option<&'static str>, String> {
    let say = |what: &str| {
        format!(
            "{flow}: {what}\n  kube-proxy: {theirs:?}\n  nodegate:   {ours:?}\n  explained:  {prediction:?}"
        )
    };
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
        claimants: load
            .services
            .iter()
            .filter(|service| flow.is_for(service))
            .collect(),
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
fn agrees(flow: &Flow, seen: &Seen, prediction: &Prediction, elides: bool) -> Result<(), String> {
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
