//! Where endpoints are → which of them are asked first, and how much goes to each place.
//!
//! As `ApplyLocalityLoadBalancer` of istio's pilot/pkg/networking/core/loadbalancer does it.

use std::collections::{BTreeMap, BTreeSet};

use nodegate_model::gateway::{Distribution, Locality, LocalityPolicy};

use super::members::Members;
use crate::placement::Placement;

/// Sets priorities, or leaves out what gets no share; gives the shares of localities, if there are
/// any.
pub(super) fn apply(
    policy: &LocalityPolicy,
    here: &Placement<'_>,
    members: &mut Members<'_>,
) -> Vec<(Locality, u32)> {
    if !policy.distribute.is_empty() {
        let mut own = policy.distribute.iter();
        let own = own.find(|distribution| here.locality.is_within(&distribution.from));
        return own.map_or_else(Vec::new, |own| distribute(own, members));
    }
    for priority in members.priorities() {
        let (place, of) = priority;
        *of = match policy.failover_priority.as_slice() {
            [] => nearness(policy, &here.locality, &place.locality),
            labels => {
                let first = by_labels(labels, here, place);
                // Regions count only where they are said to (`applyLocalityFailover` after
                // `applyFailoverPriorities`).
                let second = if policy.failover.is_empty() {
                    0
                } else {
                    nearness(policy, &here.locality, &place.locality)
                };
                first * 5 + second
            }
        };
    }
    close_gaps(members);
    Vec::new()
}

/// `applyLocalityWeights`
fn distribute(own: &Distribution, members: &mut Members<'_>) -> Vec<(Locality, u32)> {
    // What a place weighs is what its endpoints weigh together.
    let mut weights: BTreeMap<Locality, u64> = BTreeMap::new();
    for (locality, weight) in members.weights() {
        *weights.entry(locality.clone()).or_default() += u64::from(weight);
    }
    let mut shares = Vec::new();
    for (to, share) in &own.to {
        let (matching, rest): (BTreeMap<_, _>, _) = weights
            .into_iter()
            .partition(|(locality, _)| locality.is_within(to));
        weights = rest;
        let total: u64 = matching.values().sum();
        for (locality, weight) in matching {
            let part = (weight * u64::from(*share)).div_ceil(total.max(1));
            shares.push((locality, u32::try_from(part).unwrap_or(u32::MAX)));
        }
    }
    members.keep(|locality| !weights.contains_key(locality));
    shares
}

/// 0 is the same sub-zone, 1 the same zone, 2 the same region, 3 another one, and 4 another one than
/// that to turn to (`applyLocalityFailover`).
fn nearness(policy: &LocalityPolicy, here: &Locality, there: &Locality) -> u32 {
    if here.region != there.region {
        let to = policy
            .failover
            .iter()
            .find(|(from, _)| *from == here.region);
        return if to.is_some_and(|(_, to)| *to != there.region) {
            4
        } else {
            3
        };
    }
    match (here.zone == there.zone, here.subzone == there.subzone) {
        (true, true) => 0,
        (true, false) => 1,
        (false, _) => 2,
    }
}

/// How many labels, from the first that differs on, are left (`applyFailoverPriorityPerLocality`).
fn by_labels(labels: &[String], here: &Placement<'_>, there: &Placement<'_>) -> u32 {
    let differing = labels.iter().position(|label| {
        let (key, wanted) = match label.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (label.as_str(), here.label(label)),
        };
        wanted.unwrap_or_default() != there.label(key).unwrap_or_default()
    });
    differing.map_or(0, |at| (labels.len() - at) as u32)
}

/// Priorities without gaps, from 0 on, as Envoy wants them.
fn close_gaps(members: &mut Members<'_>) {
    let used: BTreeSet<u32> = members.priorities().map(|(_, of)| *of).collect();
    let used: Vec<u32> = used.into_iter().collect();
    for (_, of) in members.priorities() {
        *of = used.binary_search(of).unwrap_or_default() as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::borrow::Cow;

    use nodegate_model::gateway::Endpoint;

    fn place(text: &str) -> Placement<'static> {
        Placement {
            locality: Locality::parse(text),
            ..Placement::default()
        }
    }

    fn members(places: &[(&str, u32)]) -> Members<'static> {
        let mut members = Members::default();
        for (at, (locality, weight)) in places.iter().enumerate() {
            let address = ([192, 0, 2, at as u8], 80).into();
            let place = place(locality);
            let endpoint = Endpoint {
                weight: *weight,
                locality: place.locality.clone(),
                ..Endpoint::new(address)
            };
            members.endpoints.push((place, endpoint));
        }
        members
    }

    fn priorities(members: &mut Members<'_>) -> Vec<u32> {
        members.priorities().map(|(_, of)| *of).collect()
    }

    const PLACES: [(&str, u32); 6] = [
        ("eu/a/1", 1),
        ("eu/a/2", 1),
        ("eu/b", 1),
        ("us/a", 1),
        ("asia", 1),
        ("", 1),
    ];

    #[test]
    fn near_ones_come_first() {
        let mut all = members(&PLACES);
        let shares = apply(&LocalityPolicy::default(), &place("eu/a/1"), &mut all);
        assert_eq!(priorities(&mut all), [0, 1, 2, 3, 3, 3]);
        assert_eq!(shares, []);

        let to_us = LocalityPolicy {
            failover: vec![("eu".into(), "us".into())],
            ..LocalityPolicy::default()
        };
        let mut all = members(&PLACES);
        apply(&to_us, &place("eu/b"), &mut all);
        assert_eq!(priorities(&mut all), [1, 1, 0, 2, 3, 3]);
    }

    #[test]
    fn labels_may_say_what_is_near() {
        let labels = |text: &str| BTreeMap::from([("version".to_owned(), text.to_owned())]);
        let (one, two) = (labels("1"), labels("2"));
        let policy = LocalityPolicy {
            failover_priority: vec![
                "topology.kubernetes.io/region".into(),
                "version=1".into(),
                "kubernetes.io/hostname".into(),
            ],
            ..LocalityPolicy::default()
        };
        let mut all = members(&[("eu", 1), ("eu", 1), ("us", 1), ("eu", 1)]);
        for (at, (labels, node)) in [(&one, "n1"), (&two, "n1"), (&one, "n1"), (&one, "n2")]
            .into_iter()
            .enumerate()
        {
            all.endpoints[at].0.labels = Some(Cow::Borrowed(labels));
            all.endpoints[at].0.node = Some(node);
        }
        let here = Placement {
            node: Some("n1"),
            ..place("eu")
        };
        apply(&policy, &here, &mut all);
        assert_eq!(priorities(&mut all), [0, 2, 3, 1]);
    }

    #[test]
    fn shares_of_places() {
        let policy = LocalityPolicy {
            distribute: vec![Distribution {
                from: "eu/*".into(),
                to: vec![("eu/a/*".into(), 80), ("us".into(), 20)],
            }],
            ..LocalityPolicy::default()
        };
        let mut all = members(&[("eu/a/1", 3), ("eu/a/2", 1), ("eu/b", 1), ("us/x", 1)]);
        let shares = apply(&policy, &place("eu/b"), &mut all);
        let wanted = [("eu/a/1", 60), ("eu/a/2", 20), ("us/x", 20)];
        assert_eq!(
            shares,
            wanted.map(|(place, share)| (Locality::parse(place), share))
        );
        // What gets no share gets nothing.
        assert_eq!(all.endpoints.len(), 3);

        let mut all = members(&[("eu/a/1", 3), ("eu/b", 1)]);
        assert_eq!(apply(&policy, &place("us"), &mut all), []);
        assert_eq!(all.endpoints.len(), 2);
    }
}
