extern crate std;

use std::{
    boxed::Box,
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    vec::Vec,
};

use super::{
    shared::{bytes_that_are, free_port, lowest},
    *,
};
use crate::{TCP, UDP, mapped};

mod life;
mod state_machine;

const NOW: u32 = state::seconds(1_000_000);

/// One bucket, whatever the place.
struct Table(Box<Bucket>);

impl Table {
    fn new() -> Self {
        Self(Box::new(Bucket {
            version: 0,
            tags: [0; WAYS],
            records: [Record::EMPTY; WAYS],
        }))
    }

    fn shared(&mut self) -> Shared {
        // SAFETY: the box outlives it in each of these tests.
        unsafe { Shared::new(&raw mut *self.0) }
    }

    fn open(&mut self, record: &Record) -> (Opened, Record) {
        let mut record = *record;
        let tag = ends(&record).place(0, BUCKETS).tag;
        let opened = self.shared().open(tag, &mut record, NOW);
        (opened, record)
    }

    fn follow(&mut self, ends: &Ends, said: &Said) -> (Found, Record) {
        let mut copy = Record::EMPTY;
        let tag = ends.place(0, BUCKETS).tag;
        let found = self.shared().follow(tag, ends, said, NOW, &mut copy);
        (found, copy)
    }

    fn answer(&mut self, ends: &Ends, said: &Said) -> (Found, Record) {
        let mut copy = Record::EMPTY;
        let tag = ends.place(0, BUCKETS).tag;
        let found = self.shared().answer(tag, ends, said, NOW, &mut copy);
        (found, copy)
    }
}

/// A segment without payload.
fn said(kind: Kind, sequence: u32, acknowledged: u32) -> Said {
    let counts = matches!(kind, Kind::Opens | Kind::Accepts | Kind::Closes);
    Said {
        sequence,
        end: sequence.wrapping_add(counts.into()),
        acknowledged,
        window: 65_535,
        kind,
        scale: 0,
    }
}

const SYN: u32 = 1_000_000_000;
const ANSWER: u32 = 3_000_000_000;

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
        ..opened()
    }
}

/// With a SYN.
fn opened() -> Record {
    let mut record = Record {
        protocol: TCP,
        ..Record::EMPTY
    };
    record.begin(&said(Kind::Opens, SYN, 0), NOW);
    record
}

/// With a handshake.
fn established(record: &Record) -> Record {
    let mut record = *record;
    let answer = said(Kind::Accepts, ANSWER, SYN + 1);
    assert_eq!(record.answer(&answer, NOW), Answered::Moved);
    let taken_up = said(Kind::Continues, SYN + 1, ANSWER + 1);
    assert_eq!(record.hear(&taken_up, NOW), Heard::Moved);
    assert_eq!(record.state(), State::Established);
    record
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
    let again = said(Kind::Opens, SYN, 0);
    let (found, copy) = table.follow(&ends(&flow), &again);
    assert_eq!((found, copy.backend), (Found::Known, flow.backend));
    let answer = said(Kind::Accepts, ANSWER, SYN + 1);
    let (found, copy) = table.answer(&answered_ends(&flow), &answer);
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
        let (tag, mut copy) = (good.place(0, BUCKETS).tag, Record::EMPTY);
        let found = table.shared().follow(tag, &other, &again, NOW, &mut copy);
        assert_eq!(found, Found::Others, "{other:?}");
    }
}

#[test]
fn what_the_two_sides_say_is_kept_apart() {
    let mut table = Table::new();
    let (_, flow) = table.open(&record(1, 50_000, 1));
    let held = |table: &Table| *table.0.flows().next().expect("a flow");
    table.answer(&answered_ends(&flow), &said(Kind::Accepts, ANSWER, SYN + 1));
    assert_eq!(held(&table).state(), State::Answered);
    table.follow(&ends(&flow), &said(Kind::Continues, SYN + 1, ANSWER + 1));
    assert_eq!(held(&table).state(), State::Established);
    table.answer(
        &answered_ends(&flow),
        &said(Kind::Closes, ANSWER + 1, SYN + 1),
    );
    assert_eq!(held(&table).backend_state & Record::CLOSED, Record::CLOSED);
    assert_eq!(held(&table).client_state & Record::CLOSED, 0);
    table.follow(&ends(&flow), &said(Kind::Resets, SYN + 1, 0));
    assert_eq!(held(&table).client_state & Record::RESET, Record::RESET);
    assert_eq!(held(&table).backend_state & Record::RESET, 0);
    assert_eq!(
        (held(&table).ahead.seen, held(&table).back.seen),
        (NOW, NOW)
    );
    // The record is what followed in the copies, word by word.
    let mut expected = established(&record(1, 50_000, 1));
    expected.answer(&said(Kind::Closes, ANSWER + 1, SYN + 1), NOW);
    expected.hear(&said(Kind::Resets, SYN + 1, 0), NOW);
    assert_eq!(held(&table), expected);
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
    let again = said(Kind::Opens, SYN, 0);
    let (_, copy) = table.follow(&ends(&elsewhere), &again);
    assert_eq!(copy.backend, elsewhere.backend);
    // The first backend's late answer is nobody's.
    let late = answered_ends(&record(1, 50_000, 1));
    let answer = said(Kind::Accepts, ANSWER, SYN + 1);
    assert_eq!(table.answer(&late, &answer).0, Found::Others);
}

/// The endpoint has a connection from the same port, which was not seen to begin: its packets are that
/// one's, but for an ACK that may answer the SYN. The new connection gets another port when it is opened
/// once more.
#[test]
fn a_port_that_the_backend_knows_from_another_connection_is_not_used() {
    let mut table = Table::new();
    let (_, flow) = table.open(&record(1, 50_000, 1));
    let of_the_other = said(Kind::Continues, 77, 88);
    for expected in [Found::Known, Found::Others, Found::Others] {
        let answered = table.answer(&answered_ends(&flow), &of_the_other);
        assert_eq!(answered.0, expected);
    }
    let again = said(Kind::Opens, SYN, 0);
    assert_eq!(table.follow(&ends(&flow), &again).0, Found::Stale);
    let (opened, flow) = table.open(&record(1, 50_000, 1));
    assert_eq!(opened, Opened::Recorded);
    assert_ne!(flow.source_port, 50_000);
    assert_eq!(table.0.flows().count(), 1);
    assert_eq!(
        table
            .answer(&answered_ends(&flow), &said(Kind::Accepts, 9, SYN + 1))
            .0,
        Found::Known
    );
    assert_eq!(table.follow(&ends(&flow), &again).0, Found::Known);
}

#[test]
fn a_flow_past_services_is_told_from_one_that_has_the_same_replies() {
    let mut table = Table::new();
    let (_, flow) = table.open(&established(&record(1, 50_000, 1)));
    let direct = Ends {
        client_port: 50_000,
        ..answered_ends(&flow)
    };
    let tag = direct.place(0, BUCKETS).tag;
    let mut copy = Record::EMPTY;
    let shared = table.shared();
    assert_eq!(shared.collides(tag, &direct, NOW, &mut copy), Collides::Yes);
    // To another endpoint, or from another port, there is nothing to tell.
    for other in [
        Ends {
            peer: mapped([10, 10, 1, 5]),
            ..direct
        },
        Ends {
            client_port: 50_001,
            ..direct
        },
    ] {
        assert_eq!(shared.collides(tag, &other, NOW, &mut copy), Collides::No);
    }
    let past = Record {
        frontend: flow.backend,
        frontend_port: flow.backend_port,
        flags: Record::FLAG_DIRECT,
        ..record(1, 50_000, 1)
    };
    let (opened, past) = table.open(&past);
    assert_eq!(opened, Opened::Recorded);
    assert_ne!(past.source_port, 50_000);
    assert_eq!(table.0.flows().count(), 2);
    // When the first one has been reset, its record is in nobody's way.
    table.follow(&ends(&flow), &said(Kind::Resets, SYN + 1, 0));
    let shared = table.shared();
    assert_eq!(shared.collides(tag, &direct, NOW, &mut copy), Collides::No);
    assert_eq!(table.0.flows().count(), 1);
}

#[test]
fn what_began_here_leaves_a_clients_flow_alone() {
    let mut table = Table::new();
    let datagrams = Record {
        protocol: UDP,
        ..record(1, 50_000, 1)
    };
    let ours = Record {
        backend: datagrams.frontend,
        backend_port: datagrams.frontend_port,
        flags: Record::FLAG_OURS,
        ..datagrams
    };
    let (opened, flow) = table.open(&ours);
    assert_eq!((opened, flow.source_port), (Opened::Recorded, 50_000));
    assert_eq!(table.open(&datagrams).0, Opened::Recorded);
    assert_eq!(table.open(&ours).0, Opened::Clash);
    let held = table.0.flows().map(|flow| flow.flags).collect::<Vec<_>>();
    assert_eq!(held, [0]);
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
            let place = |ends: Ends| ends.place(7, BUCKETS);
            assert_eq!(place(answered_ends(&flow)), place(ends(&flow)));
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
    for taken in 1..16u64 {
        match free_port(16_384 + 80, taken) {
            Some(port) => assert!(port >= 1024, "{port}"),
            // 80 itself would have been free.
            None => assert_eq!(taken & 0b1110, 0b1110),
        }
    }
}

#[test]
fn a_full_bucket_forgets_what_is_over_then_openings_then_datagrams_and_never_connections() {
    let seen = |age: u64, record: Record| Record {
        ahead: Side {
            seen: NOW - state::seconds(age),
            ..record.ahead
        },
        back: Side {
            seen: NOW - state::seconds(age),
            ..record.back
        },
        ..record
    };
    let mut reset = established(&record(1, 50_000, 1));
    reset.hear(&said(Kind::Resets, SYN + 1, 0), NOW);
    let mut answered = record(2, 50_000, 1);
    answered.answer(&said(Kind::Accepts, ANSWER, SYN + 1), NOW);
    let assured = |client| Record {
        protocol: UDP,
        client_state: Record::SPOKE,
        backend_state: Record::SPOKE,
        ..record(client, 50_000, 1)
    };
    // From the one that goes first to the one that goes last.
    let order = [
        seen(1, reset),
        seen(9, record(3, 50_000, 1)),
        seen(4, answered),
        seen(9, assured(4)),
        seen(3, assured(5)),
        seen(400_000, established(&record(6, 50_000, 1))),
        seen(9, established(&record(7, 50_000, 1))),
        seen(8, established(&record(8, 50_000, 1))),
    ];
    let mut table = Table::new();
    // All of one tag, whatever the protocol.
    for flow in order.iter().rev() {
        assert_eq!(
            table.shared().open(9, &mut { *flow }, NOW),
            Opened::Recorded
        );
    }
    let held = |table: &Table| {
        let flows = table.0.flows();
        flows.map(|flow| flow.client).collect::<BTreeSet<_>>()
    };
    let expected = [
        Opened::Recorded,
        Opened::Recorded,
        Opened::Recorded,
        Opened::Displaced,
        Opened::Displaced,
        Opened::Full,
        Opened::Full,
    ];
    for (number, expected) in (0..).zip(expected) {
        // Established at once, so that the next one does not take its place.
        let newcomer = established(&record(100 + number, 50_000, 1));
        assert_eq!(table.shared().open(9, &mut { newcomer }, NOW), expected);
        let goes = usize::from(number + 1).min(5);
        for (place, flow) in order.iter().enumerate() {
            let stays = held(&table).contains(&flow.client);
            assert_eq!(stays, place >= goes, "{number}: {place}");
        }
    }
    assert_eq!(held(&table).len(), WAYS);
}

#[test]
fn a_flood_of_openings_displaces_only_itself() {
    let mut table = Table::new();
    let kept = established(&record(1, 50_000, 1));
    table.shared().open(9, &mut { kept }, NOW);
    for number in 0..1000u32 {
        let [_, _, a, b] = number.to_be_bytes();
        let mut flow = Record {
            client: mapped([198, 18, a, b]),
            ..record(2, 50_000, 1)
        };
        // The backend answers every second one; nobody takes that up.
        if number % 2 == 0 {
            flow.answer(&said(Kind::Accepts, ANSWER, SYN + 1), NOW);
        }
        assert_eq!(table.shared().open(9, &mut flow, NOW), Opened::Recorded);
    }
    let mut flows = table.0.flows();
    assert!(flows.any(|flow| flow.client == kept.client));
}

#[test]
fn places_are_spread_and_depend_on_the_seed() {
    let mut load = std::vec![0u32; BUCKETS as usize];
    for client in 0..=255u8 {
        for port in 32_768..33_024u16 {
            let place = ends(&record(client, port, 1)).place(42, BUCKETS);
            assert_ne!(place.tag, 0);
            load[place.bucket as usize] += 1;
        }
    }
    // 65,536 flows, two on average: with chance, more than 8 in about one bucket of 4,000.
    let full = load.iter().filter(|load| **load > WAYS as u32).count();
    assert!(full < 30, "{full} buckets overflow");
    let one = ends(&record(1, 50_000, 1));
    let bucket = |seed| one.place(seed, BUCKETS).bucket;
    assert_ne!(bucket(1), bucket(2));
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
    let address = &raw mut *table.0 as usize;
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
            let (mut copy, wanted) = (Record::EMPTY, uniform(n));
            match shared().peek(9, &ends(&wanted), Sender::Client, &mut copy) {
                Search::Way(_) => {
                    known += 1;
                    let whole = copy.backend == wanted.backend && copy.service == wanted.service;
                    torn += u32::from(!whole);
                }
                // Its owner may be waiting for a processor.
                Search::Busy => thread::yield_now(),
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
