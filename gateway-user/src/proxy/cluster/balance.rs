//! Which endpoint is next.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use super::{ClusterState, hash::Hashing, tiers::Tiers, warmup};
use crate::model::gateway::{Balancing, Cluster};
use crate::route::Split;

/// How often another endpoint is drawn when one has been tried already (Envoy's
/// `host_selection_retry_max_attempts`, as Istio sets it).
const REDRAWS: usize = 5;

/// A policy, made ready.
#[derive(Debug)]
pub(crate) enum Balancer {
    LeastRequest,
    RoundRobin(Split),
    Random,
    Hash(Hashing),
}

impl Balancer {
    pub(crate) fn new(model: &Arc<Cluster>, tiers: Option<&Tiers>) -> Self {
        match &model.policy.balancing {
            // Behind a gateway there is no address that the client wanted other than our own.
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

impl ClusterState {
    /// Index of the next endpoint.
    pub(crate) fn choose(&self, hash: Option<u64>, avoid: &[SocketAddr]) -> Option<usize> {
        let hashing = match &self.balancer {
            Balancer::Hash(hashing) => Some(hashing),
            _ => None,
        };
        // Whoever has no key has any.
        let hash = hash.unwrap_or_else(|| fastrand::u64(..));
        let mut index = None;
        for attempt in 0..=REDRAWS {
            index = match hashing {
                Some(hashing) => hashing.find(&self.usable_by_hash(hashing, hash), hash, attempt),
                None => self.choose_among(self.usable().as_deref()),
            };
            if index.is_none_or(|index| !avoid.contains(&self.endpoints[index].address)) {
                break;
            }
        }
        index
    }

    /// Index of the next endpoint of those that may be used; none stands for all.
    fn choose_among(&self, usable: Option<&[usize]>) -> Option<usize> {
        let count = usable.map_or(self.endpoints.len(), <[usize]>::len);
        if count == 0 {
            return None;
        }
        let at = |place: usize| usable.map_or(place, |usable| usable[place]);
        if count == 1 {
            return Some(at(0));
        }
        Some(match &self.balancer {
            Balancer::LeastRequest => match self.uneven(usable) {
                Some(shares) => at(draw(&shares, |place| self.load(at(place)))),
                None => self.least_of_two(at, count),
            },
            Balancer::RoundRobin(split) => {
                if let Some(shares) = self.uneven(usable).filter(|_| self.is_warming()) {
                    return Some(at(draw(&shares, |_| 0)));
                }
                self.round(split, usable, count)
            }
            Balancer::Random | Balancer::Hash(_) => at(fastrand::usize(..count)),
        })
    }

    /// Of two different ones at random the one with less to do; the first if both have as much.
    // Envoy: LeastRequestLoadBalancer with `choice_count: 2`.
    fn least_of_two(&self, at: impl Fn(usize) -> usize, count: usize) -> usize {
        let first = fastrand::usize(..count);
        let second = (first + fastrand::usize(1..count)) % count;
        let (first, second) = (at(first), at(second));
        if self.load(second) < self.load(first) {
            second
        } else {
            first
        }
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
        for _ in 0..self.endpoints.len() * 2 {
            let index = split.pick(turn());
            if usable.contains(&index) {
                return index;
            }
        }
        usable[(turn() % count as u64) as usize]
    }

    fn load(&self, index: usize) -> u32 {
        self.endpoints[index].active()
    }

    fn has_even_weights(&self) -> bool {
        let mut weights = self.model.endpoints.iter().map(|one| one.weight);
        let first = weights.next();
        weights.all(|weight| Some(weight) == first)
    }

    /// Whether any endpoint is so new that it doesn't get its full share.
    fn is_warming(&self) -> bool {
        let now = Instant::now();
        self.model.policy.warmup.as_ref().is_some_and(|policy| {
            self.endpoints
                .iter()
                .any(|endpoint| now.duration_since(endpoint.since) < policy.duration)
        })
    }

    /// The shares of those that may be used, unless they are even.
    fn uneven(&self, usable: Option<&[usize]>) -> Option<Vec<f64>> {
        if self.model.policy.warmup.is_none() && self.has_even_weights() {
            return None;
        }
        let now = Instant::now();
        let share = |index: usize| {
            let weight = f64::from(self.model.endpoints[index].weight);
            match &self.model.policy.warmup {
                Some(policy) => {
                    weight * warmup::share(policy, now.duration_since(self.endpoints[index].since))
                }
                None => weight,
            }
        };
        let shares: Vec<f64> = match usable {
            Some(usable) => usable.iter().map(|&index| share(index)).collect(),
            None => (0..self.endpoints.len()).map(share).collect(),
        };
        let first = shares.first().copied().unwrap_or_default();
        shares
            .iter()
            .any(|share| (share - first).abs() > f64::EPSILON)
            .then_some(shares)
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
