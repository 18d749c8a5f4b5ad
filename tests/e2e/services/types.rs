//! Services that change their type: addresses appear and disappear.

use super::{POD1, SETTING, server, service};
use crate::{Case, probe::Task, scene::Scene};

pub(super) const CASES: &[Case] = &[
    (
        "services_change_the_type_from_externalname_to_clusterip",
        SETTING,
        name_to_cluster_ip,
    ),
    (
        "services_change_the_type_from_externalname_to_nodeport",
        SETTING,
        name_to_node_port,
    ),
    (
        "services_change_the_type_from_clusterip_to_externalname",
        SETTING,
        cluster_ip_to_name,
    ),
    (
        "services_change_the_type_from_nodeport_to_externalname",
        SETTING,
        node_port_to_name,
    ),
];

const INSIDE: &str = "10.96.0.1:80";
const OUTSIDE: &str = "192.168.170.11:30080";

fn external_name() -> String {
    service("web", "type: ExternalName, externalName: example.com")
}

fn cluster_ip() -> String {
    service(
        "web",
        "type: ClusterIP, clusterIP: 10.96.0.1, selector: {app: server}, ports: [{port: 80}]",
    )
}

fn node_port() -> String {
    service(
        "web",
        "type: NodePort, clusterIP: 10.96.0.1, selector: {app: server}, ports: [{port: 80, nodePort: 30080}]",
    )
}

/// Fails unless the addresses are served, or not.
fn serves(scene: &Scene, inside: bool, outside: bool) -> anyhow::Result<()> {
    for host in [POD1, "node2"] {
        if inside {
            scene.leads_to(host, INSIDE, &["server-1"])?;
        } else {
            scene.leads_nowhere(host, Task::tcp(INSIDE.parse()?))?;
        }
    }
    for host in ["client", "node1", POD1] {
        if outside {
            scene.leads_to(host, OUTSIDE, &["server-1"])?;
        } else {
            scene.is_refused(host, Task::tcp(OUTSIDE.parse()?))?;
        }
    }
    Ok(())
}

fn name_to_cluster_ip(scene: &Scene) -> anyhow::Result<()> {
    scene.apply(&(external_name() + &server("server-1", 1)))?;
    serves(scene, false, false)?;
    scene.apply(&cluster_ip())?;
    serves(scene, true, false)
}

fn name_to_node_port(scene: &Scene) -> anyhow::Result<()> {
    scene.apply(&(external_name() + &server("server-1", 1)))?;
    serves(scene, false, false)?;
    scene.apply(&node_port())?;
    serves(scene, true, true)
}

fn cluster_ip_to_name(scene: &Scene) -> anyhow::Result<()> {
    scene.apply(&(cluster_ip() + &server("server-1", 1)))?;
    serves(scene, true, false)?;
    scene.apply(&external_name())?;
    serves(scene, false, false)
}

fn node_port_to_name(scene: &Scene) -> anyhow::Result<()> {
    scene.apply(&(node_port() + &server("server-1", 1)))?;
    serves(scene, true, true)?;
    scene.apply(&external_name())?;
    serves(scene, false, false)
}
