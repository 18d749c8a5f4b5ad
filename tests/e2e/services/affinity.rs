//! Session affinity: a client stays with its pod.

use std::{collections::BTreeSet, thread, time::Duration};

use anyhow::ensure;

use super::{POD1, SETTING, cluster_ips, server, service};
use crate::{Case, probe::Task, scene::Scene};

pub(super) const CASES: &[Case] = &[
    (
        "services_have_session_affinity_work_for_service_with_type_clusterip",
        SETTING,
        |scene| sticks(scene, CLUSTER_IP),
    ),
    (
        "services_have_session_affinity_work_for_nodeport_service",
        SETTING,
        |scene| sticks(scene, NODE_PORT),
    ),
    (
        "services_switch_session_affinity_for_service_with_type_clusterip",
        SETTING,
        |scene| switches(scene, CLUSTER_IP),
    ),
    (
        "services_switch_session_affinity_for_nodeport_service",
        SETTING,
        |scene| switches(scene, NODE_PORT),
    ),
    (
        "services_have_session_affinity_timeout_work_for_service_with_type_clusterip",
        SETTING,
        |scene| expires(scene, CLUSTER_IP),
    ),
    (
        "services_have_session_affinity_timeout_work_for_nodeport_service",
        SETTING,
        |scene| expires(scene, NODE_PORT),
    ),
];

/// Who connects, and where to.
type Way = &'static [(&'static str, &'static str)];

const CLUSTER_IP: Way = &[
    (POD1, "10.96.0.1:80"),
    (POD1, "[fd00:96::1]:80"),
    ("node2", "10.96.0.1:80"),
    ("node2", "[fd00:96::1]:80"),
];
const NODE_PORT: Way = &[
    ("client", "192.168.170.11:30080"),
    ("client", "[fd00:c0::11]:30080"),
    ("node1", "192.168.170.11:30080"),
    (POD1, "[fd00:c0::12]:30080"),
];

const PODS: [&str; 3] = ["server-1", "server-2", "server-3"];

fn servers() -> String {
    server(PODS[0], 1) + &server(PODS[1], 2) + &server(PODS[2], 2)
}

/// With this for `sessionAffinity` and more.
fn manifest(affinity: &str) -> String {
    service(
        "web",
        &format!(
            "type: NodePort, {}, selector: {{app: server}}, {affinity}, {}",
            cluster_ips(1),
            super::both_protocols(30080)
        ),
    )
}

const CLIENT_IP: &str = "sessionAffinity: ClientIP";

/// The pods that answer `times` connections.
fn pods(scene: &Scene, host: &str, task: Task) -> anyhow::Result<BTreeSet<String>> {
    let replies = scene.probe(host, task)?;
    let failed = replies.iter().find(|reply| reply.pod.is_none());
    ensure!(failed.is_none(), "{task:?} on {host}: {failed:?}");
    Ok(replies.into_iter().filter_map(|reply| reply.pod).collect())
}

fn sticks(scene: &Scene, way: Way) -> anyhow::Result<()> {
    scene.apply(&(manifest(CLIENT_IP) + &servers()))?;
    for (host, to) in way {
        let to = to.parse()?;
        // Another set of clients for each protocol, since each is a Service port.
        for task in [Task::tcp(to), Task::udp(to)] {
            let seen = pods(scene, host, task.times(15))?;
            ensure!(seen.len() == 1, "{task:?} on {host}: {seen:?}");
        }
    }
    // Its pod goes, and the client goes to another one and stays there.
    let (host, to) = way[0];
    let task = Task::tcp(to.parse()?);
    let before = pods(scene, host, task)?;
    for pod in &before {
        scene.delete_pod(pod)?;
    }
    let after = pods(scene, host, task.times(15))?;
    ensure!(after.len() == 1 && after != before, "{before:?}, {after:?}");
    Ok(())
}

fn switches(scene: &Scene, way: Way) -> anyhow::Result<()> {
    scene.apply(&(manifest("sessionAffinity: None") + &servers()))?;
    let spread = |stick: bool| -> anyhow::Result<()> {
        for (host, to) in way {
            let seen = pods(scene, host, Task::tcp(to.parse()?).times(25))?;
            let right = if stick {
                seen.len() == 1
            } else {
                seen.len() > 1
            };
            ensure!(right, "{to} from {host}: {seen:?}");
        }
        Ok(())
    };
    spread(false)?;
    scene.apply(&manifest(CLIENT_IP))?;
    spread(true)?;
    scene.apply(&manifest("sessionAffinity: None"))?;
    spread(false)
}

fn expires(scene: &Scene, way: Way) -> anyhow::Result<()> {
    let timeout =
        "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 1}}";
    scene.apply(&(manifest(timeout) + &servers()))?;
    let (host, to) = way[0];
    let task = Task::tcp(to.parse()?);
    let replies = scene.probe(host, task.times(10))?;
    for pair in replies.windows(2) {
        // From the first packet of one to the last of the next: it has not been idle for as long as that.
        let idle = (pair[1].asked + pair[1].took).saturating_sub(pair[0].asked);
        let stays = pair[0].pod.is_some() && pair[0].pod == pair[1].pod;
        ensure!(stays || idle >= Duration::from_secs(1), "{pair:?}");
    }
    let first = pods(scene, host, task)?;
    // Each time it may be the same pod again by chance: one of three.
    for _ in 0..14 {
        thread::sleep(Duration::from_millis(1050));
        if pods(scene, host, task)? != first {
            return Ok(());
        }
    }
    anyhow::bail!("{host} stays with {first:?}")
}
