//! Which endpoint is next.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use nodegate_model::gateway::{Balancing, Cluster};
use nodegate_values::split::Split;

use super::{endpoint::EndpointState, hash::Hashing, tiers::Tiers, warmup};

/// Chooses among the endpoints of a cluster.
#[derive(Debug)]
pub(super) struct Balancer {
    policy: Policy,
    model: Arc<Cluster>,
    /// The turns that round robin has taken.
    position: Arc<AtomicU64>,
}

/// A policy, with what it needs.
#[derive(Debug)]
enum Policy {
    LeastRequest,
    RoundRobin(Split),
    Random,
    Hash(Hashing),
}

impl Balancer {
    /// Takes turns where the previous one of the same cluster was.
    pub(super) fn new(
        model: &Arc<Cluster>,
        tiers: Option<&Tiers>,
        previous: Option<&Self>,
    ) -> Self {
        Self {
            policy: Policy::new(model, tiers),
            model: Arc::clone(model),
            position: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.position)),
        }
    }

    /// Consistent hashing, if that is the policy.
    pub(super) fn hashing(&self) -> Option<&Hashing> {
        match &self.policy {
            Policy::Hash(hashing) => Some(hashing),
            Policy::LeastRequest | Policy::RoundRobin(_) | Policy::Random => None,
        }
    }

    /// The index of the next endpoint of those that may be used: of all if none are named.
    pub(super) fn choose(
        &self,
        endpoints: &[Arc<EndpointState>],
        usable: Option<&[usize]>,
    ) -> Option<usize> {
        let count = usable.map_or(endpoints.len(), <[usize]>::len);
        if count == 0 {
            return None;
        }
        let at = |place: usize| usable.map_or(place, |usable| usable[place]);
        if count == 1 {
            return Some(at(0));
        }
        Some(match &self.policy {
            Policy::LeastRequest => match self.uneven(endpoints, usable) {
                Some(shares) => at(draw(&shares, |place| endpoints[at(place)].active())),
                None => least_of_two(endpoints, at, count),
            },
            Policy::RoundRobin(split) => {
                let uneven = self.uneven(endpoints, usable);
                if let Some(shares) = uneven.filter(|_| self.is_warming(endpoints)) {
                    return Some(at(draw(&shares, |_| 0)));
                }
                self.round(split, usable, count)
            }
            Policy::Random | Policy::Hash(_) => at(fastrand::usize(..count)),
        })
    }

    /// One after the other.
    fn round(&self, split: &Split, usable: Option<&[usize]>, count: usize) -> usize {
        let turn = || self.position.fetch_add(1, Ordering::Relaxed);
        if self.has_even_weights() {
            let place = (turn() % count as u64) as usize;
            return usable.map_or(place, |usable| usable[place]);
        }
        let Some(usable) = usable else {
            return split.pick(turn());
        };
        for _ in 0..self.model.endpoints.len() * 2 {
            let index = split.pick(turn());
            if usable.contains(&index) {
                return index;
            }
        }
        usable[(turn() % count as u64) as usize]
    }

    fn has_even_weights(&self) -> bool {
        let mut weights = self.model.endpoints.iter().map(|one| one.weight);
        let first = weights.next();
        weights.all(|weight| Some(weight) == first)
    }

    /// Whether any endpoint is so new that it doesn't get its full share.
    fn is_warming(&self, endpoints: &[Arc<EndpointState>]) -> bool {
        let now = Instant::now();
        self.model.policy.warmup.as_ref().is_some_and(|policy| {
            endpoints
                .iter()
                .any(|endpoint| now.duration_since(endpoint.since) < policy.duration)
        })
    }

    /// The shares of the endpoints that may be used, unless they are even.
    fn uneven(
        &self,
        endpoints: &[Arc<EndpointState>],
        usable: Option<&[usize]>,
    ) -> Option<Vec<f64>> {
        if self.model.policy.warmup.is_none() && self.has_even_weights() {
            return None;
        }
        let now = Instant::now();
        let share = |index: usize| {
            let weight = f64::from(self.model.endpoints[index].weight);
            match &self.model.policy.warmup {
                Some(policy) => {
                    weight * warmup::share(policy, now.duration_since(endpoints[index].since))
                }
                None => weight,
            }
        };
        let shares: Vec<f64> = match usable {
            Some(usable) => usable.iter().map(|&index| share(index)).collect(),
            None => (0..endpoints.len()).map(share).collect(),
        };
        let first = shares.first().copied().unwrap_or_default();
        shares
            .iter()
            .any(|share| (share - first).abs() > f64::EPSILON)
            .then_some(shares)
    }
}

impl Policy {
    fn new(model: &Arc<Cluster>, tiers: Option<&Tiers>) -> Self {
        match &model.policy.balancing {
            // A client of a gateway has asked for the gateway's address, which is no endpoint's.
            Balancing::LeastRequest | Balancing::Passthrough => Self::LeastRequest,
            Balancing::RoundRobin => {
                let weights: Vec<u32> = model.endpoints.iter().map(|one| one.weight).collect();
                Self::RoundRobin(Split::new(&weights))
            }
            Balancing::Random => Self::Random,
            Balancing::ConsistentHash { table, .. } => {
                let sets: Vec<Box<[usize]>> = match tiers {
                    None => vec![(0..model.endpoints.len()).collect()],
                    Some(tiers) => tiers.members().map(Into::into).collect(),
                };
                Self::Hash(Hashing::new(*table, model, sets))
            }
        }
    }
}

/// Of two different endpoints at random the one with less to do; the first if both have as much.
// Envoy: LeastRequestLoadBalancer with `choice_count: 2`.
fn least_of_two(
    endpoints: &[Arc<EndpointState>],
    at: impl Fn(usize) -> usize,
    count: usize,
) -> usize {
    let first = fastrand::usize(..count);
    let second = (first + fastrand::usize(1..count)) % count;
    let (first, second) = (at(first), at(second));
    if endpoints[second].active() < endpoints[first].active() {
        second
    } else {
        first
    }
}

/// Draws a place by its share, divided by how much is going on there (Envoy: the weights of
/// LeastRequestLoadBalancer, with `active_request_bias: 1`).
fn draw(shares: &[f64], load: impl Fn(usize) -> u32) -> usize {
    let weight = |place: usize| shares[place] / f64::from(load(place).saturating_add(1));
    let total: f64 = (0..shares.len()).map(weight).sum();
    let mut rest = fastrand::f64() * total;
    for place in 0..shares.len() {
        rest -= weight(place);
        if rest < 0.0 {
            return place;
        }
    }
    shares.len() - 1
}
