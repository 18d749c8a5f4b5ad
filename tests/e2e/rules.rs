//! kube-proxy's rules as the source of Services: `--source iptables`.
//!
//! The rules are in the real netfilter of the node, in both iptables; changes come by the real
//! `iptables-restore`, as with kube-proxy.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nodegate_programs::Program;
use patience::Lap;

use crate::{
    Case, Setting,
    kube_proxy::{Nodegate, Sync, chosen, restore_rules},
    probe::Task,
    scene::{Scene, wait},
    services::{POD1, both_protocols, cluster_ips, server, service},
};

pub(crate) const CASES: &[Case] = &[
    ("rules_are_followed_in_nft", SETTING, |scene| {
        followed(scene, NFT)
    }),
    ("rules_are_followed_in_legacy", SETTING, |scene| {
        followed(scene, LEGACY)
    }),
    ("rules_that_go_leave_their_services", SETTING, gone),
    ("rules_are_found_where_they_are", SETTING, found),
];

/// node1 has no nodegate to begin with.
const SETTING: Setting = Setting {
    manifests: "kube-proxy",
    namespace: None,
    nodes: 2,
};

const NFT: [Program; 2] = [Program::IptablesNftRestore, Program::Ip6tablesNftRestore];
const LEGACY: [Program; 2] = [
    Program::IptablesLegacyRestore,
    Program::Ip6tablesLegacyRestore,
];

/// Fails unless a change of the rules was in force soon enough. Legacy ones are read every 500 ms, or less often:
/// so that reading takes one part in 20 of the time. How long it takes is measured here and now.
fn was_soon(scene: &Scene, lap: Lap, restore: [Program; 2]) -> anyhow::Result<()> {
    let usual = Duration::from_millis(500);
    let mut pause = usual;
    if restore == LEGACY {
        let begun = Instant::now();
        for save in [Program::IptablesLegacySave, Program::Ip6tablesLegacySave] {
            scene.run("node1", save, &[])?;
        }
        pause = usual.max(20 * begun.elapsed());
    }
    lap.below(pause + Duration::from_millis(700))?;
    Ok(())
}

const SOURCE: [&str; 4] = ["--source", "iptables", "--services", "all"];

fn manifests() -> String {
    let spec = format!(
        "type: NodePort, {}, selector: {{app: server}}, {}",
        cluster_ips(1),
        both_protocols(30080)
    );
    service("web", &spec) + &server("server-1", 1) + &server("server-2", 2)
}

/// Both families, from outside, from a pod and from the node itself.
fn leads_to(scene: &Scene, pods: &[&str]) -> anyhow::Result<()> {
    for (host, to) in [
        ("client", "192.168.170.11:30080"),
        ("client", "[fd00:c0::11]:30080"),
        (POD1, "10.96.0.1:80"),
        (POD1, "[fd00:96::1]:80"),
        ("node1", "10.96.0.1:80"),
    ] {
        scene.leads_to(host, to, pods)?;
        scene.leads_datagrams_to(host, to, pods)?;
    }
    Ok(())
}

/// Waits until the status on node1 is so.
fn until(
    scene: &Scene,
    what: &str,
    is_so: impl Fn(&serde_json::Value) -> bool,
) -> anyhow::Result<()> {
    wait(|| {
        let status = scene.status("node1")?;
        let applied = status["datapath"]["applied"] == status["snapshot"]["generation"];
        Ok((applied && is_so(&status)).then_some(()))
    })
    .with_context(|| format!("{what} is not in force: {:?}", scene.status("node1")))
}

fn backends(scene: &Scene) -> anyhow::Result<usize> {
    let text = scene.run(
        "node1",
        Program::Nodegate,
        &["maps", "backends", "-o", "json"],
    )?;
    let json: serde_json::Value = serde_json::from_str(&text)?;
    let rows = json["backends"].as_array().or(json.as_array());
    Ok(rows.context("no list of backends")?.len())
}

fn followed(scene: &Scene, restore: [Program; 2]) -> anyhow::Result<()> {
    scene.refuses_freely()?;
    scene.apply(&manifests())?;
    restore_rules(scene, restore, Sync::First)?;
    let nodegate = Nodegate::run(scene, &SOURCE)?;
    leads_to(scene, &["server-1", "server-2"])?;
    ensure!(chosen(scene)? > 20, "nodegate has decided nothing");
    let status = scene.status("node1")?;
    let programs = status["source"]["rules"]["programs"].to_string();
    let save = restore.map(|one| format!("{:?}", one.name().replace("restore", "save")));
    ensure!(programs == format!("[{}]", save.join(",")), "{programs}");
    ensure!(status["diagnostics"] == serde_json::json!([]), "{status}");
    let told = scene.run("node1", Program::Nodegate, &["iptables", "diff", "--maps"])?;
    ensure!(told == "IPv4: equal\nIPv6: equal\n", "{told}");

    // Endpoints go: the rules have as many lines as a moment before where one comes in its place, so it is
    // the text that counts.
    let before = backends(scene)?;
    scene.delete_pod("server-2")?;
    restore_rules(scene, restore, Sync::Later)?;
    let watch = scene.stopwatch();
    wait(|| Ok((backends(scene)? * 2 == before).then_some(())))
        .context("the endpoints are still there")?;
    was_soon(scene, watch.lap(), restore)?;
    leads_to(scene, &["server-1"])?;

    // A Service comes.
    let other = service(
        "other",
        &format!(
            "{}, selector: {{app: server}}, ports: [{{port: 80}}]",
            cluster_ips(2)
        ),
    );
    scene.apply(&other)?;
    restore_rules(scene, restore, Sync::Later)?;
    let watch = scene.stopwatch();
    until(scene, "the new Service", |status| {
        status["snapshot"]["services"] == 3
    })?;
    was_soon(scene, watch.lap(), restore)?;
    scene.leads_to(POD1, "10.96.0.2:80", &["server-1"])?;

    // Nobody is left.
    scene.delete_pod("server-1")?;
    restore_rules(scene, restore, Sync::Later)?;
    wait(|| Ok((backends(scene)? == 0).then_some(())))?;
    for (host, to) in [(POD1, "10.96.0.1:80"), ("client", "192.168.170.11:30080")] {
        scene.is_refused(host, Task::tcp(to.parse()?))?;
    }
    told_apart(scene, nodegate, restore)
}

/// With nobody to follow, what has changed shows.
fn told_apart(scene: &Scene, nodegate: Nodegate, restore: [Program; 2]) -> anyhow::Result<()> {
    drop(nodegate);
    scene.apply(&server("server-3", 2))?;
    restore_rules(scene, restore, Sync::Later)?;
    let output = scene
        .testbed
        .exec("node1", Program::Nodegate, ["iptables", "diff", "--maps"])?;
    let told = String::from_utf8(output.stdout)?;
    let what = "  cluster IP 10.96.0.2:80: rules: to all endpoints; maps: refused (no endpoints)\n";
    ensure!(
        output.status.code() == Some(1) && told.contains(what),
        "{told}"
    );
    let names = ["iptables", "diff", "--maps", "--services", "nobody/*"];
    let told = scene.testbed.exec("node1", Program::Nodegate, names)?;
    // What the maps have, and should not.
    let what = "the maps have it, but there are no rules for it";
    ensure!(
        String::from_utf8(told.stdout)?.contains(what),
        "{:?}",
        told.stderr
    );
    Ok(())
}

/// Somebody flushes the tables, as firewalls do when they are loaded again. kube-proxy may take half a
/// minute to notice.
fn gone(scene: &Scene) -> anyhow::Result<()> {
    const IN_CHAINS: fn(&str) -> bool = |line| line.starts_with("-A KUBE-");
    const ALL: fn(&str) -> bool = |line| line.contains("KUBE-");
    scene.refuses_freely()?;
    scene.apply(&manifests())?;
    restore_rules(scene, NFT, Sync::First)?;
    let _nodegate = Nodegate::run(scene, &SOURCE)?;
    // Other people's rules, nodegate's own among them, stay.
    for (save, restore, goes) in [
        // Their chains are empty.
        (Program::IptablesNftSave, NFT[0], IN_CHAINS),
        // They are not there any more.
        (Program::Ip6tablesNftSave, NFT[1], ALL),
    ] {
        let saved = scene.run("node1", save, &[])?;
        let kept: Vec<_> = saved.lines().filter(|line| !goes(line)).collect();
        let output = scene.feed("node1", restore, &[], &(kept.join("\n") + "\n"))?;
        ensure!(output.status.success(), "{output:?}");
        let told = |status: &serde_json::Value| {
            let diagnostics = status["diagnostics"].to_string();
            diagnostics.contains(&format!("{}: kube-proxy's rules are gone", save.name()))
        };
        until(scene, "the loss", told)?;
        leads_to(scene, &["server-1", "server-2"]).context("without rules")?;
        // A reload changes nothing.
        scene.run("node1", Program::Nodegate, &["status", "--sync"])?;
        ensure!(backends(scene)? > 0, "the Services are gone");
        restore_rules(scene, NFT, Sync::Later)?;
        until(scene, "the return", |status| !told(status))?;
    }
    Ok(())
}

/// What `nodegate run` says where it cannot, and the Services that are chosen by name.
fn found(scene: &Scene) -> anyhow::Result<()> {
    scene.refuses_freely()?;
    scene.apply(&manifests())?;
    let says = |arguments: &[&str], what: &str| -> anyhow::Result<()> {
        let all = [&["run", "--role", "redirector"], arguments].concat();
        let output = scene.testbed.exec("node1", Program::Nodegate, all)?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && told.contains(what), "{told}");
        Ok(())
    };
    says(&SOURCE, "there are no rules of kube-proxy here")?;
    says(&SOURCE[..2], "rules tell Services by their names only")?;
    // What an earlier kube-proxy left in the other iptables.
    let left = "*nat\n:KUBE-SERVICES - [0:0]\n-A KUBE-SERVICES -d 10.96.0.9/32 -j RETURN\nCOMMIT\n";
    let output = scene.feed("node1", LEGACY[0], &[], left)?;
    ensure!(output.status.success(), "{output:?}");
    restore_rules(scene, NFT, Sync::First)?;
    let names = ["--source", "iptables", "--services", "default/web,shop/*"];
    let _nodegate = Nodegate::run(scene, &names)?;
    let status = scene.status("node1")?;
    ensure!(status["snapshot"]["services"] == 2, "{status}");
    let diagnostics = status["diagnostics"].to_string();
    ensure!(
        diagnostics.contains("iptables-legacy-save prints rules of kube-proxy too"),
        "{diagnostics}"
    );
    leads_to(scene, &["server-1", "server-2"])
}
