//! Packets that are sent to a node by somebody who may give any address as their own: what becomes of the
//! connections of others through a node port.

mod victims;
mod wire;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context as _, ensure};
use nodegate_programs::own;

use self::{
    victims::Victims,
    wire::{ACK, FIN, RST, SYN, Segment, Sender, icmp, packet, tcp, tcp_payload, udp},
};
use super::{
    Options,
    outcome::{Outcome, Reach, Row},
};
use crate::{network::inside, testbed};

const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 170, 11);
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 170, 1);
const POD: Ipv4Addr = Ipv4Addr::new(10, 10, 1, 20);
const NODE_PORT: SocketAddrV4 = SocketAddrV4::new(NODE, 30080);
/// Connections that must live.
const VICTIMS: usize = 40;
/// Packets of a flood.
const FLOOD: u64 = 300_000;

/// What somebody sends.
struct Attack {
    name: &'static str,
    about: &'static str,
    packets: fn(&Scene<'_>),
    /// Whether there is a decision about each of [`FLOOD`] packets.
    decides: bool,
}

/// Who is there, and how much is sent.
struct Scene<'s> {
    sender: Sender,
    /// Where the victims' connections come from.
    victims: &'s [SocketAddrV4],
    /// Floods have this part of their packets.
    part: usize,
}

const fn attack(name: &'static str, about: &'static str, packets: fn(&Scene<'_>)) -> Attack {
    Attack {
        name,
        about,
        packets,
        decides: false,
    }
}

#[rustfmt::skip]
const ATTACKS: &[Attack] = &[
    Attack { decides: true, ..attack("packet-syns", "300,000 SYNs from anywhere to a node port", |scene| {
        scene.flood(|turn| tcp(segment(anyone(turn), NODE_PORT, SYN, turn.wrapping_mul(2_654_435_761))));
    }) },
    attack("packet-acks", "300,000 bare ACKs from anywhere", |scene| {
        scene.flood(|turn| tcp(segment(anyone(turn), NODE_PORT, ACK, turn.wrapping_mul(2_654_435_761))));
    }),
    Attack { decides: true, ..attack("packet-datagrams", "300,000 datagrams from anywhere to a node port", |scene| {
        scene.flood(|turn| udp(anyone(turn), NODE_PORT, b"flood"));
    }) },
    attack("packet-resets", "RSTs in a client's name, with numbers by chance", |scene| {
        scene.blind(64, |victim, number| segment(victim, NODE_PORT, RST, number));
    }),
    attack("packet-reset-pairs", "RSTs, and then SYNs from another port (a forged end and a new beginning)", |scene| {
        scene.blind(16, |victim, number| segment(victim, NODE_PORT, RST | ACK, number));
        scene.blind(16, |victim, number| segment(SocketAddrV4::new(*victim.ip(), victim.port() ^ 0x4000), NODE_PORT, SYN, number));
    }),
    attack("packet-reopens", "SYNs in a client's name", |scene| {
        scene.blind(16, |victim, number| segment(victim, NODE_PORT, SYN, number));
    }),
    attack("packet-ends", "FINs in a client's name, with numbers by chance", |scene| {
        scene.blind(64, |victim, number| segment(victim, NODE_PORT, FIN | ACK, number));
    }),
    attack("packet-data", "data in a client's name, with numbers by chance", |scene| {
        scene.blind(64, |victim, number| Segment { data: b"GET /hidden HTTP/1.1\r\n\r\n", ..segment(victim, NODE_PORT, ACK, number) });
    }),
    attack("packet-answers", "RSTs and SYN-ACKs in the endpoint's name", |scene| {
        let pod = SocketAddrV4::new(POD, 80);
        scene.blind(16, |victim, number| segment(pod, victim, RST | ACK, number));
        scene.blind(16, |victim, number| segment(pod, SocketAddrV4::new(NODE, victim.port()), RST | ACK, number));
        scene.blind(16, |victim, number| segment(pod, SocketAddrV4::new(NODE, victim.port()), SYN | ACK, number));
    }),
    attack("packet-errors", "ICMP errors about connections: unreachable, and an MTU of 0 and of 68", |scene| {
        for victim in scene.victims {
            let about = tcp(segment(NODE_PORT, *victim, ACK, 1));
            let inner = tcp(segment(SocketAddrV4::new(POD, 80), *victim, ACK, 1));
            for about in [about, inner] {
                for (kind, rest) in [((3, 3), [0; 4]), ((3, 1), [0; 4]), ((3, 4), [0; 4]), ((3, 4), [0, 0, 0, 68]), ((11, 0), [0; 4])] {
                    scene.sender.send(&icmp((CLIENT, NODE), kind, rest, &about));
                }
            }
        }
    }),
    attack("packet-cut", "segments that are cut off, or whose header says that it is longer than they are", |scene| {
        let whole = tcp_payload(segment(anyone(1), NODE_PORT, SYN, 1));
        for length in 0..whole.len() {
            scene.sender.send(&packet((*anyone(1).ip(), NODE), 6, (0, false), &whole[..length]));
            scene.sender.send(&packet((*anyone(1).ip(), NODE), 17, (0, false), &whole[..length]));
        }
        for words in 0..16 {
            let mut odd = whole.clone();
            odd[12] = words << 4;
            scene.sender.send(&packet((*anyone(1).ip(), NODE), 6, (0, false), &odd));
        }
    }),
    attack("packet-flags", "all combinations of flags, also such as there cannot be", |scene| {
        for flags in 0..=255 {
            scene.sender.send(&tcp(segment(anyone(u32::from(flags)), NODE_PORT, flags, 1)));
        }
        scene.blind(1, |victim, number| segment(victim, NODE_PORT, 0xff, number));
    }),
    attack("packet-fragments", "fragments: tiny, overlapping, last ones alone, first ones alone", |scene| {
        for (turn, victim) in (0..).zip(scene.victims) {
            let whole = tcp_payload(segment(*victim, NODE_PORT, RST, turn));
            let addresses = (*victim.ip(), NODE);
            scene.sender.send(&packet(addresses, 6, (0, true), &whole[..8]));
            scene.sender.send(&packet(addresses, 6, (1, false), &whole[8..]));
            scene.sender.send(&packet(addresses, 6, (1, true), &whole[..16]));
            scene.sender.send(&packet(addresses, 6, (0, false), &whole[..12]));
            scene.sender.send(&packet(addresses, 6, (8000, false), &whole));
        }
    }),
    attack("packet-no-port", "datagrams and SYNs from and to port 0, and to the node from itself", |scene| {
        for (from, to) in [
            (SocketAddrV4::new(CLIENT, 0), NODE_PORT),
            (SocketAddrV4::new(CLIENT, 4000), SocketAddrV4::new(NODE, 0)),
            (NODE_PORT, NODE_PORT),
            (SocketAddrV4::new(Ipv4Addr::LOCALHOST, 4000), NODE_PORT),
            (SocketAddrV4::new(Ipv4Addr::BROADCAST, 4000), NODE_PORT),
            (SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 1), 4000), NODE_PORT),
            (SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 4000), NODE_PORT),
            (SocketAddrV4::new(POD, 80), NODE_PORT),
        ] {
            scene.sender.send(&tcp(segment(from, to, SYN, 1)));
            scene.sender.send(&udp(from, to, b"odd"));
        }
    }),
];

impl Scene<'_> {
    fn flood(&self, packet: impl Fn(u32) -> Vec<u8>) {
        for turn in 0..FLOOD as u32 / self.part as u32 {
            self.sender.send(&packet(turn));
        }
    }

    /// So many segments about each victim, with numbers that are spread over all that there are.
    fn blind<'d>(&self, count: u32, segment: impl Fn(SocketAddrV4, u32) -> Segment<'d>) {
        for victim in self.victims {
            for turn in 0..count {
                let number = turn
                    .wrapping_mul(u32::MAX / count)
                    .wrapping_add(u32::from(victim.port()));
                self.sender.send(&tcp(segment(*victim, number)));
            }
        }
    }
}

/// An address for benchmarks (RFC 2544), and a port.
fn anyone(turn: u32) -> SocketAddrV4 {
    let [_, b, c, d] = turn.wrapping_mul(2_654_435_761).to_be_bytes();
    SocketAddrV4::new(
        Ipv4Addr::new(198, 18 + b % 2, c, d),
        1024 + (turn % 60_000) as u16,
    )
}

fn segment(from: SocketAddrV4, to: SocketAddrV4, flags: u8, sequence: u32) -> Segment<'static> {
    Segment {
        from,
        to,
        flags,
        sequence,
        acknowledged: sequence.rotate_left(7),
        data: b"",
    }
}

/// What there is: names, and what is done.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
    ATTACKS.iter().map(|attack| (attack.name, attack.about))
}

/// Attacks a node of a testbed, one after the other.
pub(super) fn run(options: &Options, told: &mut impl FnMut(&Row)) -> anyhow::Result<Vec<Row>> {
    let wanted = ATTACKS
        .iter()
        .filter(|attack| attack.name.contains(&options.only));
    let wanted: Vec<_> = wanted.collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let manifests = tempfile::tempdir()?;
    fs::write(manifests.path().join("testbed.yaml"), testbed_yaml())?;
    fs::write(manifests.path().join("web.yaml"), WEB)?;
    let name = format!("attack-{}", std::process::id());
    let manifests = vec![manifests.path().to_owned()];
    let testbed = testbed::Testbed::up(&testbed::Options::new(
        &name,
        options.binaries.clone(),
        manifests,
    ))?;
    ensure!(!testbed.report().has_errors(), "{:?}", testbed.report());
    let namespace = testbed.names().netns(&testbed.host("client")?);
    let mut rows = Vec::new();
    for attack in wanted {
        let before = decisions(&testbed, &options.binaries.nodegate)?;
        let mut outcome = inside(&namespace, || attack.run(options.part))?;
        match decisions(&testbed, &options.binaries.nodegate) {
            // The victims' own are few.
            Ok(after) if attack.decides && after - before < FLOOD / options.part as u64 / 2 => {
                let message = format!(
                    "only {} decisions: it did not get to the node",
                    after - before
                );
                outcome.broken.push(message);
            }
            Ok(after) => {
                let told = &outcome.told;
                outcome.told = format!("{told}, {} decisions", after - before);
            }
            Err(error) => {
                let message = format!("nodegate does not answer any more: {error:#}");
                outcome.broken.push(message);
            }
        }
        let row = Row {
            class: super::Class::Packets.name(),
            name: attack.name,
            about: attack.about,
            nodegate: outcome,
            envoy: None,
            meant: None,
        };
        told(&row);
        rows.push(row);
    }
    testbed.down()?;
    Ok(rows)
}

/// How many decisions there have been on the node, as its nodegate says.
fn decisions(testbed: &testbed::Testbed, nodegate: &Path) -> anyhow::Result<u64> {
    let mut status = own(nodegate);
    status
        .args(["status", "-o", "json", "--admin"])
        .arg(testbed.admin_socket("node1")?);
    let output = testbed.output("node1", status)?;
    let status: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let counts = status["datapath"]["decisions"]
        .as_object()
        .context("no decisions")?;
    Ok(counts.values().filter_map(serde_json::Value::as_u64).sum())
}

impl Attack {
    /// In the client's namespace.
    fn run(&self, part: usize) -> anyhow::Result<Outcome> {
        let mut victims = Victims::connect(NODE_PORT, VICTIMS)?;
        let addresses = victims.addresses();
        let scene = Scene {
            sender: Sender::new()?,
            victims: &addresses,
            part,
        };
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| victims.live_until(&stop));
            (self.packets)(&scene);
            stop.store(true, Ordering::Relaxed);
        });
        let broken = victims.broken();
        let told = format!("{VICTIMS} connections live");
        let told = if broken.is_empty() {
            told
        } else {
            "others suffer".into()
        };
        let mut outcome = Outcome::new(Reach::Bounded, told);
        outcome.broken = broken;
        Ok(outcome)
    }
}

fn testbed_yaml() -> String {
    format!(
        "nodes: [{{name: node1, address: {NODE}}}]\nclient: {{address: {CLIENT}}}\npodCIDR: 10.10.0.0/16\n"
    )
}

const WEB: &str = "apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  clusterIP: 10.96.0.1
  selector: {app: web}
  ports:
  - {name: tcp, port: 80, nodePort: 30080}
  - {name: udp, port: 80, nodePort: 30080, protocol: UDP}
---
apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {app: web}
  annotations: {testbed.nodegate.io/node: node1, testbed.nodegate.io/address: 10.10.1.20}
spec:
  containers:
  - image: whoami
    ports: [{containerPort: 80}, {containerPort: 80, protocol: UDP}]
";
