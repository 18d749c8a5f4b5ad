//! The pinned maps, and a mirror of their content.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{
        Array, HashMap, Map, MapData, MapError, MapInfo, PerCpuArray, RingBuf,
        lpm_trie::{Key, LpmTrie},
    },
};
use aya_log::EbpfLogger;
use gateway_common::{
    UDP,
    decide::Reason,
    event::TraceFilter,
    maps::{
        AddressKey, Backend, Bucket, Heartbeat, LABEL_BYTES, NodeAddress, Record, SCHEMA, Service,
        ServiceKey, ServiceName, Settings, Slot, SlotKey, SocketKey, SocketPeer, SourceRange,
    },
};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{
    Error, Failure, contents,
    desired::{Network, PortKey},
    features::Features,
    from_map,
    plan::{Mirror, Plan, Step},
    sockets::Connected,
    upgrade::{self, Upgrade},
};
use crate::model::service::{IpFamily, Protocol, ServicePortName};

/// The kernel programs and the descriptions of their maps, compiled by the build script.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/nodegate-ebpf"));

/// A map that is pinned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pinned {
    /// Its name in the object.
    name: &'static str,
    /// Its pin.
    pub(super) pin: &'static str,
    /// The version since which it is laid out as it is.
    pub(super) since: u32,
    /// What becomes of it when another map's layout changes.
    pub(super) upgrade: Carry,
}

/// What a new layout does to a map that is laid out as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carry {
    /// It is made anew, and written by the daemon.
    Anew,
    /// The old programs and the new ones work on the same map.
    Shared,
    /// The same, if Services and endpoints keep their numbers.
    SharedByNumber,
}

/// Every map that is pinned. `scratch` is not: nothing in it outlives a packet. Who changes a map's
/// layout changes [`SCHEMA`] and, here, since when it is so.
pub(super) const MAPS: [Pinned; 18] = [
    pinned_as("settings", 3, Carry::Anew),
    pinned_as("services", 2, Carry::Anew),
    pinned_as("slots", 4, Carry::Anew),
    pinned_as("backends", 2, Carry::Anew),
    pinned_as("source_ranges", 2, Carry::Anew),
    pinned_as("pod_networks", 2, Carry::Anew),
    pinned_as("node_addresses", 2, Carry::Anew),
    pinned_as("service_names", 2, Carry::Anew),
    pinned_as("heartbeat", 4, Carry::Anew),
    pinned_as("affinity", 2, Carry::SharedByNumber),
    pinned_as("conntrack", 3, Carry::SharedByNumber),
    pinned_as("fragments", 2, Carry::Shared),
    pinned_as("sockets", 2, Carry::SharedByNumber),
    pinned_as("counters", 4, Carry::Shared),
    pinned_as("events", 3, Carry::Anew),
    pinned_as("trace_filter", 3, Carry::Anew),
    pinned_as("trace_services", 3, Carry::Anew),
    // The name that aya-log gives its ring. Adopted programs go on writing to it.
    Pinned {
        name: "AYA_LOGS",
        ..pinned_as("log", 1, Carry::Anew)
    },
];

const fn pinned_as(name: &'static str, since: u32, upgrade: Carry) -> Pinned {
    Pinned {
        name,
        pin: name,
        since,
        upgrade,
    }
}

/// The maps that the daemon writes or reads. The kernel's own (`conntrack`, `sockets`, …) are only
/// pinned.
#[expect(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Maps {
    settings: Array<MapData, Settings>,
    services: HashMap<MapData, ServiceKey, Service>,
    slots: HashMap<MapData, SlotKey, Slot>,
    backends: HashMap<MapData, u32, Backend>,
    source_ranges: LpmTrie<MapData, SourceRange, u32>,
    pod_networks: LpmTrie<MapData, AddressKey, u32>,
    node_addresses: HashMap<MapData, AddressKey, NodeAddress>,
    service_names: HashMap<MapData, u32, ServiceName>,
    heartbeat: Array<MapData, Heartbeat>,
    conntrack: Array<MapData, Bucket>,
    sockets: HashMap<MapData, SocketKey, SocketPeer>,
    counters: PerCpuArray<MapData, u64>,
    trace_filter: Array<MapData, TraceFilter>,
    trace_services: HashMap<MapData, u32, u32>,
    events: Option<RingBuf<MapData>>,
    logger: Option<Logger>,
    mirror: Mirror,
}

/// Reads what the kernel programs log, and logs it.
pub type Logger = EbpfLogger<&'static dyn log::Log>;

/// Creates the maps and pins them, or takes over those that are pinned, and reads what they hold.
///
/// # Errors
/// Fails if they have another layout.
pub fn load(pin_dir: &Path) -> Result<(Ebpf, Maps), Error> {
    load_for(Features::probe(), pin_dir)
}

/// As [`load`], for a kernel that can do this.
pub fn load_for(features: Features, pin_dir: &Path) -> Result<(Ebpf, Maps), Error> {
    prepare(pin_dir)?;
    match upgrade::layout(pin_dir)? {
        None | Some(0 | SCHEMA) => load_from(features, pin_dir),
        Some(found) => Err(Error::Schema {
            path: pin_dir.to_owned(),
            found,
        }),
    }
}

/// As [`load`]; beside maps of an older layout, makes new ones, which take their places when the upgrade
/// is finished.
///
/// # Errors
/// Fails if they have a newer layout, and touches nothing then.
pub fn load_or_upgrade(pin_dir: &Path) -> Result<(Ebpf, Maps, Option<Upgrade>), Error> {
    let features = Features::probe();
    prepare(pin_dir)?;
    match upgrade::layout(pin_dir)? {
        Some(found) if (1..SCHEMA).contains(&found) => {
            upgrade::tidy(pin_dir)?;
            let upgrade = Upgrade::begin(pin_dir, found)?;
            let (ebpf, mut maps) = load_from(features, upgrade.directory())?;
            upgrade.copy(&mut maps)?;
            Ok((ebpf, maps, Some(upgrade)))
        }
        Some(found) if found > SCHEMA => Err(Error::Schema {
            path: pin_dir.to_owned(),
            found,
        }),
        _ => {
            upgrade::tidy(pin_dir)?;
            let (ebpf, maps) = load_from(features, pin_dir)?;
            Ok((ebpf, maps, None))
        }
    }
}

/// A loader of the programs for a kernel that can do this.
pub(super) fn loader(features: Features) -> EbpfLoader<'static> {
    let mut loader = EbpfLoader::new();
    // The verifier does not look at what a constant leaves out.
    let sets_retval: &u8 = if features.set_retval { &1 } else { &0 };
    loader.override_global("SETS_RETVAL", sets_retval, true);
    loader
}

fn prepare(pin_dir: &Path) -> Result<(), Error> {
    let unusable = |source| Error::PinDir {
        path: pin_dir.to_owned(),
        source,
    };
    on_bpf_file_system(pin_dir).map_err(unusable)?;
    fs::create_dir_all(pin_dir).map_err(unusable)
}

fn load_from(features: Features, directory: &Path) -> Result<(Ebpf, Maps), Error> {
    let mut loader = loader(features);
    for map in MAPS {
        loader.map_pin_path(map.name, directory.join(map.pin));
    }
    let mut ebpf = loader.load(OBJECT)?;
    let mut maps = Maps {
        settings: take(&mut ebpf, "settings")?,
        services: take(&mut ebpf, "services")?,
        slots: take(&mut ebpf, "slots")?,
        backends: take(&mut ebpf, "backends")?,
        source_ranges: take(&mut ebpf, "source_ranges")?,
        pod_networks: take(&mut ebpf, "pod_networks")?,
        node_addresses: take(&mut ebpf, "node_addresses")?,
        service_names: take(&mut ebpf, "service_names")?,
        heartbeat: take(&mut ebpf, "heartbeat")?,
        conntrack: take(&mut ebpf, "conntrack")?,
        sockets: take(&mut ebpf, "sockets")?,
        counters: take(&mut ebpf, "counters")?,
        trace_filter: take(&mut ebpf, "trace_filter")?,
        trace_services: take(&mut ebpf, "trace_services")?,
        events: Some(take(&mut ebpf, "events")?),
        logger: EbpfLogger::init(&mut ebpf)
            .inspect_err(|error| tracing::warn!(%error, "what the kernel programs log is lost"))
            .ok(),
        mirror: Mirror::default(),
    };
    maps.mirror = maps.read()?;
    Ok((ebpf, maps))
}

/// Whether a pin has the name of one of our maps.
pub(super) fn is_pin(pin: &Path) -> bool {
    pin.file_name()
        .is_some_and(|name| MAPS.iter().any(|map| name == map.pin))
}

/// The directory itself may not be there yet.
pub(super) fn on_bpf_file_system(directory: &Path) -> std::io::Result<()> {
    let existing = directory.ancestors().find(|path| path.exists());
    match statfs(existing.unwrap_or(directory))?.filesystem_type() {
        BPF_FS_MAGIC => Ok(()),
        _ => Err(std::io::Error::other("it is on no BPF file system")),
    }
}

/// Ids of the maps that are pinned. One that cannot be read is left out: links that use it are not
/// taken for current then.
pub fn pinned(pin_dir: &Path) -> BTreeSet<u32> {
    MAPS.iter()
        .filter_map(|map| MapInfo::from_pin(pin_dir.join(map.pin)).ok())
        .map(|info| info.id())
        .collect()
}

fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, Error>
where
    M: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(Error::Missing(name))?;
    map.try_into().map_err(|source| Error::Map { name, source })
}

/// Collects a whole map.
macro_rules! collect {
    ($map:expr, $name:literal, $convert:expr) => {
        $map.iter()
            .map(|entry| entry.map($convert))
            .collect::<Result<_, _>>()
            .map_err(|source| Error::Map {
                name: $name,
                source,
            })?
    };
}

impl Maps {
    /// What the maps hold, the kernel's own apart.
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    fn read(&self) -> Result<Mirror, Error> {
        Ok(Mirror {
            services: collect!(self.services, "services", |entry| entry),
            slots: collect!(self.slots, "slots", |entry| entry),
            backends: collect!(self.backends, "backends", |entry| entry),
            source_ranges: collect!(self.source_ranges, "source_ranges", |(key, _)| {
                let range = key.data();
                (
                    range.service,
                    (range.address, (key.prefix_len() - 32) as u8),
                )
            }),
            pod_networks: collect!(self.pod_networks, "pod_networks", |(key, _)| {
                (key.data().address, key.prefix_len() as u8)
            }),
            names: collect!(self.service_names, "service_names", |(id, name)| {
                (id, decode(&name))
            }),
            node_addresses: collect!(self.node_addresses, "node_addresses", |(key, _)| key
                .address),
        })
    }

    /// Takes over the numbers of endpoints and Services.
    pub(super) fn number(
        &mut self,
        backends: impl Iterator<Item = (u32, Backend)>,
        names: impl Iterator<Item = (u32, ServiceName)>,
    ) -> Result<(), Error> {
        let wrap = |name| move |source| Error::Map { name, source };
        for (id, backend) in backends {
            let written = self.backends.insert(id, backend, 0);
            written.map_err(wrap("backends"))?;
        }
        for (id, name) in names {
            let written = self.service_names.insert(id, name, 0);
            written.map_err(wrap("service_names"))?;
        }
        self.mirror = self.read()?;
        Ok(())
    }

    /// Carries out a plan. Groups that fail are cut short and reported; the others go on.
    pub fn execute(&mut self, plan: Plan) -> Vec<Failure> {
        let mut failures: Vec<_> = plan
            .refused
            .into_iter()
            .map(|(service, map)| Failure {
                message: full(map),
                service: Some(service),
            })
            .collect();
        for group in plan.groups {
            for step in &group.steps {
                if let Err((name, error)) = self.step(step) {
                    failures.push(Failure {
                        message: explain(name, &error),
                        service: group.service,
                    });
                    break;
                }
                self.mirror.note(step);
            }
        }
        failures
    }

    fn step(&mut self, step: &Step) -> Result<(), (&'static str, MapError)> {
        let within = |name| move |error| (name, error);
        match step {
            Step::PutService(key, service) => self
                .services
                .insert(key, service, 0)
                .map_err(within("services")),
            Step::DeleteService(key) => self.services.remove(key).map_err(within("services")),
            Step::PutSlot(key, slot) => self.slots.insert(key, slot, 0).map_err(within("slots")),
            Step::DeleteSlot(key) => self.slots.remove(key).map_err(within("slots")),
            Step::PutBackend(id, backend) => self
                .backends
                .insert(id, backend, 0)
                .map_err(within("backends")),
            Step::DeleteBackend(id) => self.backends.remove(id).map_err(within("backends")),
            Step::PutName(id, name) => self
                .service_names
                .insert(id, encode(name), 0)
                .map_err(within("service_names")),
            Step::DeleteName(id) => self
                .service_names
                .remove(id)
                .map_err(within("service_names")),
            Step::PutNodeAddress(address) => {
                let key = AddressKey { address: *address };
                let value = NodeAddress {
                    flags: NodeAddress::FLAG_NODE_PORTS,
                };
                self.node_addresses
                    .insert(key, value, 0)
                    .map_err(within("node_addresses"))
            }
            Step::DeleteNodeAddress(address) => {
                let key = AddressKey { address: *address };
                self.node_addresses
                    .remove(&key)
                    .map_err(within("node_addresses"))
            }
            Step::PutSourceRange(service, network) => self
                .source_ranges
                .insert(&source_range(*service, network), 1, 0)
                .map_err(within("source_ranges")),
            Step::DeleteSourceRange(service, network) => self
                .source_ranges
                .remove(&source_range(*service, network))
                .map_err(within("source_ranges")),
            Step::PutPodNetwork(network) => self
                .pod_networks
                .insert(&pod_network(network), 1, 0)
                .map_err(within("pod_networks")),
            Step::DeletePodNetwork(network) => self
                .pod_networks
                .remove(&pod_network(network))
                .map_err(within("pod_networks")),
            Step::Barrier => {
                wait_for_programs();
                Ok(())
            }
        }
    }

    /// The one element of `settings`.
    pub fn settings(&self) -> Result<Settings, Error> {
        self.settings.get(&0, 0).map_err(|source| Error::Map {
            name: "settings",
            source,
        })
    }

    /// Replaces the one element of `settings`.
    pub fn set_settings(&mut self, settings: &Settings) -> Result<(), Error> {
        self.settings
            .set(0, settings, 0)
            .map_err(|source| Error::Map {
                name: "settings",
                source,
            })
    }

    /// The daemon's last sign of life.
    pub fn heartbeat(&self) -> Result<Heartbeat, Error> {
        self.heartbeat.get(&0, 0).map_err(|source| Error::Map {
            name: "heartbeat",
            source,
        })
    }

    /// Says that the daemon is alive.
    pub fn set_heartbeat(&mut self, heartbeat: &Heartbeat) -> Result<(), Error> {
        self.heartbeat
            .set(0, heartbeat, 0)
            .map_err(|source| Error::Map {
                name: "heartbeat",
                source,
            })
    }

    /// Decisions by reason, over all CPUs.
    pub fn counters(&self) -> Result<BTreeMap<&'static str, u64>, Error> {
        Reason::ALL
            .into_iter()
            .map(|reason| {
                let per_cpu = self.counters.get(&(reason as u32), 0);
                let per_cpu = per_cpu.map_err(|source| Error::Map {
                    name: "counters",
                    source,
                })?;
                Ok((reason.name(), per_cpu.iter().sum()))
            })
            .collect()
    }

    /// How many flows have not come to their end, as far as one can tell soon after it.
    pub fn flows_alive(&self) -> Result<usize, Error> {
        let now = contents::now()?;
        let alive = |flow: &&Record| !flow.has_ended(now);
        let buckets = self.conntrack.iter().map(|bucket| {
            bucket
                .map(|bucket| bucket.flows().filter(alive).count())
                .map_err(|source| Error::Map {
                    name: "conntrack",
                    source,
                })
        });
        buckets.sum()
    }

    /// Sockets that are recorded as connected to a backend that is not their Service's any more, of
    /// datagrams. Those that are not connected but have heard from it are among them.
    pub fn stale_sockets(&self) -> Connected {
        let entries = self.sockets.iter().filter_map(Result::ok);
        entries
            .filter(|(key, _)| key.direction == SocketKey::REPLY && key.protocol == UDP)
            .filter(|(key, peer)| {
                let backend = self.mirror.backends.get(&peer.backend);
                !backend.is_some_and(|backend| {
                    backend.service == peer.service
                        && backend.address == key.address
                        && backend.port == key.port
                })
            })
            .map(|(key, _)| (key.cookie, (from_map(key.address), key.port)))
            .collect()
    }

    /// Lets nothing new in: no frontend is served any more. Flows go on.
    pub fn remove_frontends(&mut self) -> Result<(), Error> {
        let keys: Vec<_> = self.mirror.services.keys().copied().collect();
        for key in keys {
            let step = Step::DeleteService(key);
            self.step(&step)
                .map_err(|(name, source)| Error::Map { name, source })?;
            self.mirror.note(&step);
        }
        Ok(())
    }

    /// What the kernel programs log; gives it once.
    pub fn take_logger(&mut self) -> Option<Logger> {
        self.logger.take()
    }

    /// Writes what whoever traces wants to see, and the numbers of the Service ports that are asked
    /// for, if only some are.
    pub fn set_trace_filter(
        &mut self,
        filter: &TraceFilter,
        services: &BTreeSet<u32>,
    ) -> Result<(), Error> {
        let wrap = |name| move |source| Error::Map { name, source };
        let known: Vec<_> = self.trace_services.keys().filter_map(Result::ok).collect();
        for id in services.iter().filter(|id| !known.contains(id)) {
            let added = self.trace_services.insert(id, 1, 0);
            added.map_err(wrap("trace_services"))?;
        }
        let set = self.trace_filter.set(0, filter, 0);
        set.map_err(wrap("trace_filter"))?;
        for id in known.iter().filter(|id| !services.contains(id)) {
            let removed = self.trace_services.remove(id);
            removed.map_err(wrap("trace_services"))?;
        }
        Ok(())
    }

    /// The event ring; gives it once.
    pub fn take_events(&mut self) -> Result<RingBuf<MapData>, Error> {
        self.events.take().ok_or(Error::Missing("events"))
    }
}

/// Waits until every BPF program that runs now has ended. They run under `rcu_read_lock`, and
/// `MEMBARRIER_CMD_GLOBAL` waits for an RCU grace period (kernel/sched/membarrier.c).
fn wait_for_programs() {
    // SAFETY: the call takes plain numbers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        // Refused on kernels with nohz_full CPUs. No program runs for a second.
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
}

fn full(map: &str) -> String {
    format!("the map {map} is full; what it held stays in force (fix: fewer Services or endpoints)")
}

/// A full map says `E2BIG`, whose text ("Argument list too long") misleads.
fn explain(map: &str, error: &MapError) -> String {
    let is_full = matches!(error, MapError::SyscallError(error)
        if error.io_error.raw_os_error() == Some(libc::E2BIG));
    if is_full {
        full(map)
    } else {
        format!("writing the map {map}: {error}")
    }
}

/// The Service takes the first 32 bits of the prefix.
fn source_range(service: u32, (address, length): &Network) -> Key<SourceRange> {
    let range = SourceRange {
        service,
        address: *address,
    };
    Key::new(32 + u32::from(*length), range)
}

fn pod_network((address, length): &Network) -> Key<AddressKey> {
    Key::new(u32::from(*length), AddressKey { address: *address })
}

fn encode((name, protocol, family): &PortKey) -> ServiceName {
    ServiceName {
        namespace: label(&name.namespace),
        name: label(&name.name),
        port: label(&name.port),
        protocol: u16::from(protocol.number()),
        family: match family {
            IpFamily::V4 => 4,
            IpFamily::V6 => 6,
        },
    }
}

/// Zero-terminated; names are DNS labels of at most 63 bytes, longer ones are cut.
fn label(text: &str) -> [u8; LABEL_BYTES] {
    let mut bytes = [0; LABEL_BYTES];
    let length = text.len().min(LABEL_BYTES - 1);
    bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
    bytes
}

pub(super) fn decode(name: &ServiceName) -> PortKey {
    let text = |bytes: &[u8; LABEL_BYTES]| {
        let end = bytes
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(LABEL_BYTES);
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    };
    let protocol = match name.protocol {
        17 => Protocol::Udp,
        132 => Protocol::Sctp,
        _ => Protocol::Tcp,
    };
    let family = if name.family == 6 {
        IpFamily::V6
    } else {
        IpFamily::V4
    };
    let name = ServicePortName {
        namespace: text(&name.namespace),
        name: text(&name.name),
        port: text(&name.port),
    };
    (name, protocol, family)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_the_map() {
        for (name, protocol, family) in [
            (
                ("istio-system", "istio-ingressgateway", "http2"),
                Protocol::Tcp,
                IpFamily::V4,
            ),
            (("default", "unnamed", ""), Protocol::Udp, IpFamily::V6),
            (
                (&*"n".repeat(63), &*"s".repeat(63), "p"),
                Protocol::Sctp,
                IpFamily::V4,
            ),
        ] {
            let name = ServicePortName {
                namespace: name.0.into(),
                name: name.1.into(),
                port: name.2.into(),
            };
            let key = (name, protocol, family);
            assert_eq!(decode(&encode(&key)), key);
        }
    }
}
