//! What a real kube-proxy wrote, against what is rendered, predicted and read here. The recordings
//! and how they were made: `golden/README.md`.

#[cfg(test)]
#[path = "support/golden.rs"]
mod support;

use std::collections::BTreeMap;

use nodegate::{
    iptables::{normal, parse::parse, render::render, rules::Dialect},
    model::service::{IpFamily, ServicePort},
};
use support::{Recording, States, sets};

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

#[test]
fn every_recording_is_there() {
    assert_eq!(sets().len(), 32);
    assert_eq!(States::all().len(), 16);
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
