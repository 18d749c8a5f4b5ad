//! Paths that are not simple: a narrow link on the way, datagrams in fragments, a node that forwards
//! nothing by itself.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, ensure};
use nodegate_programs::{Program, itself};
use nodegate_testbed::enter_network;

use crate::{
    Case,
    probe::{Reply, Task},
    same,
    scene::{Scene, set},
    services::{self, SETTING, both_protocols, cluster_ips, node, one, server, service},
};

pub(crate) const CASES: &[Case] = &[
    (
        "paths_a_narrow_link_before_the_node_is_found_out",
        SETTING,
        narrow_before,
    ),
    (
        "paths_a_narrow_link_behind_the_node_is_found_out",
        SETTING,
        narrow_behind,
    ),
    (
        "paths_datagrams_in_fragments_arrive_both_ways",
        SETTING,
        fragments,
    ),
    (
        "paths_a_forwarding_policy_of_drop_is_passed",
        SETTING,
        forward_drop,
    ),
];

/// Of the narrow link; IPv6 wants 1280 at least.
const NARROW: &str = "1300";
/// The client behind it.
const FAR_V6: &str = "fd00:99:1::2";
/// Many times what is in flight at once.
const LARGE: usize = 4_000_000;

fn web(policy: &str) -> String {
    service(
        "web",
        &format!(
            "type: NodePort, {}, externalTrafficPolicy: {policy}, selector: {{app: server}}, {}",
            cluster_ips(1),
            both_protocols(30080)
        ),
    )
}

/// Runs `ip` where the testbed isn't: in no host's cgroup.
fn ip(arguments: &str) -> anyhow::Result<()> {
    let output = Program::Ip
        .command()
        .args(arguments.split_whitespace())
        .output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {arguments}: {told}");
    Ok(())
}

/// A client behind two routers, the link between which is narrow: `far` – `mid` – the testbed's client –
/// nodes. Gives the namespace; it goes with the testbed, by its name.
fn far_client(scene: &Scene) -> anyhow::Result<String> {
    let client = scene.testbed.names().netns(&"client".parse()?);
    let [far, mid] = ["far", "mid"].map(|name| client.replace("client", name));
    for line in [
        format!("netns add {far}"),
        format!("netns add {mid}"),
        format!("-n {far} link set lo up"),
        format!("-n {far} link add up0 type veth peer name down0 netns {mid}"),
        format!(
            "-n {mid} link add up0 mtu {NARROW} type veth peer name down0 mtu {NARROW} netns {client}"
        ),
    ] {
        ip(&line)?;
    }
    for (netns, device, v4, v6) in [
        (&far, "up0", "10.99.1.2/24", FAR_V6),
        (&mid, "down0", "10.99.1.1/24", "fd00:99:1::1"),
        (&mid, "up0", "10.99.2.2/24", "fd00:99:2::2"),
        (&client, "down0", "10.99.2.1/24", "fd00:99:2::1"),
    ] {
        ip(&format!("-n {netns} addr add {v4} dev {device}"))?;
        ip(&format!("-n {netns} addr add {v6}/64 dev {device} nodad"))?;
        ip(&format!("-n {netns} link set {device} up"))?;
    }
    for (netns, to, via) in [
        (&far, "default", "10.99.1.1"),
        (&far, "default", "fd00:99:1::1"),
        (&mid, "default", "10.99.2.1"),
        (&mid, "default", "fd00:99:2::1"),
        (&client, "10.99.1.0/24", "10.99.2.2"),
        (&client, "fd00:99:1::/64", "fd00:99:2::2"),
    ] {
        ip(&format!("-n {netns} route add {to} via {via}"))?;
    }
    // A router solicits neighbours from its link-local address; the testbed's hosts have none.
    ip(&format!("-n {client} addr add fe80::2/64 dev down0 nodad"))?;
    for netns in [&mid, &client] {
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            set(netns, setting, "1")?;
        }
    }
    let back = [
        scene.testbed.client()?.to_string(),
        scene.testbed.client_v6()?.to_string(),
    ];
    for node in ["node1", "node2"] {
        for (to, via) in ["10.99.0.0/16", "fd00:99::/32"].iter().zip(&back) {
            scene.run(node, Program::Ip, &["route", "add", to, "via", via])?;
        }
        // Nobody announces that the client is a router now.
        let known = format!("neigh change {} dev eth0 nud permanent router", back[1]);
        scene.run_line(node, Program::Ip, &known)?;
    }
    Ok(far)
}

/// Lets a client in a namespace do something.
fn replies(netns: &str, task: Task) -> anyhow::Result<Vec<Reply>> {
    let mut command = itself()?;
    enter_network(&mut command, netns)?;
    services::replies(task.prepare(command)?)
}

/// How many ICMP errors a node has translated.
fn icmp_errors(scene: &Scene, node: &str) -> anyhow::Result<u64> {
    let status = scene.status(node)?;
    status["datapath"]["decisions"]["icmp-error"]
        .as_u64()
        .with_context(|| format!("no such counter in {status}"))
}

fn transfers(to: SocketAddr) -> [Task; 2] {
    [
        Task::Download { to, bytes: LARGE },
        Task::Upload { to, bytes: LARGE },
    ]
}

/// Routers tell the pod that its packets are too large: through the node, which has to translate.
fn narrow_before(scene: &Scene) -> anyhow::Result<()> {
    let far = far_client(scene)?;
    for (pod, number) in [("server-near", 1), ("server-far", 2)] {
        scene.apply(&(web("Cluster") + &server(pod, number)))?;
        for v6 in [false, true] {
            // A client that knows the way's MTU asks for segments that fit (`ip6_default_advmss`).
            for family in ["-4", "-6"] {
                ip(&format!("-n {far} {family} route flush cache"))?;
            }
            let before = icmp_errors(scene, "node1")?;
            let to: SocketAddr = format!("{}:30080", node(1, v6)).parse()?;
            for task in transfers(to) {
                let reply = one(replies(&far, task)?)?;
                same!(reply.pod.as_deref(), Some(pod), "{task:?}: {reply:?}");
                if matches!(task, Task::Download { .. }) {
                    same!(reply.bytes, LARGE, "{task:?}");
                }
            }
            ensure!(
                icmp_errors(scene, "node1")? > before,
                "no ICMP error came by, so nothing was tested (IPv6: {v6})"
            );
            if v6 {
                let (pod, _) = scene.pod("default", pod)?;
                // Traffic to pods of other nodes is masqueraded.
                let client = FAR_V6.parse()?;
                let peer = if number == 1 { client } else { to.ip() };
                remembers_the_mtu(scene, &pod, peer)?;
            }
            // Routers don't fragment in IPv6, and a lost datagram is not sent again: the first ones
            // may only tell how large the next one can be.
            let first = Task::udp(to).size(4000).times(2);
            replies(&far, first.expecting_silence())?;
            let reply = one(replies(&far, Task::udp(to).size(4000))?)?;
            same!(
                reply.pod.as_deref(),
                Some(pod),
                "a datagram in fragments: {reply:?}"
            );
        }
        scene.delete_pod(pod)?;
    }
    Ok(())
}

/// A pod has been told of the narrow link, and still knows after the kernel has looked through what it was
/// told. It does so every 30 seconds by itself, and keeps what leads through routers
/// (`rt6_age_examine_exception` in net/ipv6/route.c).
fn remembers_the_mtu(scene: &Scene, pod: &str, peer: IpAddr) -> anyhow::Result<()> {
    scene.set(pod, "ipv6/route/flush", "1")?;
    let route = scene.run(pod, Program::Ip, &["-6", "route", "get", &peer.to_string()])?;
    ensure!(
        route.contains(&format!("mtu {NARROW}")),
        "{pod} does not know that the way to {peer} is narrow: {route}"
    );
    Ok(())
}

/// The node tells the client that its packets are too large for the way to the pod.
fn narrow_behind(scene: &Scene) -> anyhow::Result<()> {
    scene.apply(&(web("Cluster") + &server("server-1", 1)))?;
    let (pod, row) = scene.pod("default", "server-1")?;
    let address = row.address.to_string();
    let route = scene.run("node1", Program::Ip, &["-o", "route", "get", &address])?;
    let device = route
        .split(" dev ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let device = device.with_context(|| format!("no device in {route}"))?;
    scene.run(
        "node1",
        Program::Ip,
        &["link", "set", device, "mtu", NARROW],
    )?;
    // The pod, too; but it does not let its peers know by their MSS.
    scene.run(&pod, Program::Ip, &["link", "set", "eth0", "mtu", NARROW])?;
    for (route, mss) in [
        ("default via 169.254.1.1", "1460"),
        ("::/0 via fe80::1", "1440"),
    ] {
        let change = format!("route change {route} dev eth0 advmss {mss}");
        scene.run_line(&pod, Program::Ip, &change)?;
    }
    for v6 in [false, true] {
        let before = icmp_errors(scene, "node1")?;
        let to: SocketAddr = format!("{}:30080", node(1, v6)).parse()?;
        for task in transfers(to) {
            let reply = one(scene.probe("client", task)?)?;
            same!(
                reply.pod.as_deref(),
                Some("server-1"),
                "{task:?}: {reply:?}"
            );
        }
        ensure!(
            icmp_errors(scene, "node1")? > before,
            "no ICMP error came by, so nothing was tested (IPv6: {v6})"
        );
        let reply = one(scene.probe("client", Task::udp(to).size(4000))?)?;
        same!(
            reply.pod.as_deref(),
            Some("server-1"),
            "a datagram in fragments: {reply:?}"
        );
    }
    Ok(())
}

fn fragments(scene: &Scene) -> anyhow::Result<()> {
    for (pod, number) in [("server-near", 1), ("server-far", 2)] {
        scene.apply(&(web("Cluster") + &server(pod, number)))?;
        for v6 in [false, true] {
            let to: SocketAddr = format!("{}:30080", node(1, v6)).parse()?;
            for size in [1473, 4000, 60_000] {
                let task = Task::udp(to).size(size).times(3);
                for reply in scene.probe("client", task)? {
                    same!(reply.pod.as_deref(), Some(pod), "{task:?}: {reply:?}");
                    same!(reply.bytes, size + pod.len() + 1, "{task:?}");
                }
            }
        }
        scene.delete_pod(pod)?;
    }
    Ok(())
}

/// As Docker leaves it.
fn forward_drop(scene: &Scene) -> anyhow::Result<()> {
    for tool in [Program::Iptables, Program::Ip6tables] {
        scene.run("node1", tool, &["-P", "FORWARD", "DROP"])?;
    }
    // The pod is out of reach otherwise, so it is nodegate that lets pass.
    scene.apply(&server("server-near", 1))?;
    let pod = SocketAddr::new(scene.pod("default", "server-near")?.1.addresses[0], 80);
    scene.is_dropped("node2", Task::tcp(pod))?;
    for (pod, number) in [("server-near", 1), ("server-far", 2)] {
        for policy in ["Cluster", "Local"] {
            if policy == "Local" && number == 2 {
                continue;
            }
            scene.apply(&(web(policy) + &server(pod, number)))?;
            for v6 in [false, true] {
                let to: SocketAddr = format!("{}:30080", node(1, v6)).parse()?;
                for task in [
                    Task::tcp(to),
                    Task::udp(to),
                    Task::Download { to, bytes: LARGE },
                ] {
                    let replies = scene.probe("client", task.times(3))?;
                    services::are_from(&replies, &[pod])
                        .with_context(|| format!("policy {policy}, {task:?}"))?;
                }
            }
        }
        scene.delete_pod(pod)?;
    }
    // What nobody serves is refused, not dropped.
    scene.is_refused(
        "client",
        Task::tcp(format!("{}:30080", node(1, false)).parse()?),
    )
}
