//! Time that packets take: the kernel's own measurement (`BPF_PROG_TEST_RUN`), of the same packet many
//! times in one call, less what the measuring takes. The least of many short calls counts.
//!
//! The backend has the frontend's address and port, so that the packet stays what it was and each run does
//! all the work.

use std::{collections::BTreeMap, net::SocketAddr, os::fd::AsFd as _};

use anyhow::{Context as _, ensure};
use aya::{
    maps::{HashMap, Map, MapData},
    programs::{TestRun as _, TestRunOptions},
};
use gateway_common::{
    TCP, UNSPECIFIED,
    conntrack::{BUCKETS, Ends},
    decide::Reason,
    mapped,
    maps::Backend,
};
use nodegate_programming::address;

use crate::{
    fresh::{By, Fresh},
    packets::{Bytes, Flag, arp, tcp},
    reference::Reference,
    scene::{self, NODE, NODE_PORT, Scene},
};

const CLIENT: [u8; 4] = [192, 168, 170, 1];
const CLIENT_PORT: u16 = 40_000;
/// Where an IPv4 header after Ethernet has the source address.
const SOURCE: usize = 26;

/// Which packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A SYN to a port that no Service has.
    NoService,
    /// An ACK of a flow that is recorded.
    Known,
    /// A SYN to a cluster IP, of a flow of which nothing is known: a program in front empties the client's
    /// bucket each time.
    New,
    /// The same to a node port.
    NodePort,
    /// A SYN where an earlier flow's record is, whose backend has gone: the backend is written over as one
    /// of another Service. Nothing else can be measured after it.
    Stale,
    /// A SYN of a client that was never seen: its bucket is in no cache, the program in front changes the
    /// address each time.
    NewClient,
}

/// The program that is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    Ingress,
    Forgetting,
    Renaming,
}

impl Kind {
    const fn entry(self) -> Entry {
        match self {
            Self::NoService | Self::Known | Self::Stale => Entry::Ingress,
            Self::New | Self::NodePort => Entry::Forgetting,
            Self::NewClient => Entry::Renaming,
        }
    }
}

/// The least nanoseconds that came.
type Least<K> = BTreeMap<K, f64>;

fn note<K: Ord>(least: &mut Least<K>, what: K, nanoseconds: f64) {
    let least = least.entry(what).or_insert(f64::INFINITY);
    *least = least.min(nanoseconds);
}

/// Measures on a node with so many Services.
pub(crate) struct Timer {
    scene: Scene,
    /// The last Service.
    last: SocketAddr,
    forgetting: Fresh,
    renaming: Fresh,
    /// The address of the next client that was never seen.
    next: u32,
    measuring: Least<Entry>,
    all: Least<Kind>,
}

impl Timer {
    pub(crate) fn new(services: u32) -> anyhow::Result<Self> {
        let mut scene = Scene::new()?;
        scene.serve(&scene::many(services))?;
        let seed = scene.maps.settings()?.seed;
        let conntrack = MapData::from_pin(scene.pins.join("conntrack"))?;
        scene.classifier("egress")?.load()?;
        let ingress = scene.classifier("ingress")?;
        ingress.load()?;
        let program = ingress.fd()?.as_fd();
        let bucket = By::Forgetting(conntrack.fd().as_fd(), bucket(seed));
        let forgetting = Fresh::before(program, bucket)?;
        let renaming = Fresh::before(program, By::AnotherClient)?;
        Ok(Self {
            forgetting,
            renaming,
            scene,
            last: (scene::address(services - 1), 80).into(),
            next: u32::from_le_bytes([11, 0, 0, 0]),
            measuring: Least::new(),
            all: Least::new(),
        })
    }

    /// Measures once, and what the measuring takes as well.
    pub(crate) fn take(&mut self, kind: Kind, repeat: u32) -> anyhow::Result<()> {
        let packet = self.packet(kind);
        let entry = kind.entry();
        let measuring = self.run(entry, &arp(&packet), repeat)?;
        note(&mut self.measuring, entry, measuring);
        if kind == Kind::Known {
            self.run(Entry::Ingress, &self.opening(), 1)?;
            let answer = tcp(self.last, client(), Flag::SynAck);
            let egress = self.scene.classifier("egress")?;
            egress.test_run(TestRunOptions {
                data_in: Some(&answer),
                ..TestRunOptions::default()
            })?;
        }
        let opened = self.opened()?;
        let all = self.run(entry, &packet, repeat)?;
        note(&mut self.all, kind, all);
        // Otherwise something else was measured.
        let opened = self.opened()? - opened;
        let expected = match kind {
            Kind::NoService | Kind::Known => 0,
            Kind::Stale => return Ok(()),
            Kind::New | Kind::NodePort | Kind::NewClient => u64::from(repeat),
        };
        ensure!(
            opened == expected,
            "{kind:?}: {opened} new flows, not {expected}"
        );
        Ok(())
    }

    /// Nanoseconds, as far as is known.
    pub(crate) fn cost(&self, kind: Kind) -> f64 {
        let (all, measuring) = (self.all.get(&kind), self.measuring.get(&kind.entry()));
        all.zip(measuring)
            .map_or(f64::NAN, |(all, measuring)| all - measuring)
    }

    /// Nanoseconds that the measuring takes.
    pub(crate) fn measuring(&self) -> f64 {
        self.measuring
            .get(&Entry::Ingress)
            .copied()
            .unwrap_or(f64::NAN)
    }

    fn opening(&self) -> Bytes {
        tcp(client(), self.last, Flag::Syn)
    }

    fn packet(&mut self, kind: Kind) -> Bytes {
        match kind {
            Kind::NoService => tcp(client(), (self.last.ip(), 9).into(), Flag::Syn),
            Kind::Known => tcp(client(), self.last, Flag::Ack),
            Kind::New | Kind::Stale => self.opening(),
            Kind::NodePort => tcp(client(), (NODE, NODE_PORT).into(), Flag::Syn),
            Kind::NewClient => {
                let mut packet = self.opening();
                packet[SOURCE..SOURCE + 4].copy_from_slice(&self.next.to_le_bytes());
                packet
            }
        }
    }

    fn run(&mut self, entry: Entry, packet: &[u8], repeat: u32) -> anyhow::Result<f64> {
        let nanoseconds = match entry {
            Entry::Ingress => {
                let result = self.scene.classifier("ingress")?.test_run(TestRunOptions {
                    data_in: Some(packet),
                    repeat,
                    ..TestRunOptions::default()
                })?;
                result.duration.as_nanos() as f64
            }
            Entry::Forgetting => self.forgetting.run(packet, repeat)?.into(),
            Entry::Renaming => {
                self.next += repeat;
                self.renaming.run(packet, repeat)?.into()
            }
        };
        Ok(nanoseconds)
    }

    /// How many flows were given a backend.
    fn opened(&self) -> anyhow::Result<u64> {
        Ok(self.scene.maps.counters()?[Reason::Chosen.name()])
    }

    /// Writes the last Service's backend over as another Service's.
    pub(crate) fn make_stale(&mut self) -> anyhow::Result<()> {
        self.run(Entry::Ingress, &self.opening(), 1)?;
        let data = MapData::from_pin(self.scene.pins.join("backends"))?;
        let mut backends: HashMap<_, u32, Backend> = Map::HashMap(data).try_into()?;
        let (id, backend) = self
            .scene
            .maps
            .mirror()
            .backends
            .iter()
            .find(|(_, backend)| address::from_map(backend.address) == self.last.ip())
            .context("the last Service has a backend")?;
        let stale = Backend {
            service: u32::MAX,
            ..*backend
        };
        Ok(backends.insert(id, stale, 0)?)
    }
}

fn client() -> SocketAddr {
    (CLIENT, CLIENT_PORT).into()
}

/// The bucket of `conntrack` that the client's flows are in.
fn bucket(seed: u64) -> u32 {
    let ends = Ends {
        client: mapped(CLIENT),
        peer: UNSPECIFIED,
        client_port: CLIENT_PORT,
        peer_port: 0,
        protocol: TCP,
    };
    ends.place(seed, BUCKETS).bucket
}

/// Measures the reference program.
pub(crate) struct Yardstick {
    reference: Reference,
    packet: Bytes,
    least: f64,
}

impl Yardstick {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            reference: Reference::new()?,
            packet: tcp(client(), (NODE, NODE_PORT).into(), Flag::Syn),
            least: f64::INFINITY,
        })
    }

    pub(crate) fn take(&mut self, repeat: u32) -> anyhow::Result<()> {
        let nanoseconds = self.reference.run(&self.packet, repeat)?;
        self.least = self.least.min(nanoseconds.into());
        Ok(())
    }

    pub(crate) fn cost(&self) -> f64 {
        self.least
    }
}
