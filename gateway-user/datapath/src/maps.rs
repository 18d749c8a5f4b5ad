//! The pinned maps, and a mirror of their content.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use aya::{
    Ebpf,
    maps::{
        Array, HashMap, Map, MapData, MapError, MapInfo, PerCpuArray, RingBuf,
        lpm_trie::{Key, LpmTrie},
    },
};
use aya_log::EbpfLogger;
use gateway_common::{
    UDP,
    conntrack::ticks,
    decide::Reason,
    event::TraceFilter,
    maps::{
        AddressKey, Backend, Bucket, Heartbeat, NodeAddress, Record, Service, ServiceKey,
        ServiceName, Settings, Share, ShareKey, Slot, SlotKey, SocketKey, SocketPeer, SourceRange,
    },
};
use nodegate_programming::{
    address::{Network, from_map},
    identity::{decode, encode, share, share_name},
    mirror::{Contents, Mirror},
    plan::Plan,
    step::{Group, Step},
};

use super::{
    clock,
    error::{Error, Failure},
    features::Features,
    layout::MAPS,
    object,
    sockets::Connected,
};

/// The maps that the daemon writes or reads. The kernel's own (`conntrack`, `sockets`, …) are only
/// pinned.
#[expect(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Maps {
    settings: Array<MapData, Settings>,
    services: HashMap<MapData, ServiceKey, Service>,
    slots: HashMap<MapData, SlotKey, Slot>,
    backends: HashMap<MapData, u32, Backend>,
    turns: HashMap<MapData, u32, u64>,
    shares: HashMap<MapData, ShareKey, Share>,
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
    events_lost: PerCpuArray<MapData, u64>,
    events: Option<RingBuf<MapData>>,
    logger: Option<Logger>,
    mirror: Mirror,
}

/// Make an element, but leave one that is there as it is (include/uapi/linux/bpf.h).
const BPF_NOEXIST: u64 = 1;

/// Reads what the kernel programs log, and logs it.
pub type Logger = EbpfLogger<&'static dyn log::Log>;

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
    /// Creates the maps and pins them in the directory, or takes over those that are pinned there, and
    /// reads what they hold.
    ///
    /// `conntrack` is made with so many buckets; one that is there keeps its size.
    pub(crate) fn open(
        features: Features,
        directory: &Path,
        buckets: u32,
    ) -> Result<(Ebpf, Self), Error> {
        let mut loader = object::loader(features);
        let pinned = MapInfo::from_pin(directory.join("conntrack"));
        let buckets = pinned.map_or(buckets, |info| info.max_entries());
        loader.map_max_entries("conntrack", buckets);
        for map in MAPS {
            loader.map_pin_path(map.name, directory.join(map.pin));
        }
        let mut ebpf = loader.load(object::OBJECT)?;
        let mut maps = Self {
            settings: take(&mut ebpf, "settings")?,
            services: take(&mut ebpf, "services")?,
            slots: take(&mut ebpf, "slots")?,
            backends: take(&mut ebpf, "backends")?,
            turns: take(&mut ebpf, "turns")?,
            shares: take(&mut ebpf, "shares")?,
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
            events_lost: take(&mut ebpf, "events_lost")?,
            events: Some(take(&mut ebpf, "events")?),
            logger: EbpfLogger::init(&mut ebpf)
                .inspect_err(|error| tracing::warn!(%error, "what the kernel programs log is lost"))
                .ok(),
            mirror: Mirror::default(),
        };
        maps.mirror = maps.read()?;
        let settings = maps.settings()?;
        if settings.buckets != buckets {
            maps.set_settings(&settings)?;
        }
        Ok((ebpf, maps))
    }

    /// What the maps hold, the kernel's own apart.
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// Reads what the maps hold, and gives how many elements are others than they were written.
    pub(crate) fn read_again(&mut self) -> Result<usize, Error> {
        let found = self.read()?;
        let differences = self.mirror.differences(&found);
        if differences > 0 {
            self.mirror = found;
        }
        Ok(differences)
    }

    fn read(&self) -> Result<Mirror, Error> {
        Ok(Contents {
            services: collect!(self.services, "services", |entry| entry),
            slots: collect!(self.slots, "slots", |entry| entry),
            backends: collect!(self.backends, "backends", |entry| entry),
            turns: collect!(self.turns, "turns", |(service, _)| service),
            shares: collect!(self.shares, "shares", |(key, share)| {
                (key, share_name(&share))
            }),
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
        }
        .into())
    }

    /// Takes over the numbers of endpoints and Services.
    pub(crate) fn number(
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
            failures.extend(self.execute_group(group));
        }
        failures
    }

    /// Carries out the steps of a group up to the first that fails.
    pub(crate) fn execute_group(&mut self, group: Group) -> Option<Failure> {
        for step in &group.steps {
            if let Err((name, error)) = self.step(step) {
                return Some(Failure {
                    message: explain(name, &error),
                    service: group.service,
                });
            }
            self.mirror.note(step);
        }
        None
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
            // The kernel goes on counting in what is there already.
            Step::PutTurn(service) => {
                let made = self.turns.insert(service, 0, BPF_NOEXIST);
                unless_there(made).map_err(within("turns"))
            }
            Step::DeleteTurn(service) => self.turns.remove(service).map_err(within("turns")),
            Step::PutShare(key, name) => {
                let made = self.shares.insert(key, share(name), BPF_NOEXIST);
                unless_there(made).map_err(within("shares"))
            }
            Step::DeleteShare(key) => self.shares.remove(key).map_err(within("shares")),
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
    ///
    /// # Errors
    /// Fails if the map cannot be read.
    pub fn settings(&self) -> Result<Settings, Error> {
        self.settings.get(&0, 0).map_err(|source| Error::Map {
            name: "settings",
            source,
        })
    }

    /// How many events the programs have had no room for; 0 where that cannot be read.
    pub(crate) fn lost_events(&self) -> u64 {
        let per_cpu = self.events_lost.get(&0, 0);
        per_cpu.map_or(0, |per_cpu| per_cpu.iter().sum())
    }

    /// A bucket of `conntrack`.
    pub(crate) fn bucket(&self, number: u32) -> Result<Bucket, Error> {
        self.conntrack.get(&number, 0).map_err(|source| Error::Map {
            name: "conntrack",
            source,
        })
    }

    /// Replaces a bucket of `conntrack`, which programs should not change meanwhile.
    pub(crate) fn set_bucket(&mut self, number: u32, bucket: &Bucket) -> Result<(), Error> {
        let set = self.conntrack.set(number, bucket, 0);
        set.map_err(|source| Error::Map {
            name: "conntrack",
            source,
        })
    }

    /// How many buckets `conntrack` has.
    pub(crate) fn buckets(&self) -> u32 {
        self.conntrack.len()
    }

    /// Replaces the one element of `settings`, but for the size of `conntrack`, which is what it is.
    ///
    /// # Errors
    /// Fails if the map cannot be written.
    pub fn set_settings(&mut self, settings: &Settings) -> Result<(), Error> {
        let settings = Settings {
            buckets: self.buckets(),
            ..*settings
        };
        self.settings
            .set(0, settings, 0)
            .map_err(|source| Error::Map {
                name: "settings",
                source,
            })
    }

    /// The daemon's last sign of life.
    pub(crate) fn heartbeat(&self) -> Result<Heartbeat, Error> {
        self.heartbeat.get(&0, 0).map_err(|source| Error::Map {
            name: "heartbeat",
            source,
        })
    }

    /// Says that the daemon is alive.
    pub(crate) fn set_heartbeat(&mut self, heartbeat: &Heartbeat) -> Result<(), Error> {
        self.heartbeat
            .set(0, heartbeat, 0)
            .map_err(|source| Error::Map {
                name: "heartbeat",
                source,
            })
    }

    /// Decisions by reason, over all CPUs.
    ///
    /// # Errors
    /// Fails if the map cannot be read.
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

    /// What each destination that shares a Service port's connections has got, by Service id and name.
    ///
    /// # Errors
    /// Fails if the map cannot be read.
    pub fn shares(&self) -> Result<Vec<(u32, String, u64)>, Error> {
        let shares = self.mirror.shares.iter();
        shares
            .map(|(key, name)| {
                let share = self.shares.get(key, 0).map_err(|source| Error::Map {
                    name: "shares",
                    source,
                })?;
                Ok((key.service, name.clone(), share.connections))
            })
            .collect()
    }

    /// How many flows have not come to their end, as far as one can tell soon after it.
    pub(crate) fn flows_alive(&self) -> Result<usize, Error> {
        let now = ticks(clock::monotonic()?);
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
    pub(crate) fn stale_sockets(&self) -> Connected {
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
    pub(crate) fn remove_frontends(&mut self) -> Result<(), Error> {
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
    pub(crate) fn take_logger(&mut self) -> Option<Logger> {
        self.logger.take()
    }

    /// Writes the filter of the traces, and the ids of the Service ports that are asked for, if only
    /// some are.
    ///
    /// # Errors
    /// Fails if the map cannot be written.
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
    ///
    /// # Errors
    /// Fails if it has been taken already.
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

/// That an element is there is what was wanted.
fn unless_there(made: Result<(), MapError>) -> Result<(), MapError> {
    match made {
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::EEXIST) =>
        {
            Ok(())
        }
        made => made,
    }
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
