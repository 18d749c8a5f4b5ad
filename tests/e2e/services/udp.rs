//! Datagrams: a client goes on from the same port while its server pod is replaced
//! (test/e2e/network/conntrack.go).

use super::{
    POD1, SETTING, both_protocols, cluster_ip, cluster_ips, node, server, server_with, service,
};
use crate::{Case, probe::Task, scene::Scene};

pub(super) const CASES: &[Case] = &[
    (
        "services_preserve_udp_traffic_when_server_pod_cycles_for_a_clusterip_service",
        SETTING,
        |scene| cycles(scene, POD1, |v6| format!("{}:80", cluster_ip(1, v6)), false),
    ),
    (
        "services_preserve_udp_traffic_when_server_pod_cycles_for_a_clusterip_service_from_a_node",
        SETTING,
        |scene| {
            cycles(
                scene,
                "node1",
                |v6| format!("{}:80", cluster_ip(1, v6)),
                false,
            )
        },
    ),
    (
        "services_preserve_udp_traffic_when_server_pod_cycles_for_a_nodeport_service",
        SETTING,
        |scene| {
            cycles(
                scene,
                "client",
                |v6| format!("{}:30080", node(1, v6)),
                false,
            )
        },
    ),
    (
        "services_preserve_udp_traffic_of_connected_sockets_from_outside",
        SETTING,
        |scene| cycles(scene, "client", |v6| format!("{}:30080", node(1, v6)), true),
    ),
    (
        "services_end_connected_udp_sockets_of_pods_when_their_endpoint_goes",
        SETTING,
        |scene| cycles(scene, POD1, |v6| format!("{}:80", cluster_ip(1, v6)), true),
    ),
    (
        "services_end_connected_udp_sockets_of_the_node_when_their_endpoint_goes",
        SETTING,
        |scene| {
            cycles(
                scene,
                "node1",
                |v6| format!("{}:80", cluster_ip(1, v6)),
                true,
            )
        },
    ),
    (
        "services_preserve_udp_traffic_when_initial_unready_endpoints_get_ready",
        SETTING,
        unready,
    ),
];

fn manifest() -> String {
    service(
        "web",
        &format!(
            "type: NodePort, {}, selector: {{app: server}}, {}",
            cluster_ips(1),
            both_protocols(30080)
        ),
    )
}

/// One pod, another one, none, and one again; and never an answer of a pod that was replaced.
fn cycles(
    scene: &Scene,
    host: &str,
    to: impl Fn(bool) -> String,
    connected: bool,
) -> anyhow::Result<()> {
    scene.apply(&(manifest() + &server("server-1", 1)))?;
    let start = |v6| {
        let to = to(v6).parse()?;
        scene.start_probe(host, Task::stream(to, connected).expecting_silence())
    };
    let streams = [start(false)?, start(true)?];
    let all_reach = |pod: &str| -> anyhow::Result<()> {
        for stream in &streams {
            stream.until_pod(pod)?;
        }
        scene.leads_datagrams_to(host, &to(false), &[pod])
    };
    all_reach("server-1")?;
    scene.apply(&server("server-2", 2))?;
    scene.delete_pod("server-1")?;
    all_reach("server-2")?;
    // To zero and back.
    scene.delete_pod("server-2")?;
    for stream in &streams {
        stream.until(|reply| reply.pod.is_none())?;
    }
    scene.apply(&server("server-3", 1))?;
    all_reach("server-3")
}

fn unready(scene: &Scene) -> anyhow::Result<()> {
    let not_ready = ", testbed.nodegate.io/ready: 'false'";
    scene.apply(&(manifest() + &server_with("server-1", 2, not_ready)))?;
    let mut streams = Vec::new();
    for v6 in [false, true] {
        for (host, to) in [
            (POD1, format!("{}:80", cluster_ip(1, v6))),
            ("client", format!("{}:30080", node(1, v6))),
        ] {
            let to = to.parse()?;
            let stream = scene.start_probe(host, Task::stream(to, false).expecting_silence())?;
            stream.until(|reply| reply.pod.is_none())?;
            streams.push(stream);
        }
    }
    scene.apply(&server("server-1", 2))?;
    for stream in &streams {
        stream.until_pod("server-1")?;
    }
    Ok(())
}
