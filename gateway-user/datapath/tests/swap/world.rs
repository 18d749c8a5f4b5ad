//! Three network namespaces: a client, a node, and all pods.

use std::{
    fs::{self, File},
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use libtest_mimic::Failed;
use nix::sched::{CloneFlags, setns};
use nodegate_programs::Program;

/// Endpoints that a Service may have.
pub(crate) const PODS: usize = 6;
/// Where pods listen.
pub(crate) const TARGET_PORT: u16 = 8080;
const SERVICES: u8 = 24;

pub(crate) const CLIENT_NETNS: &str = "client";
pub(crate) const NODE_NETNS: &str = "node";
const PODS_NETNS: &str = "pods";

/// The node's addresses.
pub(crate) const NODE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 168, 170, 11)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xc0, 0, 0, 0, 0, 0, 0x11)),
];

/// A Service and its pods.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) number: u8,
    pub(crate) udp: bool,
    pub(crate) cluster_ip: IpAddr,
    pub(crate) node_port: u16,
}

/// What the test stands on. All of it goes when it is dropped.
pub(crate) struct World {
    prefix: String,
    pub(crate) pins: PathBuf,
    pub(crate) cgroup: PathBuf,
    pub(crate) services: Vec<Service>,
}

/// Why there can be no test.
pub(crate) fn obstacle() -> Option<&'static str> {
    if !nix::unistd::Uid::effective().is_root() {
        return Some("not root (run it with sudo)");
    }
    let magic = nix::sys::statfs::statfs("/sys/fs/bpf").map(|stat| stat.filesystem_type());
    if magic != Ok(nix::sys::statfs::BPF_FS_MAGIC) {
        return Some("no BPF file system (mount -t bpf bpf /sys/fs/bpf)");
    }
    if cgroup2().is_none() {
        return Some("no cgroup2 hierarchy (mount -t cgroup2 none /sys/fs/cgroup)");
    }
    let ip = Program::Ip.find();
    ip.is_none().then_some("no ip (install iproute2)")
}

fn cgroup2() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| path.into())
    })
}

impl Service {
    fn new(number: u8) -> Self {
        let v6 = number & 2 != 0;
        Self {
            number,
            udp: number & 1 != 0,
            cluster_ip: if v6 {
                Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, u16::from(number) + 1).into()
            } else {
                Ipv4Addr::new(10, 96, 0, number + 1).into()
            },
            node_port: 30000 + u16::from(number),
        }
    }

    /// A pod's address; no two Services share one.
    pub(crate) fn pod(&self, pod: usize) -> IpAddr {
        let host = 10 + self.number * PODS as u8 + pod as u8;
        if self.cluster_ip.is_ipv6() {
            Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, u16::from(host)).into()
        } else {
            Ipv4Addr::new(10, 10, 1, host).into()
        }
    }

    /// Protocol and address for clients on the node.
    pub(crate) fn inside_target(&self) -> (bool, SocketAddr) {
        (self.udp, SocketAddr::new(self.cluster_ip, 80))
    }

    /// The same for clients outside.
    pub(crate) fn outside_target(&self) -> (bool, SocketAddr) {
        let node = NODE[usize::from(self.cluster_ip.is_ipv6())];
        (self.udp, SocketAddr::new(node, self.node_port))
    }
}

impl World {
    pub(crate) fn up() -> Result<Self, Failed> {
        let prefix = format!("ngswap-{}", std::process::id());
        let root = cgroup2().ok_or("no cgroup2")?;
        let world = Self {
            pins: Path::new("/sys/fs/bpf").join(&prefix),
            cgroup: root.join(&prefix),
            prefix,
            services: (0..SERVICES).map(Service::new).collect(),
        };
        fs::create_dir(&world.cgroup)?;
        world.wire()?;
        Ok(world)
    }

    fn wire(&self) -> Result<(), Failed> {
        let [client, node, pods] =
            [CLIENT_NETNS, NODE_NETNS, PODS_NETNS].map(|name| self.netns(name));
        for name in [CLIENT_NETNS, NODE_NETNS, PODS_NETNS] {
            let netns = self.netns(name);
            ip(&format!("netns add {netns}"))?;
            // The first packet would wait for the link-local address that asks for neighbours.
            self.inside(name, || {
                for scope in ["default", "all"] {
                    fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/accept_dad"), "0")?;
                }
                Ok(())
            })?;
            ip(&format!("-n {netns} link set lo up"))?;
        }
        ip(&format!(
            "-n {node} link add eth0 type veth peer name eth0 netns {client}"
        ))?;
        ip(&format!(
            "-n {node} link add pods0 type veth peer name eth0 netns {pods}"
        ))?;
        let mut addresses = vec![
            (&client, "eth0", "192.168.170.1/24".to_owned()),
            (&client, "eth0", "fd00:c0::1/64".to_owned()),
            (&node, "eth0", format!("{}/24", NODE[0])),
            (&node, "eth0", format!("{}/64", NODE[1])),
            (&node, "pods0", "10.10.1.1/24".to_owned()),
            (&node, "pods0", "fd00:10::1/64".to_owned()),
        ];
        for service in &self.services {
            for pod in 0..PODS {
                let address = service.pod(pod);
                let length = if address.is_ipv4() { 24 } else { 64 };
                addresses.push((&pods, "eth0", format!("{address}/{length}")));
            }
        }
        for (netns, device, address) in addresses {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            ip(&format!(
                "-n {netns} addr add {address} dev {device}{nodad}"
            ))?;
        }
        for (netns, device) in [
            (&client, "eth0"),
            (&node, "eth0"),
            (&node, "pods0"),
            (&pods, "eth0"),
        ] {
            ip(&format!("-n {netns} link set {device} up"))?;
        }
        for (netns, via) in [
            (&client, NODE[0].to_string()),
            (&client, NODE[1].to_string()),
            (&pods, "10.10.1.1".into()),
            (&pods, "fd00:10::1".into()),
        ] {
            ip(&format!("-n {netns} route add default via {via}"))?;
        }
        self.inside(NODE_NETNS, || {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?;
            Ok(())
        })
    }

    fn netns(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// What the client inside is told: namespace, cgroup, and whom to ask.
    pub(crate) fn task(&self) -> Result<String, Failed> {
        let targets: Vec<_> = self.services.iter().map(Service::inside_target).collect();
        let netns = netns_file(&self.netns(NODE_NETNS));
        Ok(serde_json::to_string(&(netns, &self.cgroup, targets))?)
    }

    /// Runs something on a thread of its own that is in a namespace.
    pub(crate) fn inside<T: Send>(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<T, Failed> + Send,
    ) -> Result<T, Failed> {
        let file = netns_file(&self.netns(name));
        thread::scope(|scope| {
            let task = scope.spawn(move || {
                enter(&file)?;
                work()
            });
            task.join().map_err(|_| Failed::from("panicked"))?
        })
    }

    /// Starts the pods' servers; they end with the program.
    pub(crate) fn serve(&self) -> Result<(), Failed> {
        self.inside(PODS_NETNS, || {
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, TARGET_PORT))?;
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    if let Ok(local) = stream.local_addr() {
                        let pod = local.ip().to_canonical().to_string();
                        // The client is the one that complains.
                        let _ = (&stream).write_all(pod.as_bytes());
                    }
                }
            });
            for service in self.services.iter().filter(|service| service.udp) {
                for pod in 0..PODS {
                    let address = service.pod(pod);
                    let socket = UdpSocket::bind((address, TARGET_PORT))?;
                    thread::spawn(move || answer(&socket, address));
                }
            }
            Ok(())
        })
    }
}

fn answer(socket: &UdpSocket, pod: IpAddr) {
    let mut buffer = [0; 16];
    loop {
        if let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(pod.to_string().as_bytes(), peer);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // What was not made cannot be removed.
        let _ = nodegate_datapath::cleanup::cleanup(&self.pins, Duration::ZERO, |_| ());
        for name in [CLIENT_NETNS, NODE_NETNS, PODS_NETNS] {
            let _ = ip(&format!("netns del {}", self.netns(name)));
        }
        let _ = fs::remove_dir(&self.cgroup);
    }
}

fn netns_file(netns: &str) -> PathBuf {
    Path::new("/run/netns").join(netns)
}

/// Moves this thread.
pub(crate) fn enter(netns: &Path) -> Result<(), Failed> {
    Ok(setns(File::open(netns)?.as_fd(), CloneFlags::CLONE_NEWNET)?)
}

fn ip(arguments: &str) -> Result<(), Failed> {
    let output = Program::Ip
        .command()
        .args(arguments.split_whitespace())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {arguments}: {told}").into())
}
