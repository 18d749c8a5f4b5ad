//! Beside kube-proxy: nodegate comes, takes over some of its Services, and goes.
//!
//! The rules are those that kube-proxy writes, in the real netfilter; kube-proxy itself would only
//! write them again.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use nodegate_programs::Program;
use nodegate_testbed::environment::Unmet;

use crate::{
    Case, Setting,
    probe::{self, Running, Task},
    scene::{Scene, wait},
    services::{POD1, both_protocols, cluster_ips, one, server, service},
};

pub(crate) const CASES: &[Case] = &[
    (
        "kube_proxy_nothing_breaks_when_nodegate_comes_and_goes",
        SETTING,
        |scene| comes_and_goes(scene, &[]),
    ),
    (
        "kube_proxy_nothing_breaks_when_nodegate_comes_and_goes_with_clsact",
        SETTING,
        |scene| {
            // Adding it stops the card's queue for a moment, and loses what is sent then (qdisc_graft in
            // net/sched/sch_api.c), whoever does it: here somebody has it already.
            scene.run(
                "node1",
                Program::Tc,
                &["qdisc", "add", "dev", "eth0", "clsact"],
            )?;
            comes_and_goes(scene, &["--attach", "clsact"])
        },
    ),
    (
        "kube_proxy_datagrams_arrive_when_nodegate_comes_and_goes",
        SETTING,
        datagrams,
    ),
    (
        "kube_proxy_nothing_is_translated_twice",
        SETTING,
        translated_once,
    ),
    (
        "kube_proxy_masqueraded_datagrams_never_come_from_a_node_port",
        SETTING,
        masquerade_ports,
    ),
    (
        "kube_proxy_that_starts_later_does_not_get_before_nodegate",
        SETTING,
        starts_later,
    ),
    (
        "kube_proxy_that_starts_later_does_not_get_before_nodegate_in_legacy",
        SETTING,
        |scene| legacy(scene).and_then(|()| starts_later(scene)),
    ),
    ("fault_netfilters_tables_are_flushed", SETTING, flushed),
    (
        "fault_netfilters_tables_are_flushed_in_legacy",
        SETTING,
        |scene| legacy(scene).and_then(|()| flushed(scene)),
    ),
];

/// node1 has no nodegate to begin with; node2 never has one.
const SETTING: Setting = Setting {
    manifests: "kube-proxy",
    namespace: None,
    nodes: 2,
};

const NODE_PORT: &str = "192.168.170.11:30080";
const NODE_PORT_V6: &str = "[fd00:c0::11]:30080";
const CLUSTER_IP: &str = "10.96.0.1:80";

/// A Service that nodegate takes over, and one that stays kube-proxy's.
fn manifests() -> String {
    let spec = |number: u8| {
        format!(
            "type: NodePort, {}, selector: {{app: server}}, {}",
            cluster_ips(number),
            both_protocols(30079 + u16::from(number))
        )
    };
    service("web", &spec(1)).replace("name: web}", "name: web, labels: {proxy: nodegate}}")
        + &service("other", &spec(2))
        + &server("server-1", 1)
        + &server("server-2", 2)
}

/// Writes kube-proxy's rules on node1.
fn kube_proxy(scene: &Scene) -> anyhow::Result<()> {
    // A node's own connections are routed before netfilter gives them another destination.
    scene.refuses_freely()?;
    restore_rules(scene, RESTORE, Sync::First)
}

/// Both families' programs.
const BOTH: [Program; 2] = [Program::Iptables, Program::Ip6tables];
const RESTORE: [Program; 2] = [Program::IptablesRestore, Program::Ip6tablesRestore];

/// What kube-proxy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    /// It starts: all of its rules, and the way to them.
    First,
    /// It writes its chains again, and leaves all others alone.
    Later,
}

/// Writes kube-proxy's rules for the manifests as they are now on node1, with these programs.
pub(crate) fn restore_rules(
    scene: &Scene,
    programs: [Program; 2],
    sync: Sync,
) -> anyhow::Result<()> {
    let (form, flush): (_, &[&str]) = match sync {
        Sync::First => ("save", &[]),
        Sync::Later => ("restore", &["--noflush", "--counters"]),
    };
    let manifests = scene.testbed.manifests();
    for (family, restore) in ["4", "6"].into_iter().zip(programs) {
        let manifests = manifests.to_string_lossy();
        let arguments = [
            "iptables",
            "render",
            "--form",
            form,
            "--family",
            family,
            "--hostname-override",
            "node1",
            "--cluster-cidr",
            "10.10.0.0/16,fd00:10::/48",
            "--nfacct=false",
            "--manifests",
            &manifests,
        ];
        let rules = scene.run("node1", Program::Nodegate, &arguments)?;
        let output = scene.feed("node1", restore, flush, &rules)?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{}: {told}\n{rules}",
            restore.name()
        );
    }
    Ok(())
}

/// A nodegate beside kube-proxy.
pub(crate) struct Nodegate(Child);

impl Nodegate {
    fn start(scene: &Scene, more: &[&str]) -> anyhow::Result<Self> {
        Self::run(scene, &[&["--services", "proxy=nodegate"], more].concat())
    }

    /// Starts the redirector on node1, with these arguments, and waits until it serves.
    pub(crate) fn run(scene: &Scene, arguments: &[&str]) -> anyhow::Result<Self> {
        let log = std::fs::File::create(scene.testbed.log(&"node1".parse()?))?;
        let mut command = scene.testbed.command("node1", Program::Nodegate)?;
        command
            .args(["run", "--role", "redirector"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let nodegate = Self(command.spawn()?);
        wait(|| {
            let status = scene
                .testbed
                .exec("node1", Program::Nodegate, ["status", "--sync"])?;
            Ok(status.status.success().then_some(()))
        })
        .context("nodegate has not started")?;
        Ok(nodegate)
    }
}

impl Drop for Nodegate {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Connections that stay open, one for each way to the Service; each has its pod.
struct Open {
    connections: Vec<Running>,
}

impl Open {
    fn new(scene: &Scene) -> anyhow::Result<Self> {
        let mut connections = Vec::new();
        for (host, to) in [
            ("client", NODE_PORT),
            ("client", NODE_PORT_V6),
            (POD1, CLUSTER_IP),
            ("node1", CLUSTER_IP),
        ] {
            let to: SocketAddr = to.parse()?;
            // Several: they are spread over the pods.
            for _ in 0..3 {
                connections.push(scene.start_probe(host, Task::KeepAlive { to })?);
            }
        }
        Ok(Self { connections })
    }

    /// Fails if a connection has failed since the last time, or is idle.
    fn go_on(&self) -> anyhow::Result<()> {
        for connection in &self.connections {
            let replies = connection.go_on()?;
            let failed = replies.iter().find(|reply| reply.pod.is_none());
            ensure!(failed.is_none(), "{failed:?}");
        }
        Ok(())
    }
}

pub(crate) fn chosen(scene: &Scene) -> anyhow::Result<u64> {
    scene.status("node1")?["datapath"]["decisions"]["chosen"]
        .as_u64()
        .context("no counter")
}

fn comes_and_goes(scene: &Scene, more: &[&str]) -> anyhow::Result<()> {
    scene.apply(&manifests())?;
    kube_proxy(scene)?;
    let before = Open::new(scene)?;
    before.go_on().context("with kube-proxy")?;
    let ways = [
        ("client", NODE_PORT),
        ("client", NODE_PORT_V6),
        (POD1, CLUSTER_IP),
        ("node1", CLUSTER_IP),
        // Of the Service that stays kube-proxy's.
        ("client", "192.168.170.11:30081"),
        (POD1, "10.96.0.2:80"),
    ];
    let mut loads = Vec::new();
    for (host, to) in ways {
        let to = to.parse()?;
        loads.push(scene.start_probe(host, Task::Load { to, threads: 1 })?);
    }
    let nodegate = Nodegate::start(scene, more)?;
    before.go_on().context("kube-proxy's, with nodegate")?;
    let meanwhile = Open::new(scene)?;
    meanwhile.go_on().context("nodegate's")?;
    ensure!(chosen(scene)? > 6, "nodegate has decided nothing");
    drop(nodegate);
    meanwhile.go_on().context("nodegate's, after its end")?;
    let mut cleanup =
        scene
            .testbed
            .spawn("node1", Program::Nodegate, ["cleanup", "--drain", "600s"])?;
    let mut told = BufReader::new(cleanup.stderr.take().context("piped")?);
    let mut waits = String::new();
    told.read_line(&mut waits)?;
    ensure!(waits.starts_with("waiting for "), "cleanup: {waits}");
    before.go_on().context("kube-proxy's, during the cleanup")?;
    meanwhile
        .go_on()
        .context("nodegate's, during the cleanup")?;
    ensure!(cleanup.try_wait()?.is_none(), "the cleanup has not waited");
    let after = Open::new(scene)?;
    after.go_on().context("new ones, during the cleanup")?;
    // nodegate's end, and with them the wait.
    drop(meanwhile);
    let mut warnings = String::new();
    told.read_to_string(&mut warnings)?;
    let ended = cleanup.wait()?;
    ensure!(
        ended.success() && warnings.is_empty(),
        "cleanup: {warnings}"
    );
    before.go_on().context("kube-proxy's, after the cleanup")?;
    after.go_on().context("new ones, after the cleanup")?;
    for (load, (host, to)) in loads.into_iter().zip(ways) {
        let flawless = load.summary()?.is_flawless();
        flawless.with_context(|| format!("{host} to {to}"))?;
    }
    nothing_left(scene)
}

/// A socket's datagrams may go to another pod afterwards, but they are answered.
fn datagrams(scene: &Scene) -> anyhow::Result<()> {
    scene.apply(&manifests())?;
    kube_proxy(scene)?;
    let mut streams = Vec::new();
    for (host, to) in [
        ("client", NODE_PORT),
        ("client", NODE_PORT_V6),
        (POD1, CLUSTER_IP),
        ("node1", CLUSTER_IP),
    ] {
        let to = to.parse()?;
        for connected in [false, true] {
            streams.push(scene.start_probe(host, Task::stream(to, connected))?);
        }
    }
    let answered = |when: &str, since: Duration| -> anyhow::Result<()> {
        for stream in &streams {
            let replies = stream.go_on()?;
            let mut asked = replies.iter().filter(|reply| reply.asked >= since);
            let failed = asked.find(|reply| reply.pod.is_none());
            ensure!(failed.is_none(), "{when}: {failed:?}");
        }
        Ok(())
    };
    let from_the_beginning = Duration::ZERO;
    answered("with kube-proxy", from_the_beginning)?;
    let nodegate = Nodegate::start(scene, &[])?;
    answered("with nodegate", from_the_beginning)?;
    drop(nodegate);
    answered("after nodegate's end", from_the_beginning)?;
    scene.run("node1", Program::Nodegate, &["cleanup", "--drain", "0s"])?;
    // Without time to drain, an answer that is under way while the programs go finds nobody who would give it
    // its Service's address.
    answered("after the cleanup", probe::now())?;
    nothing_left(scene)
}

/// No program, no rule, no pin.
fn nothing_left(scene: &Scene) -> anyhow::Result<()> {
    ensure!(!scene.testbed.pin_dir("node1").exists(), "pins are left");
    let programs = scene.run("node1", Program::Bpftool, &["net", "show", "dev", "eth0"])?;
    ensure!(!programs.contains("gress"), "{programs}");
    for save in [Program::IptablesSave, Program::Ip6tablesSave] {
        let rules = scene.run("node1", save, &[])?;
        ensure!(!rules.contains("NODEGATE"), "{rules}");
        ensure!(rules.contains("KUBE-SERVICES"), "{rules}");
    }
    Ok(())
}

/// What netfilter knows of a flow to a pod that nodegate has translated is the masquerading at most.
fn translated_once(scene: &Scene) -> anyhow::Result<()> {
    scene.apply(&manifests())?;
    kube_proxy(scene)?;
    let _nodegate = Nodegate::start(scene, &[])?;
    for tool in ["ipv4", "ipv6"] {
        // Of the time before.
        let _ = scene
            .testbed
            .exec("node1", Program::Conntrack, ["-F", "-f", tool])?;
    }
    for (host, to) in [
        ("client", NODE_PORT),
        ("client", NODE_PORT_V6),
        (POD1, CLUSTER_IP),
        ("node1", CLUSTER_IP),
        ("node1", NODE_PORT),
    ] {
        for task in [Task::tcp(to.parse()?), Task::udp(to.parse()?)] {
            scene.answers(host, task, &["server-1", "server-2"])?;
        }
    }
    let pods = ["10.10.", "fd00:10:"];
    for family in ["ipv4", "ipv6"] {
        let table = scene.run("node1", Program::Conntrack, &["-L", "-f", family])?;
        let mut flows = 0;
        for line in table.lines() {
            let ends: Vec<&str> = line
                .split_whitespace()
                .filter_map(|word| word.strip_prefix("dst="))
                .collect();
            let [to, _] = ends[..] else { continue };
            if line.contains("=30080 ") || line.contains("dport=80 ") {
                flows += 1;
                ensure!(
                    pods.iter().any(|pod| to.starts_with(pod)),
                    "kube-proxy has translated what is nodegate's: {line}"
                );
            }
        }
        ensure!(flows > 0, "netfilter has seen nothing: {table}");
    }
    // kube-proxy's own: translated by it, and not by nodegate.
    let decided = chosen(scene)?;
    for (host, to) in [("client", "192.168.170.11:30081"), (POD1, "10.96.0.2:80")] {
        let reply = one(scene.probe(host, Task::tcp(to.parse()?))?)?;
        ensure!(reply.pod.is_some(), "{reply:?}");
    }
    crate::same!(chosen(scene)?, decided, "nodegate's decisions");
    let table = scene.run("node1", Program::Conntrack, &["-L"])?;
    ensure!(table.contains("dport=30081"), "{table}");
    Ok(())
}

/// kube-proxy's rule masquerades from any port, a node port among them. Sixty choices would all fall
/// into the upper half of the ports with a chance of one to 10^17.
fn masquerade_ports(scene: &Scene) -> anyhow::Result<()> {
    scene.apply(&manifests())?;
    kube_proxy(scene)?;
    let _nodegate = Nodegate::start(scene, &["--masquerade", "kube-proxy"])?;
    masquerades_from_high_ports(scene)
}

fn masquerades_from_high_ports(scene: &Scene) -> anyhow::Result<()> {
    let _ = scene
        .testbed
        .exec("node1", Program::Conntrack, ["-F", "-f", "ipv4"])?;
    for _ in 0..60 {
        let task = Task::udp(NODE_PORT.parse()?);
        scene.answers("client", task, &["server-1", "server-2"])?;
    }
    let table = scene.run(
        "node1",
        Program::Conntrack,
        &["-L", "-f", "ipv4", "-p", "udp"],
    )?;
    let mut ports = Vec::new();
    for line in table.lines() {
        // src=CLIENT dst=POD sport=… dport=… [UNREPLIED] src=POD dst=NODE sport=… dport=PORT
        let values = |name: &str| -> Vec<String> {
            let words = line.split_whitespace();
            words
                .filter_map(|word| word.strip_prefix(name).map(str::to_owned))
                .collect()
        };
        if let [client, _] = &values("src=")[..]
            && client == "192.168.170.1"
            && let [_, port] = &values("dport=")[..]
        {
            ports.push(port.parse::<u16>()?);
        }
    }
    ensure!(ports.len() >= 30, "{ports:?}\n{table}");
    ensure!(
        ports.iter().all(|port| *port >= 32_768),
        "{ports:?}\n{table}"
    );
    Ok(())
}

/// Makes `iptables` the one with tables of its own in the kernel, for all that runs in this testbed, as a
/// distribution's alternatives do for a machine.
fn legacy(scene: &Scene) -> anyhow::Result<()> {
    use Program::{
        Ip6tables, Ip6tablesLegacy, Ip6tablesLegacyRestore, Ip6tablesLegacySave, Ip6tablesRestore,
        Ip6tablesSave, Iptables, IptablesLegacy, IptablesLegacyRestore, IptablesLegacySave,
        IptablesRestore, IptablesSave,
    };
    for (program, older) in [
        (Iptables, IptablesLegacy),
        (IptablesSave, IptablesLegacySave),
        (IptablesRestore, IptablesLegacyRestore),
        (Ip6tables, Ip6tablesLegacy),
        (Ip6tablesSave, Ip6tablesLegacySave),
        (Ip6tablesRestore, Ip6tablesLegacyRestore),
    ] {
        let found = older.find().ok_or(Unmet::Program(older))?;
        let link = scene.testbed.names().state().join("bin");
        let link = link.join(program.name());
        std::os::unix::fs::symlink(found, &link)
            .with_context(|| format!("making {}", link.display()))?;
    }
    for program in BOTH {
        let version = scene.run("node1", program, &["--version"])?;
        ensure!(version.contains("(legacy)"), "{version}");
    }
    Ok(())
}

/// How the chains that everybody uses lead to ours: table, chain, our chain.
const CALLS: [(&str, &str, &str); 3] = [
    ("nat", "POSTROUTING", "NODEGATE-POSTROUTING"),
    ("filter", "FORWARD", "NODEGATE-FORWARD"),
    ("filter", "INPUT", "NODEGATE-INPUT"),
];

/// Waits until our chains are called once each, before all else, in both families.
fn called_first(scene: &Scene) -> anyhow::Result<()> {
    for tool in BOTH {
        for (table, chain, ours) in CALLS {
            let mut listed = String::new();
            let first = wait(|| {
                listed = scene.run("node1", tool, &["-t", table, "-S", chain])?;
                let mut rules = listed.lines().filter(|line| line.starts_with("-A"));
                let first = rules.next().is_some_and(|rule| rule.ends_with(ours));
                Ok((first && listed.matches(ours).count() == 1).then_some(()))
            });
            first.with_context(|| {
                let name = tool.name();
                format!("{name}: {chain} does not begin with {ours}: {listed}")
            })?;
        }
    }
    Ok(())
}

/// kube-proxy puts its rule first when it does not find it (`EnsureRule` with `Prepend`).
fn starts_later(scene: &Scene) -> anyhow::Result<()> {
    scene.apply(&manifests())?;
    kube_proxy(scene)?;
    let _nodegate = Nodegate::start(scene, &["--masquerade", "kube-proxy"])?;
    called_first(scene)?;
    for (tool, restore) in BOTH.into_iter().zip(RESTORE) {
        let rules = scene.run("node1", tool, &["-t", "nat", "-S", "POSTROUTING"])?;
        let rule = rules
            .lines()
            .find(|rule| rule.ends_with("KUBE-POSTROUTING"));
        let rule = rule.with_context(|| format!("no rule of kube-proxy's: {rules}"))?;
        let rule = rule.trim_start_matches("-A ");
        let text = format!("*nat\n-D {rule}\n-I {rule}\nCOMMIT\n");
        let moved = scene.feed("node1", restore, &["--noflush"], &text)?;
        ensure!(moved.status.success(), "{text}: {moved:?}");
    }
    called_first(scene)?;
    // kube-proxy's is where it was, after ours.
    let rules = scene.run(
        "node1",
        Program::Iptables,
        &["-t", "nat", "-S", "POSTROUTING"],
    )?;
    crate::same!(rules.matches("-j KUBE-POSTROUTING").count(), 1, "{rules}");
    masquerades_from_high_ports(scene)
}

/// A firewall that is reloaded takes all rules away.
fn flushed(scene: &Scene) -> anyhow::Result<()> {
    let web = format!(
        "type: NodePort, {}, selector: {{app: server}}, ",
        cluster_ips(1)
    );
    let nobody = format!(
        "type: NodePort, {}, selector: {{app: nobody}}, ",
        cluster_ips(2)
    );
    let service =
        |name, spec: String, node_port| service(name, &(spec + &both_protocols(node_port)));
    scene.apply(
        // Only on the other node: unmasqueraded, its replies would not come back through this one.
        &(service("web", web, 30080) + &service("nobody", nobody, 30081) + &server("server-2", 2)),
    )?;
    let _nodegate = Nodegate::run(scene, &["--services", "all"])?;
    let works = |when: &str| -> anyhow::Result<()> {
        for to in [NODE_PORT, NODE_PORT_V6] {
            for task in [Task::tcp(to.parse()?), Task::udp(to.parse()?)] {
                let answers = scene.answers("client", task, &["server-2"]);
                answers.with_context(|| format!("masquerading, {when}"))?;
            }
            let nobody: SocketAddr = to.replace("30080", "30081").parse()?;
            let refused = scene.is_refused("client", Task::tcp(nobody));
            refused.with_context(|| format!("refusing, {when}"))?;
        }
        Ok(())
    };
    works("before")?;
    for (what, flush) in [
        ("the nat table flushed", &["-t nat -F"][..]),
        (
            "all chains flushed and removed",
            &["-F", "-X", "-t nat -F", "-t nat -X"],
        ),
        ("our chain emptied", &["-t nat -F NODEGATE-POSTROUTING"]),
        ("the call removed", &["-D INPUT 1"]),
    ] {
        for tool in BOTH {
            for line in flush {
                scene.run_line("node1", tool, line)?;
            }
        }
        called_first(scene).context(what)?;
        for tool in BOTH {
            wait(|| {
                let chain = ["-t", "nat", "-S", "NODEGATE-POSTROUTING"];
                let rules = scene.run("node1", tool, &chain)?;
                // IPv4 has one more, for sockets that are bound to 127.0.0.1.
                let expected = if tool == Program::Iptables { 7 } else { 6 };
                Ok((rules.lines().count() == expected).then_some(()))
            })
            .with_context(|| format!("{what}: the rules of {}", tool.name()))?;
        }
        // Netfilter decides once for each flow; and a flow of before has its source port again.
        for family in ["ipv4", "ipv6"] {
            scene.run("node1", Program::Conntrack, &["-F", "-f", family])?;
        }
        works(what)?;
    }
    Ok(())
}
