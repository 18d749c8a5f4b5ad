//! Two nodes: endpoints on the other one.

use nodegate_programs::Program;

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
    explained_elsewhere(scene, &pod, &near.to_string(), &far.to_string())
}

/// Node1 does not answer for node2, unless it is asked what it would decide itself.
fn explained_elsewhere(scene: &Scene, pod: &str, near: &str, far: &str) -> anyhow::Result<()> {
    let (near, far) = (format!("{near}:30080"), format!("{far}:30080"));
    let explain = |node: &str, words: &[&str]| -> anyhow::Result<(String, String)> {
        let arguments = std::iter::once("explain").chain(words.iter().copied());
        let output = scene.testbed.exec(node, Program::Nodegate, arguments)?;
        // Whatever lines there are.
        let text = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        Ok((text(&output.stdout), text(&output.stderr)))
    };
    for (node, from, to) in [
        ("node1", "external", &near),
        ("node2", "external", &far),
        ("node2", pod, &near),
        ("node1", "node", &far),
    ] {
        let (answer, told) = explain(node, &[from, to])?;
        let answers = told.is_empty() && !answer.contains("is no address of node");
        anyhow::ensure!(answers, "{from} to {to} on {node}: {answer}{told}");
    }
    for (from, to) in [("external", &far), (pod, &near)] {
        let (_, told) = explain("node1", &[from, to])?;
        let words = "node node2 decides that, and this is node1 (fix: ask there";
        anyhow::ensure!(told.contains(words), "{from} to {to}: {told}");
        let (_, told) = explain("node1", &[from, to, "--node", "node1"])?;
        same!(told, "", "what node1 would decide");
    }
    // In a cluster a redirector knows the addresses of its own node only.
    let (answer, _) = explain("node1", &["external", &far, "--node", "node1"])?;
    let words = "is no address of node node1, nor of a Service: if another node has it";
    anyhow::ensure!(answer.contains(words), "{answer}");
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
