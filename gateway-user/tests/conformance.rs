//! The cases of kube-proxy's own tests (pkg/proxy/iptables/proxier_test.go), as tables: where a connection
//! goes, and whether it is masqueraded, by the rules that are rendered and by the decision core.
//!
//! Each test names the one that it is like; its numbers are those of that test, the expectations are
//! written afresh.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use gateway_common::decide::Verdict;
use nodegate::{
    datapath::{MasqueradeMode, desired::ExternalIps},
    explain::{
        connection::{Attempt, Client, connection},
        node::{Choices, Node},
    },
    iptables::{
        config::{Config, FamilyConfig, LocalDetector},
        diff::diff,
        normal,
        render::render,
        rules::{Dialect, Part, Probability, Rule, Ruleset},
    },
    model::{
        selection::NodeTopology,
        service::{
            Endpoint, IpFamily, Protocol, ServicePort, ServicePortName, ServiceType, SourceRanges,
            TrafficPolicy,
        },
    },
};

const NODE_IP: &str = "192.168.0.2";
const ALTERNATIVE_IP: &str = "192.168.1.2";
const POD: &str = "10.0.0.2";
const EXTERNAL: &str = "203.0.113.2";
/// Outside of the source ranges.
const BLOCKED: &str = "203.0.113.130";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn config() -> Config {
    let family = |node: &str, pods: &str, localhost_node_ports| FamilyConfig {
        node_ip: Some(ip(node)),
        local: Some(LocalDetector::Cidr(pods.parse().expect("a network"))),
        node_port_addresses: None,
        localhost_node_ports,
    };
    Config {
        node: NodeTopology {
            name: "test-node".into(),
            zone: None,
        },
        addresses: [NODE_IP, ALTERNATIVE_IP, "2001:db8::1", "2001:db8:1::2"]
            .map(ip)
            .into(),
        masquerade_mark: 1 << 14,
        masquerade_all: false,
        conntrack_liberal: false,
        nfacct: false,
        random_fully: true,
        v4: family(NODE_IP, "10.0.0.0/8", true),
        v6: family("2001:db8::1", "fd00:10::/64", false),
    }
}

/// A Service port of TCP, `name` being `ns/name:port`, with endpoints such as `10.180.0.1:80`; those that
/// begin with `@` are on this node.
fn service(name: &str, cluster_ip: &str, port: u16, endpoints: &[&str]) -> ServicePort {
    let (namespace, rest) = name.split_once('/').expect("a namespace");
    let (name, port_name) = rest.split_once(':').expect("a port");
    ServicePort {
        cluster_ips: vec![ip(cluster_ip)],
        endpoints: endpoints.iter().map(|text| endpoint(text)).collect(),
        ..ServicePort::new(
            ServicePortName {
                namespace: namespace.into(),
                name: name.into(),
                port: port_name.into(),
            },
            Protocol::Tcp,
            port,
        )
    }
}

fn endpoint(text: &str) -> Endpoint {
    let (text, local) = match text.strip_prefix('@') {
        Some(text) => (text, true),
        None => (text, false),
    };
    let socket: SocketAddr = text.parse().expect("an endpoint");
    Endpoint::ready(socket.ip(), socket.port(), local)
}

fn explained(services: &[ServicePort], config: &Config) -> Node {
    let detectors = [&config.v4.local, &config.v6.local];
    let networks = detectors.into_iter().flatten();
    let networks = networks.filter_map(|local| match local {
        LocalDetector::Cidr(net) => Some(*net),
        LocalDetector::Interface(_) => None,
    });
    let choices = Choices {
        external_ips: ExternalIps::Any,
        masquerade: if config.masquerade_all {
            MasqueradeMode::All
        } else {
            MasqueradeMode::KubeProxy
        },
        pod_networks: networks.collect(),
        knows_pods: config.v4.local.is_some(),
    };
    Node::new(services, services, config.clone(), &choices)
}

fn client(who: &str) -> Client {
    match who {
        "node" => Client::Node,
        pod if pod.starts_with("10.") || pod.starts_with("fd00:10:") => Client::Pod(ip(pod)),
        outside => Client::Network(ip(outside)),
    }
}

/// Endpoints and `m` for masqueraded ones; else the verdict.
fn outcome<'c>(
    verdict: Verdict,
    backends: impl Iterator<Item = (SocketAddr, bool)> + 'c,
) -> String {
    if verdict != Verdict::Forward {
        return verdict.name().to_owned();
    }
    let backends: BTreeSet<String> = backends
        .map(|(address, masqueraded)| format!("{address}{}", if masqueraded { " m" } else { "" }))
        .collect();
    backends.into_iter().collect::<Vec<_>>().join(", ")
}

/// What becomes of TCP connections, or of datagrams where the destination ends with `/udp` or `/sctp`; by
/// the rules, and by nodegate.
fn check(what: &str, node: &Node, table: &[(&str, &str, &str)]) {
    for (who, to, expected) in table {
        let (by_rules, by_core) = both(node, who, to);
        assert_eq!(by_rules, *expected, "{what}: {who} to {to}, by the rules");
        assert_eq!(by_core, *expected, "{what}: {who} to {to}, by nodegate");
    }
}

fn both(node: &Node, who: &str, to: &str) -> (String, String) {
    let (to, protocol) = match to.split_once('/') {
        Some((to, "udp")) => (to, Protocol::Udp),
        Some((to, _)) => (to, Protocol::Sctp),
        None => (to, Protocol::Tcp),
    };
    let attempt = Attempt {
        client: client(who),
        destination: to.parse().expect("a destination"),
        protocol,
    };
    let found = connection(node, &attempt);
    let backends = &found.backends;
    let theirs = backends
        .iter()
        .filter(|choice| choice.kube_proxy_probability > 0.0)
        .map(|choice| (choice.address, choice.kube_proxy_masquerade));
    let ours = backends
        .iter()
        .filter(|choice| choice.probability > 0.0)
        .map(|choice| (choice.address, choice.masquerade.by_kube_proxy()));
    (
        outcome(found.kube_proxy.verdict, theirs),
        outcome(found.nodegate.verdict, ours),
    )
}

fn rules(services: &[ServicePort], family: IpFamily, config: &Config) -> Ruleset {
    render(services, family, config)
}

/// The lines of a chain, without `-A` and its name.
fn chain(rules: &Ruleset, table: &str, chain: &str) -> Vec<String> {
    let table = rules.table(table).expect("the table");
    let prefix = format!("-A {chain} ");
    table
        .rules(chain)
        .map(|rule| rule.line(chain, Dialect::Restore))
        .map(|line| line.strip_prefix(&prefix).unwrap_or(&line).to_owned())
        .collect()
}

/// `TestOverallIPTablesRules`: one Service of each kind.
fn one_of_each_kind() -> Vec<ServicePort> {
    vec![
        service("ns1/svc1:p80", "172.30.0.41", 80, &["10.180.0.1:80"]),
        ServicePort {
            kind: ServiceType::LoadBalancer,
            node_port: Some(3001),
            external_ips: vec![ip("192.168.99.22")],
            load_balancer_ips: vec![ip("1.2.3.4")],
            external_policy: TrafficPolicy::Local,
            health_check_node_port: Some(30000),
            ..service("ns2/svc2:p80", "172.30.0.42", 80, &["10.180.0.2:80"])
        },
        ServicePort {
            kind: ServiceType::NodePort,
            node_port: Some(3003),
            ..service("ns3/svc3:p80", "172.30.0.43", 80, &["10.180.0.3:80"])
        },
        ServicePort {
            kind: ServiceType::NodePort,
            external_ips: vec![ip("192.168.99.33")],
            ..service(
                "ns4/svc4:p80",
                "172.30.0.44",
                80,
                &["10.180.0.4:80", "@10.180.0.5:80"],
            )
        },
        ServicePort {
            kind: ServiceType::LoadBalancer,
            node_port: Some(3002),
            load_balancer_ips: vec![ip("5.6.7.8")],
            source_ranges: SourceRanges::parse(&[" 203.0.113.0/25"]),
            affinity: Some(10800),
            health_check_node_port: None,
            ..service("ns5/svc5:p80", "172.30.0.45", 80, &["10.180.0.3:80"])
        },
        service("ns6/svc6:p80", "172.30.0.46", 80, &[]),
    ]
}

#[test]
fn overall_iptables_rules() {
    let rules = rules(&one_of_each_kind(), IpFamily::V4, &config());
    let table = [
        (
            "filter",
            "KUBE-SERVICES",
            &[
                r#"-m comment --comment "ns6/svc6:p80 has no endpoints" -m tcp -p tcp -d 172.30.0.46 --dport 80 -j REJECT"#,
            ][..],
        ),
        (
            "filter",
            "KUBE-EXTERNAL-SERVICES",
            &[
                r#"-m comment --comment "ns2/svc2:p80 has no local endpoints" -m tcp -p tcp -d 192.168.99.22 --dport 80 -j DROP"#,
                r#"-m comment --comment "ns2/svc2:p80 has no local endpoints" -m tcp -p tcp -d 1.2.3.4 --dport 80 -j DROP"#,
                r#"-m comment --comment "ns2/svc2:p80 has no local endpoints" -m addrtype --dst-type LOCAL -m tcp -p tcp --dport 3001 -j DROP"#,
            ],
        ),
        (
            "filter",
            "KUBE-NODEPORTS",
            &[
                r#"-m comment --comment "ns2/svc2:p80 health check node port" -m tcp -p tcp --dport 30000 -j ACCEPT"#,
            ],
        ),
        (
            "filter",
            "KUBE-PROXY-FIREWALL",
            &[
                r#"-m comment --comment "ns5/svc5:p80 traffic not accepted by KUBE-FW-NUKIZ6OKUXPJNT4C" -m tcp -p tcp -d 5.6.7.8 --dport 80 -j DROP"#,
            ],
        ),
        (
            "nat",
            "KUBE-SERVICES",
            &[
                r#"-m comment --comment "ns1/svc1:p80 cluster IP" -m tcp -p tcp -d 172.30.0.41 --dport 80 -j KUBE-SVC-XPGD46QRK7WJZT7O"#,
                r#"-m comment --comment "ns2/svc2:p80 cluster IP" -m tcp -p tcp -d 172.30.0.42 --dport 80 -j KUBE-SVC-GNZBNJ2PO5MGZ6GT"#,
                r#"-m comment --comment "ns2/svc2:p80 external IP" -m tcp -p tcp -d 192.168.99.22 --dport 80 -j KUBE-EXT-GNZBNJ2PO5MGZ6GT"#,
                r#"-m comment --comment "ns2/svc2:p80 loadbalancer IP" -m tcp -p tcp -d 1.2.3.4 --dport 80 -j KUBE-EXT-GNZBNJ2PO5MGZ6GT"#,
                r#"-m comment --comment "ns3/svc3:p80 cluster IP" -m tcp -p tcp -d 172.30.0.43 --dport 80 -j KUBE-SVC-X27LE4BHSL4DOUIK"#,
                r#"-m comment --comment "ns4/svc4:p80 cluster IP" -m tcp -p tcp -d 172.30.0.44 --dport 80 -j KUBE-SVC-4SW47YFZTEDKD3PK"#,
                r#"-m comment --comment "ns4/svc4:p80 external IP" -m tcp -p tcp -d 192.168.99.33 --dport 80 -j KUBE-EXT-4SW47YFZTEDKD3PK"#,
                r#"-m comment --comment "ns5/svc5:p80 cluster IP" -m tcp -p tcp -d 172.30.0.45 --dport 80 -j KUBE-SVC-NUKIZ6OKUXPJNT4C"#,
                r#"-m comment --comment "ns5/svc5:p80 loadbalancer IP" -m tcp -p tcp -d 5.6.7.8 --dport 80 -j KUBE-FW-NUKIZ6OKUXPJNT4C"#,
                r#"-m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"#,
            ],
        ),
        (
            "nat",
            "KUBE-NODEPORTS",
            &[
                r"-m comment --comment ns2/svc2:p80 -m tcp -p tcp --dport 3001 -j KUBE-EXT-GNZBNJ2PO5MGZ6GT",
                r"-m comment --comment ns3/svc3:p80 -m tcp -p tcp --dport 3003 -j KUBE-EXT-X27LE4BHSL4DOUIK",
                r"-m comment --comment ns5/svc5:p80 -m tcp -p tcp --dport 3002 -j KUBE-EXT-NUKIZ6OKUXPJNT4C",
            ],
        ),
        (
            "nat",
            "KUBE-EXT-GNZBNJ2PO5MGZ6GT",
            &[
                r#"-m comment --comment "pod traffic for ns2/svc2:p80 external destinations" -s 10.0.0.0/8 -j KUBE-SVC-GNZBNJ2PO5MGZ6GT"#,
                r#"-m comment --comment "masquerade LOCAL traffic for ns2/svc2:p80 external destinations" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ"#,
                r#"-m comment --comment "route LOCAL traffic for ns2/svc2:p80 external destinations" -m addrtype --src-type LOCAL -j KUBE-SVC-GNZBNJ2PO5MGZ6GT"#,
            ],
        ),
        (
            "nat",
            "KUBE-FW-NUKIZ6OKUXPJNT4C",
            &[
                r#"-m comment --comment "ns5/svc5:p80 loadbalancer IP" -s 203.0.113.0/25 -j KUBE-EXT-NUKIZ6OKUXPJNT4C"#,
                r#"-m comment --comment "other traffic to ns5/svc5:p80 will be dropped by KUBE-PROXY-FIREWALL""#,
            ],
        ),
        (
            "nat",
            "KUBE-SVC-4SW47YFZTEDKD3PK",
            &[
                r#"-m comment --comment "ns4/svc4:p80 cluster IP" -m tcp -p tcp -d 172.30.0.44 --dport 80 ! -s 10.0.0.0/8 -j KUBE-MARK-MASQ"#,
                r#"-m comment --comment "ns4/svc4:p80 -> 10.180.0.4:80" -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-UKSFD7AGPMPPLUHC"#,
                r#"-m comment --comment "ns4/svc4:p80 -> 10.180.0.5:80" -j KUBE-SEP-C6EBXVWJJZMIWKLZ"#,
            ],
        ),
        (
            "nat",
            "KUBE-SVC-NUKIZ6OKUXPJNT4C",
            &[
                r#"-m comment --comment "ns5/svc5:p80 cluster IP" -m tcp -p tcp -d 172.30.0.45 --dport 80 ! -s 10.0.0.0/8 -j KUBE-MARK-MASQ"#,
                r#"-m comment --comment "ns5/svc5:p80 -> 10.180.0.3:80" -m recent --name KUBE-SEP-I77PXRDZVX7PMWMN --rcheck --seconds 10800 --reap -j KUBE-SEP-I77PXRDZVX7PMWMN"#,
                r#"-m comment --comment "ns5/svc5:p80 -> 10.180.0.3:80" -j KUBE-SEP-I77PXRDZVX7PMWMN"#,
            ],
        ),
        (
            "nat",
            "KUBE-SEP-I77PXRDZVX7PMWMN",
            &[
                r"-m comment --comment ns5/svc5:p80 -s 10.180.0.3 -j KUBE-MARK-MASQ",
                r"-m comment --comment ns5/svc5:p80 -m recent --name KUBE-SEP-I77PXRDZVX7PMWMN --set -m tcp -p tcp -j DNAT --to-destination 10.180.0.3:80",
            ],
        ),
    ];
    for (name, in_chain, expected) in table {
        assert_eq!(chain(&rules, name, in_chain), expected, "{name} {in_chain}");
    }
    // Every Service leads somewhere, and nothing else does.
    let endpoints = ["SXIVWICOYRO3J4NJ", "RS4RBKLTHTF2IUXJ"].map(|hash| format!("KUBE-SEP-{hash}"));
    for endpoint in endpoints {
        assert_eq!(chain(&rules, "nat", &endpoint).len(), 2, "{endpoint}");
    }
}

#[test]
fn no_endpoints_reject() {
    let nobody = ServicePort {
        kind: ServiceType::LoadBalancer,
        node_port: Some(3001),
        external_ips: vec![ip("192.168.99.11")],
        load_balancer_ips: vec![ip("1.2.3.4")],
        ..service("ns1/svc1:p80", "172.30.0.41", 80, &[])
    };
    let node = explained(&[nobody], &config());
    check(
        "no endpoints",
        &node,
        &[
            (POD, "172.30.0.41:80", "reject"),
            (EXTERNAL, "192.168.99.11:80", "reject"),
            (POD, "192.168.0.2:3001", "reject"),
            (EXTERNAL, "192.168.0.2:3001", "reject"),
            (POD, "1.2.3.4:80", "reject"),
            (EXTERNAL, "1.2.3.4:80", "reject"),
        ],
    );
}

#[test]
fn cluster_ip_general() {
    let port = |name: &str, protocol, target: &str| ServicePort {
        protocol,
        ..service(name, "172.30.0.42", 53, &[&format!("10.180.0.1:{target}")])
    };
    let services = [
        service("ns1/svc1:http", "172.30.0.41", 80, &["@10.180.0.1:80"]),
        port("ns2/svc2:dns-tcp", Protocol::Tcp, "5353"),
        port("ns2/svc2:dns-udp", Protocol::Udp, "5354"),
        port("ns2/svc2:dns-sctp", Protocol::Sctp, "5355"),
        service("ns2/svc2:http", "172.30.0.42", 80, &["10.180.0.1:8080"]),
    ];
    let node = explained(&services, &config());
    check(
        "cluster IP",
        &node,
        &[
            (POD, "172.30.0.41:80", "10.180.0.1:80"),
            ("node", "172.30.0.41:80", "10.180.0.1:80 m"),
            (EXTERNAL, "172.30.0.41:80", "10.180.0.1:80 m"),
            (POD, "172.30.0.42:53", "10.180.0.1:5353"),
            (POD, "172.30.0.42:53/udp", "10.180.0.1:5354"),
            (POD, "172.30.0.42:53/sctp", "10.180.0.1:5355"),
            (POD, "172.30.0.42:80", "10.180.0.1:8080"),
            // A port of TCP is none of UDP.
            (EXTERNAL, "172.30.0.42:80/udp", "pass"),
            // The other Service's.
            (EXTERNAL, "172.30.0.41:53", "pass"),
        ],
    );
    // The pod's own socket connects to the pod itself: there is no packet whose source would have to be
    // another.
    let hairpin = both(&node, "10.180.0.1", "172.30.0.41:80");
    assert_eq!(
        hairpin,
        ("10.180.0.1:80 m".to_owned(), "10.180.0.1:80".to_owned())
    );
}

#[test]
fn load_balancer() {
    let balanced = ServicePort {
        kind: ServiceType::LoadBalancer,
        node_port: Some(3001),
        load_balancer_ips: vec![ip("1.2.3.4"), ip("5.6.7.8")],
        source_ranges: SourceRanges::parse(&["192.168.0.0/24", " 203.0.113.0/25"]),
        ..service("ns1/svc1:p80", "172.30.0.41", 80, &["10.180.0.1:80"])
    };
    let services = [balanced];
    let node = explained(&services, &config());
    let all = "10.180.0.1:80 m";
    check(
        "source ranges",
        &node,
        &[
            (POD, "172.30.0.41:80", "10.180.0.1:80"),
            (EXTERNAL, "192.168.0.2:3001", all),
            (EXTERNAL, "192.168.1.2:3001", all),
            (EXTERNAL, "1.2.3.4:80", all),
            (EXTERNAL, "5.6.7.8:80", all),
            (BLOCKED, "1.2.3.4:80", "drop"),
            (BLOCKED, "5.6.7.8:80", "drop"),
            // The ranges are the load balancer's.
            (BLOCKED, "192.168.0.2:3001", all),
            (POD, "1.2.3.4:80", "drop"),
            // The node's own address is in them.
            ("node", "1.2.3.4:80", all),
        ],
    );
    // And so the load balancer's addresses are let in.
    let rules = rules(&services, IpFamily::V4, &config());
    let firewall = chain(&rules, "nat", "KUBE-FW-XPGD46QRK7WJZT7O");
    let sources: Vec<_> = firewall
        .iter()
        .filter_map(|line| line.split("-s ").nth(1)?.split(' ').next())
        .collect();
    assert_eq!(
        sources,
        ["192.168.0.0/24", "203.0.113.0/25", "1.2.3.4", "5.6.7.8"]
    );
}

#[test]
fn node_ports() {
    struct Row {
        family: IpFamily,
        localhost: bool,
        /// `--nodeport-addresses` has the node's first address only.
        first_only: bool,
        /// Whether the node's first address serves, another, and localhost.
        served: [bool; 3],
        firewall: bool,
    }
    let row = |family, localhost, first_only, served, firewall| Row {
        family,
        localhost,
        first_only,
        served,
        firewall,
    };
    let (v4, v6) = (IpFamily::V4, IpFamily::V6);
    let table = [
        row(v4, true, false, [true, true, true], true),
        row(v4, false, false, [true, true, false], false),
        row(v4, true, true, [true, false, false], false),
        row(v4, false, true, [true, false, false], false),
        // There, packets of ::1 cannot be sent elsewhere.
        row(v6, true, false, [true, true, false], false),
        row(v6, false, false, [true, true, false], false),
        row(v6, false, true, [true, false, false], false),
    ];
    for (index, row) in table.iter().enumerate() {
        let (addresses, cluster_ip, target) = match row.family {
            IpFamily::V4 => (
                [NODE_IP, ALTERNATIVE_IP, "127.0.0.1"],
                "172.30.0.41",
                "10.180.0.1:80",
            ),
            IpFamily::V6 => (
                ["2001:db8::1", "2001:db8:1::2", "::1"],
                "fd00:172:30::41",
                "[fd00:10:180::1]:80",
            ),
        };
        let mut config = config();
        let family = match row.family {
            IpFamily::V4 => &mut config.v4,
            IpFamily::V6 => &mut config.v6,
        };
        // Any list without loopback turns localhost off.
        family.localhost_node_ports = row.localhost && !row.first_only && row.family == v4;
        family.node_port_addresses = row.first_only.then(|| vec![ip(addresses[0])]);
        let services = [ServicePort {
            kind: ServiceType::NodePort,
            node_port: Some(3001),
            ..service("ns1/svc1:p80", cluster_ip, 80, &[target])
        }];
        let node = explained(&services, &config);
        for ((address, served), who) in addresses
            .into_iter()
            .zip(row.served)
            .zip([EXTERNAL, EXTERNAL, "node"])
        {
            let who = match (who, row.family) {
                (EXTERNAL, IpFamily::V6) => "2600:5200::1",
                _ => who,
            };
            let to = SocketAddr::new(ip(address), 3001).to_string();
            let expected = if served {
                format!("{target} m")
            } else {
                "pass".to_owned()
            };
            check(&format!("row {index}"), &node, &[(who, &to, &expected)]);
        }
        let rules = rules(&services, row.family, &config);
        let firewall = rules.table("filter").expect("the table");
        assert_eq!(
            firewall.rules("KUBE-FIREWALL").len() > 0,
            row.firewall,
            "row {index}"
        );
    }
}

fn reachable(policy: TrafficPolicy) -> ServicePort {
    ServicePort {
        kind: ServiceType::LoadBalancer,
        node_port: Some(3001),
        external_ips: vec![ip("192.168.99.11")],
        load_balancer_ips: vec![ip("1.2.3.4")],
        external_policy: policy,
        ..service(
            "ns1/svc1:p80",
            "172.30.0.41",
            80,
            &["10.180.0.1:80", "@10.180.2.1:80"],
        )
    }
}

#[test]
fn external_traffic_policy_local() {
    let node = explained(&[reachable(TrafficPolicy::Local)], &config());
    let (all, local) = ("10.180.0.1:80, 10.180.2.1:80", "10.180.2.1:80");
    check(
        "Local",
        &node,
        &[
            (POD, "172.30.0.41:80", all),
            (POD, "192.168.99.11:80", all),
            (EXTERNAL, "192.168.99.11:80", local),
            (POD, "1.2.3.4:80", all),
            (EXTERNAL, "1.2.3.4:80", local),
            (POD, "192.168.0.2:3001", all),
            (EXTERNAL, "192.168.0.2:3001", local),
        ],
    );
}

#[test]
fn external_traffic_policy_cluster() {
    let node = explained(&[reachable(TrafficPolicy::Cluster)], &config());
    let (all, masqueraded) = (
        "10.180.0.1:80, 10.180.2.1:80",
        "10.180.0.1:80 m, 10.180.2.1:80 m",
    );
    check(
        "Cluster",
        &node,
        &[
            (POD, "172.30.0.41:80", all),
            (POD, "192.168.99.11:80", masqueraded),
            (EXTERNAL, "192.168.99.11:80", masqueraded),
            (POD, "1.2.3.4:80", masqueraded),
            (EXTERNAL, "1.2.3.4:80", masqueraded),
            (POD, "192.168.0.2:3001", masqueraded),
            (EXTERNAL, "192.168.0.2:3001", masqueraded),
        ],
    );
}

/// Endpoints: `+` ready, `~` ending and serving, `-` ending and not serving; with the `@` of local ones.
fn conditions(texts: &[&str]) -> Vec<Endpoint> {
    let one = |text: &&str| {
        let (condition, text) = text.split_at(1);
        let ready = condition == "+";
        Endpoint {
            ready,
            serving: condition != "-",
            terminating: !ready,
            ..endpoint(text)
        }
    };
    texts.iter().map(one).collect()
}

/// Endpoints, what a pod meets at the cluster IP, what somebody outside meets at the load balancer IP.
type Terminating = (&'static [&'static str], &'static str, &'static str);

fn terminating(policy: TrafficPolicy, table: &[Terminating]) {
    for (endpoints, pod, outside) in table {
        let service = ServicePort {
            endpoints: conditions(endpoints),
            node_port: None,
            ..reachable(policy)
        };
        let node = explained(&[service], &config());
        check(
            &format!("{policy:?} {endpoints:?}"),
            &node,
            &[
                (POD, "172.30.0.41:80", pod),
                (EXTERNAL, "1.2.3.4:80", outside),
            ],
        );
    }
}

#[test]
fn terminating_endpoints_traffic_policy_local() {
    terminating(
        TrafficPolicy::Local,
        &[
            // Ready ones of this node come first.
            (
                &["+@10.0.1.1:80", "~@10.0.1.2:80", "+10.0.1.4:80"],
                "10.0.1.1:80, 10.0.1.4:80",
                "10.0.1.1:80",
            ),
            // Those of this node that still serve; pods have ready ones elsewhere.
            (
                &["~@10.0.1.1:80", "-@10.0.1.2:80", "+10.0.1.4:80"],
                "10.0.1.4:80",
                "10.0.1.1:80",
            ),
            // All are ending.
            (
                &["~@10.0.1.1:80", "~10.0.1.4:80"],
                "10.0.1.1:80, 10.0.1.4:80",
                "10.0.1.1:80",
            ),
            // None of this node.
            (
                &["~10.0.1.4:80", "~10.0.1.5:80"],
                "10.0.1.4:80, 10.0.1.5:80",
                "drop",
            ),
            (&["+10.0.1.4:80"], "10.0.1.4:80", "drop"),
            // None that serves.
            (&["-@10.0.1.1:80", "-10.0.1.4:80"], "reject", "reject"),
        ],
    );
}

#[test]
fn terminating_endpoints_traffic_policy_cluster() {
    terminating(
        TrafficPolicy::Cluster,
        &[
            (
                &["+@10.0.1.1:80", "~@10.0.1.2:80", "+10.0.1.4:80"],
                "10.0.1.1:80, 10.0.1.4:80",
                "10.0.1.1:80 m, 10.0.1.4:80 m",
            ),
            (
                &["~@10.0.1.1:80", "-@10.0.1.2:80", "+10.0.1.4:80"],
                "10.0.1.4:80",
                "10.0.1.4:80 m",
            ),
            (
                &["~@10.0.1.1:80", "~10.0.1.4:80"],
                "10.0.1.1:80, 10.0.1.4:80",
                "10.0.1.1:80 m, 10.0.1.4:80 m",
            ),
            (&["~10.0.1.5:80"], "10.0.1.5:80", "10.0.1.5:80 m"),
            (&["-@10.0.1.1:80", "-10.0.1.4:80"], "reject", "reject"),
        ],
    );
}

/// `TestInternalExternalMasquerade`, in its four configurations. A: all endpoints, L: local ones, m:
/// masqueraded.
#[test]
fn internal_external_masquerade() {
    const FRONTENDS: [&str; 9] = [
        "172.30.0.41:80",
        "192.168.0.2:3001",
        "1.2.3.4:80",
        "172.30.0.42:80",
        "192.168.0.2:3002",
        "5.6.7.8:80",
        "172.30.0.43:80",
        "192.168.0.2:3003",
        "9.10.11.12:80",
    ];
    const TABLE: [(&str, [&str; 9]); 4] = [
        (POD, ["A", "Am", "Am", "A", "A", "A", "L", "Am", "Am"]),
        (
            "node",
            ["Am", "Am", "Am", "Am", "Am", "Am", "Lm", "Am", "Am"],
        ),
        ("localhost", ["", "Am", "", "", "Am", "", "", "Am", ""]),
        (
            EXTERNAL,
            ["Am", "Am", "Am", "Am", "L", "L", "Lm", "Am", "Am"],
        ),
    ];
    let made = |number: u8, balanced: &str| ServicePort {
        kind: ServiceType::LoadBalancer,
        node_port: Some(3000 + u16::from(number)),
        load_balancer_ips: vec![ip(balanced)],
        ..service(
            &format!("ns{number}/svc{number}:p80"),
            &format!("172.30.0.4{number}"),
            80,
            &[
                &format!("@10.180.0.{number}:80"),
                &format!("10.180.1.{number}:80"),
            ],
        )
    };
    let mut services = [
        made(1, "1.2.3.4"),
        made(2, "5.6.7.8"),
        made(3, "9.10.11.12"),
    ];
    services[1].external_policy = TrafficPolicy::Local;
    services[2].internal_policy = TrafficPolicy::Local;
    let mut flows = 0;
    for (knows_pods, masquerade_all) in [(true, false), (false, false), (true, true), (false, true)]
    {
        let mut config = config();
        config.masquerade_all = masquerade_all;
        if !knows_pods {
            config.v4.local = None;
            config.v6.local = None;
        }
        let node = explained(&services, &config);
        for (who, cells) in TABLE {
            for (column, cell) in cells
                .into_iter()
                .enumerate()
                .filter(|(_, cell)| !cell.is_empty())
            {
                let is_cluster_ip = column % 3 == 0;
                let mut local = cell.starts_with('L');
                let mut masqueraded = cell.ends_with('m');
                if !knows_pods && is_cluster_ip {
                    masqueraded = false;
                }
                if !knows_pods && who == POD && (column == 4 || column == 5) {
                    // Pods are as good as outside.
                    local = true;
                }
                masqueraded |= masquerade_all && is_cluster_ip;
                let number = column / 3 + 1;
                let m = if masqueraded { " m" } else { "" };
                let mut expected = format!("10.180.0.{number}:80{m}");
                if !local {
                    expected = format!("{expected}, 10.180.1.{number}:80{m}");
                }
                let frontend = match who {
                    "localhost" => FRONTENDS[column].replace("192.168.0.2", "127.0.0.1"),
                    _ => FRONTENDS[column].to_owned(),
                };
                let who = if who == "localhost" { "node" } else { who };
                let what = format!("knows pods {knows_pods}, masquerade all {masquerade_all}");
                check(&what, &node, &[(who, &frontend, &expected)]);
                flows += 1;
            }
        }
    }
    assert_eq!(flows, 4 * 30);
}

/// `TestMasqueradeRule`
#[test]
fn masquerade_rule() {
    for (random_fully, last) in [(true, " --random-fully"), (false, "")] {
        let config = Config {
            random_fully,
            ..config()
        };
        let rules = rules(&[], IpFamily::V4, &config);
        assert_eq!(
            chain(&rules, "nat", "KUBE-POSTROUTING"),
            [
                "-m mark ! --mark 0x00004000/0x00004000 -j RETURN".to_owned(),
                "-j MARK --xor-mark 0x00004000".to_owned(),
                format!(
                    r#"-m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE{last}"#
                ),
            ]
        );
    }
}

/// `TestDropInvalidRule`
#[test]
fn drop_invalid_rule() {
    for (conntrack_liberal, nfacct, expected) in [
        (
            false,
            true,
            Some(
                "-m conntrack --ctstate INVALID -m nfacct --nfacct-name ct_state_invalid_dropped_pkts -j DROP",
            ),
        ),
        (false, false, Some("-m conntrack --ctstate INVALID -j DROP")),
        (true, true, None),
    ] {
        let config = Config {
            conntrack_liberal,
            nfacct,
            ..config()
        };
        let forward = chain(&rules(&[], IpFamily::V4, &config), "filter", "KUBE-FORWARD");
        let invalid = forward.iter().find(|line| line.contains("INVALID"));
        assert_eq!(invalid.map(String::as_str), expected);
        assert_eq!(forward.len(), 2 + usize::from(expected.is_some()));
    }
}

/// `TestHealthCheckNodePort`
#[test]
fn health_check_node_port() {
    let checked = ServicePort {
        health_check_node_port: Some(30000),
        ..reachable(TrafficPolicy::Local)
    };
    let mut config = config();
    config.v4.node_port_addresses = Some(vec![ip("127.0.0.1")]);
    let rules = rules(&[checked], IpFamily::V4, &config);
    // Whatever --nodeport-addresses says.
    assert_eq!(
        chain(&rules, "filter", "KUBE-NODEPORTS"),
        [
            r#"-m comment --comment "ns1/svc1:p80 health check node port" -m tcp -p tcp --dport 30000 -j ACCEPT"#
        ]
    );
}

/// `TestComputeProbability`
#[test]
fn compute_probability() {
    let text = |n| {
        let rule = Rule {
            parts: vec![Part::Random(Probability::one_in(n))],
            target: None,
        };
        let line = rule.line("A", Dialect::Restore);
        line.rsplit(' ').next().expect("a number").to_owned()
    };
    assert_eq!(text(1), "1.0000000000");
    assert_eq!(text(100_001), "0.0000099999");
    let mut before = text(1);
    for n in 2..=100_000 {
        let now = text(n);
        assert!(now < before, "1/{n}: {now}, not less than {before}");
        before = now;
    }
}

/// `TestSyncProxyRulesRepeated`: what each change is, told from the rules that were written before it.
#[test]
fn sync_proxy_rules_repeated() {
    let svc = |number: u8, endpoints: &[&str]| {
        service(
            &format!("ns{number}/svc{number}:p80"),
            &format!("172.30.0.4{number}"),
            80,
            endpoints,
        )
    };
    let (one, two) = (svc(1, &["10.0.1.1:80"]), svc(2, &["10.0.2.1:80"]));
    let three = svc(3, &["10.0.3.1:80"]);
    let more = svc(3, &["10.0.3.1:80", "10.0.3.2:80"]);
    let moved = svc(3, &["10.0.3.2:80"]);
    let empty = svc(4, &[]);
    let table: [(&[&ServicePort], &[&str]); 8] = [
        (
            &[&one, &two],
            &[
                "ns1/svc1:p80 tcp: there are no rules for it",
                "ns2/svc2:p80 tcp: there are no rules for it",
            ],
        ),
        (
            &[&one, &two, &three],
            &["ns3/svc3:p80 tcp: there are no rules for it"],
        ),
        (
            &[&one, &three],
            &["ns2/svc2:p80 tcp: there are rules for it, but no such Service"],
        ),
        (
            &[&one, &three, &empty],
            &["ns4/svc4:p80 tcp: there are no rules for it"],
        ),
        (
            &[&one, &more, &empty],
            &["ns3/svc3:p80 tcp: endpoints missing: 10.0.3.2:80"],
        ),
        (
            &[&one, &moved, &empty],
            &["ns3/svc3:p80 tcp: endpoints unexpected: 10.0.3.1:80"],
        ),
        // Nothing.
        (&[&one, &moved, &empty], &[]),
        (
            &[&one],
            &[
                "ns3/svc3:p80 tcp: there are rules for it, but no such Service",
                "ns4/svc4:p80 tcp: there are rules for it, but no such Service",
            ],
        ),
    ];
    let config = config();
    let mut written = normal::dump(&render(&[], IpFamily::V4, &config));
    for (index, (services, expected)) in table.into_iter().enumerate() {
        let services: Vec<_> = services.iter().map(|service| (*service).clone()).collect();
        let difference = diff(&services, &config, &written);
        let told: Vec<_> = difference
            .services
            .iter()
            .flat_map(|(key, changes)| changes.iter().map(move |change| format!("{key}: {change}")))
            .collect();
        assert_eq!(told, expected, "change {index}");
        assert_eq!(difference.rules, [], "change {index}");
        written = normal::dump(&render(&services, IpFamily::V4, &config));
    }
}
