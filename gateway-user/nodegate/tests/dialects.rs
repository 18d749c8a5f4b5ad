//! Rules of earlier kube-proxies, among those of other programs: they are read as those of today are.
//! What they are: `README.md beside them`.

use std::{collections::BTreeMap, fs, path::PathBuf};

use clap::Parser;
use nodegate::cli::kube_proxy::KubeProxyFlags;
use nodegate_compile::{NodeIdentity, kube_proxy};
use nodegate_iptables::{
    config::{KubeProxyArgs, KubeProxyConfig},
    diff::diff,
    lint::lint,
    parse::parse,
    ports::ports,
    rules::Ruleset,
    services::{of_model, of_rules},
};
use nodegate_model::service::{IpFamily, ServicePort};
use nodegate_resources::{admission::Store, manifest::Manifest};
use nodegate_values::diagnostic::has_errors;

const DUMPS: [&str; 3] = [
    "1.20-docker-flannel.save",
    "1.23-calico.save",
    "1.25-cilium.save",
];

fn read(file: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../iptables/tests/dialects")
        .join(file);
    fs::read_to_string(path).expect("a fixture")
}

fn ruleset(text: &str) -> Ruleset {
    let mut dump = parse(text);
    assert_eq!(dump.errors, []);
    assert_eq!(dump.rulesets.len(), 1);
    dump.rulesets.remove(0)
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    args: KubeProxyFlags,
}

fn cluster() -> (Vec<ServicePort>, KubeProxyConfig) {
    let manifest = Manifest::parse("cluster.yaml".into(), &read("cluster.yaml"));
    let resources = Store::default().admit([&manifest], Vec::new());
    assert!(!has_errors(&resources.diagnostics), "{resources:#?}");
    let flags = [
        "kube-proxy",
        "--hostname-override=node-a",
        "--cluster-cidr=10.244.0.0/16",
    ];
    let args = KubeProxyArgs::from(Flags::try_parse_from(flags).expect("flags").args);
    let node = NodeIdentity::named("node-a");
    let services = kube_proxy(&resources, &node, &mut Vec::new());
    (
        services,
        KubeProxyConfig::new(&args, &resources).expect("a configuration"),
    )
}

#[test]
fn they_show_the_services_of_the_cluster() {
    let (services, config) = cluster();
    let expected = of_model(&services, IpFamily::V4, &config);
    assert_eq!(expected.len(), 7);
    for file in DUMPS {
        let found = of_rules(&ruleset(&read(file)));
        for (key, service) in &expected {
            assert_eq!(found.get(key), Some(service), "{file} {key}");
        }
        assert_eq!(found.len(), expected.len(), "{file}");
    }
}

#[test]
fn there_is_nothing_wrong_with_them() {
    for file in DUMPS {
        let ruleset = ruleset(&read(file));
        assert_eq!(lint(&ruleset, &of_rules(&ruleset)), [], "{file}");
    }
}

/// The rules are others than those of today; what they do is the same.
#[test]
fn they_do_not_differ_in_terms_of_services() {
    let (services, config) = cluster();
    for file in DUMPS {
        let found = diff(&services, &config, &ruleset(&read(file)));
        assert_eq!(found.services, BTreeMap::new(), "{file}");
        assert!(!found.rules.is_empty(), "{file}");
        let foreign = found.rules.iter().find(|chain| {
            let name = chain.chain.as_str();
            !name.starts_with("KUBE-")
                && chain.unexpected.iter().any(|rule| !rule.contains("KUBE-"))
        });
        assert!(foreign.is_none(), "{file}: {foreign:?}");
    }
}

#[test]
fn what_is_missing_is_told_in_terms_of_services() {
    let (services, config) = cluster();
    for file in DUMPS {
        let text = read(file);
        for (gone, expected) in [
            (
                "--to-destination 10.244.0.5:8080",
                "shop/web:http tcp: endpoints missing: 10.244.0.5:8080",
            ),
            (
                "--dport 30445 -j KUBE-",
                "shop/guarded:http tcp: node port 30445: expected: to all endpoints; found: no rules",
            ),
            (
                "-s 198.51.100.0/24",
                "shop/guarded:http tcp: external address 203.0.113.92:80: expected: to all endpoints, \
                 for 198.51.100.0/24 only; found: untranslated, for nobody",
            ),
            (
                "--dport 32001",
                "shop/far:http tcp: health check node port: expected: 32001; found: none",
            ),
        ] {
            let rest: Vec<_> = text.lines().filter(|line| !line.contains(gone)).collect();
            let found = diff(&services, &config, &ruleset(&rest.join("\n")));
            let told: Vec<_> = found
                .services
                .iter()
                .flat_map(|(key, changes)| changes.iter().map(move |one| format!("{key}: {one}")))
                .collect();
            assert_eq!(told, [expected], "{file}");
        }
    }
}

/// As the source of Services they say as much as those of today.
#[test]
fn services_can_be_made_of_them() {
    let (services, config) = cluster();
    let expected = of_model(&services, IpFamily::V4, &config);
    for file in DUMPS {
        let made = ports(&[ruleset(&read(file))], "node-a");
        assert_eq!(made.broken, BTreeMap::new(), "{file}");
        assert_eq!(
            of_model(&made.services, IpFamily::V4, &config),
            expected,
            "{file}"
        );
        let networks: Vec<_> = made
            .facts
            .pod_networks
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(networks, ["10.244.0.0/16"], "{file}");
        assert!(!made.facts.masquerade_all, "{file}");
    }
}
