//! Changes while requests flow: each answer is that of the objects before a change or of those after it, none is lost,
//! and once a change is seen, it is seen.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use anyhow::Context as _;

use super::{
    Options,
    client::Caller,
    compare::Outcome,
    generate::{Change, VERSION, change},
    names::DOMAIN,
    parts::{Part, Tally},
    request::Request,
    stage::Stage,
};

/// How many hosts change at the same time, each with a client of both gateways.
const HOSTS: u64 = 8;
/// How many answers there are at least before a change, and after it.
const ANSWERS: usize = 10;
/// Both gateways, in the order of all pairs.
const GATEWAYS: [&str; 2] = ["Istio", "nodegate"];

/// What is seen of an answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    status: u16,
    version: String,
    /// The endpoint's name, or what the gateway itself says.
    body: String,
}

/// A host that changes.
struct Changing {
    name: String,
    change: Change,
    request: Request,
}

/// Compares a change for every ten cases, some at a time.
pub(super) fn compare(stage: &mut Stage, options: &Options) -> anyhow::Result<Tally> {
    let mut tally = Tally::new(Part::Changes);
    let all = options.cases.div_ceil(10).max(HOSTS);
    let mut number = 0;
    while number < all {
        let next = all.min(number + HOSTS);
        let hosts: Vec<_> = (number..next)
            .map(|number| Changing::new(options.seed, number))
            .collect();
        batch(stage, &hosts, &mut tally)?;
        number = next;
    }
    Ok(tally)
}

fn batch(stage: &mut Stage, hosts: &[Changing], tally: &mut Tally) -> anyhow::Result<()> {
    let before: Vec<_> = hosts
        .iter()
        .map(|host| (host.name.clone(), &host.change.before))
        .collect();
    let there = stage.apply(&before)?.there;
    let hosts: Vec<_> = hosts
        .iter()
        .filter(|host| there.contains(&host.name))
        .collect();
    let answers = flow(stage, &hosts)?;
    tally.add("changes", hosts.len());
    for (host, pair) in hosts.into_iter().zip(answers) {
        tally.add("requests", pair.iter().map(Vec::len).sum());
        let ends = pair
            .each_ref()
            .map(|answers| (answers.first(), answers.last()));
        if ends[0] != ends[1] {
            tally.differs(format!(
                "{}, {}: {:?} with Istio, {:?} with nodegate",
                host.name, host.change.what, ends[0], ends[1]
            ));
        }
        for (who, answers) in GATEWAYS.into_iter().zip(&pair) {
            let faults = faults(answers);
            if who == "Istio" {
                // What Envoy does in a change is its own.
                tally.add("lost or mixed with Istio", faults.len());
                continue;
            }
            for fault in faults {
                tally.differs(format!("{}, {}: {fault}", host.name, host.change.what));
            }
        }
    }
    Ok(())
}

/// Lets clients ask both gateways all the time, changes the objects, and gives all answers in their order.
fn flow(stage: &Stage, hosts: &[&Changing]) -> anyhow::Result<Vec<[Vec<Seen>; 2]>> {
    let is_over = AtomicBool::new(false);
    let counts: Vec<_> = hosts
        .iter()
        .map(|_| [AtomicUsize::new(0), AtomicUsize::new(0)])
        .collect();
    let enough = || -> anyhow::Result<()> {
        let counts = || {
            counts
                .iter()
                .flatten()
                .map(|count| count.load(Ordering::Relaxed))
        };
        let begun: Vec<_> = counts().collect();
        let come = patience::until(|| {
            let mut pairs = counts().zip(&begun);
            pairs
                .all(|(count, begun)| count >= begun + ANSWERS)
                .then_some(())
        });
        come.context("clients get no answers")
    };
    let (is_over, enough, counts) = (&is_over, &enough, &counts);
    stage.as_client(|| {
        thread::scope(|scope| {
            let mut clients = Vec::new();
            for (host, counts) in hosts.iter().zip(counts) {
                for (gateway, count) in stage.gateways().into_iter().zip(counts) {
                    let client = move || ask(Caller::new(gateway), host, is_over, count);
                    clients.push(scope.spawn(client));
                }
            }
            let after = hosts
                .iter()
                .flat_map(|host| host.change.after.objects(&host.name));
            let after: Vec<_> = after.collect();
            let changed = enough()
                .and_then(|()| stage.change(&after))
                .and_then(|()| enough());
            is_over.store(true, Ordering::Relaxed);
            let mut answers = Vec::new();
            for client in clients {
                let client = client.join();
                answers.push(client.map_err(|_| anyhow::anyhow!("a client panicked"))?);
            }
            changed?;
            let pairs = answers.chunks_exact(2);
            let pairs = pairs.map(|pair| [pair[0].clone(), pair[1].clone()]);
            Ok(pairs.collect())
        })
    })
}

/// One client: asks until it is over.
fn ask(
    mut caller: Caller,
    host: &Changing,
    is_over: &AtomicBool,
    count: &AtomicUsize,
) -> Vec<Seen> {
    let mut answers = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        // A connection that breaks is an answer that is lost.
        let outcome = caller
            .ask(&host.request, &host.name, "")
            .unwrap_or_default();
        answers.push(Seen::of(&outcome));
        count.fetch_add(1, Ordering::Relaxed);
        // Others are to be served, too.
        thread::yield_now();
    }
    answers
}

/// Answers that are neither the first nor the last one, and those that come again after others.
fn faults(answers: &[Seen]) -> Vec<String> {
    let (Some(before), Some(after)) = (answers.first(), answers.last()) else {
        return vec!["no answers".to_owned()];
    };
    let mut faults = Vec::new();
    let foreign: BTreeSet<_> = answers
        .iter()
        .filter(|one| *one != before && *one != after)
        .collect();
    for one in foreign {
        let count = answers.iter().filter(|other| *other == one).count();
        faults.push(format!(
            "{count} × {one:?} between {before:?} and {after:?}"
        ));
    }
    let known = answers.iter().filter(|one| *one == before || *one == after);
    let turned = known.skip_while(|one| *one == before);
    if before != after && turned.into_iter().any(|one| one == before) {
        faults.push(format!("{before:?} again after {after:?}"));
    }
    faults
}

// === impl Changing ===

impl Changing {
    fn new(seed: u64, number: u64) -> Self {
        let name = format!("c{number}");
        Self {
            request: Request {
                method: "GET".into(),
                target: "/".into(),
                version: "HTTP/1.1",
                host: format!("{name}.{DOMAIN}"),
                ..Request::default()
            },
            change: change(seed, number),
            name,
        }
    }
}

// === impl Seen ===

impl Seen {
    fn of(outcome: &Outcome) -> Self {
        let answer = &outcome.answer;
        Self {
            status: outcome.status,
            version: answer.values(VERSION).collect::<Vec<_>>().join(","),
            body: String::from_utf8_lossy(&answer.body).trim().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(status: u16, version: &str) -> Seen {
        Seen {
            status,
            version: version.to_owned(),
            body: String::new(),
        }
    }

    #[test]
    fn one_change_and_nothing_else_is_no_fault() {
        let answers = [seen(200, "1"), seen(200, "1"), seen(200, "2")];
        assert!(faults(&answers).is_empty());
        assert!(faults(&answers[..1]).is_empty());
    }

    #[test]
    fn what_is_lost_mixed_or_turned_back_is_a_fault() {
        let lost = [seen(200, "1"), seen(503, ""), seen(0, ""), seen(200, "2")];
        assert_eq!(faults(&lost).len(), 2);
        let back = [
            seen(200, "1"),
            seen(200, "2"),
            seen(200, "1"),
            seen(200, "2"),
        ];
        assert_eq!(faults(&back).len(), 1);
        assert_eq!(faults(&[]), ["no answers"]);
    }
}
