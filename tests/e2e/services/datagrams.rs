//! Datagrams of one socket to one endpoint by several ways.

use std::net::SocketAddr;

use super::{SETTING, both_protocols, cluster_ip, cluster_ips, node, server, service};
use crate::{Case, probe::Task, same, scene::Scene};

pub(super) const CASES: &[Case] = &[(
    "services_datagrams_of_one_socket_are_answered_by_whom_it_has_asked",
    SETTING,
    round,
)];

fn web() -> String {
    service(
        "web",
        &format!(
            "type: NodePort, {}, selector: {{app: server}}, {}",
            cluster_ips(1),
            both_protocols(30080)
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

/// Each answer is named after whom the socket has asked.
fn round(scene: &Scene) -> anyhow::Result<()> {
    scene.apply(&(web() + &server("server-1", 1)))?;
    for v6 in [false, true] {
        let cluster_ip = format!("{}:80", cluster_ip(1, v6)).parse()?;
        let nodes = [1, 2].map(|number| format!("{}:30080", node(number, v6)).parse());
        let [first, second] = nodes;
        let (first, second): (SocketAddr, SocketAddr) = (first?, second?);
        let direct = endpoint(scene, "server-1", v6)?;
        for (host, to) in [
            (super::POD1, [cluster_ip, first, direct]),
            ("node1", [cluster_ip, second, direct]),
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
