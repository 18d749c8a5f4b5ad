//! Services that nobody serves.

use super::{
    POD1, SETTING, both_protocols, cluster_ip, cluster_ips, node, server, server_with, service,
};
use crate::{Case, probe::Task, scene::Scene};

pub(super) const CASES: &[Case] = &[
    (
        "services_be_rejected_when_no_endpoints_exist",
        SETTING,
        no_endpoints,
    ),
    (
        "services_be_rejected_for_evicted_and_unready_pods",
        SETTING,
        unready,
    ),
    (
        "services_fallback_to_terminating_endpoints",
        SETTING,
        terminating,
    ),
];

fn manifest() -> String {
    service(
        "web",
        &format!(
            "type: LoadBalancer, {}, selector: {{app: server}}, {}",
            cluster_ips(1),
            both_protocols(30080)
        ),
    )
    .replace(
        "---\n",
        "status: {loadBalancer: {ingress: [{ip: 203.0.113.9}, {ip: 'fd00:b0::9'}]}}\n---\n",
    )
}

/// Every way to the Service: from a pod, a node, outside; local and on the other node.
fn ways(v6: bool) -> Vec<(&'static str, String)> {
    let inside = format!("{}:80", cluster_ip(1, v6));
    let (here, there) = (
        format!("{}:30080", node(1, v6)),
        format!("{}:30080", node(2, v6)),
    );
    let balanced = if v6 {
        "[fd00:b0::9]:80"
    } else {
        "203.0.113.9:80"
    };
    vec![
        (POD1, inside.clone()),
        ("node1", inside),
        (POD1, here.clone()),
        (POD1, there.clone()),
        ("node1", here.clone()),
        ("node1", there.clone()),
        ("client", here),
        ("client", there),
        (POD1, balanced.into()),
        ("node1", balanced.into()),
        ("client", balanced.into()),
    ]
}

fn all_refused(scene: &Scene) -> anyhow::Result<()> {
    for v6 in [false, true] {
        for (host, to) in ways(v6) {
            let to = to.parse()?;
            scene.is_refused(host, Task::tcp(to))?;
            scene.is_refused(host, Task::udp(to).connected())?;
        }
    }
    Ok(())
}

fn all_lead_to(scene: &Scene, pods: &[&str]) -> anyhow::Result<()> {
    for v6 in [false, true] {
        for (host, to) in ways(v6) {
            scene.leads_to(host, &to, pods)?;
        }
    }
    Ok(())
}

fn no_endpoints(scene: &Scene) -> anyhow::Result<()> {
    scene.refuses_freely()?;
    scene.apply(&manifest())?;
    all_refused(scene)?;
    // netfilter sends the refusals; without a program to catch them, to a pod as well.
    scene.apply(&server("server-1", 2))?;
    all_lead_to(scene, &["server-1"])
}

fn unready(scene: &Scene) -> anyhow::Result<()> {
    scene.refuses_freely()?;
    let not_ready = ", testbed.nodegate.io/ready: 'false'";
    scene.apply(&(manifest() + &server_with("server-1", 1, not_ready)))?;
    all_refused(scene)?;
    scene.apply(&server("server-1", 1))?;
    scene.leads_to(POD1, "10.96.0.1:80", &["server-1"])?;
    scene.apply(&server_with("server-1", 1, not_ready))?;
    all_refused(scene)
}

/// Ready pods first; those that end while they serve only without any.
fn terminating(scene: &Scene) -> anyhow::Result<()> {
    scene.refuses_freely()?;
    let ending = ", testbed.nodegate.io/terminating: 'true'";
    scene.apply(&(manifest() + &server_with("server-1", 1, ending) + &server("server-2", 2)))?;
    all_lead_to(scene, &["server-2"])?;
    scene.apply(&server_with("server-2", 2, ending))?;
    all_lead_to(scene, &["server-1", "server-2"])?;
    let neither = ", testbed.nodegate.io/terminating: 'true', testbed.nodegate.io/ready: 'false'";
    scene.apply(&server_with("server-2", 2, neither))?;
    all_lead_to(scene, &["server-1"])?;
    scene.apply(&server_with("server-1", 1, neither))?;
    all_refused(scene)
}
