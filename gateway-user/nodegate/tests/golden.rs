//! What a real kube-proxy wrote, against what is rendered, predicted and read here. The recordings
//! and how they were made: `golden/README.md`.

#[path = "support/own.rs"]
mod own;
#[path = "support/golden.rs"]
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use gateway_common::maps::{Service, ServiceKey, Slot, SlotKey};
use nodegate_iptables::{
    diff::{Diff, diff},
    lint::lint,
    normal,
    parse::parse,
    ports::ports,
    render::render,
    rules::{Dialect, Ruleset},
    services::{Frontend, Services, of_model, of_rules},
};
use nodegate_model::service::{IpFamily, ServicePort};
use nodegate_programming::{
    address::from_map,
    capacity::Capacity,
    desired::{Desired, Policy},
    mirror::Mirror,
    node::NodeFacts,
    plan::plan,
    step::Step,
    tables::filled,
};

use own::without_own;
use support::{Recording, folders, sets};

/// The lines of each table, without comments and counters.
fn tables(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines() {
        if let Some(table) = line.strip_prefix('*') {
            table.clone_into(&mut name);
        }
        if line.starts_with(['#', '*']) || line.starts_with("COMMIT") {
            continue;
        }
        let line = match line
            .strip_prefix(':')
            .and_then(|line| line.split_once(" ["))
        {
            Some((chain, _)) => format!(":{chain}"),
            None => line.to_owned(),
        };
        tables.entry(name.clone()).or_default().push(line);
    }
    tables
}

/// The Services in the order of the lines. That order is the one thing that kube-proxy leaves to
/// chance, and it is the same throughout a table.
fn in_order_of(lines: &[String], services: &[ServicePort]) -> Vec<ServicePort> {
    let mut order = BTreeMap::new();
    for (index, line) in lines.iter().enumerate() {
        let Some((_, comment)) = line.split_once("--comment ") else {
            continue;
        };
        let comment = comment.trim_start_matches('"');
        let name = comment.split([' ', '"']).next().unwrap_or_default();
        order.entry(name.to_owned()).or_insert(index);
    }
    let mut services = services.to_vec();
    services.sort_by_key(|service| order.get(&service.name.to_string()).copied());
    services
}

fn first_difference(what: &str, recorded: &[String], made: &[String]) -> Option<String> {
    let differs = |(recorded, made): &(&String, &String)| recorded != made;
    if let Some((recorded, made)) = recorded.iter().zip(made).find(differs) {
        return Some(format!(
            "{what}\n  recorded: {recorded}\n  here:     {made}"
        ));
    }
    let counts = (recorded.len(), made.len());
    (counts.0 != counts.1).then(|| format!("{what}: {} lines, here {}", counts.0, counts.1))
}

fn all_right(wrong: &[String]) {
    assert!(
        wrong.is_empty(),
        "{} wrong\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// The states of one run, in the order of time.
fn states() -> Vec<support::Set> {
    folders("20-partial-sync")
}

#[test]
fn every_recording_is_there() {
    assert_eq!(sets().len(), 32);
    assert_eq!(states().len(), 16);
}

/// Where a Service has other endpoints for policy Local than for policy Cluster, kube-proxy goes
/// through all of them in the order of a Go map.
const ENDPOINTS_BY_CHANCE: [&str; 2] = ["10-terminating", "11-topology"];

#[test]
fn what_is_rendered_is_what_kube_proxy_wrote() {
    let mut wrong = Vec::new();
    for set in sets() {
        let recording = Recording::of(&set);
        for (family, file) in [
            (IpFamily::V4, "restore-input"),
            (IpFamily::V6, "restore6-input"),
        ] {
            for (table, lines) in tables(&set.read(file)) {
                let services = in_order_of(&lines, &recording.services);
                let ruleset = render(&services, family, &recording.config);
                let made = tables(&ruleset.text(Dialect::Restore))
                    .remove(&table)
                    .unwrap();
                let what = format!("{} {file} {table}", set.name);
                if ENDPOINTS_BY_CHANCE.contains(&set.name.as_str()) {
                    let (mut recorded, mut made) = (chains(&lines), chains(&made));
                    for chains in [&mut recorded, &mut made] {
                        chains.entry(String::new()).or_default().sort();
                    }
                    assert_eq!(recorded, made, "{what}");
                } else {
                    wrong.extend(first_difference(&what, &lines, &made));
                }
            }
        }
    }
    all_right(&wrong);
}

/// The lines of each chain; those that declare chains under the empty name.
fn chains(lines: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut chains: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in lines {
        let chain = line
            .strip_prefix("-A ")
            .and_then(|line| line.split(' ').next());
        let chain = chain.unwrap_or_default().to_owned();
        chains.entry(chain).or_default().push(line.clone());
    }
    chains
}

/// Where a dump is not as predicted.
fn wrong_dump(what: &str, recorded: &str, recording: &Recording, family: IpFamily) -> Vec<String> {
    let dump = |services: &[ServicePort], table: &str| {
        let ruleset = normal::dump(&render(services, family, &recording.config));
        chains(&tables(&ruleset.text(Dialect::Save))[table])
    };
    let mut wrong = Vec::new();
    for (table, lines) in tables(recorded) {
        let made = dump(&recording.services, &table);
        let recorded = chains(&lines);
        assert_eq!(
            recorded.keys().collect::<Vec<_>>(),
            made.keys().collect::<Vec<_>>(),
            "{what}"
        );
        for (chain, lines) in recorded {
            let what = format!("{what} {table} {chain}");
            let mut made = made[&chain].clone();
            if made != lines {
                let services = in_order_of(&lines, &recording.services);
                made = dump(&services, &table).remove(&chain).unwrap_or_default();
            }
            wrong.extend(first_difference(&what, &lines, &made));
        }
    }
    wrong
}

/// The four dumps of a set.
const DUMPS: [(IpFamily, &str); 4] = [
    (IpFamily::V4, "save.legacy"),
    (IpFamily::V4, "save.nft"),
    (IpFamily::V6, "save6.legacy"),
    (IpFamily::V6, "save6.nft"),
];

#[test]
fn what_is_predicted_is_what_iptables_save_printed() {
    let mut wrong = Vec::new();
    for set in sets() {
        let recording = Recording::of(&set);
        for (family, file) in DUMPS {
            let Some(recorded) = set.try_read(file) else {
                continue;
            };
            wrong.extend(wrong_dump(
                &format!("{} {file}", set.name),
                &recorded,
                &recording,
                family,
            ));
        }
    }
    all_right(&wrong);
}

#[test]
fn what_is_read_is_written_as_it_was() {
    let mut wrong = Vec::new();
    for set in sets() {
        for (file, dialect) in [
            ("save.legacy", Dialect::Save),
            ("save.nft", Dialect::Save),
            ("save6.legacy", Dialect::Save),
            ("save6.nft", Dialect::Save),
            ("restore-input", Dialect::Restore),
            ("restore6-input", Dialect::Restore),
        ] {
            let Some(text) = set.try_read(file) else {
                continue;
            };
            let dump = parse(&text);
            assert_eq!(dump.errors, [], "{} {file}", set.name);
            let [ruleset] = &dump.rulesets[..] else {
                panic!("{} {file}: {} families", set.name, dump.rulesets.len());
            };
            let (before, after) = (tables(&text), tables(&ruleset.text(dialect)));
            for (table, lines) in &before {
                let again = after.get(table).cloned().unwrap_or_default();
                let change = lines.iter().zip(&again).find(|(a, b)| a != b);
                if change.is_some() || lines.len() != again.len() {
                    wrong.push(format!("{} {file} {table}: {change:?}", set.name));
                }
            }
        }
    }
    all_right(&wrong);
}

fn ruleset(text: &str) -> Ruleset {
    let mut dump = parse(text);
    assert_eq!(dump.errors, []);
    dump.rulesets.remove(0)
}

#[test]
fn dumps_are_read_back_to_the_services_that_they_came_from() {
    for set in sets() {
        let recording = Recording::of(&set);
        for (family, file) in DUMPS {
            let Some(text) = set.try_read(file) else {
                continue;
            };
            let found = ruleset(&text);
            assert_eq!(found.family, family);
            let expected = of_model(&recording.services, family, &recording.config);
            let services = without_own(of_rules(&found));
            for (key, service) in &services {
                assert_eq!(
                    Some(service),
                    expected.get(key),
                    "{} {file} {key}",
                    set.name
                );
            }
            assert_eq!(services.len(), expected.len(), "{} {file}", set.name);
            let difference = diff(&recording.services, &recording.config, &found);
            assert!(
                difference.is_empty(),
                "{} {file}: {difference:#?}",
                set.name
            );
        }
    }
}

/// Addresses that one Service names twice.
const TWICE: [&str; 2] = [
    "ns18/ext-dup-self:web external IP",
    "ns18/lb-eq-ext:web loadbalancer IP",
];

/// Services that are made of rules lead to the same rules again, but for what the rules do not say.
#[test]
fn what_is_made_of_dumps_is_what_the_dumps_came_from() {
    for set in sets() {
        let config = Recording::of(&set).config;
        for files in [["save.legacy", "save6.legacy"], ["save.nft", "save6.nft"]] {
            let Some(texts) = files.map(|file| set.try_read(file)).into_iter().collect() else {
                continue;
            };
            let texts: Vec<String> = texts;
            let rulesets: Vec<_> = texts.iter().map(|text| ruleset(text)).collect();
            let made = ports(&rulesets, "node-a");
            assert_eq!(made.broken, BTreeMap::new(), "{}", set.name);
            for found in &rulesets {
                let difference = diff(&made.services, &config, found);
                // Of two rules for one address the second has no effect, so it is not made again.
                let second = difference.rules.iter().flat_map(|chain| {
                    assert!(chain.missing.is_empty(), "{chain}");
                    &chain.unexpected
                });
                let second: Vec<_> = second.filter_map(|rule| rule.split('"').nth(1)).collect();
                let expected = match (set.name.as_str(), found.family) {
                    ("18-odd", IpFamily::V4) => &TWICE[..],
                    _ => &[],
                };
                assert_eq!(second, expected, "{} {:?}", set.name, found.family);
                assert_eq!(difference.services, BTreeMap::new(), "{}", set.name);
            }
        }
    }
}

#[test]
fn what_kube_proxy_wrote_is_almost_without_fault() {
    let mut found_wrong = Vec::new();
    for set in sets() {
        for (_, file) in DUMPS {
            let Some(text) = set.try_read(file) else {
                continue;
            };
            let found = ruleset(&text);
            for finding in lint(&found, &of_rules(&found)) {
                found_wrong.push(format!("{} {file}: {finding}", set.name));
            }
        }
    }
    let mut expected: Vec<_> = ["save.legacy", "save.nft"]
        .map(|file| {
            // None of the node's addresses is among --nodeport-addresses.
            format!(
                "14e-nodeport-addresses-nomatch {file}: nat KUBE-NODEPORTS is reached by no packet"
            )
        })
        .into();
    for file in ["save.legacy", "save.nft"] {
        for (address, name) in [("192.168.96.77", "dupext"), ("192.168.96.78", "duplb")] {
            expected.push(format!("18-odd {file}: external address {address}:80 tcp is claimed by ns18/{name}-a:http and ns18/{name}-b:http; the first rule wins"));
        }
    }
    assert_eq!(found_wrong, expected);
}

/// After partial syncs there is what a full one would have made.
#[test]
fn every_state_of_a_run_is_as_a_full_sync_would_leave_it() {
    for state in states() {
        let recording = Recording::of(&state);
        for file in ["save.legacy", "save6.legacy"] {
            let found = ruleset(&state.read(file));
            let difference = diff(&recording.services, &recording.config, &found);
            if (state.name.as_str(), file) == ("14-one-chain-flushed-outside", "save.legacy") {
                one_chain_flushed(&difference, &found);
            } else {
                assert!(
                    difference.is_empty(),
                    "{} {file}: {difference:#?}",
                    state.name
                );
            }
        }
    }
}

/// The maps, changed step by step as kube-proxy's rules were, say what maps say that are filled anew, and
/// what the recorded rules do.
#[test]
fn maps_that_follow_a_run_say_what_the_recorded_rules_do() {
    let mut followed = Mirror::default();
    let mut changes = 0;
    for state in states() {
        let recording = Recording::of(&state);
        let desired = Desired::new(
            &recording.services,
            &recording.config.node,
            &NodeFacts::default(),
            &Policy::default(),
        );
        let plan = plan(&followed, &desired, Capacity::MAPS);
        assert!(plan.refused.is_empty(), "{}", state.name);
        for step in plan.groups.iter().flat_map(|group| &group.steps) {
            followed.note(step);
            changes += usize::from(*step != Step::Barrier);
        }
        assert_eq!(
            content(&followed),
            content(&filled(&desired).0),
            "{}",
            state.name
        );
        // Whose rules were flushed by somebody else say nothing about the objects.
        if state.name == "14-one-chain-flushed-outside" {
            continue;
        }
        let rules = of_rules(&ruleset(&state.read("save.legacy")));
        assert_eq!(
            backends_of(&followed),
            endpoints_of(&rules),
            "{}",
            state.name
        );
    }
    // Nothing is written twice: some states don't differ for us, and none differs in everything.
    assert!((30..200).contains(&changes), "{changes} changes");
}

/// What maps say, whatever numbers they use: for each frontend its flags, time of affinity, name, and the
/// backends for both policies.
type Content = BTreeMap<ServiceKey, (u32, u32, String, [Vec<(SocketAddr, u8)>; 2])>;

fn content(mirror: &Mirror) -> Content {
    let mut content = Content::new();
    for (key, service) in &mirror.services {
        let set = |first: u32, size: u32| {
            let mut set: Vec<_> = (first..first + size)
                .map(|index| {
                    let slot = &mirror.slots[&SlotKey {
                        service: service.id,
                        generation: service.generation,
                        index,
                    }];
                    let backend = &mirror.backends[&slot.backend];
                    assert_eq!(*slot, Slot::new(slot.backend, backend));
                    assert_eq!(backend.service, service.id);
                    let address = from_map(backend.address);
                    (SocketAddr::new(address, backend.port), backend.flags)
                })
                .collect();
            set.sort_unstable();
            set
        };
        let sets = [set(0, service.cluster), set(service.cluster, service.local)];
        let name = mirror.names.get(&service.id);
        let name = name.map_or_else(String::new, |(name, ..)| name.to_string());
        content.insert(*key, (service.flags, service.affinity, name, sets));
    }
    content
}

/// The endpoints behind each IPv4 cluster IP and its port.
type Endpoints = BTreeMap<(SocketAddr, u8), BTreeSet<SocketAddr>>;

fn backends_of(mirror: &Mirror) -> Endpoints {
    let frontends = content(mirror).into_iter().filter(|(key, (flags, ..))| {
        let cluster_ip = flags & (Service::FLAG_GUARD | Service::FLAG_EXTERNAL) == 0;
        cluster_ip && from_map(key.address).is_ipv4()
    });
    frontends
        .map(|(key, (.., [cluster, _]))| {
            let at = SocketAddr::new(from_map(key.address), key.port);
            let backends = cluster.into_iter().map(|(address, _)| address);
            ((at, key.protocol), backends.collect())
        })
        .collect()
}

fn endpoints_of(services: &Services) -> Endpoints {
    let mut endpoints = Endpoints::new();
    for (key, service) in services {
        for frontend in service.frontends.keys() {
            if let Frontend::ClusterIp { address } = frontend {
                let to = service.cluster.iter().copied().collect();
                endpoints.insert((*address, key.protocol.number()), to);
            }
        }
    }
    endpoints
}

/// Somebody else has flushed KUBE-SERVICES.
fn one_chain_flushed(difference: &Diff, found: &Ruleset) {
    let told: Vec<_> = difference
        .services
        .iter()
        .flat_map(|(key, changes)| changes.iter().map(move |change| format!("{key}: {change}")))
        .collect();
    assert_eq!(
        told,
        [
            "ns20/dns:dns udp: there are no rules for it",
            "ns20/other:http tcp: there are no rules for it",
            "ns20/web:http tcp: cluster IP 10.96.20.1:80: expected: to all endpoints; found: no rules",
            "ns20/web:http tcp: node port 32111: expected: to all endpoints; found: untranslated",
        ]
    );
    let [chain] = &difference.rules[..] else {
        panic!("{:#?}", difference.rules);
    };
    assert_eq!(
        (chain.chain.as_str(), chain.missing.len()),
        ("KUBE-SERVICES", 1)
    );
    let findings = lint(found, &of_rules(found));
    let findings: Vec<_> = findings.iter().map(ToString::to_string).collect();
    assert_eq!(
        findings,
        [
            "nat KUBE-NODEPORTS is reached by no packet",
            "nat KUBE-SVC-5KL6Z6MCPEVKKSRP is reached by no packet",
            "nat KUBE-SVC-SFAWO22V62NEFPRG is reached by no packet",
        ]
    );
}

/// Takes one rule away after the other. No loss may go unnoticed, and each is told of once.
#[test]
fn every_rule_that_is_gone_is_missed() {
    for name in [
        "05-etp-local",
        "06-loadbalancer",
        "07-session-affinity",
        "12-dualstack",
    ] {
        let set = sets().into_iter().find(|set| set.name == name).unwrap();
        let recording = Recording::of(&set);
        let text = set.read("save.nft");
        let lines: Vec<_> = text.lines().collect();
        for gone in 0..lines.len() {
            if !lines[gone].starts_with("-A ") {
                continue;
            }
            let rest: Vec<_> = lines
                .iter()
                .enumerate()
                .filter(|(index, _)| *index != gone)
                .collect();
            let rest: Vec<_> = rest.into_iter().map(|(_, line)| *line).collect();
            let difference = diff(
                &recording.services,
                &recording.config,
                &ruleset(&rest.join("\n")),
            );
            assert!(!difference.is_empty(), "{name}: {}", lines[gone]);
            // The way to node ports is a rule of all Services.
            let is_common = lines[gone].contains("this must be the last rule");
            assert!(
                difference.services.is_empty() || difference.rules.is_empty() || is_common,
                "{name}: {}: {difference:#?}",
                lines[gone]
            );
        }
    }
}

#[test]
fn what_is_changed_is_told_in_terms_of_services() {
    let set = &sets()[1];
    let recording = Recording::of(set);
    let text = set.read("save.legacy");
    let told = |text: &str| -> Vec<String> {
        let difference = diff(&recording.services, &recording.config, &ruleset(text));
        let services = difference.services.iter();
        let services = services.flat_map(|(key, changes)| {
            changes.iter().map(move |change| format!("{key}: {change}"))
        });
        services
            .chain(difference.rules.iter().map(ToString::to_string))
            .collect()
    };
    assert_eq!(told(&text), [""; 0]);
    let moved = text.replace(
        "--to-destination 10.10.1.4:8080",
        "--to-destination 10.10.9.9:8080",
    );
    assert_eq!(
        told(&moved),
        [
            "istio-system/istio-ingressgateway:http2 tcp: endpoints missing: 10.10.1.4:8080; unexpected: 10.10.9.9:8080"
        ]
    );
    let stale = text.replace(
        "COMMIT\n# Completed",
        "-A KUBE-SVC-AAAAAAAAAAAAAAAA -j RETURN\nCOMMIT\n# Completed",
    );
    assert!(
        told(&stale).contains(
            &"nat KUBE-SVC-AAAAAAAAAAAAAAAA belongs to no Service or endpoint".to_owned()
        )
    );
    let foreign = text.replace(
        "-A KUBE-MARK-MASQ",
        "-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\n-A KUBE-MARK-MASQ",
    );
    assert_eq!(told(&foreign), [""; 0]);
    let weighted = text.replace("--set-xmark 0x4000/0x4000", "--set-xmark 0x8000/0x8000");
    assert_eq!(
        told(&weighted),
        [
            "nat KUBE-MARK-MASQ has other rules\n    - -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n    + -A KUBE-MARK-MASQ -j MARK --set-xmark 0x8000/0x8000"
        ]
    );
}
