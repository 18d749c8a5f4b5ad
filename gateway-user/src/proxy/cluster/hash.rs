//! Consistent hashing: the same key leads to the same endpoint, and when endpoints come and go few
//! keys move.

use xxhash_rust::xxh64::xxh64;

use crate::model::gateway::{Endpoint, HashTable};

/// Most points of a ring, and entries of a table (Envoy's `maximum_ring_size`).
const LARGEST: u64 = 8 << 20;

/// The hash of a key.
// Envoy: HashPolicyImpl, which hashes values with xxHash64 of seed 0.
pub(in crate::proxy) fn key_hash(key: &[u8]) -> u64 {
    xxh64(key, 0)
}

/// Endpoints by hash.
#[derive(Debug)]
pub(super) enum HashRing {
    /// Points, sorted, and whose they are.
    Ring(Box<[(u64, u32)]>),
    /// Whose each entry is.
    Maglev(Box<[u32]>),
}

impl HashRing {
    pub(super) fn new(table: HashTable, endpoints: &[Endpoint]) -> Self {
        match table {
            HashTable::Ring(size) => Self::ring(size.min(LARGEST), endpoints),
            HashTable::Maglev(size) => Self::maglev(size.clamp(1, LARGEST), endpoints),
        }
    }

    /// The endpoint of a hash, or the next one that may be used.
    pub(super) fn find(&self, hash: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        match self {
            Self::Ring(points) => {
                let start = points.partition_point(|(point, _)| *point < hash);
                let (before, after) = points.split_at(start);
                after
                    .iter()
                    .chain(before)
                    .map(|(_, owner)| *owner as usize)
                    .find(|owner| usable(*owner))
            }
            Self::Maglev(entries) => {
                if entries.is_empty() {
                    return None;
                }
                let (before, after) = entries.split_at((hash % entries.len() as u64) as usize);
                after
                    .iter()
                    .chain(before)
                    .map(|owner| *owner as usize)
                    .find(|owner| usable(*owner))
            }
        }
    }

    /// Each endpoint has points in proportion to its weight, at least `size` in all.
    // Envoy: RingHashLoadBalancer::Ring: the smallest endpoint has a whole number of points.
    #[expect(
        clippy::cast_sign_loss,
        reason = "weights and sizes are not negative, and neither are their products"
    )]
    fn ring(size: u64, endpoints: &[Endpoint]) -> Self {
        let total: f64 = endpoints.iter().map(|one| f64::from(one.weight)).sum();
        let smallest = endpoints.iter().map(|one| one.weight).min().unwrap_or(1);
        let smallest = f64::from(smallest) / total.max(1.0);
        let scale = ((smallest * size as f64).ceil() / smallest).min(LARGEST as f64);
        let mut points = Vec::with_capacity(scale as usize);
        let (mut current, mut target) = (0_u64, 0.0);
        for (index, endpoint) in endpoints.iter().enumerate() {
            target += scale * f64::from(endpoint.weight) / total;
            let mut copy = 0;
            while (current as f64) < target {
                let name = format!("{}_{copy}", endpoint.address);
                points.push((key_hash(name.as_bytes()), index as u32));
                copy += 1;
                current += 1;
            }
        }
        points.sort_unstable();
        Self::Ring(points.into())
    }

    /// Each endpoint in its turn takes the next free entry of its own permutation of all entries.
    // Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", section 3.4;
    // Envoy: OriginalMaglevTable::constructImplementationInternals.
    fn maglev(size: u64, endpoints: &[Endpoint]) -> Self {
        let Some(heaviest) = endpoints.iter().map(|one| u64::from(one.weight)).max() else {
            return Self::Maglev(Box::default());
        };
        let mut walks: Vec<Walk> = endpoints
            .iter()
            .map(|endpoint| Walk::new(endpoint, size))
            .collect();
        let mut entries: Vec<Option<u32>> = vec![None; size as usize];
        let mut free = size;
        for iteration in 1_u64.. {
            for (index, walk) in walks.iter_mut().enumerate() {
                // Lighter endpoints sit out turns.
                if iteration * walk.weight < walk.due {
                    continue;
                }
                if free == 0 {
                    let entries = entries.into_iter().flatten().collect();
                    return Self::Maglev(entries);
                }
                walk.due += heaviest;
                let entry = loop {
                    let entry = walk.step();
                    if entries[entry].is_none() {
                        break entry;
                    }
                };
                entries[entry] = Some(index as u32);
                free -= 1;
            }
        }
        Self::Maglev(Box::default())
    }
}

/// An endpoint's permutation of a table's entries.
#[derive(Debug)]
struct Walk {
    size: u64,
    next: u64,
    skip: u64,
    weight: u64,
    /// What the endpoint has had, weighed.
    due: u64,
}

impl Walk {
    fn new(endpoint: &Endpoint, size: u64) -> Self {
        let name = endpoint.address.to_string();
        let skip = xxh64(name.as_bytes(), 1) % size.saturating_sub(1).max(1) + 1;
        Self {
            size,
            next: xxh64(name.as_bytes(), 0) % size,
            // Sizes are primes, and every step leads everywhere. If not, this one still does.
            skip: if gcd(skip, size) == 1 { skip } else { 1 },
            weight: u64::from(endpoint.weight),
            due: 0,
        }
    }

    fn step(&mut self) -> usize {
        let entry = self.next;
        self.next = (self.next + self.skip) % self.size;
        entry as usize
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(weights: &[u32]) -> Vec<Endpoint> {
        weights
            .iter()
            .enumerate()
            .map(|(index, &weight)| Endpoint {
                weight,
                ..Endpoint::new(([10, 0, 0, index as u8], 80).into())
            })
            .collect()
    }

    /// How many of 10000 keys each endpoint gets.
    fn shares(ring: &HashRing, count: usize) -> Vec<usize> {
        let mut shares = vec![0; count];
        for key in 0..10_000_u32 {
            let hash = key_hash(&key.to_le_bytes());
            shares[ring.find(hash, |_| true).unwrap()] += 1;
        }
        shares
    }

    #[test]
    fn keys_spread_by_weight() {
        for table in [HashTable::Ring(1024), HashTable::Maglev(65_537)] {
            let ring = HashRing::new(table, &endpoints(&[1, 1, 2]));
            let shares = shares(&ring, 3);
            for (share, wanted) in shares.iter().zip([2500, 2500, 5000]) {
                assert!(share.abs_diff(wanted) < wanted / 4, "{table:?} {shares:?}");
            }
        }
    }

    #[test]
    fn few_keys_move_when_an_endpoint_goes() {
        for table in [HashTable::Ring(1024), HashTable::Maglev(65_537)] {
            let before = HashRing::new(table, &endpoints(&[1; 5]));
            let after = HashRing::new(table, &endpoints(&[1; 4]));
            let moved = (0..10_000_u32)
                .filter(|key| {
                    let hash = key_hash(&key.to_le_bytes());
                    let was = before.find(hash, |_| true).unwrap();
                    was != 4 && after.find(hash, |_| true) != Some(was)
                })
                .count();
            assert!(moved < 1000, "{table:?}: {moved}");
        }
    }

    #[test]
    fn who_may_not_be_used_is_passed_over() {
        for table in [
            HashTable::Ring(64),
            HashTable::Maglev(7),
            HashTable::Maglev(8),
        ] {
            let ring = HashRing::new(table, &endpoints(&[1, 1]));
            for key in 0..50_u8 {
                let hash = key_hash(&[key]);
                assert_eq!(ring.find(hash, |index| index == 1), Some(1));
                assert_eq!(ring.find(hash, |_| false), None);
            }
            let empty = HashRing::new(table, &[]);
            assert_eq!(empty.find(1, |_| true), None);
        }
    }
}
