//! The same Services on two nodes: as kube-proxy's rules, and as nodegate's maps and programs.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};
use ipnet::IpNet;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use nodegate_datapath::{self as datapath, Datapath, Options, options::AttachMode};
use nodegate_explain::node::Loaded;
use nodegate_iptables::{
    config::{KubeProxyConfig, LocalDetector},
    normal,
    render::render,
    rules::Dialect,
};
use nodegate_model::{
    Snapshot,
    gateway::Gateway,
    service::{IpFamily, ServicePort},
};
use nodegate_programming::{
    desired::{ExternalIps, Policy},
    masquerade::MasqueradeMode,
};
use nodegate_programs::Program;

use crate::{
    agent::{Agent, Probe, Seen},
    core::Tables,
    world::{self, Space, World},
};

pub(crate) use crate::random::is_nodes;

/// What both nodes are to serve.
pub(crate) struct Load {
    pub(crate) services: Vec<ServicePort>,
    pub(crate) config: KubeProxyConfig,
    /// The rules, for IPv4 and IPv6, if not as they are rendered from the above.
    pub(crate) rules: Option<[String; 2]>,
}

/// Which agent makes the sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Hooks {
    /// The one whose sockets nodegate's socket hooks see.
    Sockets,
    /// The one that they don't.
    Packets,
}

/// Both nodes.
pub(crate) struct Sides {
    pub(crate) kube_proxy: Side,
    pub(crate) nodegate: Side,
    datapath: Option<(Datapath, Options)>,
    generation: u64,
    places: Places,
}

/// What is left of a test when it is killed: its cgroup and pins.
struct Places {
    cgroup: PathBuf,
    pins: PathBuf,
}

impl Drop for Places {
    fn drop(&mut self) {
        // Not `datapath::cleanup`, which would see to netfilter in the namespace of the test too.
        for pin in fs::read_dir(&self.pins).into_iter().flatten().flatten() {
            let _ = fs::remove_file(pin.path());
        }
        let _ = fs::remove_dir(&self.pins);
        // The agents' ends may take a moment.
        let _ = patience::until(|| match fs::remove_dir(&self.cgroup) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => None,
            _ => Some(()),
        });
    }
}

/// A node and what is around it.
pub(crate) struct Side {
    pub(crate) world: World,
    sockets: Agent,
    packets: Agent,
}

/// Why there can be no test; none if there can.
pub(crate) fn obstacle() -> Option<&'static str> {
    if !nix::unistd::Uid::effective().is_root() {
        return Some("not root (run them with sudo)");
    }
    let magic = nix::sys::statfs::statfs("/sys/fs/bpf").map(|stat| stat.filesystem_type());
    if magic != Ok(nix::sys::statfs::BPF_FS_MAGIC) {
        return Some("no BPF file system (mount -t bpf bpf /sys/fs/bpf)");
    }
    if cgroup2().is_none() {
        return Some("no cgroup2 file system (mount -t cgroup2 none /sys/fs/cgroup/unified)");
    }
    [
        Program::IptablesRestore,
        Program::Ip6tablesRestore,
        Program::Ip,
    ]
    .into_iter()
    .any(|program| program.find().is_none())
    .then_some("no iptables or ip (install iptables and iproute2)")
}

fn cgroup2() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut mounts = mounts.lines().map(|line| line.split(' '));
    mounts.find_map(|mut fields| {
        let directory = fields.nth(1)?;
        (fields.next()? == "cgroup2").then(|| directory.into())
    })
}

impl Places {
    /// New ones; those of tests that were killed go.
    fn new() -> anyhow::Result<Self> {
        const PREFIX: &str = "nodegate-differential-";
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let cgroups = cgroup2().context("no cgroup2")?;
        let pins = Path::new("/sys/fs/bpf");
        for parent in [&*cgroups, pins] {
            for entry in fs::read_dir(parent)?.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let Some((pid, _)) = name
                    .strip_prefix(PREFIX)
                    .and_then(|rest| rest.split_once('-'))
                else {
                    continue;
                };
                if !Path::new("/proc").join(pid).exists() {
                    drop(Self {
                        cgroup: cgroups.join(&name),
                        pins: pins.join(&name),
                    });
                }
            }
        }
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let places = Self {
            cgroup: cgroups.join(&name),
            pins: pins.join(&name),
        };
        fs::create_dir(&places.cgroup)
            .with_context(|| format!("making {}", places.cgroup.display()))?;
        Ok(places)
    }
}

// === impl Side ===

impl Side {
    fn new(cgroup: Option<&Path>) -> anyhow::Result<Self> {
        let world = World::new()?;
        let sockets = Agent::start(world.paths(), cgroup, 10_000)?;
        let packets = Agent::start(world.paths(), None, 40_000)?;
        Ok(Self {
            world,
            sockets,
            packets,
        })
    }

    /// Makes endpoints answer.
    fn serve(&mut self, services: &[ServicePort]) -> anyhow::Result<()> {
        let mut addresses = BTreeMap::new();
        let mut listen = Vec::new();
        for endpoint in services.iter().flat_map(|service| &service.endpoints) {
            addresses.insert(endpoint.address, endpoint.local);
            let space = World::home(endpoint.address, endpoint.local);
            listen.push((space, SocketAddr::new(endpoint.address, endpoint.port)));
        }
        self.world.route(&addresses)?;
        self.packets.listen(listen)?;
        // The same ports may have been another flow's a moment ago.
        self.world.inside(Space::Node, forget_flows)
    }

    fn run(&mut self, lanes: Lanes, patience: Duration) -> anyhow::Result<Results> {
        let (mut sockets, mut packets) = (Vec::new(), Vec::new());
        let which: Vec<_> = lanes.iter().map(|(hooks, _)| *hooks).collect();
        for (hooks, lane) in lanes {
            match hooks {
                Hooks::Sockets => sockets.push(lane),
                Hooks::Packets => packets.push(lane),
            }
        }
        let (sockets, packets) = thread::scope(|scope| {
            let agent = &mut self.sockets;
            let sockets = scope.spawn(move || agent.run(sockets, patience));
            let packets = self.packets.run(packets, patience);
            (sockets.join(), packets)
        });
        let mut sockets = sockets
            .map_err(|_| anyhow!("a thread panicked"))??
            .into_iter();
        let mut packets = packets?.into_iter();
        let results = which.iter().map(|hooks| match hooks {
            Hooks::Sockets => sockets.next(),
            Hooks::Packets => packets.next(),
        });
        results
            .collect::<Option<_>>()
            .context("an agent lost a lane")
    }
}

/// Probes that are made one after the other, and by whom.
pub(crate) type Lanes = Vec<(Hooks, Vec<Probe>)>;
/// What came of them.
pub(crate) type Results = Vec<Vec<Seen>>;

// === impl Sides ===

impl Sides {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let places = Places::new()?;
        Ok(Self {
            kube_proxy: Side::new(None)?,
            nodegate: Side::new(Some(&places.cgroup))?,
            datapath: None,
            generation: 0,
            places,
        })
    }

    /// Makes both nodes serve the load, and nothing else. Gives the tables that nodegate's programs
    /// have then.
    pub(crate) fn load(&mut self, load: &Load) -> anyhow::Result<Tables> {
        self.kube_proxy.serve(&load.services)?;
        for family in IpFamily::ALL {
            let text = if let Some(rules) = &load.rules {
                rules[family as usize].clone()
            } else {
                let ruleset = render(&load.services, family, &load.config);
                normal::dump(&ruleset).text(Dialect::Save)
            };
            let text = without_accounting(&text);
            let tool = restore(family);
            self.kube_proxy
                .world
                .inside(Space::Node, || world::run(tool, &[], &text))?;
        }
        self.nodegate.serve(&load.services)?;
        let options = self.options(&load.config);
        let snapshot = self.snapshot(load);
        let world = &self.nodegate.world;
        let datapath = &mut self.datapath;
        world.inside(Space::Node, || {
            let facts = datapath::node::facts()?;
            let known = datapath.take().filter(|(_, known)| same(known, &options));
            let (mut open, options) = match known {
                Some(known) => known,
                None => (Datapath::open(&options)?, options),
            };
            let failures = open.apply(&snapshot, &facts)?;
            ensure!(failures.is_empty(), "{failures:?}");
            let (settings, mirror) = open.tables();
            let tables = Tables::new(settings, mirror);
            *datapath = Some((open, options));
            Ok(tables)
        })
    }

    /// What nodegate's maps hold, for explanations.
    pub(crate) fn loaded(&self) -> anyhow::Result<Loaded> {
        let (datapath, _) = self.datapath.as_ref().context("nothing is loaded")?;
        let (settings, mirror) = datapath.tables();
        Ok(Loaded {
            settings: *settings,
            mirror: mirror.clone(),
            // No gateway has a route here.
            services: Vec::new(),
        })
    }

    /// nodegate's decisions so far, by reason.
    pub(crate) fn counters(&self) -> anyhow::Result<BTreeMap<&'static str, u64>> {
        let (datapath, _) = self.datapath.as_ref().context("nothing is loaded")?;
        Ok(datapath.counters()?)
    }

    /// Makes the same probes on both nodes at the same time.
    pub(crate) fn run(
        &mut self,
        lanes: &Lanes,
        patience: Duration,
    ) -> anyhow::Result<(Results, Results)> {
        thread::scope(|scope| {
            let side = &mut self.kube_proxy;
            let other = scope.spawn(move || side.run(lanes.clone(), patience));
            let ours = self.nodegate.run(lanes.clone(), patience)?;
            let theirs = other.join().map_err(|_| anyhow!("a thread panicked"))??;
            Ok((theirs, ours))
        })
    }

    fn snapshot(&mut self, load: &Load) -> Arc<Snapshot> {
        self.generation += 1;
        let mut services = load.services.clone();
        services.sort_by(|a, b| (&a.name, a.protocol).cmp(&(&b.name, b.protocol)));
        Arc::new(Snapshot {
            generation: self.generation,
            node: load.config.node.clone(),
            services: services.into_iter().map(Arc::new).collect(),
            gateway: Arc::new(Gateway::default()),
            diagnostics: Vec::new().into(),
        })
    }

    /// nodegate's own words for kube-proxy's flags.
    fn options(&self, config: &KubeProxyConfig) -> Options {
        let families = [&config.v4, &config.v6];
        let pod_networks = families.iter().filter_map(|family| match &family.local {
            Some(LocalDetector::Cidr(network)) => Some(*network),
            _ => None,
        });
        let node_port_networks = families.iter().flat_map(|family| {
            let addresses = family.node_port_addresses.iter().flatten();
            addresses.copied().map(IpNet::from).collect::<Vec<_>>()
        });
        // kube-proxy's networks matched none of the node's addresses: neither does this one.
        let none = families.iter().zip(["192.0.2.0/24", "2001:db8:ffff::/48"]);
        let none = none.filter_map(|(family, network)| {
            let none = family.node_port_addresses.as_ref()?.is_empty();
            none.then(|| network.parse().expect("a constant"))
        });
        let policy = Policy {
            external_ips: ExternalIps::Any,
            node_port_networks: node_port_networks.chain(none).collect(),
            pod_networks: pod_networks.collect(),
        };
        Options {
            pin_dir: self.places.pins.clone(),
            cgroup: self.places.cgroup.clone(),
            uplinks: ["eth0", "eth1", "eth2"].map(String::from).to_vec(),
            finds_uplinks: false,
            mode: AttachMode::Auto,
            policy,
            masquerade: if config.masquerade_all {
                MasqueradeMode::All
            } else {
                MasqueradeMode::KubeProxy
            },
            localhost_node_ports: config.v4.localhost_node_ports,
            knows_pods: families.iter().any(|family| family.local.is_some()),
            pod_devices: vec!["pod".into()],
            flow_table: None,
        }
    }
}

fn same(a: &Options, b: &Options) -> bool {
    format!("{a:?}") == format!("{b:?}")
}

/// The variant of netfilter that kube-proxy's rules are loaded with: NODEGATE_DIFFERENTIAL_IPTABLES
/// is `nft` or `legacy`; legacy, which is faster, unless it is missing.
fn restore(family: IpFamily) -> Program {
    let variable = std::env::var("NODEGATE_DIFFERENTIAL_IPTABLES");
    let nft = variable.is_ok_and(|variant| variant == "nft")
        || Program::IptablesLegacyRestore.find().is_none();
    match (family, nft) {
        (IpFamily::V4, false) => Program::IptablesLegacyRestore,
        (IpFamily::V6, false) => Program::Ip6tablesLegacyRestore,
        (IpFamily::V4, true) => Program::IptablesRestore,
        (IpFamily::V6, true) => Program::Ip6tablesRestore,
    }
}

/// nfacct only counts, and its counters must have been made by a tool that few have.
fn without_accounting(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| match line.split_once(" -m nfacct --nfacct-name ") {
            Some((before, after)) => {
                let rest = after
                    .trim_start()
                    .split_once(' ')
                    .map_or("", |(_, rest)| rest);
                format!("{before} {rest}\n")
            }
            None => format!("{line}\n"),
        });
    lines.collect()
}

/// Empties this namespace's conntrack: IPCTNL_MSG_CT_DELETE without a tuple
/// (include/uapi/linux/netfilter/nfnetlink_conntrack.h).
fn forget_flows() -> anyhow::Result<()> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::empty(),
        SockProtocol::NetlinkNetFilter,
    )?;
    let mut message = Vec::new();
    message.extend(20u32.to_ne_bytes());
    message.extend(((1u16 << 8) | 2).to_ne_bytes());
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    message.extend(flags.to_ne_bytes());
    // Sequence and port; then the family (all), the version and the resource.
    message.extend([0; 8 + 4]);
    let mut file = fs::File::from(fd);
    file.write_all(&message)?;
    let mut answer = [0; 128];
    let length = file.read(&mut answer)?;
    ensure!(length >= 20, "a short answer from netlink");
    let code = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    // No entry, no table: nothing to forget.
    ensure!(
        code == 0 || code == -libc::ENOENT,
        "emptying conntrack: {}",
        io::Error::from_raw_os_error(-code)
    );
    Ok(())
}
