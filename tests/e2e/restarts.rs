//! The redirector is killed and started again and again, and nobody notices.

use std::net::SocketAddr;

use anyhow::Context as _;

use crate::{
    Case, Setting,
    probe::Task,
    scene::Scene,
    services::{POD1, SETTING, web_on_both_nodes},
};

pub(crate) const CASES: &[Case] = &[
    (
        "restarts_no_connection_fails_while_the_redirector_is_killed_again_and_again",
        SETTING,
        kill_loop,
    ),
    (
        "restarts_no_connection_fails_with_filters_on_clsact_qdiscs_either",
        Setting {
            manifests: "services-clsact",
            ..SETTING
        },
        kill_loop,
    ),
];

const ROUNDS: usize = 5;

fn kill_loop(scene: &Scene) -> anyhow::Result<()> {
    scene.apply(&web_on_both_nodes())?;
    let mut loads = Vec::new();
    let mut streams = Vec::new();
    for (host, to) in [
        ("client", "192.168.170.11:30080"),
        ("client", "[fd00:c0::11]:30080"),
        (POD1, "10.96.0.1:80"),
        ("node1", "[fd00:96::1]:80"),
    ] {
        let to: SocketAddr = to.parse()?;
        let load = scene.start_probe(host, Task::Load { to, threads: 2 })?;
        loads.push((host, to, load));
        let stream = Task::stream(to, host == "client");
        let stream = scene.start_probe(host, stream)?;
        streams.push((host, to, stream));
    }
    for (host, to, load) in &loads {
        let both = load.until_pods(&["server-1", "server-2"]);
        both.with_context(|| format!("{host} to {to}"))?;
    }
    let mut replies = vec![Vec::new(); streams.len()];
    for _ in 0..ROUNDS {
        scene.testbed.restart("node1")?;
        for ((host, to, stream), replies) in streams.iter().zip(&mut replies) {
            let more = stream.go_on();
            replies.extend(more.with_context(|| format!("datagrams of {host} to {to}"))?);
        }
    }
    for (host, to, load) in loads {
        let summary = load.summary()?;
        summary
            .is_flawless()
            .with_context(|| format!("{host} to {to}"))?;
    }
    for ((host, to, mut stream), mut replies) in streams.into_iter().zip(replies) {
        while replies.len() < 50 {
            replies.extend(stream.go_on()?);
        }
        replies.extend(stream.end()?);
        let first = replies.first().and_then(|reply| reply.pod.clone());
        for reply in &replies {
            // From one socket, so to one pod.
            crate::same!(reply.pod, first, "a datagram of {host} to {to}: {reply:?}");
        }
    }
    Ok(())
}
