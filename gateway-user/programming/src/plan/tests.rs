use std::collections::{BTreeMap, BTreeSet};

use gateway_common::{TCP, mapped};
use nodegate_model::service::{IpFamily, Protocol, ServicePortName};

use super::*;

const NODE: Address = mapped([192, 168, 170, 137]);

fn name(name: &str) -> PortKey {
    let name = ServicePortName {
        namespace: "default".into(),
        name: name.into(),
        port: String::new(),
    };
    (name, Protocol::Tcp, IpFamily::V4)
}

fn frontend(last: u8) -> ServiceKey {
    ServiceKey::address(mapped([10, 96, 0, last]), 80, TCP)
}

fn backend(last: u8) -> Backend {
    Backend {
        address: mapped([10, 10, 1, last]),
        port: 8080,
        protocol: TCP,
        flags: Backend::FLAG_LOCAL | Backend::FLAG_IN_CLUSTER_SET,
        service: 0,
    }
}

/// Service ports as (name, last octets of cluster IPs, last octets of backends).
fn desired(services: &[(&str, &[u8], &[u8])]) -> Desired {
    let mut desired = Desired {
        node_addresses: BTreeSet::from([NODE]),
        ..Desired::default()
    };
    for (service, frontends, backends) in services {
        desired
            .guards
            .extend(frontends.iter().map(|last| mapped([10, 96, 0, *last])));
        let service_port = DesiredService {
            frontends: frontends.iter().map(|last| (frontend(*last), 0)).collect(),
            backends: backends.iter().map(|last| backend(*last)).collect(),
            ..DesiredService::default()
        };
        desired.services.insert(name(service), service_port);
    }
    desired
}

fn steps(groups: &[Group]) -> impl Iterator<Item = &Step> {
    groups.iter().flat_map(|group| &group.steps)
}

/// What a packet to the frontend would find: the last octets of the set's backends, or that there
/// is no frontend. Panics on a gap.
fn seen(mirror: &Mirror, key: ServiceKey) -> Option<BTreeSet<u8>> {
    let service = mirror.services.get(&key)?;
    let set = (0..service.cluster)
        .map(|index| {
            let slot = SlotKey {
                service: service.id,
                generation: service.generation,
                index,
            };
            let slot = mirror.slots.get(&slot).expect("the slot exists");
            let backend = mirror.backends.get(&slot.backend);
            let backend = backend.expect("the backend exists");
            assert_eq!((slot.address, slot.port), (backend.address, backend.port));
            slot.address[15]
        })
        .collect();
    Some(set)
}

/// Applies a plan step by step, checking after each that every frontend shows its whole old set or
/// its whole new one.
fn apply(mirror: &mut Mirror, desired: &Desired) -> Vec<Group> {
    let before = mirror.clone();
    let groups = plan(mirror, desired, Capacity::MAPS).groups;
    let mut after = before.clone();
    steps(&groups).for_each(|step| after.note(step));
    let keys: BTreeSet<_> = before
        .services
        .keys()
        .chain(after.services.keys())
        .copied()
        .collect();
    for step in steps(&groups) {
        mirror.note(step);
        for key in &keys {
            let now = seen(mirror, *key);
            assert!(
                now == seen(&before, *key) || now == seen(&after, *key),
                "{key:?} after {step:?}: {now:?}"
            );
        }
    }
    assert_eq!(
        plan(mirror, desired, Capacity::MAPS),
        Plan::default(),
        "a second plan finds nothing to do"
    );
    groups
}

/// The order in which a frontend's backends take turns, as last octets, each with the destination's name.
fn turns(mirror: &Mirror, key: ServiceKey) -> Vec<(u8, String)> {
    let service = mirror.services[&key];
    let slots = (0..service.cluster).map(|index| {
        let slot = mirror.slots[&SlotKey {
            service: service.id,
            generation: service.generation,
            index,
        }];
        let share = ShareKey {
            service: service.id,
            share: slot.share.into(),
        };
        let name = mirror.shares.get(&share).cloned();
        (slot.address[15], name.unwrap_or_default())
    });
    slots.collect()
}

/// `a` with these backends by turns, each with the place of its destination.
fn in_turn(backends: &[u8], destinations: &[&str], order: &[(usize, usize)]) -> Desired {
    let mut desired = desired(&[("a", &[1], backends)]);
    let service = desired.services.get_mut(&name("a")).expect("it is there");
    service.frontends = BTreeMap::from([(frontend(1), Service::FLAG_IN_TURN)]);
    service.shares = Some(Shares {
        destinations: destinations.iter().map(|&name| name.to_owned()).collect(),
        turns: order.to_vec(),
    });
    desired
}

#[test]
fn turns_are_written_in_their_order_and_destinations_keep_their_numbers() {
    let mut mirror = Mirror::default();
    apply(&mut mirror, &desired(&[("a", &[1], &[99])]));
    let first = in_turn(&[11, 12], &["v1", "v2"], &[(0, 0), (0, 0), (1, 1)]);
    let steps_of_first: Vec<_> = steps(&apply(&mut mirror, &first)).cloned().collect();
    let [v1, v2] = ["v1", "v2"].map(str::to_owned);
    let written = [(11, v1.clone()), (11, v1.clone()), (12, v2.clone())];
    assert_eq!(turns(&mirror, frontend(1)), written);
    // What is counted in is there before anybody takes a turn.
    let at = |is: fn(&Step) -> bool| steps_of_first.iter().position(is).expect("a step");
    let frontend_at = at(|step| matches!(step, Step::PutService(..)));
    assert!(at(|step| matches!(step, Step::PutTurn(_))) < frontend_at);
    let numbers = |mirror: &Mirror| -> BTreeMap<String, u32> {
        let shares = mirror.shares.iter();
        shares
            .map(|(key, name)| (name.clone(), key.share))
            .collect()
    };
    let before = numbers(&mirror);

    // v1 goes, v3 comes: v2 keeps its number and what is counted there, and v3 does not get v1's before
    // nobody can count in it any more.
    let second = in_turn(&[12, 13], &["v3", "v2"], &[(0, 1), (1, 0)]);
    apply(&mut mirror, &second);
    let after = numbers(&mirror);
    assert_eq!(after["v2"], before["v2"]);
    assert!(!before.values().any(|number| *number == after["v3"]));
    assert!(!after.contains_key("v1"));
    assert_eq!(
        turns(&mirror, frontend(1)),
        [(12, v2), (13, "v3".to_owned())]
    );

    apply(&mut mirror, &desired(&[("a", &[1], &[99])]));
    assert!(mirror.turns.is_empty() && mirror.shares.is_empty());
}

fn set(last: &[u8]) -> BTreeSet<u8> {
    last.iter().copied().collect()
}

#[test]
fn a_first_plan_writes_everything() {
    let mut mirror = Mirror::default();
    apply(
        &mut mirror,
        &desired(&[("a", &[1, 2], &[11, 12]), ("b", &[3], &[])]),
    );
    assert_eq!(seen(&mirror, frontend(1)), Some(set(&[11, 12])));
    assert_eq!(seen(&mirror, frontend(2)), Some(set(&[11, 12])));
    assert_eq!(seen(&mirror, frontend(3)), Some(set(&[])));
    assert_eq!(
        mirror.services[&frontend(1)].id,
        mirror.services[&frontend(2)].id
    );
    assert_eq!(mirror.node_addresses, BTreeSet::from([NODE]));
    let guard = ServiceKey::guard(mapped([10, 96, 0, 3]));
    assert_eq!(mirror.services[&guard].flags, Service::FLAG_GUARD);
    assert!(!mirror.names.contains_key(&0), "0 means none");
    assert!(!mirror.backends.contains_key(&0), "0 means none");
}

#[test]
fn changing_backends_is_one_replacement_and_leaves_nothing_behind() {
    let mut mirror = Mirror::default();
    apply(&mut mirror, &desired(&[("a", &[1], &[11, 12])]));
    let id = mirror.services[&frontend(1)].id;
    let groups = apply(&mut mirror, &desired(&[("a", &[1], &[12, 13, 14])]));
    assert_eq!(seen(&mirror, frontend(1)), Some(set(&[12, 13, 14])));
    assert_eq!(mirror.services[&frontend(1)].id, id);
    assert_eq!((mirror.slots.len(), mirror.backends.len()), (3, 3));
    let all: Vec<_> = steps(&groups).collect();
    let puts = all
        .iter()
        .filter(|step| matches!(step, Step::PutService(..)))
        .count();
    assert_eq!(puts, 1);
    let barrier = all.iter().position(|step| **step == Step::Barrier).unwrap();
    let first_delete = all
        .iter()
        .position(|step| matches!(step, Step::DeleteSlot(_) | Step::DeleteBackend(_)))
        .unwrap();
    assert!(barrier < first_delete);
}

#[test]
fn to_no_backends_and_back() {
    let mut mirror = Mirror::default();
    for backends in [&[11][..], &[], &[], &[12], &[11]] {
        apply(&mut mirror, &desired(&[("a", &[1], backends)]));
        assert_eq!(seen(&mirror, frontend(1)), Some(set(backends)));
    }
}

#[test]
fn a_frontend_that_changes_hands() {
    let mut mirror = Mirror::default();
    apply(&mut mirror, &desired(&[("a", &[1], &[11])]));
    apply(
        &mut mirror,
        &desired(&[("a", &[2], &[11]), ("b", &[1], &[12])]),
    );
    assert_eq!(seen(&mirror, frontend(1)), Some(set(&[12])));
    assert_eq!(seen(&mirror, frontend(2)), Some(set(&[11])));
}

#[test]
fn removing_all_empties_the_maps() {
    let mut mirror = Mirror::default();
    apply(
        &mut mirror,
        &desired(&[("a", &[1], &[11]), ("b", &[2], &[11])]),
    );
    let nothing = Desired::default();
    apply(&mut mirror, &nothing);
    assert_eq!(mirror, Mirror::default());
}

#[test]
fn a_backend_that_moves_to_another_node_keeps_its_id() {
    let mut mirror = Mirror::default();
    let mut wanted = desired(&[("a", &[1], &[11])]);
    apply(&mut mirror, &wanted);
    let before: Vec<u32> = mirror.backends.keys().copied().collect();
    let service = wanted.services.get_mut(&name("a")).unwrap();
    service.backends[0].flags = Backend::FLAG_IN_CLUSTER_SET;
    apply(&mut mirror, &wanted);
    assert_eq!(mirror.backends.keys().copied().collect::<Vec<_>>(), before);
    let moved = mirror.backends.values().next().unwrap();
    assert_eq!(moved.flags & Backend::FLAG_LOCAL, 0);
    let slots: Vec<_> = mirror.slots.values().collect();
    assert_eq!(
        slots,
        [&Slot::new(before[0], moved)],
        "the old set has gone"
    );
}

#[test]
fn one_endpoint_of_two_services_is_two_backends() {
    let mut mirror = Mirror::default();
    apply(
        &mut mirror,
        &desired(&[("a", &[1], &[11]), ("b", &[2], &[11])]),
    );
    assert_eq!(mirror.backends.len(), 2);
    let left: Vec<u32> = mirror
        .backends
        .iter()
        .filter(|(_, b)| b.service == 2)
        .map(|(id, _)| *id)
        .collect();
    apply(
        &mut mirror,
        &desired(&[("a", &[1], &[]), ("b", &[2], &[11])]),
    );
    assert_eq!(mirror.backends.keys().copied().collect::<Vec<_>>(), left);
}

#[test]
fn source_ranges_are_there_before_their_frontend_and_go_after_it() {
    let mut mirror = Mirror::default();
    let network = (mapped([203, 0, 113, 0]), 121);
    let mut wanted = desired(&[("a", &[1], &[11])]);
    wanted
        .services
        .get_mut(&name("a"))
        .unwrap()
        .source_ranges
        .insert(network);
    let groups = apply(&mut mirror, &wanted);
    let all: Vec<_> = steps(&groups).collect();
    let range = all
        .iter()
        .position(|step| matches!(step, Step::PutSourceRange(..)))
        .unwrap();
    let frontend = all
        .iter()
        .position(|step| matches!(step, Step::PutService(..)))
        .unwrap();
    assert!(range < frontend);
    assert_eq!(mirror.source_ranges, BTreeSet::from([(1, network)]));
    apply(&mut mirror, &desired(&[("a", &[1], &[11])]));
    assert!(mirror.source_ranges.is_empty());
}

/// A plan counts as in force without its garbage; by then nobody may come in who is not to.
#[test]
fn ranges_are_closed_before_a_plan_is_in_force() {
    let of = |octet: u8| (mapped([203, 0, 113, octet]), 121);
    let wanted = |ranges: &[u8]| {
        let mut wanted = desired(&[("a", &[1], &[11])]);
        let service = wanted.services.get_mut(&name("a")).unwrap();
        service.source_ranges = ranges.iter().map(|octet| of(*octet)).collect();
        wanted
    };
    let mut mirror = Mirror::default();
    apply(&mut mirror, &wanted(&[0, 128]));
    let mut replaced = plan(&mirror, &wanted(&[128]), Capacity::MAPS);
    let garbage = replaced.take_garbage();
    assert!(
        replaced
            .steps()
            .any(|step| *step == Step::DeleteSourceRange(1, of(0)))
    );
    assert_eq!(garbage, None);
    // Who lets all in waits: packets under way still look for the ranges.
    let mut opened = plan(&mirror, &wanted(&[]), Capacity::MAPS);
    let garbage = opened.take_garbage().unwrap();
    let deleted = |step: &&Step| matches!(step, Step::DeleteSourceRange(..));
    assert_eq!(garbage.steps.iter().filter(deleted).count(), 2);
    assert_eq!(opened.steps().filter(deleted).count(), 0);
}

/// As when a map was full in the middle: whatever was written of the failed group is cleaned up or
/// used by the next plan.
#[test]
fn a_plan_that_was_cut_short_is_mended_by_the_next() {
    let mut complete = Mirror::default();
    apply(
        &mut complete,
        &desired(&[("a", &[1], &[11]), ("b", &[2], &[12])]),
    );
    let wanted = desired(&[("a", &[1], &[13, 14]), ("b", &[2], &[12])]);
    let total = steps(&plan(&complete, &wanted, Capacity::MAPS).groups).count();
    assert!(total > 4);
    for done in 0..total {
        let mut mirror = complete.clone();
        let groups = plan(&mirror, &wanted, Capacity::MAPS).groups;
        steps(&groups).take(done).for_each(|step| mirror.note(step));
        apply(&mut mirror, &wanted);
        assert_eq!(
            seen(&mirror, frontend(1)),
            Some(set(&[13, 14])),
            "cut after {done}"
        );
        assert_eq!(
            (mirror.slots.len(), mirror.backends.len()),
            (3, 3),
            "cut after {done}"
        );
    }
}

#[test]
fn random_histories() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..200 {
        let mut mirror = Mirror::default();
        for _ in 0..12 {
            let mut owners: BTreeMap<u8, usize> = BTreeMap::new();
            for last in 1..=6 {
                owners.insert(last, random.usize(0..4));
            }
            let names = ["a", "b", "c"];
            let services: Vec<(&str, Vec<u8>, Vec<u8>)> = names
                .iter()
                .enumerate()
                .map(|(number, name)| {
                    let frontends = owners
                        .iter()
                        .filter(|(_, owner)| **owner == number)
                        .map(|(last, _)| *last)
                        .collect();
                    let backends = (11..=15).filter(|_| random.bool()).collect();
                    (*name, frontends, backends)
                })
                .collect();
            let services: Vec<(&str, &[u8], &[u8])> = services
                .iter()
                .filter(|(_, frontends, _)| !frontends.is_empty())
                .map(|(name, frontends, backends)| (*name, &frontends[..], &backends[..]))
                .collect();
            apply(&mut mirror, &desired(&services));
            for (_, frontends, backends) in &services {
                for last in *frontends {
                    assert_eq!(seen(&mirror, frontend(*last)), Some(set(backends)));
                }
            }
        }
    }
}

/// Carries out a plan without checks.
fn carry_out(mirror: &mut Mirror, desired: &Desired, capacity: Capacity) -> Vec<PortKey> {
    let plan = plan(mirror, desired, capacity);
    steps(&plan.groups).for_each(|step| mirror.note(step));
    plan.refused.into_iter().map(|(name, _)| name).collect()
}

#[test]
fn where_room_is_scarce_the_essential_ones_come_first_and_nobody_loses_what_they_had() {
    // Two frontends each (cluster IP and guard), four slots for two backends.
    let capacity = Capacity {
        services: 4,
        slots: 8,
        backends: 4,
    };
    let mut mirror = Mirror::default();
    let mut wanted = desired(&[("a", &[1], &[11, 12]), ("b", &[2], &[11])]);
    assert!(carry_out(&mut mirror, &wanted, capacity).is_empty());

    // A third by name before them finds no room; those that are there stay.
    wanted = desired(&[
        ("Z", &[3], &[11]),
        ("a", &[1], &[11, 12]),
        ("b", &[2], &[11]),
    ]);
    wanted.guards.remove(&mapped([10, 96, 0, 3]));
    let small = Capacity {
        services: 4,
        ..capacity
    };
    assert_eq!(carry_out(&mut mirror, &wanted, small), [name("Z")]);
    assert_eq!(seen(&mirror, frontend(1)), Some(set(&[11, 12])));
    assert_eq!(seen(&mirror, frontend(3)), None);

    // One that grows beyond the room keeps what it had.
    wanted = desired(&[("a", &[1], &[11, 12]), ("b", &[2], &[11, 13, 14, 15])]);
    assert_eq!(carry_out(&mut mirror, &wanted, capacity), [name("b")]);
    assert_eq!(seen(&mirror, frontend(2)), Some(set(&[11])));

    // The gateway takes the room of others.
    wanted = desired(&[
        ("a", &[1], &[11, 12]),
        ("b", &[2], &[11]),
        ("gateway", &[3], &[13]),
    ]);
    wanted.services.get_mut(&name("gateway")).unwrap().essential = true;
    wanted.guards.remove(&mapped([10, 96, 0, 3]));
    let refused = carry_out(&mut mirror, &wanted, capacity);
    assert_eq!(refused, [name("b")]);
    assert_eq!(seen(&mirror, frontend(3)), Some(set(&[13])));
    assert_eq!(seen(&mirror, frontend(1)), Some(set(&[11, 12])));
    assert_eq!(
        seen(&mirror, frontend(2)),
        None,
        "there is no room for both"
    );
}
