//! Cluster IPs, load balancers, node ports; and Services without endpoints.

use std::net::SocketAddr;

use nodegate_model::service::{IpFamily, Protocol, ServicePort, ServiceType, SourceRanges};

use super::{
    ALTERNATIVE_IP, BLOCKED, EXTERNAL, NODE_IP, POD, both, chain, check, config, explained, ip,
    rules, service,
};

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
