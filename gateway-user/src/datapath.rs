//! Snapshot → BPF maps, and the programs that read them.
//!
//! | file | what it does |
//! |---|---|
//! | [`desired`] | what the maps should hold for a Snapshot (pure) |
//! | [`plan`] | the steps from what they hold to that, in an order that no packet notices (pure) |
//! | [`maps`] | the pinned maps, and a mirror of their content |
//! | [`attach`] | programs to hooks: pinned links, adopted after a restart |
//! | [`contents`] | what the pinned maps hold, for people |
//! | [`netfilter`] | masquerading and refusing, which netfilter does for marked packets |
//! | [`node`] | what the datapath must know of the node: its addresses, its network namespace |
//! | [`features`] | what only some kernels can do |
//! | [`events`] | decisions as they are made, with names |
//! | [`heartbeat`] | the daemon's sign of life, which outlives it |
//! | [`mod@cleanup`] | the end of the redirection |
//! | [`health`] | the health check node ports |
//! | [`listeners`] | processes on node ports, which wait there in vain |
//! | [`probe`] | what this kernel and machine can do |
//! | [`rejection`] | a program that the kernel does not take, and why that may be |
//! | [`sockets`] | the end of connected datagram sockets whose backend is gone |
//! | [`redirector`] | keeps the maps in step with the Snapshots |
//! | [`tables`] | what the maps would decide, without a kernel |
//! | [`upgrade`] | from maps of an older layout to ours, while traffic flows |
//!
//! The maps and links are pinned, so traffic flows on while the daemon is away. A daemon that
//! starts takes over what it finds: it reads the maps, compares, and writes the difference.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    path::PathBuf,
    time::Duration,
};

use aya::programs::sock_ops::SockOpsLink;
use gateway_common::{
    UDP, UNSPECIFIED,
    maps::{Backend, Heartbeat, SCHEMA, Settings},
};

pub mod attach;
pub mod cleanup;
pub mod contents;
pub mod desired;
pub mod events;
pub mod features;
pub mod filter;
pub mod health;
pub mod heartbeat;
pub mod listeners;
pub mod maps;
pub mod netfilter;
pub mod node;
pub mod plan;
pub mod probe;
pub mod redirector;
pub mod rejection;
pub mod sockets;
mod sys;
pub mod tables;
pub mod upgrade;

use crate::{
    iptables::ports::Facts,
    model::{Snapshot, service::IpFamily},
};
use desired::{Desired, Policy, PortKey};
use filter::Filter;
use listeners::NodePort;
use maps::Maps;
use node::NodeFacts;
use upgrade::Upgrade;

/// Where the datapath lives and what it is attached to.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory on bpffs for maps and links, such as `/sys/fs/bpf/nodegate`.
    pub pin_dir: PathBuf,
    /// Directory of the cgroup (version 2) whose processes are redirected: the root of the
    /// hierarchy, for all processes of the node and its pods.
    pub cgroup: PathBuf,
    /// Interfaces on which packets from outside arrive.
    pub uplinks: Vec<String>,
    /// How packet programs are attached.
    pub mode: attach::Mode,
    /// Which traffic is taken.
    pub policy: Policy,
    /// Masquerade wherever kube-proxy does.
    pub masquerade: MasqueradeMode,
    /// Serve node ports on 127.0.0.1.
    pub localhost_node_ports: bool,
    /// Tell pods from others: by their network namespace, their device, or the networks of the
    /// policy. Without, they are treated as clients from outside.
    pub knows_pods: bool,
    /// Devices that pods are behind, by the beginnings of their names; none: pods are served by
    /// the socket hooks alone.
    pub pod_devices: Vec<String>,
}

impl Options {
    /// Takes over what kube-proxy's rules tell of its flags, but for what is chosen already.
    pub fn go_by(&mut self, facts: &Facts) {
        let Policy {
            node_port_networks,
            pod_networks,
            ..
        } = &mut self.policy;
        if pod_networks.is_empty() {
            pod_networks.extend(&facts.pod_networks);
        }
        if node_port_networks.is_empty() {
            node_port_networks.extend(&facts.node_port_networks);
            self.localhost_node_ports = facts.localhost_node_ports;
        }
        if facts.masquerade_all && self.masquerade == MasqueradeMode::KubeProxy {
            self.masquerade = MasqueradeMode::All;
        }
    }
}

/// For which connections the source becomes this node's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum MasqueradeMode {
    /// Those whose replies would not come back through this node otherwise: endpoints see the
    /// client's address wherever that can be.
    #[default]
    Needed,
    /// Those that kube-proxy masquerades.
    KubeProxy,
    /// Those, and all to cluster IPs (`--masquerade-all`).
    All,
}

impl MasqueradeMode {
    /// As [`Settings::flags`] has it.
    pub fn flags(self) -> u32 {
        match self {
            Self::Needed => 0,
            Self::KubeProxy => Settings::FLAG_MASQUERADE_AS_KUBE_PROXY,
            Self::All => Settings::FLAG_MASQUERADE_AS_KUBE_PROXY | Settings::FLAG_MASQUERADE_ALL,
        }
    }
}

/// Why the datapath cannot work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pin directory is unusable.
    #[error(
        "pins in {}: {source} (fix: {})",
        path.display(),
        match source.kind() {
            std::io::ErrorKind::PermissionDenied => "run as root",
            _ => "mount -t bpf bpf /sys/fs/bpf, or --pin-dir with a directory of a BPF file system",
        }
    )]
    PinDir {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The maps were written by another version.
    #[error(
        "the maps in {} have layout {found}, this nodegate knows {SCHEMA}: {}",
        path.display(),
        if *found > SCHEMA {
            "run the newer one, or `nodegate cleanup` (which ends the redirection until the next start)"
        } else {
            "`nodegate run` upgrades them and no connection breaks, or ask the older one"
        }
    )]
    Schema {
        /// The pin directory.
        path: PathBuf,
        /// The version that was found.
        found: u32,
    },
    /// A map is not there.
    #[error(
        "{} is not there: nodegate has loaded nothing here (fix: `nodegate run`, or --pin-dir if it \
         pins elsewhere)",
        pin.display()
    )]
    NotPinned {
        /// The pin.
        pin: PathBuf,
    },
    /// A map may not be opened.
    #[error("{}: not allowed to open the map (fix: run as root, or with CAP_BPF)", pin.display())]
    NotAllowed {
        /// The pin.
        pin: PathBuf,
    },
    /// The kernel refuses the maps or programs.
    #[error(
        "loading the BPF maps and programs: {0} (fix: run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON)"
    )]
    Load(#[from] aya::EbpfError),
    /// A map cannot be used.
    #[error("map {name}: {source}")]
    Map {
        /// Name of the map.
        name: &'static str,
        /// What aya says.
        source: aya::maps::MapError,
    },
    /// The object file lacks something; a defect of the build.
    #[error("the BPF object has no {0}")]
    Missing(&'static str),
    /// The kernel's verifier refuses a program.
    #[error("{0}")]
    Rejected(Box<rejection::Rejection>),
    /// A program cannot be loaded or attached.
    #[error("program {name}: {source}")]
    Program {
        /// Name of the program.
        name: &'static str,
        /// What aya says.
        source: aya::programs::ProgramError,
    },
    /// A link cannot be pinned or inspected.
    #[error("link {}: {source}", path.display())]
    Link {
        /// The pin.
        path: PathBuf,
        /// What aya or the system says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The cgroup directory is unusable.
    #[error("cgroup {}: {source} (fix: --cgroup with a directory of a cgroup2 mount)", path.display())]
    Cgroup {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// There is no such interface.
    #[error(
        "there is no interface {0} in this network namespace (fix: --uplink with one that `ip link` shows)"
    )]
    Uplink(String),
    /// What the datapath must know of the node cannot be found out.
    #[error("{what}: {source}")]
    Node {
        /// What was asked.
        what: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
}

/// A Service port that could not be programmed; its frontends keep the backends they had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which Service port; `None` for what belongs to none.
    pub service: Option<PortKey>,
    /// Why.
    pub message: String,
}

/// The programs in the kernel and the maps they read.
#[expect(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Datapath {
    ebpf: aya::Ebpf,
    maps: Maps,
    options: Options,
    settings: Settings,
    /// Devices that the packet programs are attached to; `None` before the first time.
    devices: Option<attach::Devices>,
    /// Maps of an older layout, on which the programs in the kernel work until the new ones are filled.
    upgrade: Option<Upgrade>,
    /// Whether a Snapshot was applied.
    applied: bool,
    /// The last sign of life.
    heartbeat: Heartbeat,
    /// Tells from where sockets connect, while somebody traces.
    connected: Option<SockOpsLink>,
    /// As they were when it was looked who listens on them.
    node_ports: BTreeSet<NodePort>,
    /// Who looks after netfilter's rules, until somebody lets them.
    netfilter: Vec<netfilter::Keeper>,
}

impl Datapath {
    /// Loads the programs, or takes over what an earlier daemon left, and attaches them.
    ///
    /// The maps' content is left as it is until [`Self::apply`]. Where they have an older layout, what
    /// is attached is left as it is, too, until the new ones have been filled by that.
    ///
    /// # Errors
    /// Fails without touching anything when the kernel or the system refuses, and when the maps
    /// were written by a nodegate with a newer layout.
    pub fn open(options: &Options) -> Result<Self, Error> {
        attach::check(options)?;
        let (mut ebpf, maps, upgrade) = maps::load_or_upgrade(&options.pin_dir)?;
        if let Err(error) = attach::load(&mut ebpf, options) {
            if let Some(upgrade) = upgrade {
                upgrade.abandon();
            }
            return Err(error);
        }
        let earlier = maps.settings()?;
        let settings = Settings {
            schema: SCHEMA,
            trace: 0,
            flags: flags(options),
            reserved: 0,
            host_netns: node::netns_cookie()?,
            generation: earlier.generation,
            node_v4: UNSPECIFIED,
            node_v6: UNSPECIFIED,
            // Flows are found by it, so that it stays.
            seed: match earlier.seed {
                0 => seed()?,
                seed => seed,
            },
        };
        let mut datapath = Self {
            ebpf,
            maps,
            options: options.clone(),
            settings,
            devices: None,
            upgrade,
            applied: false,
            heartbeat: Heartbeat::default(),
            connected: None,
            node_ports: BTreeSet::new(),
            netfilter: Vec::new(),
        };
        datapath.maps.set_settings(&settings)?;
        datapath.beat()?;
        datapath.refresh_devices()?;
        datapath.netfilter = [netfilter::V4, netfilter::V6]
            .map(netfilter::Keeper::install)
            .into();
        Ok(datapath)
    }

    /// Says that the daemon is alive, for whoever finds the maps without it.
    ///
    /// # Errors
    /// Fails if the map cannot be written.
    pub fn beat(&mut self) -> Result<(), Error> {
        let started = self.heartbeat.started;
        self.heartbeat = heartbeat::beat(started)?;
        self.maps.set_heartbeat(&self.heartbeat)
    }

    /// How long ago it last said so.
    ///
    /// # Errors
    /// Fails if the map or the clock cannot be read.
    pub fn heartbeat_age(&self) -> Result<Option<Duration>, Error> {
        heartbeat::age(&self.maps.heartbeat()?)
    }

    /// Attaches the programs to the devices that are there now: pods come and go, uplinks may too.
    ///
    /// # Errors
    /// Fails if an uplink is missing the first time. A device that goes later is no error: it takes its
    /// programs with it, and gets them again when it comes back.
    pub fn refresh_devices(&mut self) -> Result<(), Error> {
        if self.upgrade.is_some() {
            // The new programs have nothing to go by yet.
            return Ok(());
        }
        let devices = attach::Devices::find(&self.options, self.devices.as_ref())?;
        let pins = self.options.pin_dir.clone();
        let Some(last) = &self.devices else {
            attach::attach(&mut self.ebpf, &self.options, &devices, &pins)?;
            self.devices = Some(devices);
            return Ok(());
        };
        if *last == devices {
            return Ok(());
        }
        for uplink in last.uplinks_without(&devices) {
            tracing::warn!(
                uplink,
                "the device is gone: packets from there are not redirected"
            );
        }
        for uplink in devices.uplinks_without(last) {
            tracing::info!(uplink, "the device is back");
        }
        attach::attach(&mut self.ebpf, &self.options, &devices, &pins)?;
        self.devices = Some(devices);
        Ok(())
    }

    /// Gives the links the new programs, now that their maps are filled, and their pins the old ones'
    /// places.
    fn switch(&mut self, upgrade: &Upgrade) -> Result<(), Error> {
        let devices = attach::Devices::find(&self.options, None)?;
        attach::attach(&mut self.ebpf, &self.options, &devices, upgrade.directory())?;
        self.devices = Some(devices);
        upgrade.finish()
    }

    /// Makes the maps say what the Snapshot says. What cannot be written leaves the Service port
    /// concerned as it was, and is reported; the next call tries again.
    pub fn apply(&mut self, snapshot: &Snapshot, node: &NodeFacts) -> Result<Vec<Failure>, Error> {
        let desired = Desired::new(
            &snapshot.services,
            &snapshot.node,
            node,
            &self.options.policy,
        );
        let before = self.datagram_backends();
        let plan = plan::plan(self.maps.mirror(), &desired, plan::Capacity::MAPS);
        let failures = self.maps.execute(plan);
        // An earlier daemon may not have come to it.
        let first = !std::mem::replace(&mut self.applied, true);
        if first || !before.is_subset(&self.datagram_backends()) {
            self.end_stale_sockets();
        }
        self.tell_of_listeners(listeners::node_ports(&snapshot.services));
        let primary = |family| {
            let own = |address: &IpAddr| IpFamily::of(*address) == family;
            let any = || node.addresses.iter().copied().find(own);
            node::source(family)
                .filter(|source| node.addresses.contains(source))
                .or_else(any)
                .map_or(UNSPECIFIED, to_map)
        };
        let (node_v4, node_v6) = (primary(IpFamily::V4), primary(IpFamily::V6));
        let serving = &self.maps.mirror().node_addresses;
        let mut flags = flags(&self.options);
        for (address, flag) in [
            (node_v4, Settings::FLAG_NODE_PORTS_V4),
            (node_v6, Settings::FLAG_NODE_PORTS_V6),
        ] {
            if serving.contains(&address) {
                flags |= flag;
            }
        }
        let settings = Settings {
            generation: snapshot.generation,
            flags,
            node_v4,
            node_v6,
            ..self.settings
        };
        if self.settings != settings {
            self.settings = settings;
            self.maps.set_settings(&settings)?;
        }
        if let Some(upgrade) = self.upgrade.take()
            && let Err(error) = self.switch(&upgrade)
        {
            // It is tried again with the next Snapshot, or in a moment.
            self.upgrade = Some(upgrade);
            return Err(error);
        }
        Ok(failures)
    }

    /// Tells of processes that were on a node port before it was one.
    fn tell_of_listeners(&mut self, node_ports: BTreeSet<NodePort>) {
        let new = node_ports.difference(&self.node_ports).copied().collect();
        for port in listeners::taken(&new) {
            tracing::warn!(
                %port,
                "a process listens on what is a node port now, and gets nothing from there any more: \
                 it should listen on another port, or the Service have another nodePort"
            );
        }
        self.node_ports = node_ports;
    }

    fn datagram_backends(&self) -> HashSet<(u32, Backend)> {
        let all = self.maps.mirror().backends.iter();
        all.filter(|(_, backend)| backend.protocol == UDP)
            .map(|(id, backend)| {
                (
                    *id,
                    Backend {
                        flags: 0,
                        ..*backend
                    },
                )
            })
            .collect()
    }

    /// Connected datagram sockets stay with their peer, whatever becomes of it.
    fn end_stale_sockets(&self) {
        let stale = self.maps.stale_sockets();
        match sockets::end(&stale) {
            Ok(ended) => {
                if !ended.sockets.is_empty() {
                    tracing::info!(
                        sockets = ended.sockets.len(),
                        "ended datagram sockets that were connected to endpoints that are gone"
                    );
                }
                if let (count, Some(error)) = ended.closed {
                    tracing::warn!(
                        namespaces = count,
                        error,
                        "datagram sockets there stay connected to endpoints that are gone (needs \
                         CAP_SYS_ADMIN and CAP_SYS_PTRACE)"
                    );
                }
            }
            Err(error) => tracing::warn!(
                %error,
                "datagram sockets stay connected to endpoints that are gone (needs a kernel with \
                 CONFIG_INET_DIAG_DESTROY and CONFIG_INET_UDP_DIAG)"
            ),
        }
    }

    /// Makes the kernel report what those who trace want to see; of several at least that.
    pub fn set_tracing<'f>(
        &mut self,
        filters: impl Iterator<Item = &'f Filter>,
    ) -> Result<(), Error> {
        let names = &self.maps.mirror().names;
        let cover = filter::cover(filters, self.settings.host_netns, names);
        match (&cover, &self.connected) {
            (None, Some(_)) => self.connected = None,
            (Some(_), None) => self.connected = self.watch_connections(),
            _ => {}
        }
        if let Some((filter, services)) = &cover {
            self.maps.set_trace_filter(filter, services)?;
        }
        self.settings.trace = u32::from(cover.is_some());
        self.maps.set_settings(&self.settings)
    }

    /// Attaches the program that reports from where sockets connect. Without it, requests are not
    /// joined to decisions about sockets, and all else works.
    fn watch_connections(&mut self) -> Option<SockOpsLink> {
        attach::connected(&mut self.ebpf, &self.options)
            .inspect_err(|error| {
                tracing::warn!(%error, "which request came over which socket is not known");
            })
            .ok()
    }

    /// Cookie of the node's own network namespace.
    pub fn host_netns(&self) -> u64 {
        self.settings.host_netns
    }

    /// The ring from which the kernel's reports are read. Gives it once.
    pub fn take_events(&mut self) -> Result<events::Ring, Error> {
        self.maps.take_events().map(events::Ring::new)
    }

    /// Who looks after netfilter's rules. Gives them once.
    pub fn take_netfilter(&mut self) -> Vec<netfilter::Keeper> {
        std::mem::take(&mut self.netfilter)
    }

    /// What the kernel programs log. Gives it once.
    pub fn take_logger(&mut self) -> Option<maps::Logger> {
        self.maps.take_logger()
    }

    /// What the kernel programs decide by: with the decision core, an explanation of any flow.
    pub fn tables(&self) -> (&Settings, &plan::Mirror) {
        (&self.settings, self.maps.mirror())
    }

    /// Names of the Service ports by id, as events carry them.
    pub fn names(&self) -> BTreeMap<u32, PortKey> {
        self.maps.mirror().names.clone()
    }

    /// How many decisions of each kind there were since the maps were made, over all CPUs, by
    /// [`Reason`](gateway_common::decide::Reason).
    pub fn counters(&self) -> Result<BTreeMap<&'static str, u64>, Error> {
        self.maps.counters()
    }

    /// How full the maps are.
    pub fn usage(&self) -> BTreeMap<&'static str, usize> {
        let mirror = self.maps.mirror();
        BTreeMap::from([
            ("services", mirror.services.len()),
            ("slots", mirror.slots.len()),
            ("backends", mirror.backends.len()),
        ])
    }
}

/// What strangers cannot guess.
fn seed() -> Result<u64, Error> {
    let mut bytes = [0; 8];
    // SAFETY: the kernel writes at most so many bytes.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got != 8 {
        return Err(Error::Node {
            what: "random numbers",
            source: std::io::Error::last_os_error(),
        });
    }
    // 0 stands for none.
    Ok(u64::from_ne_bytes(bytes).max(1))
}

fn flags(options: &Options) -> u32 {
    let flag = |condition, flag| if condition { flag } else { 0 };
    options.masquerade.flags()
        | flag(options.knows_pods, Settings::FLAG_KNOWS_PODS)
        | flag(
            options.localhost_node_ports,
            Settings::FLAG_LOCALHOST_NODE_PORTS,
        )
}

/// IPv4 as `::ffff:a.b.c.d`, as the maps hold addresses.
pub fn to_map(address: IpAddr) -> gateway_common::Address {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The reverse of [`to_map`].
pub fn from_map(address: gateway_common::Address) -> IpAddr {
    std::net::Ipv6Addr::from(address).to_canonical()
}
