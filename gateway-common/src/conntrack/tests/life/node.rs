//! The node: what the kernel programs do with a segment, on a table of one bucket.

extern crate std;

use std::vec::Vec;

use super::{At, Chance, ENDPOINTS, FRONTENDS, Segment};
use crate::{
    TCP,
    conntrack::{
        BUCKETS, Collides, Ends, Found, Kind, Opened, Record, Side, State, state, tests::Table,
    },
    mapped,
};

/// Of all flows.
const TAG: u8 = 9;

pub(super) struct Node {
    table: Table,
    now: u32,
    /// Which endpoints are the Service's.
    pub(super) served: [bool; 2],
    /// How many openings have found no place.
    pub(super) refused: u32,
}

/// What becomes of an opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decided {
    Endpoint(u8),
    /// It is refused.
    Nobody,
    /// No Service has the address.
    NotOurs,
}

fn ends(client: At, peer: At) -> Ends {
    let ends = Ends {
        client: address(client),
        peer: address(peer),
        client_port: client.1,
        peer_port: peer.1,
        protocol: TCP,
    };
    // All that a real table would find in one place must be in this one's.
    assert_eq!(ends.place(0, BUCKETS).tag & 1, 1);
    ends
}

fn address(at: At) -> [u8; 16] {
    mapped([10, 0, 0, at.0])
}

impl Node {
    pub(super) fn new() -> Self {
        Self {
            table: Table::new(),
            now: super::NOW,
            served: [true; 2],
            refused: 0,
        }
    }

    pub(super) fn pass(&mut self, milliseconds: u32) {
        self.now += state::seconds(u64::from(milliseconds)) / 1000;
    }

    /// Gets the flows from a table of a layout that has no numbers, and no flows past Services.
    pub(super) fn upgrade(&mut self) {
        let bucket = &mut self.table.0;
        if bucket.flows().any(|flow| !flow.is_of_service()) {
            return;
        }
        for (tag, record) in bucket.tags.iter_mut().zip(&mut bucket.records) {
            if *tag == 0 || record.state() == State::Opening {
                *tag = 0;
                continue;
            }
            let sides = [record.client_state, record.backend_state];
            let closed = Record::CLOSED | Record::RESET;
            let [ahead, back] = sides.map(|state| Record::SPOKE | state & closed);
            let seen = [record.ahead.seen, record.back.seen];
            let [client, backend] = seen.map(|seen| Side {
                seen,
                ..Side::SILENT
            });
            (record.ahead, record.back) = (client, backend);
            (record.opening, record.question, record.asked) = (0, 0, 0);
            record.take_over(ahead, back);
        }
    }

    /// What is known of connections, but for questions about them.
    pub(super) fn connections(&self) -> Vec<Record> {
        let flows = self.table.0.flows().filter(|flow| {
            let alive = matches!(
                flow.state(),
                State::Established | State::FinWait | State::CloseWait
            );
            alive && !flow.is_over(self.now)
        });
        let mut flows: Vec<_> = flows
            .map(|flow| Record {
                question: 0,
                asked: 0,
                client_state: flow.client_state & !Record::INSISTS,
                ..*flow
            })
            .collect();
        flows.sort_by_key(|flow| (flow.client_port, flow.frontend, flow.source_port));
        flows
    }

    /// Where an address leads.
    fn decide(&self, frontend: u8, chance: &mut Chance) -> Decided {
        if !FRONTENDS.contains(&frontend) {
            return Decided::NotOurs;
        }
        let served = self.served;
        let mut endpoints: Vec<u8> = ENDPOINTS.to_vec();
        endpoints.retain(|host| served[usize::from(*host == ENDPOINTS[1])]);
        if endpoints.is_empty() {
            return Decided::Nobody;
        }
        Decided::Endpoint(endpoints[chance.below(endpoints.len())])
    }

    fn is_served(&self, record: &Record) -> bool {
        if !record.is_of_service() || record.state() != State::Opening {
            return true;
        }
        let mut served = ENDPOINTS.iter().zip(self.served);
        served.any(|(host, served)| served && address((*host, 0)) == record.backend)
    }

    /// `ingress`
    pub(super) fn forward(&mut self, segment: &Segment, chance: &mut Chance) -> Option<Segment> {
        let ends = ends(segment.from, segment.to);
        let (said, now) = (&segment.said, self.now);
        let mut copy = Record::EMPTY;
        let found = self.table.shared().follow(TAG, &ends, said, now, &mut copy);
        let opens = said.kind == Kind::Opens;
        let known = found == Found::Known;
        if !opens && !known {
            return Some(*segment);
        }
        if known && (!opens || self.is_served(&copy)) {
            return Some(sent(segment, &copy));
        }
        let stale = known || found == Found::Stale;
        let decided = self.decide(segment.to.0, chance);
        let endpoint = match decided {
            Decided::Endpoint(_) | Decided::NotOurs if found == Found::Asks => {
                return Some(sent(segment, &copy));
            }
            Decided::Endpoint(endpoint) => endpoint,
            _ => {
                let direct = decided == Decided::NotOurs;
                let shared = self.table.shared();
                let collides =
                    direct && shared.collides(TAG, &ends, now, &mut copy) == Collides::Yes;
                if stale && !collides {
                    self.table.shared().forget(TAG, &ends, &mut copy);
                }
                if !collides {
                    return direct.then_some(*segment);
                }
                segment.to.0
            }
        };
        let mut record = Record {
            client: ends.client,
            frontend: ends.peer,
            backend: address((endpoint, 0)),
            client_port: ends.client_port,
            frontend_port: ends.peer_port,
            backend_port: ends.peer_port,
            protocol: TCP,
            flags: if decided == Decided::NotOurs {
                Record::FLAG_DIRECT
            } else {
                0
            },
            ..Record::EMPTY
        };
        record.begin(said, now);
        match self.table.shared().open(TAG, &mut record, now) {
            Opened::Recorded | Opened::Displaced => Some(sent(segment, &record)),
            Opened::Full | Opened::Clash | Opened::Busy => {
                self.refused += 1;
                None
            }
        }
    }

    /// `egress`
    pub(super) fn reverse(&mut self, segment: &Segment) -> Segment {
        let ends = ends(segment.to, segment.from);
        let mut copy = Record::EMPTY;
        let shared = self.table.shared();
        match shared.answer(TAG, &ends, &segment.said, self.now, &mut copy) {
            Found::Known => {
                assert!(copy.is_answered_by(&ends));
                Segment {
                    from: (copy.frontend[15], copy.frontend_port),
                    to: (copy.client[15], copy.client_port),
                    ..*segment
                }
            }
            _ => *segment,
        }
    }
}

fn sent(segment: &Segment, record: &Record) -> Segment {
    Segment {
        from: (segment.from.0, record.source_port),
        to: (record.backend[15], record.backend_port),
        ..*segment
    }
}
