//! Two nodes: endpoints on the other one.

use crate::{Case, Setting, same, scene::Scene};

const SETTING: Setting = Setting {
    manifests: "two-nodes",
    namespace: None,
    nodes: 2,
};

pub(crate) const CASES: &[Case] = &[
    (
        "nodes_everyone_reaches_an_endpoint_on_the_other_node",
        SETTING,
        elsewhere,
    ),
    (
        "nodes_external_ips_that_no_node_has_are_not_captured",
        SETTING,
        unowned,
    ),
];

/// The only pod runs on node2.
fn elsewhere(scene: &Scene) -> anyhow::Result<()> {
    let (pod, row) = scene.pod("default", "whoami")?;
    same!(row.node, "node2", "the pod's node");
    let nodes = scene.testbed.nodes()?;
    let (near, far) = (nodes[0].address, nodes[1].address);
    for (host, url) in [
        ("client", format!("http://{near}:30080/")),
        ("client", format!("http://{far}:30080/")),
        ("node1", "http://10.96.7.7/".to_owned()),
        ("node1", format!("http://{near}:30080/")),
        ("node1", format!("http://{far}:30080/")),
        ("node2", format!("http://{near}:30080/")),
        (&pod, "http://10.96.7.7/".to_owned()),
    ] {
        // Several connections each: with one, a wrong reply might pass for luck.
        for _ in 0..5 {
            let answer = scene.curl(host, &[&url])?;
            same!(answer.status, 200, "{url} from {host}");
            same!(
                answer.header("x-testbed-pod"),
                Some(row.name.as_str()),
                "{url} from {host}"
            );
        }
    }
    // From outside through the other node: the pod sees that node, and answers through it.
    let answer = scene.curl("client", &[&format!("http://{near}:30080/")])?;
    let request: serde_json::Value = serde_json::from_str(&answer.body)?;
    let peer = request["peer"].as_str().unwrap_or_default();
    anyhow::ensure!(peer.starts_with(&format!("{near}:")), "{request}");
    Ok(())
}

fn unowned(scene: &Scene) -> anyhow::Result<()> {
    let owned = scene.curl("client", &["http://192.168.170.200/"])?;
    same!(owned.status, 200, "the external IP of a node");
    for host in ["client", "node1"] {
        let silence = patience::silence().as_secs_f64().to_string();
        let foreign = scene.curl(host, &["--max-time", &silence, "http://192.168.170.201/"])?;
        anyhow::ensure!(foreign.status == 0, "captured from {host}: {foreign:?}");
    }
    Ok(())
}
