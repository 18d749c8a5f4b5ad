use std::collections::BTreeMap;

use super::*;

/// Inserts and removes at random, of few keys and of many, mostly in runs as sorted input has them.
fn change(map: &mut SharedMap<u32, Arc<u32>>, model: &mut BTreeMap<u32, Arc<u32>>, keys: u32) {
    let first = fastrand::u32(0..keys);
    let run = if fastrand::u8(0..8) == 0 { 300 } else { 3 };
    for key in first..first + fastrand::u32(1..=run) {
        if fastrand::u8(0..5) < 3 {
            let value = Arc::new(fastrand::u32(..));
            assert_eq!(
                map.insert(key, Arc::clone(&value)),
                model.insert(key, value)
            );
        } else {
            assert_eq!(map.remove(&key), model.remove(&key));
        }
        assert_eq!(map.get(&key), model.get(&key));
    }
}

/// What the documentation of the fields says.
fn check(map: &SharedMap<u32, Arc<u32>>, model: &BTreeMap<u32, Arc<u32>>) {
    assert!(map.iter().eq(model));
    assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
    for chunk in &*map.chunks {
        assert!((1..=CHUNK).contains(&chunk.len()), "{}", chunk.len());
    }
}

#[test]
fn it_is_a_map() {
    for seed in 0..40 {
        fastrand::seed(seed);
        let keys = [50, 1000, 5000][seed as usize % 3];
        let (mut map, mut model) = (SharedMap::default(), BTreeMap::new());
        assert_eq!((map.get(&0), map.contains_key(&0)), (None, false));
        assert_eq!(map.remove(&0), None);
        for _ in 0..100 {
            change(&mut map, &mut model, keys);
        }
        check(&map, &model);
        let again: SharedMap<_, _> = model.clone().into_iter().rev().collect();
        check(&again, &model);
        assert_eq!(map, again);
    }
}

#[test]
fn it_tells_in_what_versions_differ() {
    for seed in 0..40 {
        fastrand::seed(seed);
        let entries = (0..4000).map(|key| (key * 2, Arc::new(key)));
        let mut model: BTreeMap<u32, Arc<u32>> = entries.collect();
        let mut map: SharedMap<_, _> = model.clone().into_iter().collect();
        let (before, old) = (SharedMap::clone(&map), model.clone());
        for _ in 0..fastrand::usize(0..6) {
            change(&mut map, &mut model, 9000);
        }
        check(&before, &old);
        check(&map, &model);
        let all: std::collections::BTreeSet<_> = old.keys().chain(model.keys()).collect();
        let expected: Vec<_> = all
            .into_iter()
            .map(|key| Change {
                key,
                before: old.get(key),
                after: model.get(key),
            })
            .filter(|change| match (change.before, change.after) {
                (Some(before), Some(after)) => !Arc::ptr_eq(before, after),
                _ => true,
            })
            .collect();
        let found: Vec<_> = map.changes_since(&before).collect();
        assert_eq!(found, expected, "seed {seed}");
        assert_eq!(map == before, old == model);
    }
}

#[test]
fn a_change_costs_its_chunk() {
    let before: SharedMap<u32, Arc<u32>> = (0..50_000).map(|key| (key, Arc::new(key))).collect();
    let mut map = before.clone();
    map.insert(31_337, Arc::new(0));
    let pairs = before.chunks.iter().zip(&*map.chunks);
    assert_eq!(pairs.filter(|(old, new)| !Arc::ptr_eq(old, new)).count(), 1);
    // Only the entries of that chunk are compared.
    let looks = std::cell::Cell::new(0);
    let differences = map.differences(&before, |one, two| {
        looks.set(looks.get() + 1);
        Arc::ptr_eq(one, two)
    });
    assert_eq!(differences.count(), 1);
    assert!(looks.get() <= CHUNK, "{}", looks.get());
}
