//! Shares: how many requests of a route go where, if weights and percentages decide it by chance.
//!
//! With Envoy each request is a throw of dice, and what it does must be likely. nodegate's weights are exact, and what
//! else is chance must be likely, too: also that what one part of a route throws does not follow from another's.

use std::collections::BTreeMap;

use super::{
    Options,
    generate::{ABORTED, Shared, shared},
    names::DOMAIN,
    parts::{Part, Tally},
    request::Request,
    stage::{Pair, Question, Stage},
};

/// How many requests each route gets.
const REQUESTS: usize = 400;
/// How unlikely something must be to be called wrong: the probability's natural logarithm. Of a million routes of an
/// Envoy that does well none is.
const UNLIKELY: f64 = 20.0;
/// How far from its share of any number of requests a destination may be: the sequence that chooses is exact over its
/// whole period, and may begin anywhere.
const OFF: f64 = 2.0;

/// What became of the requests of a route: how often each outcome was there.
pub(super) type Counts = BTreeMap<String, usize>;

/// Compares a route for every ten cases.
pub(super) fn compare(stage: &mut Stage, options: &Options) -> anyhow::Result<Tally> {
    let mut tally = Tally::new(Part::Shares);
    let routes: Vec<_> = (0..options.cases.div_ceil(10).clamp(8, 60))
        .map(|number| (format!("s{number}"), shared(options.seed, number)))
        .collect();
    let cases: Vec<_> = routes
        .iter()
        .map(|(name, route)| (name.clone(), &route.case))
        .collect();
    let there = stage.apply(&cases)?.there;
    let routes: Vec<_> = routes
        .into_iter()
        .filter(|(name, _)| there.contains(name))
        .collect();
    let counts = count(stage, &routes)?;
    let unlikely: Vec<_> = routes
        .into_iter()
        .zip(counts)
        .filter(|((_, route), counts)| !faults(route, counts).is_empty())
        .map(|(named, _)| named)
        .collect();
    tally.add("routes", there.len());
    tally.add("requests to each", REQUESTS);
    // What is chance does not come twice.
    let again = count(stage, &unlikely)?;
    for ((name, route), counts) in unlikely.iter().zip(again) {
        for fault in faults(route, &counts) {
            tally.differs(format!("{name}: {fault}: {}", described(route)));
        }
    }
    Ok(tally)
}

/// Asks both, and counts.
fn count(stage: &Stage, routes: &[(String, Shared)]) -> anyhow::Result<Vec<[Counts; 2]>> {
    let requests: Vec<_> = routes
        .iter()
        .map(|(name, _)| Request {
            method: "GET".into(),
            target: "/".into(),
            version: "HTTP/1.1",
            host: format!("{name}.{DOMAIN}"),
            ..Request::default()
        })
        .collect();
    let questions: Vec<_> = routes
        .iter()
        .zip(&requests)
        .map(|((name, _), request)| Question { name, request })
        .collect();
    let answered = stage.repeat(&questions, REQUESTS)?;
    let counted = answered.into_iter().map(|pair| {
        pair.map(|outcomes| {
            let mut counts = Counts::new();
            for outcome in outcomes {
                let mut endpoints: Vec<_> =
                    outcome.reports.iter().map(|one| one.endpoint).collect();
                endpoints.sort_unstable();
                let key = if endpoints.is_empty() {
                    outcome.status.to_string()
                } else {
                    endpoints.join(" and ")
                };
                *counts.entry(key).or_default() += 1;
            }
            counts
        })
    });
    Ok(counted.collect())
}

/// What must not be in what was counted with Istio, and with nodegate.
fn faults(route: &Shared, [istio, nodegate]: &[Counts; 2]) -> Vec<String> {
    let mut all = Vec::new();
    for (who, counts) in [("Istio", istio), ("nodegate", nodegate)] {
        all.extend(improbable(route, counts).map(|what| format!("with {who} {what}")));
    }
    all.extend(inexact(route, nodegate).map(|what| format!("with nodegate {what}")));
    all
}

/// Outcomes that are there too often or too seldom.
fn improbable<'a>(route: &Shared, counts: &'a Counts) -> impl Iterator<Item = String> + use<'a> {
    let total: usize = counts.values().sum();
    let shares = shares(route);
    let foreign: Vec<_> = counts
        .keys()
        .filter(|key| !shares.contains_key(*key))
        .map(|key| format!("something went to {key}"))
        .collect();
    let known = shares.into_iter().filter_map(move |(key, share)| {
        let count = counts.get(&key).copied().unwrap_or(0);
        (surprise(count, total, share) > UNLIKELY)
            .then(|| format!("{count} of {total} went to {key}, whose share is {share:.3}"))
    });
    foreign.into_iter().chain(known)
}

/// Destinations that have not their share. What is aborted had its turn, too: which of them those are is chance.
fn inexact<'a>(route: &'a Shared, counts: &'a Counts) -> impl Iterator<Item = String> + 'a {
    let of = |endpoint: &str| -> usize {
        let counts = counts.iter();
        let own = counts.filter(|(key, _)| key.split(" and ").any(|one| one == endpoint));
        own.map(|(_, count)| count).sum()
    };
    let counted: Vec<_> = route.weights.iter().map(|(name, _)| of(name)).collect();
    let total: usize = counted.iter().sum();
    let sum: u32 = route.weights.iter().map(|(_, weight)| weight).sum();
    let weights = route.weights.iter().zip(counted);
    let is_exact = route.aborted == 0.0;
    weights.filter_map(move |((endpoint, weight), count)| {
        let exact = number(total) * f64::from(*weight) / f64::from(sum);
        (is_exact && (number(count) - exact).abs() > OFF)
            .then(|| format!("{endpoint} got {count} of {total}, and not {exact:.1}"))
    })
}

/// The share of each outcome.
fn shares(route: &Shared) -> BTreeMap<String, f64> {
    let sum: u32 = route.weights.iter().map(|(_, weight)| weight).sum();
    let (aborted, mirrored) = (route.aborted / 100.0, route.mirrored / 100.0);
    let mut shares = BTreeMap::from([(ABORTED.to_string(), aborted)]);
    for (endpoint, weight) in &route.weights {
        let share = (1.0 - aborted) * f64::from(*weight) / f64::from(sum);
        shares.insert((*endpoint).to_owned(), share * (1.0 - mirrored));
        let mut both = [*endpoint, "mirror"];
        both.sort_unstable();
        shares.insert(both.join(" and "), share * mirrored);
    }
    shares
}

/// How unlikely a count is, at least, as the natural logarithm of one over its probability: Chernoff's bound, which is
/// the relative entropy of what was seen to what was to be expected, once for each request.
fn surprise(count: usize, total: usize, share: f64) -> f64 {
    let (count, total) = (number(count), number(total));
    if total == 0.0 {
        return 0.0;
    }
    let term = |seen: f64, expected: f64| {
        if seen == 0.0 {
            0.0
        } else if expected <= 0.0 {
            f64::INFINITY
        } else {
            seen * (seen / (total * expected)).ln()
        }
    };
    term(count, share) + term(total - count, 1.0 - share)
}

/// How often each endpoint was the first to be asked, with Istio and with nodegate; a status, where none was.
pub(super) fn endpoints(pairs: &[Pair]) -> [Counts; 2] {
    [0, 1].map(|side| {
        let mut counts = Counts::new();
        for pair in pairs {
            let outcome = &pair[side];
            let first = outcome.reports.first().map(|one| one.endpoint.to_owned());
            let key = first.unwrap_or_else(|| outcome.status.to_string());
            *counts.entry(key).or_default() += 1;
        }
        counts
    })
}

/// Whether Istio's counts are no surprise if its shares are those that nodegate has, which are exact.
pub(super) fn are_alike([istio, nodegate]: &[Counts; 2]) -> bool {
    let total = istio.values().sum();
    let of = |counts: &Counts, key: &str| counts.get(key).copied().unwrap_or(0);
    let mut keys = istio.keys().chain(nodegate.keys());
    keys.all(|key| likely(of(istio, key), total, of(nodegate, key)))
}

/// Whether a count is no surprise if others had this many of as many.
fn likely(count: usize, total: usize, others: usize) -> bool {
    surprise(count, total, number(others) / number(total)) <= UNLIKELY
}

/// Counts are small.
fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

fn described(route: &Shared) -> String {
    let weights: Vec<_> = route
        .weights
        .iter()
        .map(|(endpoint, weight)| format!("{endpoint} {weight}"))
        .collect();
    format!(
        "weights {}, {} % aborted, {} % mirrored",
        weights.join(", "),
        route.aborted,
        route.mirrored
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::differential::case::Case;

    fn route(weights: &[(&'static str, u32)], aborted: f64, mirrored: f64) -> Shared {
        Shared {
            case: Case {
                objects: Vec::new(),
                requests: Vec::new(),
            },
            weights: weights.to_vec(),
            aborted,
            mirrored,
        }
    }

    fn counts(of: &[(&str, usize)]) -> Counts {
        of.iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect()
    }

    #[test]
    fn what_is_likely_is_no_fault_and_what_is_not_is_one() {
        let route = route(&[("alpha", 90), ("beta", 10)], 0.0, 0.0);
        for (alpha, beta, is_likely) in [(360, 40, true), (340, 60, true), (300, 100, false)] {
            let counts = counts(&[("alpha", alpha), ("beta", beta)]);
            assert_eq!(
                improbable(&route, &counts).count() == 0,
                is_likely,
                "{alpha}"
            );
        }
        let foreign = counts(&[("alpha", 360), ("beta", 39), ("404", 1)]);
        assert_eq!(
            improbable(&route, &foreign).collect::<Vec<_>>(),
            ["something went to 404"]
        );
    }

    #[test]
    fn nodegate_s_weights_are_exact_where_nothing_is_aborted() {
        let exact = counts(&[("alpha", 360), ("beta", 40)]);
        let off = counts(&[("alpha", 355), ("beta", 45)]);
        let whole = route(&[("alpha", 90), ("beta", 10)], 0.0, 0.0);
        assert_eq!(inexact(&whole, &exact).count(), 0);
        assert_eq!(inexact(&whole, &off).count(), 2);
        let thinned = route(&[("alpha", 90), ("beta", 10)], 10.0, 0.0);
        assert_eq!(inexact(&thinned, &off).count(), 0);
    }

    #[test]
    fn mirrors_that_follow_from_the_destination_are_a_fault() {
        let route = route(&[("alpha", 1), ("beta", 1)], 0.0, 50.0);
        let independent = counts(&[
            ("alpha", 100),
            ("alpha and mirror", 100),
            ("beta", 100),
            ("beta and mirror", 100),
        ]);
        assert_eq!(improbable(&route, &independent).count(), 0);
        let following = counts(&[("alpha and mirror", 200), ("beta", 200)]);
        assert_eq!(improbable(&route, &following).count(), 4);
    }

    #[test]
    fn what_cannot_be_is_infinitely_surprising() {
        assert!(surprise(0, 400, 0.0).abs() < f64::EPSILON);
        assert!(surprise(400, 400, 1.0).abs() < f64::EPSILON);
        assert!(surprise(1, 400, 0.0).is_infinite());
    }
}
