extern crate std;

use std::{
    boxed::Box,
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    vec::Vec,
};

use super::*;
use crate::{TCP, mapped};

const NOW: u64 = 1_000_000 * SECOND;

const EMPTY: Record = Record {
    client: [0; 16],
    frontend: [0; 16],
    backend: [0; 16],
    client_port: 0,
    frontend_port: 0,
    backend_port: 0,
    source_port: 0,
    protocol: 0,
    flags: 0,
    client_state: 0,
    backend_state: 0,
    service: 0,
    backend_id: 0,
    reserved: 0,
    client_seen: 0,
    backend_seen: 0,
};

/// One bucket, whatever the place.
struct Table(Box<Bucket>);

impl Table {
    fn new() -> Self {
        Self(Box::new(Bucket {
            version: 0,
            tags: [0; WAYS],
            records: [EMPTY; WAYS],
        }))
    }

    fn shared(&mut self) -> Shared {
        // SAFETY: the box outlives it in each of these tests.
        unsafe { Shared::new(&raw mut *self.0) }
    }

    fn open(&mut self, record: &Record) -> (Opened, Record) {
        let mut record = *record;
        let tag = ends(&record).place(0).tag;
        let opened = self.shared().open(tag, &mut record, NOW);
        (opened, record)
    }

    fn follow(&mut self, ends: &Ends, what: (bool, u8)) -> (Found, Record) {
        let mut copy = EMPTY;
        let tag = ends.place(0).tag;
        (self.shared().follow(tag, ends, what, NOW, &mut copy), copy)
    }

    fn answer(&mut self, ends: &Ends, state: u8) -> (Found, Record) {
        let mut copy = EMPTY;
        let tag = ends.place(0).tag;
        (self.shared().answer(tag, ends, state, NOW, &mut copy), copy)
    }
}

fn record(client: u8, port: u16, frontend: u8) -> Record {
    Record {
        client: mapped([192, 168, 170, client]),
        frontend: mapped([10, 96, 0, frontend]),
        backend: mapped([10, 10, 1, 4]),
        client_port: port,
        frontend_port: 80,
        backend_port: 8080,
        source_port: port,
        protocol: TCP,
        service: 1,
        backend_id: 1,
        client_seen: NOW,
        ..EMPTY
    }
}

fn ends(record: &Record) -> Ends {
    Ends {
        client: record.client,
        peer: record.frontend,
        client_port: record.client_port,
        peer_port: record.frontend_port,
        protocol: record.protocol,
    }
}

fn answered_ends(record: &Record) -> Ends {
    Ends {
        peer: record.backend,
        client_port: record.source_port,
        peer_port: record.backend_port,
        ..ends(record)
    }
}

#[test]
fn both_directions_find_the_record() {
    let mut table = Table::new();
    let (opened, flow) = table.open(&record(1, 50_000, 1));
    assert_eq!(opened, Opened::Recorded);
    let (found, copy) = table.follow(&ends(&flow), (false, 0));
    assert_eq!((found, copy.backend), (Found::Known, flow.backend));
    let (found, copy) = table.answer(&answered_ends(&flow), 0);
    assert_eq!((found, copy.frontend), (Found::Known, flow.frontend));
    // Not of this flow, in any single respect.
    let good = ends(&flow);
    for other in [
        Ends {
            client: mapped([192, 168, 170, 2]),
            ..good
        },
        Ends {
            peer: mapped([10, 96, 0, 2]),
            ..good
        },
        Ends {
            client_port: 50_001,
            ..good
        },
        Ends {
            peer_port: 81,
            ..good
        },
        Ends {
            protocol: UDP,
            ..good
        },
    ] {
        // Even where the hash says so.
        let (tag, mut copy) = (good.place(0).tag, EMPTY);
        let found = table
            .shared()
            .follow(tag, &other, (false, 0), NOW, &mut copy);
        assert_eq!(found, Found::Others, "{other:?}");
    }
}

#[test]
fn what_the_two_sides_say_is_kept_apart() {
    let mut table = Table::new();
    let (_, flow) = table.open(&record(1, 50_000, 1));
    table.answer(&answered_ends(&flow), Record::CLOSED);
    table.follow(&ends(&flow), (false, Record::CLOSED | Record::RESET));
    let held = *table.0.flows().next().expect("a flow");
    assert_eq!(held.backend_state, Record::CLOSED);
    assert_eq!(held.client_state, Record::CLOSED | Record::RESET);
    assert_eq!((held.client_seen, held.backend_seen), (NOW, NOW));
}

#[test]
fn a_flow_opened_again_has_one_record() {
    let mut table = Table::new();
    table.open(&record(1, 50_000, 1));
    let elsewhere = Record {
        backend: mapped([10, 10, 1, 5]),
        ..record(1, 50_000, 1)
    };
    assert_eq!(table.open(&elsewhere).0, Opened::Recorded);
    assert_eq!(table.0.flows().count(), 1);
    let (_, copy) = table.follow(&ends(&elsewhere), (false, 0));
    assert_eq!(copy.backend, elsewhere.backend);
    // The first backend's late answer is nobody's.
    let late = answered_ends(&record(1, 50_000, 1));
    assert_eq!(table.answer(&late, 0).0, Found::Others);
}

#[test]
fn flows_with_the_same_replies_get_different_ports() {
    let mut table = Table::new();
    let ports: BTreeSet<u16> = (1..=4)
        .map(|frontend| {
            let (opened, flow) = table.open(&record(1, 52_000, frontend));
            assert_eq!(opened, Opened::Recorded);
            assert_eq!(flow.client_port, 52_000);
            // In the same place, or answers would not find it.
            assert_eq!(answered_ends(&flow).place(7), ends(&flow).place(7));
            flow.source_port
        })
        .collect();
    assert_eq!(ports.len(), 4);
    assert_eq!(table.open(&record(1, 52_000, 5)).0, Opened::Clash);
    // To another backend there is no clash.
    let elsewhere = Record {
        backend: mapped([10, 10, 1, 5]),
        ..record(1, 52_000, 6)
    };
    assert_eq!(table.open(&elsewhere).1.source_port, 52_000);
    // The client's own use of a port that was given away.
    let given = *ports.first().expect("four");
    assert_ne!(given, 52_000);
    assert_eq!(table.open(&record(1, given, 7)).0, Opened::Clash);
}

#[test]
fn low_ports_are_not_given() {
    assert_eq!(free_port(443, 0), Some(443));
    for taken in 1..16u32 {
        match free_port(16_384 + 80, taken) {
            Some(port) => assert!(port >= 1024, "{port}"),
            // 80 itself would have been free.
            None => assert_eq!(taken & 0b1101, 0b1101),
        }
    }
}

#[test]
fn a_full_bucket_forgets_what_nobody_answered_then_the_oldest() {
    let mut table = Table::new();
    let mut flows = Vec::new();
    for client in 1..=8u8 {
        let seen = NOW - SECOND * u64::from(client);
        let (opened, flow) = table.open(&Record {
            client_seen: seen,
            ..record(client, 50_000, 1)
        });
        assert_eq!(opened, Opened::Recorded);
        flows.push(flow);
    }
    // All but two are established.
    for (index, held) in table.0.records.iter_mut().enumerate() {
        held.backend_seen = if index == 2 || index == 5 {
            0
        } else {
            held.client_seen
        };
    }
    let unanswered: BTreeSet<_> = [2, 5]
        .map(|index: usize| table.0.records[index].client)
        .into();
    let held = |table: &Table| {
        table
            .0
            .flows()
            .map(|flow| flow.client)
            .collect::<BTreeSet<_>>()
    };
    // The first two newcomers take their places, a third one another newcomer's.
    for client in 101..=102 {
        assert_eq!(table.open(&record(client, 50_000, 1)).0, Opened::Recorded);
    }
    assert!(held(&table).is_disjoint(&unanswered));
    assert_eq!(table.open(&record(103, 50_000, 1)).0, Opened::Recorded);
    for flow in flows
        .iter()
        .filter(|flow| !unanswered.contains(&flow.client))
    {
        assert!(held(&table).contains(&flow.client));
    }
    // When all are established, the one that was silent for longest goes, and it is said.
    for held in &mut table.0.records {
        held.backend_seen = held.client_seen;
    }
    let oldest = flows
        .iter()
        .filter(|flow| !unanswered.contains(&flow.client));
    let oldest = oldest.min_by_key(|flow| flow.client_seen).expect("six");
    assert_eq!(table.open(&record(104, 50_000, 1)).0, Opened::Displaced);
    assert!(!held(&table).contains(&oldest.client));
    assert_eq!(held(&table).len(), WAYS);
}

#[test]
fn flows_end_after_their_time() {
    let seen = |seconds: u64| NOW - seconds * SECOND;
    let flow = |protocol, client, backend, states: (u8, u8)| Record {
        protocol,
        client_seen: seen(client),
        backend_seen: if backend == u64::MAX {
            0
        } else {
            seen(backend)
        },
        client_state: states.0,
        backend_state: states.1,
        ..record(1, 50_000, 1)
    };
    let (closed, never) = (Record::CLOSED, u64::MAX);
    for (record, over, ended) in [
        (flow(TCP, 3600, 3600, (0, 0)), false, false),
        (flow(TCP, 432_001, 432_001, (0, 0)), true, true),
        (flow(TCP, 432_001, 10, (0, 0)), false, false),
        // Nobody answered.
        (flow(TCP, 10, never, (0, 0)), false, false),
        (flow(TCP, 121, never, (0, 0)), true, true),
        // One side has closed: it may hear more.
        (flow(TCP, 121, 121, (closed, 0)), true, true),
        (flow(TCP, 121, 4, (closed, 0)), false, false),
        (flow(TCP, 6, 6, (0, closed)), false, true),
        // Both have.
        (flow(TCP, 2, 2, (closed, closed)), false, true),
        (flow(TCP, 2, 0, (closed, closed)), false, false),
        (flow(UDP, 181, 181, (0, 0)), true, true),
        (flow(UDP, 181, 10, (0, 0)), false, false),
        (flow(UDP, 11, 11, (0, 0)), false, true),
    ] {
        assert_eq!(record.is_over(NOW), over, "{record:?}");
        assert_eq!(record.has_ended(NOW), ended, "{record:?}");
    }
    // Another CPU's clock may be ahead.
    assert!(
        !Record {
            client_seen: NOW + SECOND,
            ..record(1, 1, 1)
        }
        .is_over(NOW)
    );
}

#[test]
fn places_are_spread_and_depend_on_the_seed() {
    let mut load = std::vec![0u32; BUCKETS as usize];
    for client in 0..=255u8 {
        for port in 32_768..33_024u16 {
            let place = ends(&record(client, port, 1)).place(42);
            assert_ne!(place.tag, 0);
            load[place.bucket as usize] += 1;
        }
    }
    // 65,536 flows, two on average: with chance, more than 8 in about one bucket of 4,000.
    let full = load.iter().filter(|load| **load > WAYS as u32).count();
    assert!(full < 30, "{full} buckets overflow");
    let one = ends(&record(1, 50_000, 1));
    assert_ne!(one.place(1).bucket, one.place(2).bucket);
}

#[test]
fn tags_are_found_where_they_are() {
    let tags = [3, 0, 7, 3, 255, 0, 1, 3];
    let all = u64::from_le_bytes(tags);
    for wanted in [0, 1, 3, 7, 255] {
        let mut candidates = bytes_that_are(all, wanted);
        let mut found = BTreeSet::new();
        while candidates != 0 {
            found.insert(lowest(candidates));
            candidates &= candidates - 1;
        }
        let right: BTreeSet<_> = (0..WAYS).filter(|way| tags[*way] == wanted).collect();
        assert!(found.is_superset(&right), "{wanted}: {found:?}");
        assert_eq!(found.first(), right.first());
    }
    assert_eq!(bytes_that_are(all, 9), 0);
}

/// Readers and writers of one bucket at the same time: nobody ever sees half a record.
#[test]
fn nobody_sees_half_a_record() {
    let mut table = Table::new();
    let address = table.shared().0 as usize;
    // SAFETY: the table outlives the threads.
    let shared = move || unsafe { Shared::new(address as *mut Bucket) };
    // All of one tag, each made of one number.
    let uniform = |n: u8| Record {
        client: [n; 16],
        frontend: [n; 16],
        backend: [n; 16],
        service: u32::from(n),
        backend_id: u32::from(n),
        ..record(1, u16::from(n), 1)
    };
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for half in [1..30u8, 30..60] {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Relaxed) {
                    for n in half.clone() {
                        let mut record = uniform(n);
                        shared().open(9, &mut record, NOW);
                        shared().forget(9, &ends(&uniform(n.wrapping_sub(3))), &mut record);
                    }
                }
            });
        }
        let (mut known, mut torn) = (0, 0);
        for n in (1..60).cycle().take(20_000_000) {
            let (mut copy, wanted) = (EMPTY, uniform(n));
            match shared().follow(9, &ends(&wanted), (false, 0), NOW, &mut copy) {
                Found::Known => {
                    known += 1;
                    let whole = copy.backend == wanted.backend && copy.service == wanted.service;
                    torn += u32::from(!whole);
                }
                // Its owner may be waiting for a processor.
                Found::Busy => thread::yield_now(),
                _ => {}
            }
            if known == 500 {
                break;
            }
        }
        over.store(true, Relaxed);
        assert_eq!(torn, 0);
        assert!(known > 0, "the reader saw nothing");
    });
}
