//! Two nodes of the same shape, each with its own pods, the endpoints on other nodes, and an outside.
//!
//! ```text
//!             192.168.96.10            10.10.0.2
//!   outside ──eth0─┐           ┌─pod0── pod
//!    remote ──eth1─┼── node ───┤
//!       lan ──eth2─┘           └─pod1── pods
//!             172.16.9.10 (eth1)
//! ```
//!
//! `pods` answers at the addresses of all other local endpoints, `remote` at those of the remote ones.
//! The links do without ARP and neighbour discovery: both ends of one have the same hardware address.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write as _,
    net::IpAddr,
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
    process::Stdio,
    thread,
};

use anyhow::{Context as _, anyhow, bail};
use nix::sched::{CloneFlags, setns, unshare};
use nodegate_model::service::IpFamily;
use nodegate_programs::Program;
use serde::{Deserialize, Serialize};

/// A namespace of a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Space {
    Node,
    /// A local pod that connects; it is an endpoint of some Services too.
    Pod,
    /// The other local pods.
    Pods,
    /// The endpoints on other nodes.
    Remote,
    /// Whoever else connects.
    Outside,
    /// The same, by a card that has neither a default route nor an address of its own.
    Lan,
}

pub(crate) use crate::random::{ALTERNATIVE, NODE, POD, Pair, address};

pub(crate) const REMOTE_POD: Pair = ["10.10.1.99", "fd00:10:0:1::99"];
pub(crate) const OTHER_NODE: Pair = ["192.168.96.11", "fd00:c0::11"];
/// Clients outside: one of the network that source ranges let in, one of another.
pub(crate) const CLIENT: Pair = ["203.0.113.2", "2001:db8::2"];
pub(crate) const STRANGER: Pair = ["203.0.113.130", "2001:db8:1::2"];
/// A client behind the third card.
pub(crate) const LAN: Pair = ["198.51.100.2", "2001:db8:2::2"];
/// More of the first network.
pub(crate) const CROWD: usize = 120;

const ALL: [Space; 6] = [
    Space::Node,
    Space::Pod,
    Space::Pods,
    Space::Remote,
    Space::Outside,
    Space::Lan,
];

/// A client outside, of many.
pub(crate) fn crowd(number: usize, family: IpFamily) -> IpAddr {
    let text = match family {
        IpFamily::V4 => format!("203.0.113.{}", 3 + number),
        IpFamily::V6 => format!("2001:db8::{:x}", 3 + number),
    };
    text.parse().expect("an address")
}

/// The namespaces of one side. They end with this process and the agents.
pub(crate) struct World {
    spaces: BTreeMap<Space, File>,
    /// Where the addresses of endpoints lead now.
    routes: BTreeMap<IpAddr, Space>,
}

impl World {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut spaces = BTreeMap::new();
        for space in ALL {
            spaces.insert(space, namespace(space)?);
        }
        let world = Self {
            spaces,
            routes: BTreeMap::new(),
        };
        world.wire()?;
        Ok(world)
    }

    /// The files of the namespaces, for other processes.
    pub(crate) fn paths(&self) -> BTreeMap<Space, PathBuf> {
        let path = |file: &File| {
            let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
            PathBuf::from(path)
        };
        self.spaces
            .iter()
            .map(|(space, file)| (*space, path(file)))
            .collect()
    }

    /// Runs something on a thread of its own that is in the namespace.
    pub(crate) fn inside<T: Send>(
        &self,
        space: Space,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        inside(&self.spaces[&space], work)
    }

    fn wire(&self) -> anyhow::Result<()> {
        let paths = self.paths();
        let mut node = Vec::new();
        for (number, (device, space)) in [
            ("eth0", Space::Outside),
            ("eth1", Space::Remote),
            ("eth2", Space::Lan),
            ("pod0", Space::Pod),
            ("pod1", Space::Pods),
        ]
        .into_iter()
        .enumerate()
        {
            let mac = format!("02:00:00:00:00:{number:02x}");
            let peer = paths[&space].display();
            node.push(format!(
                "link add {device} address {mac} type veth peer name eth0 address {mac} netns {peer}"
            ));
            node.push(format!("link set {device} arp off up"));
        }
        node.extend([
            format!("addr add {}/24 dev eth0", NODE[0]),
            format!("addr add {}/64 dev eth0 nodad", NODE[1]),
            format!("addr add {}/24 dev eth1", ALTERNATIVE[0]),
            format!("addr add {}/64 dev eth1 nodad", ALTERNATIVE[1]),
        ]);
        self.ip(Space::Node, &node)?;
        self.ip(
            Space::Node,
            &both([
                "route add default dev eth0".into(),
                "route add 10.10.0.0/16 dev eth1".into(),
                "route add fd00:10::/32 dev eth1".into(),
                format!("route add {} dev pod0", POD[0]),
                format!("route add {} dev pod0", POD[1]),
                format!("route add {} dev eth0", REMOTE_POD[0]),
                format!("route add {} dev eth0", REMOTE_POD[1]),
                format!("route add {} dev eth2", LAN[0]),
                format!("route add {} dev eth2", LAN[1]),
            ]),
        )?;
        for (space, own) in [
            (Space::Pod, vec![POD]),
            (Space::Pods, vec![]),
            (Space::Remote, vec![]),
            (Space::Lan, vec![LAN]),
            // A pod that connects must be elsewhere than the backends: they would answer it directly.
            (
                Space::Outside,
                vec![CLIENT, STRANGER, OTHER_NODE, REMOTE_POD],
            ),
        ] {
            let mut lines = vec!["link set eth0 arp off up".to_owned()];
            for address in own.iter().flatten() {
                lines.push(format!(
                    "addr add {} dev lo{}",
                    alone(address),
                    nodad(address)
                ));
            }
            if space == Space::Outside {
                for number in 0..CROWD {
                    for family in IpFamily::ALL {
                        let address = crowd(number, family).to_string();
                        lines.push(format!(
                            "addr add {} dev lo{}",
                            alone(&address),
                            nodad(&address)
                        ));
                    }
                }
            }
            lines.extend(both(["route add default dev eth0".into()]));
            self.ip(space, &lines)?;
        }
        Ok(())
    }

    /// Who answers at an endpoint's address.
    pub(crate) fn home(address: IpAddr, local: bool) -> Space {
        let is = |pair: Pair| pair.iter().any(|own| own.parse() == Ok(address));
        if is(POD) {
            Space::Pod
        } else if is(NODE) || is(ALTERNATIVE) {
            Space::Node
        } else if local {
            Space::Pods
        } else {
            Space::Remote
        }
    }

    /// Makes the node reach endpoints where they are.
    pub(crate) fn route(&mut self, endpoints: &BTreeMap<IpAddr, bool>) -> anyhow::Result<()> {
        let mut lines: BTreeMap<Space, Vec<String>> = BTreeMap::new();
        for (address, local) in endpoints {
            let home = Self::home(*address, *local);
            let device = match home {
                Space::Pods => "pod1",
                Space::Remote => "eth1",
                _ => continue,
            };
            if self.routes.insert(*address, home) == Some(home) {
                continue;
            }
            let node = lines.entry(Space::Node).or_default();
            node.push(format!("route replace {address} dev {device}"));
            let there = lines.entry(home).or_default();
            there.push(format!("route replace local {address} dev lo table main"));
        }
        for (space, lines) in &lines {
            self.ip(*space, lines)?;
        }
        Ok(())
    }

    fn ip(&self, space: Space, lines: &[String]) -> anyhow::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let text = lines.join("\n") + "\n";
        self.inside(space, || run(Program::Ip, &["-batch", "-"], &text))
    }
}

/// IPv4 and IPv6.
fn both<const N: usize>(lines: [String; N]) -> Vec<String> {
    let both = lines.into_iter().flat_map(|line| {
        if line.contains("default") {
            vec![line.clone(), line.replace("default", "::/0")]
        } else {
            vec![line]
        }
    });
    both.collect()
}

fn alone(address: &str) -> String {
    let length = if address.contains(':') { 128 } else { 32 };
    format!("{address}/{length}")
}

fn nodad(address: &str) -> &'static str {
    if address.contains(':') { " nodad" } else { "" }
}

/// A new namespace.
fn namespace(space: Space) -> anyhow::Result<File> {
    let mut settings = vec![
        ("ipv6/conf/default/addr_gen_mode", "1"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("ipv6/conf/default/disable_ipv6", "0"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/default/send_redirects", "0"),
        // Whoever is refused is to hear of it every time.
        ("ipv4/icmp_ratelimit", "0"),
        ("ipv6/icmp/ratelimit", "0"),
        ("ipv4/icmp_msgs_per_sec", "1000000"),
        ("ipv4/icmp_msgs_burst", "1000000"),
        ("core/somaxconn", "4096"),
    ];
    if space == Space::Node {
        settings.extend([
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            // As kube-proxy sets it, for node ports on 127.0.0.1.
            ("ipv4/conf/all/route_localnet", "1"),
        ]);
    }
    let made = thread::spawn(move || -> anyhow::Result<File> {
        unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
        for (key, value) in settings {
            // /proc/sys/net is the writing thread's namespace's (proc_sys(5)).
            let file = Path::new("/proc/sys/net").join(key);
            let written = std::fs::write(&file, value);
            // Older kernels limit ICMP per machine, not per namespace.
            if !key.contains("icmp_msgs") {
                written.with_context(|| format!("setting {} to {value}", file.display()))?;
            }
        }
        run(Program::Ip, &["link", "set", "lo", "up"], "")?;
        File::open("/proc/thread-self/ns/net").context("opening the namespace")
    });
    made.join().map_err(|_| anyhow!("the thread panicked"))?
}

fn inside<T: Send>(
    file: &File,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    thread::scope(|scope| {
        let task = scope.spawn(move || {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET).context("entering a namespace")?;
            work()
        });
        task.join().map_err(|_| anyhow!("the thread panicked"))?
    })
}

/// Runs a tool to its end.
pub(crate) fn run(program: Program, arguments: &[&str], input: &str) -> anyhow::Result<()> {
    let tool = program.name();
    let mut child = program
        .command()
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {tool}"))?;
    let mut stdin = child.stdin.take().context("its input")?;
    let written = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "{tool} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    written.context("writing its input")
}
