//! Namespaces and links: a switch, hosts on it, pods behind nodes.
//!
//! Pods are wired as Calico does it: a /32 address, a default route through 169.254.1.1, which the
//! other end of the pod's link answers for, and a /32 route in every node. IPv6 is wired the same
//! way. Nobody has link-local addresses and so nobody could ask for IPv6 neighbours; everybody knows
//! them from the start, and nothing waits for duplicate address detection.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Write as _,
    net::IpAddr,
    os::fd::AsFd as _,
    path::Path,
    process::Stdio,
    thread,
};

use anyhow::{Context as _, anyhow, ensure};
use nix::{
    mount::{MntFlags, umount2},
    sched::{CloneFlags, setns},
};
use nodegate_programs::Program;
use sha2::{Digest as _, Sha256};

use crate::{
    config::{Layout, NODE_PREFIX, NODE_PREFIX_V6, Node},
    names::{self, Host, NETNS_ROOT, Names},
    process,
    workload::Pod,
};

/// One for all host ends of pods' links, as Calico has it: pods need no ARP for their gateway.
const LINK_MAC: &str = "ee:ee:ee:ee:ee:ee";
/// The gateway of all pods; nobody has this address.
const POD_GATEWAY: &str = "169.254.1.1";
/// The same for IPv6.
const POD_GATEWAY_V6: &str = "fe80::1";
/// File of the state that lists every namespace before it is made.
const CLAIMS: &str = "namespaces";

/// Makes the switch, the client and the nodes, without pods and external IPs.
pub(crate) fn create(names: &Names, layout: &Layout) -> anyhow::Result<()> {
    let switch = names.switch();
    add_netns(names, &switch, &[])?;
    ip(
        names,
        &switch,
        &[
            "link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0".into(),
            "link set br0 up".into(),
        ],
    )?;
    let hosts: Vec<(Host, [IpAddr; 2])> =
        std::iter::once((Host::Client, layout.client_addresses()))
            .chain(
                layout
                    .nodes
                    .iter()
                    .map(|node| (Host::Node(node.name.clone()), node.addresses())),
            )
            .collect();
    for (host, addresses) in &hosts {
        let netns = names.netns(host);
        let forward: &[(&str, &str)] = match host {
            Host::Node(_) => &[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")],
            _ => &[],
        };
        add_netns(names, &netns, forward)?;
        let port = names::interface(&host.to_string(), &host.to_string());
        let mac = mac(host);
        ip(
            names,
            &switch,
            &[
                format!("link add {port} type veth peer name eth0 address {mac} netns {netns}"),
                format!("link set {port} master br0 up"),
            ],
        )?;
        let mut lines = vec!["link set eth0 up".into()];
        lines.extend(addresses.iter().map(|address| match address {
            IpAddr::V4(ip) => format!("addr add {ip}/{NODE_PREFIX} dev eth0"),
            IpAddr::V6(ip) => format!("addr add {ip}/{NODE_PREFIX_V6} dev eth0 nodad"),
        }));
        for (other, others) in hosts.iter().filter(|(other, _)| other != host) {
            lines.extend(neighbour(addresses, other, *others));
        }
        ip(names, &netns, &lines)?;
    }
    Ok(())
}

/// How a host on the switch reaches another one.
fn neighbour(own: &[IpAddr; 2], host: &Host, others: [IpAddr; 2]) -> Vec<String> {
    let mac = mac(host);
    // As neighbours themselves would tell (RFC 4861 §4.4). Through one that is no router, no path's MTU
    // is remembered for long: `rt6_age_examine_exception` in net/ipv6/route.c.
    let router = match host {
        Host::Node(_) => " router",
        _ => "",
    };
    let mut lines = Vec::new();
    for (own, other) in own.iter().zip(others) {
        let prefix = if own.is_ipv4() {
            NODE_PREFIX
        } else {
            NODE_PREFIX_V6
        };
        let near = ipnet::IpNet::new(*own, prefix).is_ok_and(|subnet| subnet.contains(&other));
        if !near {
            // Whoever is outside the subnet is on the same wire all the same.
            lines.push(format!("route add {} dev eth0 src {own}", alone(other)));
        }
        if other.is_ipv6() {
            lines.push(format!(
                "neigh replace {other} lladdr {mac} dev eth0 nud permanent{router}"
            ));
        }
    }
    lines
}

/// The network that holds this address only.
fn alone(address: IpAddr) -> String {
    let length = if address.is_ipv4() { 32 } else { 128 };
    format!("{address}/{length}")
}

/// The hardware address of a host's `eth0`: local and unicast (IEEE 802 §8.4), always the same.
fn mac(host: &Host) -> String {
    let digest = Sha256::digest(host.to_string());
    let bytes: Vec<String> = digest[..5].iter().map(|b| format!("{b:02x}")).collect();
    format!("02:{}", bytes.join(":"))
}

/// Makes a pod's namespace and the routes to it.
pub(crate) fn add_pod(names: &Names, layout: &Layout, pod: &Pod) -> anyhow::Result<()> {
    let host = pod.host();
    let netns = names.netns(&host);
    let node = names.netns(&Host::Node(pod.node.clone()));
    let link = pod_link(pod);
    let (v4, v6) = (pod.address, pod.address_v6);
    let mac = mac(&host);
    add_netns(names, &netns, &[])?;
    ip(
        names,
        &node,
        &[
            format!(
                "link add {link} address {LINK_MAC} type veth peer name eth0 address {mac} netns {netns}"
            ),
            format!("link set {link} alias {host}"),
            format!("link set {link} up"),
            format!("route replace {v4}/32 dev {link}"),
            format!("route replace {v6}/128 dev {link}"),
            format!("neigh replace {v6} lladdr {mac} dev {link} nud permanent"),
        ],
    )?;
    ip(
        names,
        &netns,
        &[
            "link set eth0 up".into(),
            format!("addr add {v4}/32 dev eth0"),
            format!("addr add {v6}/128 dev eth0 nodad"),
            format!("route add {POD_GATEWAY} dev eth0 scope link"),
            format!("route add default via {POD_GATEWAY} dev eth0"),
            format!("neigh replace {POD_GATEWAY} lladdr {LINK_MAC} dev eth0 nud permanent"),
            format!("route add ::/0 via {POD_GATEWAY_V6} dev eth0"),
            format!(
                "neigh replace {POD_GATEWAY_V6} lladdr {LINK_MAC} dev eth0 nud permanent router"
            ),
        ],
    )?;
    let via = layout
        .node(&pod.node)
        .context("the pod's node is gone")?
        .addresses();
    for other in others(layout, pod) {
        let routes = pod.addresses().into_iter().zip(via);
        let routes: Vec<String> = routes
            .map(|(ip, via)| format!("route replace {} via {via} dev eth0", alone(ip)))
            .collect();
        ip(
            names,
            &names.netns(&Host::Node(other.name.clone())),
            &routes,
        )?;
    }
    Ok(())
}

/// Takes a pod's namespace and routes away.
pub(crate) fn remove_pod(names: &Names, layout: &Layout, pod: &Pod) -> anyhow::Result<()> {
    // Now, and not when the kernel gets to the namespace: the address may be needed again.
    ip(
        names,
        &names.netns(&Host::Node(pod.node.clone())),
        &[format!("link del {}", pod_link(pod))],
    )?;
    for other in others(layout, pod) {
        let routes = pod.addresses().map(|ip| format!("route del {}", alone(ip)));
        ip(
            names,
            &names.netns(&Host::Node(other.name.clone())),
            &routes,
        )?;
    }
    remove_netns(&names.netns(&pod.host()))
}

fn others<'a>(layout: &'a Layout, pod: &'a Pod) -> impl Iterator<Item = &'a Node> {
    layout.nodes.iter().filter(|node| node.name != pod.node)
}

/// A pod's link in its node.
fn pod_link(pod: &Pod) -> String {
    names::interface(&pod.name, &pod.host().to_string())
}

/// Addresses outside the cluster that lead to it, and whether a node has them.
pub(crate) type OutsideIps = BTreeMap<IpAddr, bool>;

/// Makes the client reach the addresses through the first node, and gives those that are to be owned to
/// it. Takes away those that are no longer wanted. Hosts keep their own addresses.
pub(crate) fn set_outside_ips(
    names: &Names,
    layout: &Layout,
    old: &OutsideIps,
    new: &OutsideIps,
) -> anyhow::Result<()> {
    let Some(first) = layout.nodes.first() else {
        return Ok(());
    };
    let client = names.netns(&Host::Client);
    let owner = names.netns(&Host::Node(first.name.clone()));
    let change = |verb: &str, from: &OutsideIps, but: &OutsideIps| -> anyhow::Result<()> {
        let mut routes = Vec::new();
        let mut addresses = Vec::new();
        for (ip, owned) in from {
            if but.get(ip) == Some(owned) || layout.owner(*ip).is_some() {
                continue;
            }
            let (via, nodad) = match ip {
                IpAddr::V4(_) => (IpAddr::V4(first.address), ""),
                IpAddr::V6(_) => (IpAddr::V6(first.address_v6), " nodad"),
            };
            let ip = alone(*ip);
            routes.push(format!("route {verb} {ip} via {via} dev eth0"));
            if *owned {
                let nodad = if verb == "add" { nodad } else { "" };
                addresses.push(format!("addr {verb} {ip} dev eth0{nodad}"));
            }
        }
        ip(names, &client, &routes)?;
        ip(names, &owner, &addresses)
    };
    change("del", old, new)?;
    change("add", new, old)
}

/// Makes a namespace with a loopback that is up, and no IPv6 chatter.
fn add_netns(names: &Names, name: &str, sysctls: &[(&str, &str)]) -> anyhow::Result<()> {
    let mut claims = File::options()
        .create(true)
        .append(true)
        .open(names.state().join(CLAIMS))?;
    writeln!(claims, "{name}")?;
    let mut command = Program::Ip.command();
    command.args(["netns", "add", name]);
    process::join(&mut command, &names.helpers_cgroup())?;
    process::run(command)?;
    let common = [
        // Links made from now on get no link-local address, so no router or neighbour solicitation.
        ("ipv6/conf/default/addr_gen_mode", "1"),
        ("ipv6/conf/default/accept_ra", "0"),
        // Some containers' default is to have no IPv6.
        ("ipv6/conf/all/disable_ipv6", "0"),
        ("ipv6/conf/default/disable_ipv6", "0"),
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        // Replies of translated flows may come in on another link than the kernel would choose.
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/default/send_redirects", "0"),
    ];
    inside(name, || {
        for (key, value) in common.iter().chain(sysctls) {
            // /proc/sys/net is the reading thread's namespace's (proc_sys(5)).
            let file = Path::new("/proc/sys/net").join(key);
            fs::write(&file, value)
                .with_context(|| format!("setting {} to {value}", file.display()))?;
        }
        Ok(())
    })?;
    ip(names, name, &["link set lo up".into()])
}

/// Runs something on a thread of its own that is in the network namespace.
pub fn inside<T: Send>(
    name: &str,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let file = File::open(Path::new(NETNS_ROOT).join(name))
        .with_context(|| format!("the network namespace {name}"))?;
    thread::scope(|scope| {
        let task = scope.spawn(move || {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("entering {name}"))?;
            work()
        });
        task.join()
            .map_err(|_| anyhow!("the thread in {name} panicked"))?
    })
}

/// Runs lines of `ip -batch` in a namespace.
pub(crate) fn ip(names: &Names, netns: &str, lines: &[String]) -> anyhow::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut command = Program::Ip.command();
    process::join(&mut command, &names.helpers_cgroup())?;
    let mut child = command
        .args(["-n", netns, "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting ip")?;
    // Less than a pipe holds, so this does not wait for the reader.
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(lines.join("\n").as_bytes())?;
        stdin.write_all(b"\n")?;
    }
    let status = process::wait(&mut child)?.with_context(|| format!("ip in {netns} hangs"))?;
    let mut message = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        std::io::Read::read_to_string(&mut stderr, &mut message)?;
    }
    ensure!(
        status.success(),
        "ip in {netns}: {}",
        message.trim().replace('\n', " | ")
    );
    Ok(())
}

/// The namespaces of a testbed, as far as they are there, whatever its state says: `a` and `a-b` may
/// both have made `ngt-a-b-c`, so what another testbed has claimed is left alone.
pub(crate) fn namespaces(names: &Names) -> Vec<String> {
    let prefix = names.netns_prefix();
    let others = fs::read_dir(names.kind().state_root());
    let others = others.into_iter().flatten().flatten();
    let claimed: BTreeSet<String> = others
        .filter(|other| other.file_name() != names.testbed())
        .filter_map(|other| fs::read_to_string(other.path().join(CLAIMS)).ok())
        .flat_map(|claims| claims.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let Ok(entries) = fs::read_dir(NETNS_ROOT) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix) && !claimed.contains(name))
        .collect()
}

/// Takes a namespace's name away; the kernel ends it with its last process. A name without a
/// namespace, which a killed `ip netns add` leaves, goes too.
pub(crate) fn remove_netns(name: &str) -> anyhow::Result<()> {
    let file = Path::new(NETNS_ROOT).join(name);
    // Not mounted is fine: then only the file is left.
    let _ = umount2(&file, MntFlags::MNT_DETACH);
    match fs::remove_file(&file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", file.display()))
        }
        _ => Ok(()),
    }
}
