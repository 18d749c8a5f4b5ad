//! Which endpoints are asked where some are nearer than others: priorities, and within each the
//! shares of localities.

use std::{borrow::Cow, collections::BTreeMap};

use nodegate_model::gateway::{Cluster, Locality};

/// How much more than their share healthy endpoints may take until others are needed, in percent
/// (Envoy's `overprovisioning_factor`, which Istio leaves as it is).
const OVERPROVISIONING: usize = 140;

/// The endpoints of a cluster by priority and locality.
#[derive(Debug)]
pub(crate) struct Tiers(Vec<Tier>);

/// Endpoints of one priority.
#[derive(Debug)]
struct Tier {
    /// Their places among the cluster's endpoints, ascending.
    members: Vec<usize>,
    groups: Vec<Group>,
}

/// Endpoints of one priority in one locality.
#[derive(Debug)]
struct Group {
    /// What goes to them, in proportion.
    weight: u64,
    members: Vec<usize>,
}

impl Tiers {
    /// None where all endpoints are equally near and share by their weights alone.
    pub(crate) fn new(model: &Cluster) -> Option<Self> {
        model.policy.locality.as_ref()?;
        let mut tiers: BTreeMap<u32, BTreeMap<&Locality, Vec<usize>>> = BTreeMap::new();
        for (at, endpoint) in model.endpoints.iter().enumerate() {
            let tier = tiers.entry(endpoint.priority).or_default();
            tier.entry(&endpoint.locality).or_default().push(at);
        }
        let single = tiers.values().map(BTreeMap::len).sum::<usize>() <= 1;
        if single {
            return None;
        }
        let tiers = tiers.into_iter().map(|(priority, groups)| {
            let weights = model.locality_weights(priority);
            let groups = groups.into_iter().map(|(locality, members)| Group {
                weight: weights.get(locality).copied().unwrap_or_default(),
                members,
            });
            Tier::new(groups.collect())
        });
        Some(Self(tiers.collect()))
    }

    /// The endpoints of each priority.
    pub(crate) fn members(&self) -> impl Iterator<Item = &[usize]> {
        self.0.iter().map(|tier| tier.members.as_slice())
    }

    /// The endpoints of one priority that may be asked; none where no endpoint is healthy. `random`
    /// chooses the priority, and so sends the same hash to the same one; `panic_below` is
    /// [`OutlierDetection::min_health_percent`](nodegate_model::gateway::OutlierDetection).
    pub(crate) fn of_priority(
        &self,
        random: u64,
        panic_below: u8,
        healthy: impl Fn(usize) -> bool,
    ) -> Cow<'_, [usize]> {
        self.asked(random, panic_below, healthy, |tier| Some(&tier.members))
    }

    /// The endpoints of one priority and one of its localities that may be asked.
    // Envoy: ZoneAwareLoadBalancerBase::hostSourceToUse.
    pub(crate) fn of_locality(
        &self,
        random: u64,
        panic_below: u8,
        healthy: impl Fn(usize) -> bool,
    ) -> Cow<'_, [usize]> {
        self.asked(random, panic_below, &healthy, |tier| {
            let group = match tier.groups.as_slice() {
                [only] => Some(only),
                _ => tier.group(&healthy),
            };
            group.map(|group| group.members.as_slice())
        })
    }

    /// The healthy ones of those that `chosen` names of the priority that is asked; all of the priority
    /// where too few are left.
    fn asked<'t>(
        &'t self,
        random: u64,
        panic_below: u8,
        healthy: impl Fn(usize) -> bool,
        chosen: impl FnOnce(&'t Tier) -> Option<&'t [usize]>,
    ) -> Cow<'t, [usize]> {
        match self.tier(random, panic_below, &healthy) {
            None => Cow::Borrowed(&[]),
            Some((tier, true)) => Cow::Borrowed(&tier.members),
            Some((tier, false)) => usable(chosen(tier).unwrap_or_default(), healthy),
        }
    }

    /// The priority that is asked, and whether all of it is, healthy or not, because too few are left: the
    /// rest would only be overwhelmed.
    // Envoy: LoadBalancerBase::chooseHostSet.
    fn tier(
        &self,
        random: u64,
        panic_below: u8,
        healthy: impl Fn(usize) -> bool,
    ) -> Option<(&Tier, bool)> {
        let counts: Vec<_> = self
            .0
            .iter()
            .map(|tier| count(&tier.members, &healthy))
            .collect();
        let loads = loads(&counts);
        let at = pick(&loads, random);
        let (up, all) = *counts.get(at)?;
        let suffices = counts
            .iter()
            .map(|&(up, all)| availability(up, all))
            .sum::<usize>()
            >= 100;
        let panic = !suffices && up * 100 < usize::from(panic_below) * all;
        Some((self.0.get(at)?, panic))
    }
}

impl Tier {
    fn new(groups: Vec<Group>) -> Self {
        let mut members: Vec<usize> = groups
            .iter()
            .flat_map(|group| &group.members)
            .copied()
            .collect();
        members.sort_unstable();
        Self { members, groups }
    }

    /// A locality by its weight, as far as it is healthy.
    // Envoy: EdfLoadBalancerBase and HostSetImpl::effectiveLocalityWeight.
    fn group(&self, healthy: impl Fn(usize) -> bool) -> Option<&Group> {
        let weights: Vec<usize> = self
            .groups
            .iter()
            .map(|group| {
                let (up, all) = count(&group.members, &healthy);
                usize::try_from(group.weight).unwrap_or(usize::MAX / 1000) * availability(up, all)
            })
            .collect();
        let total: usize = weights.iter().sum();
        if total == 0 {
            return None;
        }
        let mut rest = fastrand::usize(..total);
        let at = weights.iter().position(|&weight| {
            let found = rest < weight;
            rest = rest.saturating_sub(weight);
            found
        });
        self.groups.get(at?)
    }
}

fn usable(members: &[usize], healthy: impl Fn(usize) -> bool) -> Cow<'_, [usize]> {
    if members.iter().all(|&at| healthy(at)) {
        return Cow::Borrowed(members);
    }
    Cow::Owned(members.iter().copied().filter(|&at| healthy(at)).collect())
}

/// How many are healthy, of how many.
fn count(members: &[usize], healthy: impl Fn(usize) -> bool) -> (usize, usize) {
    let up = members.iter().filter(|&&at| healthy(at)).count();
    (up, members.len())
}

/// How much of the load endpoints can take, in percent.
fn availability(up: usize, all: usize) -> usize {
    (OVERPROVISIONING * up)
        .checked_div(all)
        .unwrap_or(0)
        .min(100)
}

/// How much goes to each priority, in percent.
// Envoy: LoadBalancerBase::recalculatePerPriorityState.
fn loads(counts: &[(usize, usize)]) -> Vec<usize> {
    let available: Vec<_> = counts
        .iter()
        .map(|&(up, all)| availability(up, all))
        .collect();
    let total = available.iter().sum::<usize>().min(100);
    let mut loads = vec![0; counts.len()];
    if total == 0 {
        if let Some(first) = loads.first_mut() {
            *first = 100;
        }
        return loads;
    }
    let mut left = 100;
    for (load, available) in loads.iter_mut().zip(&available) {
        *load = left.min(available * 100 / total);
        left -= *load;
    }
    // What rounding has left goes to the first that can take any.
    if let Some(first) = available.iter().position(|&available| available > 0) {
        loads[first] += left;
    }
    loads
}

fn pick(loads: &[usize], random: u64) -> usize {
    let mut rest = (random % 100) as usize;
    let found = loads.iter().position(|&load| {
        let found = rest < load;
        rest = rest.saturating_sub(load);
        found
    });
    found.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nodegate_model::gateway::{Endpoint, LocalityPolicy};

    /// Endpoints `(locality, priority)`.
    fn tiers(places: &[(&str, u32)], shares: &[(&str, u32)]) -> Tiers {
        let mut cluster = Cluster::new("c", []);
        cluster.policy.locality = Some(LocalityPolicy::default());
        for (at, (locality, priority)) in places.iter().enumerate() {
            cluster.endpoints.push(Endpoint {
                locality: Locality::parse(locality),
                priority: *priority,
                ..Endpoint::new(([192, 0, 2, at as u8], 80).into())
            });
        }
        let shares = shares.iter();
        cluster.shares = shares
            .map(|(place, share)| (Locality::parse(place), *share))
            .collect();
        Tiers::new(&cluster).unwrap()
    }

    /// How often each endpoint is among those to choose from, in 1,000 times.
    fn often(tiers: &Tiers, up: &[usize]) -> Vec<usize> {
        let mut counts = vec![0; 8];
        for random in 0..1000 {
            for &at in &*tiers.of_locality(random, 0, |at| up.contains(&at)) {
                counts[at] += 1;
            }
        }
        counts
    }

    #[test]
    fn loads_are_envoy_s() {
        // The table of Envoy's documentation on priority levels.
        for (healthy, wanted) in [
            ([100, 100], [100, 0]),
            ([72, 100], [100, 0]),
            ([71, 100], [99, 1]),
            ([50, 100], [70, 30]),
            ([25, 100], [35, 65]),
            ([0, 100], [0, 100]),
            ([25, 25], [50, 50]),
            ([0, 0], [100, 0]),
        ] {
            let counts = healthy.map(|healthy| (healthy, 100));
            assert_eq!(loads(&counts), wanted, "{healthy:?}");
        }
        // 35, 35 and 28 of 98; what rounding leaves goes to the first.
        assert_eq!(loads(&[(25, 100), (25, 100), (20, 100)]), [37, 35, 28]);
    }

    #[test]
    fn the_near_are_asked_until_they_fail() {
        let tiers = tiers(&[("eu", 0), ("eu", 0), ("us", 1), ("us", 1)], &[]);
        assert_eq!(often(&tiers, &[0, 1, 2, 3])[..4], [1000, 1000, 0, 0]);
        // Of two one is healthy: it takes 70 percent.
        assert_eq!(often(&tiers, &[0, 2, 3])[..4], [700, 0, 300, 300]);
        assert_eq!(often(&tiers, &[2, 3])[..4], [0, 0, 1000, 1000]);
        assert_eq!(often(&tiers, &[])[..4], [0, 0, 0, 0]);
    }

    #[test]
    fn panic_asks_all_of_a_priority() {
        let tiers = tiers(&[("eu", 0), ("eu", 0), ("us", 1)], &[]);
        let none = |_| false;
        assert!(tiers.of_locality(0, 0, none).is_empty());
        assert_eq!(*tiers.of_locality(0, 50, none), [0, 1]);
        // Where the rest suffices nobody panics.
        assert_eq!(*tiers.of_locality(0, 50, |at| at == 2), [2]);
    }

    #[test]
    fn shares_shift_with_health() {
        let tiers = tiers(
            &[("a", 0), ("a", 0), ("b", 0), ("b", 0)],
            &[("a", 80), ("b", 20)],
        );
        let near = |count: usize, wanted: usize| count.abs_diff(wanted) < 80;
        let all = often(&tiers, &[0, 1, 2, 3]);
        assert!(near(all[0], 800) && near(all[2], 200), "{all:?}");
        // One of two: 70 percent of 80 against 20.
        let half = often(&tiers, &[0, 2, 3]);
        assert!(near(half[0], 737) && near(half[2], 263), "{half:?}");
        let one = often(&tiers, &[2, 3]);
        assert_eq!(one[2], 1000);
    }
}
