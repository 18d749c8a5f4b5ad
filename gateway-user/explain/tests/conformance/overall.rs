//! Every kind of Service, whole chains of rules, and how they change.

use nodegate_iptables::{diff::diff, normal, render::render};
use nodegate_model::service::{IpFamily, ServicePort, ServiceType, SourceRanges, TrafficPolicy};

use super::{chain, config, ip, rules, service};

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
