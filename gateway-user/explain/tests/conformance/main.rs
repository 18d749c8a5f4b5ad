//! The cases of kube-proxy's own tests (pkg/proxy/iptables/proxier_test.go), as tables: where a connection
//! goes, and whether it is masqueraded, by the rules that are rendered and by the decision core.
//!
//! Each test names the one that it is like; its numbers are those of that test, the expectations are
//! written afresh.

mod frontends;
mod overall;
mod policies;
mod rules;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use gateway_common::decide::Verdict;
use nodegate_explain::{
    connection::{Attempt, Client, connection},
    node::{Choices, Node},
};
use nodegate_iptables::{
    config::{FamilyConfig, KubeProxyConfig, LocalDetector},
    render::render,
    rules::{Dialect, Ruleset},
};
use nodegate_model::{
    selection::NodeTopology,
    service::{
        Endpoint, IpFamily, Protocol, ServicePort, ServicePortName, ServiceType, TrafficPolicy,
    },
};
use nodegate_programming::{desired::ExternalIps, masquerade::MasqueradeMode};

const NODE_IP: &str = "192.168.0.2";
const ALTERNATIVE_IP: &str = "192.168.1.2";
const POD: &str = "10.0.0.2";
const EXTERNAL: &str = "203.0.113.2";
/// Outside of the source ranges.
const BLOCKED: &str = "203.0.113.130";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn config() -> KubeProxyConfig {
    let family = |node: &str, pods: &str, localhost_node_ports| FamilyConfig {
        node_ip: Some(ip(node)),
        local: Some(LocalDetector::Cidr(pods.parse().expect("a network"))),
        node_port_addresses: None,
        localhost_node_ports,
    };
    KubeProxyConfig {
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

fn explained(services: &[ServicePort], config: &KubeProxyConfig) -> Node {
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

fn rules(services: &[ServicePort], family: IpFamily, config: &KubeProxyConfig) -> Ruleset {
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

/// A Service that can be reached in every way, of this external traffic policy.
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
