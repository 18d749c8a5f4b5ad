//! Whole lives of connections, by chance: a client and two endpoints with a TCP each, a node between
//! them, a network that loses, repeats and reorders, and a stranger who knows addresses and ports.
//!
//! Each segment bears the number of the connection that it was sent on, which no participant looks at.
//! What the participants take as their own must be their own; what the stranger sends must change no
//! connection; and in the end, when nothing is lost any more, what both ends take for open must work.

mod endpoint;
mod node;

extern crate std;

use std::vec::Vec;

use endpoint::{Stack, Stage};
use node::Node;

use super::*;

/// The hosts, by the last byte of their address.
const CLIENT: u8 = 1;
const ENDPOINTS: [u8; 2] = [11, 12];
const FRONTENDS: [u8; 2] = [21, 22];
/// Where endpoints listen, and frontends are reached.
const PORT: u16 = 80;
/// The client's ports. Two of them share all of a bucket's port bits.
const PORTS: [u16; 3] = [0x9c40, 0xdc40, 0x9c41];

/// A host and a port.
type At = (u8, u16);

/// A segment on its way.
#[derive(Clone, Copy, Debug)]
struct Segment {
    from: At,
    to: At,
    said: Said,
    /// The connection that it was sent on; none for a stranger's.
    connection: Option<u32>,
}

/// Chance that comes again with the same seed (xorshift64*).
struct Chance(u64);

impl Chance {
    fn number(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    fn below(&mut self, end: usize) -> usize {
        self.number() as usize % end
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

struct World {
    chance: Chance,
    node: Node,
    client: Stack,
    endpoints: [Stack; 2],
    /// To the node, from outside and from the endpoints.
    inbound: Vec<Segment>,
    outbound: Vec<Segment>,
    connections: u32,
    /// How many of them were opened, and how many were alive in the end.
    opened: u32,
    alive: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            chance: Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            node: Node::new(),
            client: Stack::default(),
            endpoints: ENDPOINTS.map(Stack::listening),
            inbound: Vec::new(),
            outbound: Vec::new(),
            connections: 0,
            opened: 0,
            alive: 0,
        }
    }

    fn step(&mut self) {
        match self.chance.below(24) {
            0 => self.open(),
            1..=3 => self.speak(),
            4 => self.close(),
            5 if self.chance.one_in(4) => self.abort(),
            6..=13 => self.deliver(),
            14 => self.lose_or_repeat(),
            15..=17 => self.retransmit(),
            18 => self.forge(),
            19 if self.chance.one_in(8) => self.crash(),
            20 if self.chance.one_in(8) => {
                let number = self.chance.below(2);
                self.node.served[number] ^= true;
            }
            21 => self.node.pass(self.chance.number() % 2_000),
            22 if self.chance.one_in(32) => self.node.upgrade(),
            _ => {}
        }
    }

    fn open(&mut self) {
        let from = (CLIENT, PORTS[self.chance.below(PORTS.len())]);
        // One endpoint is reached past the Service, too.
        let hosts = [FRONTENDS[0], FRONTENDS[1], ENDPOINTS[0]];
        let to = (hosts[self.chance.below(hosts.len())], PORT);
        if self.client.has(from, to) {
            return;
        }
        self.connections += 1;
        let number = self.chance.number();
        let syn = self.client.connect(from, to, number, self.connections);
        self.inbound.push(syn);
    }

    /// Somebody who has a connection.
    fn somebody(&mut self) -> Option<(&mut Stack, &mut Vec<Segment>, usize)> {
        let who = self.chance.below(3);
        let chance = self.chance.number() as usize;
        let (stack, way) = match who {
            0 => (&mut self.client, &mut self.inbound),
            one => (&mut self.endpoints[one - 1], &mut self.outbound),
        };
        let count = stack.sockets.len();
        (count > 0).then(|| (stack, way, chance % count))
    }

    fn speak(&mut self) {
        let bytes = self.chance.number() % 1400 + 1;
        if let Some((stack, way, socket)) = self.somebody() {
            way.extend(stack.send(socket, bytes));
        }
    }

    fn close(&mut self) {
        if let Some((stack, way, socket)) = self.somebody() {
            way.extend(stack.close(socket));
        }
    }

    fn abort(&mut self) {
        if let Some((stack, way, socket)) = self.somebody() {
            way.extend(stack.abort(socket));
        }
    }

    fn retransmit(&mut self) {
        if let Some((stack, way, socket)) = self.somebody() {
            way.extend(stack.retransmit(socket));
        }
    }

    /// Without a word.
    fn crash(&mut self) {
        if let Some((stack, _, socket)) = self.somebody() {
            stack.sockets.swap_remove(socket);
        }
    }

    fn lose_or_repeat(&mut self) {
        let way = if self.chance.one_in(2) {
            &mut self.inbound
        } else {
            &mut self.outbound
        };
        if way.is_empty() {
            return;
        }
        let number = self.chance.below(way.len());
        if self.chance.one_in(2) {
            way.swap_remove(number);
        } else {
            way.push(way[number]);
        }
    }

    fn deliver(&mut self) {
        let inbound = self.chance.one_in(2);
        let length = if inbound {
            self.inbound.len()
        } else {
            self.outbound.len()
        };
        if length > 0 {
            let number = self.chance.below(length.min(4));
            self.carry(inbound, number);
        }
    }

    /// Through the node, to whom it is for.
    fn carry(&mut self, inbound: bool, number: usize) {
        if inbound {
            let segment = self.inbound.remove(number);
            let Some(segment) = self.node.forward(&segment, &mut self.chance) else {
                return;
            };
            let reached = ENDPOINTS.iter().position(|host| *host == segment.to.0);
            if let Some(endpoint) = reached {
                let answers = self.endpoints[endpoint].receive(&segment, &mut self.chance);
                self.outbound.extend(answers);
            }
            return;
        }
        let segment = self.outbound.remove(number);
        let segment = self.node.reverse(&segment);
        let before = self.client.open();
        let answers = self.client.receive(&segment, &mut self.chance);
        self.opened += u32::from(self.client.open() > before);
        self.inbound.extend(answers);
    }

    /// Somebody outside sends a segment in the client's name.
    fn forge(&mut self) {
        let kinds = [
            Kind::Opens,
            Kind::Accepts,
            Kind::Continues,
            Kind::Closes,
            Kind::Resets,
        ];
        let hosts = [FRONTENDS[0], FRONTENDS[1], ENDPOINTS[0]];
        let kind = kinds[self.chance.below(kinds.len())];
        let forged = Segment {
            from: (CLIENT, PORTS[self.chance.below(PORTS.len())]),
            to: (hosts[self.chance.below(hosts.len())], PORT),
            said: said(kind, self.chance.number(), self.chance.number()),
            connection: None,
        };
        let before = self.node.connections();
        self.inbound.insert(0, forged);
        self.carry(true, 0);
        assert_eq!(self.node.connections(), before, "{forged:?}");
    }

    /// Nothing is lost any more, and everybody sends again what was not acknowledged.
    fn settle(&mut self) {
        self.node.served = [true; 2];
        for _ in 0..16 {
            for socket in 0..self.client.sockets.len() {
                self.inbound.extend(self.client.retransmit(socket));
            }
            for endpoint in &mut self.endpoints {
                for socket in 0..endpoint.sockets.len() {
                    self.outbound.extend(endpoint.retransmit(socket));
                }
            }
            let mut budget = 2_000;
            while !(self.inbound.is_empty() && self.outbound.is_empty()) && budget > 0 {
                let inbound = !self.inbound.is_empty();
                self.carry(inbound, 0);
                budget -= 1;
            }
            // Ends that have lost each other go on telling so. Real ones say it now and then only.
            self.inbound.clear();
            self.outbound.clear();
            self.node.pass(1_100);
        }
    }

    /// What the client takes for open is open at the other end, and data pass in both directions.
    fn check(&mut self) {
        for socket in 0..self.client.sockets.len() {
            self.inbound.extend(self.client.send(socket, 10));
        }
        for endpoint in &mut self.endpoints {
            for socket in 0..endpoint.sockets.len() {
                self.outbound.extend(endpoint.send(socket, 10));
            }
        }
        self.settle();
        for socket in &self.client.sockets {
            let stuck = std::format!("{socket:?}\n{:?}", self.endpoints);
            if socket.stage == Stage::Opens {
                // All ports that it could have are taken.
                assert!(self.node.refused > 0, "{stuck}");
                continue;
            }
            let peers = self.endpoints.iter().flat_map(|stack| &stack.sockets);
            let mut peers = peers.filter(|peer| {
                // Another endpoint may have been asked before, in vain.
                peer.connection == socket.connection && peer.stage == Stage::Open
            });
            // Where it was given up, nobody may be left to say so.
            if let Some(peer) = peers.next() {
                let ends = [socket, peer].map(|end| (end.unacknowledged, end.next));
                let heard = ends
                    .iter()
                    .all(|(unacknowledged, next)| unacknowledged == next);
                assert!(heard, "{stuck}");
                self.alive += 1;
            }
        }
    }
}

fn lives(seeds: core::ops::Range<u64>, steps: usize) -> (u32, u32) {
    let (mut opened, mut alive) = (0, 0);
    for seed in seeds {
        let mut world = World::new(seed);
        let run = std::panic::AssertUnwindSafe(|| {
            for _ in 0..steps {
                world.step();
            }
            world.settle();
            world.check();
            (world.opened, world.alive)
        });
        match std::panic::catch_unwind(run) {
            Ok(numbers) => {
                opened += numbers.0;
                alive += numbers.1;
            }
            Err(panic) => {
                std::eprintln!("seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    (opened, alive)
}

#[test]
fn connections_live_and_strangers_change_nothing() {
    let seeds = std::env::var("NODEGATE_TEST_LIVES").ok();
    let seeds = seeds.map_or(1500, |seeds| seeds.parse().expect("a number"));
    let (opened, alive) = lives(0..seeds, 1200);
    // Otherwise little was tried.
    assert!(opened > 10_000 && alive > 1_000, "{opened} {alive}");
}
