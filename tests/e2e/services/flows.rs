//! Flows that look alike: from one port or socket to one endpoint by several ways, and to others.

use std::net::SocketAddr;

use nodegate_programs::Program;

use super::{SETTING, both_protocols, cluster_ip, cluster_ips, node, one, server, service};
use crate::{Case, probe::Task, same, scene::Scene};

pub(super) const CASES: &[Case] = &[
    (
        "services_one_port_of_a_client_reaches_a_pod_through_a_node_port_and_directly",
        SETTING,
        beside_direct,
    ),
    (
        "services_a_port_that_a_pod_has_in_time_wait_is_reached_again_at_once",
        SETTING,
        time_wait,
    ),
    (
        "services_datagrams_of_one_socket_are_answered_by_whom_it_has_asked",
        SETTING,
        round,
    ),
    (
        "services_answers_to_what_a_node_asks_from_a_node_port_are_its_own",
        SETTING,
        ours,
    ),
    (
        "services_node_ports_on_localhost_are_for_sockets_that_are_bound_there",
        SETTING,
        bound_to_localhost,
    ),
];

fn web() -> String {
    by_node_port("web", 1, 30080)
}

fn by_node_port(name: &str, number: u8, port: u16) -> String {
    service(
        name,
        &format!(
            "type: NodePort, {}, selector: {{app: server}}, {}",
            cluster_ips(number),
            both_protocols(port)
        ),
    )
}

/// A pod's address, with its port.
fn endpoint(scene: &Scene, name: &str, v6: bool) -> anyhow::Result<SocketAddr> {
    let addresses = scene.pod("default", name)?.1.addresses;
    let address = addresses.into_iter().find(|ip| ip.is_ipv6() == v6);
    let address = address.ok_or_else(|| anyhow::anyhow!("{name} has no such address"))?;
    Ok((address, 80).into())
}

/// Lets the client reach a pod of node1 past all Services, as a host in a routed network does.
fn route(scene: &Scene, endpoint: SocketAddr) -> anyhow::Result<()> {
    let v6 = endpoint.is_ipv6();
    let via = node(1, v6).replace(['[', ']'], "");
    let (family, pod) = (if v6 { "-6" } else { "-4" }, endpoint.ip().to_string());
    let route = [family, "route", "add", &pod, "via", &via];
    scene.run("client", Program::Ip, &route)?;
    Ok(())
}

/// Whichever is first: both live.
fn beside_direct(scene: &Scene) -> anyhow::Result<()> {
    scene.apply(&(web() + &server("server-1", 1)))?;
    for v6 in [false, true] {
        let through: SocketAddr = format!("{}:30080", node(1, v6)).parse()?;
        scene.leads_to("client", &through.to_string(), &["server-1"])?;
        let direct = endpoint(scene, "server-1", v6)?;
        route(scene, direct)?;
        for to in [[through, direct], [direct, through]] {
            let replies = scene.probe("client", Task::SamePort { to })?;
            same!(replies.len(), 4, "{to:?}: {replies:?}");
            for reply in replies {
                same!(reply.pod.as_deref(), Some("server-1"), "{to:?}: {reply:?}");
            }
        }
    }
    let flows = &scene.status("node1")?["datapath"]["flows"];
    let count = |what: &str| flows[what].as_u64().unwrap_or_default();
    anyhow::ensure!(
        count("recorded") > 4 && count("places") >= 1 << 15 && count("full_buckets") == 0,
        "{flows}"
    );
    Ok(())
}

/// The pod closes first, and so remembers the port. A SYN with a lower number than it waits for (RFC 9293
/// §3.6.1) it answers with a bare ACK, which the client must hear.
fn time_wait(scene: &Scene) -> anyhow::Result<()> {
    let other = by_node_port("other", 2, 30081);
    scene.apply(&(web() + &other + &server("server-1", 1)))?;
    // By them a pod would tell a new connection from the old one, too (RFC 6191).
    scene.set("client", "ipv4/tcp_timestamps", "0")?;
    for v6 in [false, true] {
        let through: SocketAddr = format!("{}:30080", node(1, v6)).parse()?;
        scene.leads_to("client", &through.to_string(), &["server-1"])?;
        let other: SocketAddr = format!("{}:30081", node(1, v6)).parse()?;
        scene.leads_to("client", &other.to_string(), &["server-1"])?;
        let direct = endpoint(scene, "server-1", v6)?;
        route(scene, direct)?;
        for to in [[direct, through], [through, direct], [through, other]] {
            let mut resent = 0;
            let replies = scene.probe("client", Task::PortAgain { to, times: 16 })?;
            same!(replies.len(), 32, "{to:?}");
            for reply in replies {
                same!(reply.pod.as_deref(), Some("server-1"), "{to:?}: {reply:?}");
                anyhow::ensure!(!reply.has_lost_a_packet(), "{to:?}: {reply:?}");
                resent += reply.resent.syns;
            }
            // One of two numbers is lower than the last one.
            anyhow::ensure!(resent > 0, "{to:?}: no SYN came in vain");
        }
    }
    Ok(())
}

/// From sockets that the hooks see, and from outside.
fn round(scene: &Scene) -> anyhow::Result<()> {
    scene.apply(&(web() + &server("server-1", 1)))?;
    for v6 in [false, true] {
        let cluster_ip = format!("{}:80", cluster_ip(1, v6)).parse()?;
        let nodes = [1, 2].map(|number| format!("{}:30080", node(number, v6)).parse());
        let [first, second] = nodes;
        let (first, second): (SocketAddr, SocketAddr) = (first?, second?);
        let direct = endpoint(scene, "server-1", v6)?;
        route(scene, direct)?;
        for (host, to) in [
            (super::POD1, [cluster_ip, first, direct]),
            ("node1", [cluster_ip, second, direct]),
            // What goes through another node is masqueraded, and so another one's.
            ("client", [first, direct, first]),
        ] {
            scene.leads_datagrams_to(host, &to[0].to_string(), &["server-1"])?;
            let replies = scene.probe(host, Task::Round { to })?;
            let peers: Vec<_> = replies.iter().map(|reply| reply.peer).collect();
            let asked = to.iter().chain(to.iter().rev());
            let asked: Vec<_> = asked.copied().map(Some).collect();
            same!(peers, asked, "{host}: {replies:?}");
        }
    }
    Ok(())
}

/// The node port is the Service's on UDP; the pod that is asked is on another node.
fn ours(scene: &Scene) -> anyhow::Result<()> {
    scene.apply(&(web() + &server("server-1", 1) + &server("server-2", 2)))?;
    for v6 in [false, true] {
        let local: SocketAddr = format!("{}:30080", node(1, v6)).parse()?;
        scene.leads_datagrams_to("client", &local.to_string(), &["server-1", "server-2"])?;
        let to = endpoint(scene, "server-2", v6)?;
        let datagram = true;
        let task = Task::From {
            local,
            to,
            datagram,
        };
        let reply = one(scene.probe("node1", task)?)?;
        same!(reply.pod.as_deref(), Some("server-2"), "{reply:?}");
        same!(reply.peer, Some(to), "{reply:?}");
        // And clients still reach the Service there.
        scene.leads_datagrams_to("client", &local.to_string(), &["server-1", "server-2"])?;
    }
    Ok(())
}

/// kube-proxy masquerades those. IPv4 only, as there.
fn bound_to_localhost(scene: &Scene) -> anyhow::Result<()> {
    scene.apply(&(web() + &server("server-1", 1) + &server("server-2", 2)))?;
    let local = "127.0.0.1:0".parse()?;
    for to in ["127.0.0.1:30080", "192.168.170.11:30080"] {
        let to: SocketAddr = to.parse()?;
        scene.leads_to("node1", &to.to_string(), &["server-1", "server-2"])?;
        for datagram in [false, true] {
            let task = Task::From {
                local,
                to,
                datagram,
            };
            // Both endpoints, on this node and on the other one.
            for _ in 0..8 {
                let reply = one(scene.probe("node1", task)?)?;
                anyhow::ensure!(reply.pod.is_some(), "{task:?}: {reply:?}");
                same!(reply.peer, Some(to), "{task:?}: {reply:?}");
            }
        }
    }
    Ok(())
}
