use std::time::Duration;

use nodegate_model::gateway::{Balancing, HashKey, HashTable, Locality, LocalityPolicy, Warmup};

use super::*;
use crate::{cluster::key_hash, fixture::cluster};

fn with(count: u8, change: impl FnOnce(&mut Cluster)) -> Arc<ClusterState> {
    let endpoints: Vec<String> = (0..count).map(|last| format!("10.0.0.{last}:80")).collect();
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    let mut model = cluster("web", &endpoints);
    change(&mut model);
    Arc::new(ClusterState::new(&Arc::new(model), None))
}

fn engage(cluster: &Arc<ClusterState>) -> Engaged {
    cluster.engage(None, &[]).unwrap()
}

fn shares(cluster: &Arc<ClusterState>, turns: usize) -> Vec<usize> {
    let addresses: Vec<_> = cluster.addresses().collect();
    let mut shares = vec![0; addresses.len()];
    for _ in 0..turns {
        let chosen = engage(cluster).address();
        shares[addresses.iter().position(|one| *one == chosen).unwrap()] += 1;
    }
    shares
}

#[test]
fn the_busier_of_two_is_never_chosen() {
    let cluster = with(2, |_| {});
    let first = engage(&cluster);
    let second = engage(&cluster);
    assert_ne!(first.address(), second.address());
    let idle = first.address();
    drop(first);
    for _ in 0..20 {
        assert_eq!(engage(&cluster).address(), idle);
    }
}

#[test]
fn idle_endpoints_share_evenly() {
    for share in shares(&with(4, |_| {}), 4000) {
        assert!(share.abs_diff(1000) < 200, "{share}");
    }
}

#[test]
fn weights_count() {
    for balancing in [Balancing::LeastRequest, Balancing::RoundRobin] {
        let cluster = with(2, |model| {
            model.policy.balancing = balancing.clone();
            model.endpoints[1].weight = 3;
        });
        let shares = shares(&cluster, 4000);
        assert!(shares[1].abs_diff(3000) < 200, "{balancing:?} {shares:?}");
    }
}

#[test]
fn round_robin_is_exact() {
    let cluster = with(3, |model| model.policy.balancing = Balancing::RoundRobin);
    assert_eq!(shares(&cluster, 30), [10, 10, 10]);
}

#[test]
fn new_endpoints_start_slowly() {
    let cluster = with(1, |model| {
        model.policy.warmup = Some(Warmup {
            duration: Duration::from_hours(1),
            minimum_percent: 10,
            aggression_milli: 1000,
        });
    });
    // The first has been there for an hour.
    let old = Arc::new(EndpointState {
        since: Instant::now()
            .checked_sub(Duration::from_hours(1))
            .unwrap_or_else(Instant::now),
        ..EndpointState::new(cluster.endpoints[0].address)
    });
    let previous = ClusterState {
        endpoints: vec![old],
        ..Arc::into_inner(cluster).unwrap()
    };
    let mut model = cluster_model(&previous);
    model.endpoints.push(nodegate_model::gateway::Endpoint::new(
        ([10, 0, 0, 9], 80).into(),
    ));
    let next = Arc::new(ClusterState::new(&Arc::new(model), Some(&previous)));
    let shares = shares(&next, 1100);
    assert!(shares[1].abs_diff(100) < 60, "{shares:?}");
}

fn cluster_model(state: &ClusterState) -> Cluster {
    Cluster::clone(&state.model)
}

#[test]
fn what_was_tried_is_avoided_if_it_can_be() {
    let cluster = with(2, |model| model.policy.balancing = Balancing::Random);
    let tried = cluster.addresses().next().unwrap();
    let again = (0..200)
        .filter(|_| cluster.engage(None, &[tried]).unwrap().address() == tried)
        .count();
    assert!(again < 20, "{again}");
    let single = with(1, |_| {});
    assert!(single.engage(None, &[tried]).is_some());
    assert!(with(0, |_| {}).engage(None, &[]).is_none());
}

#[test]
fn one_key_one_endpoint() {
    let cluster = with(5, |model| {
        model.policy.balancing = Balancing::ConsistentHash {
            key: HashKey::SourceIp,
            table: HashTable::Maglev(HashTable::DEFAULT_MAGLEV),
        };
    });
    let hash = Some(key_hash(b"me"));
    let address = |avoid: &[_]| cluster.engage(hash, avoid).unwrap().address();
    let first = address(&[]);
    for _ in 0..20 {
        assert_eq!(address(&[]), first);
    }
    // Another one is asked where that is wished for, and always the same.
    let second = address(&[first]);
    assert_ne!(second, first);
    assert_eq!(address(&[first]), second);
}

/// Whoever fails has no part in it, and another one for each of its keys; localities have their shares.
#[test]
fn keys_stay_within_shares_and_health() {
    let cluster = with(4, |model| {
        model.policy.balancing = Balancing::ConsistentHash {
            key: HashKey::SourceIp,
            table: HashTable::Ring(HashTable::DEFAULT_RING),
        };
        model.policy.outliers = Some(OutlierDetection {
            consecutive_5xx: Some(1),
            max_ejection_percent: 50,
            ..OutlierDetection::default()
        });
        model.policy.locality = Some(LocalityPolicy::default());
        let places = ["a", "a", "b", "b"].map(Locality::parse);
        for (endpoint, place) in model.endpoints.iter_mut().zip(places) {
            endpoint.locality = place;
        }
        model.shares = vec![(Locality::parse("a"), 90), (Locality::parse("b"), 10)];
    });
    let places: Vec<_> = cluster.addresses().collect();
    let of_keys = || -> Vec<usize> {
        let keys = 0..1000_u32;
        let hashes = keys.map(|key| Some(key_hash(&key.to_le_bytes())));
        let found = hashes.map(|hash| cluster.engage(hash, &[]).unwrap().address());
        let at = |address| places.iter().position(|place| *place == address).unwrap();
        found.map(at).collect()
    };
    let before = of_keys();
    assert_eq!(before, of_keys());
    let of_a = before.iter().filter(|at| **at < 2).count();
    assert!(of_a.abs_diff(900) < 60, "{of_a}");
    cluster.observe(&cluster.endpoints[0], Observation::Status(503));
    let after = of_keys();
    assert_eq!(after, of_keys());
    assert!(!after.contains(&0));
    let moved = before.iter().zip(&after);
    let moved = moved.filter(|(was, is)| **was != 0 && was != is).count();
    assert!(moved < 150, "{moved}");
}

#[test]
fn who_fails_is_avoided_but_not_too_many() {
    let cluster = with(4, |model| {
        model.policy.outliers = Some(OutlierDetection {
            consecutive_5xx: Some(2),
            max_ejection_percent: 50,
            ..OutlierDetection::default()
        });
    });
    // Two fail: half of them may be avoided.
    let addresses: Vec<_> = cluster.addresses().collect();
    for failing in [0, 1, 2] {
        for _ in 0..2 {
            cluster.observe(&cluster.endpoints[failing], Observation::Status(503));
        }
    }
    let shares = shares(&cluster, 400);
    assert_eq!(shares[..2], [0, 0], "{addresses:?}");
    assert!(shares[2] > 100 && shares[3] > 100, "{shares:?}");
    // A new configuration doesn't forget.
    let next = Arc::new(ClusterState::new(&cluster.model, Some(&cluster)));
    assert_eq!(self::shares(&next, 100)[..2], [0, 0]);
}

#[test]
fn when_all_are_avoided_there_is_none_unless_that_is_panic() {
    for (panic, wanted) in [(0, false), (50, true)] {
        let cluster = with(2, |model| {
            model.policy.outliers = Some(OutlierDetection {
                consecutive_5xx: Some(1),
                max_ejection_percent: 100,
                min_health_percent: panic,
                ..OutlierDetection::default()
            });
        });
        for endpoint in &cluster.endpoints {
            cluster.observe(endpoint, Observation::Failed);
        }
        assert_eq!(cluster.engage(None, &[]).is_some(), wanted, "{panic}");
    }
}

/// Each connection that comes about is a success of its own, so that only connecting in vain counts
/// (Envoy: `LocalOriginConnectSuccess`).
#[test]
fn what_breaks_after_it_was_reached_is_not_unreachable() {
    for (split, ejected) in [(true, 0), (false, 1)] {
        let cluster = with(2, |model| {
            model.policy.balancing = Balancing::RoundRobin;
            model.policy.outliers = Some(OutlierDetection {
                split,
                consecutive_5xx: Some(2),
                consecutive_local_failures: Some(2),
                max_ejection_percent: 100,
                ..OutlierDetection::default()
            });
        });
        let first = engage(&cluster);
        for _ in 0..4 {
            first.reached();
            first.observe(WorkerIndex { index: 0, count: 1 }, Observation::Failed);
        }
        assert_eq!(cluster.ejected.load(Ordering::Relaxed), ejected, "{split}");
        if split {
            // Two in a row without a connection.
            first.observe(WorkerIndex { index: 0, count: 1 }, Observation::Failed);
            assert_eq!(cluster.ejected.load(Ordering::Relaxed), 1);
        }
    }
}
