//! Consistent hashing: the same key leads to the same endpoint, and when endpoints come and go few
//! keys move.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use nodegate_model::gateway::{Cluster, Endpoint, HashTable, Locality};
use xxhash_rust::xxh64::xxh64;

/// Most points of a ring, and entries of a table (Envoy's `maximum_ring_size`).
const LARGEST: u64 = 8 << 20;

/// How many sets of endpoints have a ring at the same time: each priority's, whole and without those that
/// are avoided at the moment.
const MOST_RINGS: usize = 8;

/// The hash of a key.
// Envoy: HashPolicyImpl, which hashes values with xxHash64 of seed 0.
pub(crate) fn key_hash(key: &[u8]) -> u64 {
    xxh64(key, 0)
}

/// The endpoints of a cluster by hash: a ring for each set of them that may be asked. Endpoints that are
/// avoided have no part in it, as with Envoy (ThreadAwareLoadBalancerBase::refresh), which makes new ones
/// whenever an endpoint's health changes.
#[derive(Debug)]
pub(crate) struct Hashing {
    table: HashTable,
    model: Arc<Cluster>,
    /// All endpoints of the cluster.
    all: Box<[usize]>,
    rings: ArcSwap<Vec<Arc<Known>>>,
}

/// A ring, and what it was made for.
#[derive(Debug)]
struct Known {
    members: Box<[usize]>,
    ring: HashRing,
}

impl Hashing {
    /// Makes rings for these sets of endpoints: places among the cluster's, ascending. Others are made
    /// when they are asked for.
    pub(crate) fn new(
        table: HashTable,
        model: &Arc<Cluster>,
        sets: impl IntoIterator<Item = Box<[usize]>>,
    ) -> Self {
        let hashing = Self {
            table,
            model: Arc::clone(model),
            all: (0..model.endpoints.len()).collect(),
            rings: ArcSwap::default(),
        };
        let rings = sets.into_iter().map(|members| hashing.known(members));
        hashing.rings.store(Arc::new(rings.collect()));
        hashing
    }

    /// The set of all endpoints.
    pub(crate) fn all(&self) -> &[usize] {
        &self.all
    }

    /// The endpoint of a hash among `members`; another one, or perhaps the same, for each further `attempt`.
    pub(crate) fn find(&self, members: &[usize], hash: u64, attempt: usize) -> Option<usize> {
        let rings = self.rings.load();
        if let Some(known) = rings.iter().find(|known| *known.members == *members) {
            return known.ring.find(hash, attempt);
        }
        let new = self.known(members.into());
        self.rings.rcu(|rings| {
            let kept = rings.len().saturating_sub(MOST_RINGS - 1);
            let mut rings = rings[kept..].to_vec();
            rings.push(Arc::clone(&new));
            rings
        });
        new.ring.find(hash, attempt)
    }

    fn known(&self, members: Box<[usize]>) -> Arc<Known> {
        let ring = HashRing::new(self.table, &shares(&self.model, &members));
        Arc::new(Known { members, ring })
    }
}

/// An endpoint and its part of the keys, between 0 and 1.
#[derive(Clone, Copy, Debug)]
struct Share<'m> {
    at: usize,
    endpoint: &'m Endpoint,
    part: f64,
}

/// What goes to each of `members`, which are of one priority: by what they weigh, and where localities
/// count, by that within each locality. What localities weigh doesn't depend on which of their endpoints
/// are among the members.
// Envoy: normalizeWeights, normalizeLocalityWeights and normalizeHostWeights of
// source/extensions/load_balancing_policies/common/thread_aware_lb_impl.cc; in the same order, so that
// rounding is the same.
fn shares<'m>(model: &'m Cluster, members: &[usize]) -> Vec<Share<'m>> {
    let Some(&first) = members.first() else {
        return Vec::new();
    };
    // Envoy has hosts in the order of their localities.
    let mut places: BTreeMap<&Locality, Vec<usize>> = BTreeMap::new();
    for &at in members {
        let place = places.entry(&model.endpoints[at].locality).or_default();
        place.push(at);
    }
    let mut shares = Vec::with_capacity(members.len());
    let mut add = |members: &[usize], part: f64| {
        let weight = |at: usize| model.endpoints[at].weight;
        let sum: u64 = members.iter().map(|&at| u64::from(weight(at))).sum();
        shares.extend(members.iter().map(|&at| Share {
            at,
            endpoint: &model.endpoints[at],
            part: f64::from(weight(at)) * part / sum as f64,
        }));
    };
    if model.policy.locality.is_none() {
        let members: Vec<usize> = places.into_values().flatten().collect();
        add(&members, 1.0);
        return shares;
    }
    let weights = model.locality_weights(model.endpoints[first].priority);
    let sum: u64 = weights.values().sum();
    for (place, members) in places {
        let weight = weights.get(place).copied().unwrap_or_default();
        if weight > 0 {
            add(&members, weight as f64 / sum as f64);
        }
    }
    shares
}

/// Endpoints by hash.
#[derive(Debug)]
enum HashRing {
    /// Points, sorted, and the endpoint of each.
    Ring(Box<[(u64, u32)]>),
    /// The endpoint of each entry.
    Maglev(Box<[u32]>),
}

impl HashRing {
    fn new(table: HashTable, shares: &[Share<'_>]) -> Self {
        match table {
            HashTable::Ring(size) => Self::ring(size.min(LARGEST), shares),
            HashTable::Maglev(size) => Self::maglev(size.clamp(1, LARGEST), shares),
        }
    }

    /// The endpoint of a hash.
    // Envoy: RingHashLoadBalancer::Ring::chooseHost and MaglevTable::chooseHost.
    fn find(&self, hash: u64, attempt: usize) -> Option<usize> {
        match self {
            Self::Ring(points) => {
                let at = points.partition_point(|(point, _)| *point < hash);
                let at = if at == points.len() { 0 } else { at };
                let (_, owner) = points.get((at + attempt) % points.len().max(1))?;
                Some(*owner as usize)
            }
            Self::Maglev(entries) => {
                let hash = match attempt as u64 {
                    0 => hash,
                    attempt => hash ^ (u64::MAX - attempt + 1),
                };
                let at = hash.checked_rem(entries.len() as u64)?;
                entries.get(at as usize).map(|owner| *owner as usize)
            }
        }
    }

    /// Each endpoint has points in proportion to its share, at least `size` in all.
    // Envoy: RingHashLoadBalancer::Ring: the smallest endpoint has a whole number of points.
    #[expect(
        clippy::cast_sign_loss,
        reason = "shares and sizes are not negative, and neither are their products"
    )]
    fn ring(size: u64, shares: &[Share<'_>]) -> Self {
        let smallest = shares.iter().map(|share| share.part).fold(1.0, f64::min);
        let scale = ((smallest * size as f64).ceil() / smallest).min(LARGEST as f64);
        let mut points = Vec::with_capacity(scale.ceil() as usize);
        let (mut current, mut target) = (0.0, 0.0);
        for share in shares {
            target += scale * share.part;
            let mut copy = 0;
            while current < target {
                let name = format!("{}_{copy}", share.endpoint.address);
                points.push((key_hash(name.as_bytes()), share.at as u32));
                copy += 1;
                current += 1.0;
            }
        }
        points.sort_unstable();
        Self::Ring(points.into())
    }

    /// Each endpoint in its turn takes the next free entry of its own permutation of all entries.
    // Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", section 3.4;
    // Envoy: OriginalMaglevTable::constructImplementationInternals.
    fn maglev(size: u64, shares: &[Share<'_>]) -> Self {
        let heaviest = shares.iter().map(|share| share.part).fold(0.0, f64::max);
        if heaviest <= 0.0 {
            return Self::Maglev(Box::default());
        }
        // In the order of their text, so that the table doesn't depend on that of the configuration
        // (Envoy: MaglevTable::constructMaglevTableInternal).
        let mut shares: Vec<_> = shares
            .iter()
            .map(|share| (share.endpoint.address.to_string(), *share))
            .collect();
        shares.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut walks: Vec<Walk> = shares
            .iter()
            .map(|(name, share)| Walk::new(name, *share, size))
            .collect();
        let mut entries: Vec<Option<u32>> = vec![None; size as usize];
        let mut free = size;
        let mut iteration = 0.0;
        while free > 0 {
            iteration += 1.0;
            for walk in &mut walks {
                // Lighter endpoints sit out turns.
                if free == 0 || iteration * walk.part < walk.due {
                    continue;
                }
                walk.due += heaviest;
                let entry = loop {
                    let entry = walk.step();
                    if entries[entry].is_none() {
                        break entry;
                    }
                };
                entries[entry] = Some(walk.owner);
                free -= 1;
            }
        }
        Self::Maglev(entries.into_iter().flatten().collect())
    }
}

/// An endpoint's permutation of a table's entries.
#[derive(Debug)]
struct Walk {
    owner: u32,
    size: u64,
    next: u64,
    skip: u64,
    part: f64,
    /// What the endpoint has had, weighed.
    due: f64,
}

impl Walk {
    fn new(name: &str, share: Share<'_>, size: u64) -> Self {
        let skip = xxh64(name.as_bytes(), 1) % size.saturating_sub(1).max(1) + 1;
        Self {
            owner: share.at as u32,
            size,
            next: xxh64(name.as_bytes(), 0) % size,
            // Sizes are primes, and every step leads everywhere. If not, this one still does.
            skip: if gcd(skip, size) == 1 { skip } else { 1 },
            part: share.part,
            due: 0.0,
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
    use nodegate_model::gateway::LocalityPolicy;

    const TABLES: [HashTable; 2] = [HashTable::Ring(1024), HashTable::Maglev(65_537)];

    /// Endpoints 127.0.9.1:9, 127.0.9.2:9, … with their localities and weights.
    fn cluster(endpoints: &[(&str, u32)]) -> Cluster {
        let mut cluster = Cluster::new("c", []);
        for (&(locality, weight), last) in endpoints.iter().zip(1..) {
            cluster.endpoints.push(Endpoint {
                weight,
                locality: Locality::parse(locality),
                ..Endpoint::new(([127, 0, 9, last], 9).into())
            });
        }
        cluster
    }

    fn of_weights(weights: &[u32]) -> Cluster {
        let endpoints: Vec<_> = weights.iter().map(|&weight| ("", weight)).collect();
        cluster(&endpoints)
    }

    /// The rings of a cluster of one priority.
    fn hashing(table: HashTable, cluster: Cluster) -> Hashing {
        let all = (0..cluster.endpoints.len()).collect();
        Hashing::new(table, &Arc::new(cluster), [all])
    }

    /// How many of 10000 keys each endpoint gets.
    fn counts(hashing: &Hashing) -> Vec<usize> {
        let mut counts = vec![0; hashing.all().len()];
        for key in 0..10_000_u32 {
            let hash = key_hash(&key.to_le_bytes());
            counts[hashing.find(hashing.all(), hash, 0).unwrap()] += 1;
        }
        counts
    }

    fn check(hashing: &Hashing, members: &[usize], wanted: [usize; 24]) {
        let found: Vec<_> = (0..24)
            .map(|key| key_hash(format!("key-{key}").as_bytes()))
            .map(|hash| hashing.find(members, hash, 0).unwrap() + 1)
            .collect();
        assert_eq!(found, wanted, "{:?}", hashing.table);
    }

    /// What an Envoy 1.40.0 with the same endpoints answers for the keys `key-0` to `key-23`.
    #[test]
    fn keys_lead_where_they_lead_with_envoy() {
        let flat = of_weights(&[1, 1, 2]);
        for (table, wanted) in TABLES.into_iter().zip([
            [
                3, 3, 3, 3, 2, 1, 3, 3, 3, 3, 3, 3, 2, 1, 3, 2, 1, 1, 2, 3, 3, 1, 2, 2,
            ],
            [
                3, 3, 1, 3, 3, 1, 3, 1, 3, 3, 1, 2, 2, 2, 3, 2, 1, 2, 3, 2, 1, 2, 3, 3,
            ],
        ]) {
            check(&hashing(table, flat.clone()), &[0, 1, 2], wanted);
        }
    }

    /// The same, with 10, 60 and 30 parts for three localities; and while the third endpoint is avoided.
    #[test]
    fn localities_have_their_shares_as_with_envoy() {
        let mut places = cluster(&[("asia", 1), ("eu", 1), ("eu", 3), ("us", 1), ("us", 1)]);
        places.policy.locality = Some(LocalityPolicy::default());
        places.shares = [("asia", 10), ("eu", 60), ("us", 30)]
            .map(|(place, share)| (Locality::parse(place), share))
            .into();
        let ring = hashing(HashTable::Ring(1024), places.clone());
        check(
            &ring,
            &[0, 1, 2, 3, 4],
            [
                3, 5, 3, 5, 2, 3, 2, 4, 4, 5, 5, 5, 5, 2, 3, 4, 3, 4, 2, 5, 3, 3, 4, 4,
            ],
        );
        check(
            &ring,
            &[0, 1, 3, 4],
            [
                2, 5, 2, 5, 2, 4, 2, 4, 2, 5, 5, 2, 2, 2, 5, 4, 2, 4, 2, 5, 2, 2, 4, 4,
            ],
        );
        let maglev = hashing(HashTable::Maglev(65_537), places.clone());
        check(
            &maglev,
            &[0, 1, 2, 3, 4],
            [
                5, 3, 4, 4, 3, 3, 3, 3, 3, 3, 1, 2, 2, 2, 3, 4, 1, 2, 3, 2, 1, 2, 3, 3,
            ],
        );
        check(
            &maglev,
            &[0, 1, 3, 4],
            [
                5, 5, 4, 4, 2, 2, 4, 2, 4, 4, 1, 2, 2, 2, 2, 2, 1, 2, 2, 2, 2, 2, 5, 2,
            ],
        );
        for table in TABLES {
            let counts = counts(&hashing(table, places.clone()));
            for (count, wanted) in counts.iter().zip([1000, 1500, 4500, 1500, 1500]) {
                assert!(count.abs_diff(wanted) < wanted / 4, "{table:?} {counts:?}");
            }
        }
    }

    #[test]
    fn keys_spread_by_weight() {
        for table in TABLES {
            let counts = counts(&hashing(table, of_weights(&[1, 1, 2])));
            for (count, wanted) in counts.iter().zip([2500, 2500, 5000]) {
                assert!(count.abs_diff(wanted) < wanted / 4, "{table:?} {counts:?}");
            }
        }
    }

    #[test]
    fn few_keys_move_when_an_endpoint_goes() {
        for table in TABLES {
            let hashing = hashing(table, of_weights(&[1; 5]));
            let moved = (0..10_000_u32)
                .filter(|key| {
                    let hash = key_hash(&key.to_le_bytes());
                    let was = hashing.find(hashing.all(), hash, 0).unwrap();
                    was != 4 && hashing.find(&[0, 1, 2, 3], hash, 0) != Some(was)
                })
                .count();
            assert!(moved < 1000, "{table:?}: {moved}");
        }
    }

    #[test]
    fn only_members_are_found_however_many_sets_there_are() {
        for table in [
            HashTable::Ring(64),
            HashTable::Maglev(7),
            HashTable::Maglev(8),
        ] {
            let hashing = hashing(table, of_weights(&[1; 20]));
            for key in 0..50_u8 {
                let hash = key_hash(&[key]);
                for only in 0..20 {
                    assert_eq!(hashing.find(&[only], hash, 0), Some(only));
                }
                assert_eq!(hashing.find(&[], hash, 0), None);
            }
            assert_eq!(hashing.rings.load().len(), MOST_RINGS);
        }
    }

    #[test]
    fn further_attempts_lead_elsewhere() {
        for table in TABLES {
            let hashing = hashing(table, of_weights(&[1; 5]));
            let hash = key_hash(b"me");
            let first = hashing.find(hashing.all(), hash, 0);
            let others = (1..6).map(|attempt| hashing.find(hashing.all(), hash, attempt));
            assert!(others.into_iter().any(|other| other != first), "{table:?}");
        }
    }
}
