//! What the decision core decides, against the way through kube-proxy's rules, for every recorded
//! set of Services: the same verdict, the same backends, as likely, and the same masquerading.

#[path = "support/golden.rs"]
mod support;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use gateway_common::decide::Verdict;
use nodegate_explain::{
    connection::{Attempt, Client, Connection, connection},
    node::{Choices, Node},
};
use nodegate_iptables::config::{KubeProxyConfig, LocalDetector};
use nodegate_model::service::{Endpoint, IpFamily, Protocol, ServicePort};
use nodegate_programming::desired::ExternalIps;

use support::{Recording, folders, sets};

/// Clients outside, of each family; one is in the source ranges of some recorded Services.
const OUTSIDE: [&str; 3] = ["192.0.2.77", "203.0.113.5", "2001:db8::77"];

fn node(recording: &Recording) -> Node {
    let config = recording.config.clone();
    let detectors = [&config.v4.local, &config.v6.local];
    let networks = detectors
        .into_iter()
        .flatten()
        .filter_map(|local| match local {
            LocalDetector::Cidr(net) => Some(*net),
            LocalDetector::Interface(_) => None,
        });
    let choices = Choices {
        external_ips: ExternalIps::Any,
        masquerade: if config.masquerade_all {
            nodegate_programming::masquerade::MasqueradeMode::All
        } else {
            nodegate_programming::masquerade::MasqueradeMode::Needed
        },
        pod_networks: networks.collect(),
        knows_pods: config.v4.local.is_some() || config.v6.local.is_some(),
    };
    Node::new(&recording.services, &recording.services, config, &choices)
}

/// All frontends of a Service port, and an address and a port beside each.
fn destinations(service: &ServicePort, node: &Node) -> BTreeSet<SocketAddr> {
    let mut all = BTreeSet::new();
    for family in IpFamily::ALL {
        let addresses = service
            .cluster_ip(family)
            .into_iter()
            .chain(service.external_ips(family))
            .chain(service.load_balancer_ips(family));
        for address in addresses {
            all.insert(SocketAddr::new(address, service.port));
            all.insert(SocketAddr::new(address, 9));
        }
    }
    if let Some(port) = service.node_port {
        let loopback: [IpAddr; 2] = [[127, 0, 0, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()];
        let own = node.addresses().iter().copied().chain(loopback);
        all.extend(own.map(|address| SocketAddr::new(address, port)));
    }
    all
}

/// A pod of no Service: an address in the networks that kube-proxy knows the node's pods by.
fn pod(config: &KubeProxyConfig, family: IpFamily) -> IpAddr {
    let known = match &config.family(family).local {
        Some(LocalDetector::Cidr(net)) => net.hosts().nth(200),
        Some(LocalDetector::Interface(_)) | None => None,
    };
    known.unwrap_or_else(|| {
        let any = match family {
            IpFamily::V4 => "10.180.200.200",
            IpFamily::V6 => "fd00:10:180::c8",
        };
        any.parse().expect("an address")
    })
}

/// Outside, the node, a pod of no Service, and two of the Service's own endpoints.
fn clients(service: &ServicePort, config: &KubeProxyConfig, family: IpFamily) -> Vec<Client> {
    let mut clients = vec![Client::Node, Client::Pod(pod(config, family))];
    let outside = OUTSIDE
        .into_iter()
        .map(|text| text.parse().expect("an address"));
    clients.extend(outside.map(Client::Network));
    let is_pod = |endpoint: &&Endpoint| {
        // Pods in the node's own network are the node.
        endpoint.local && !config.addresses.contains(&endpoint.address)
    };
    let own = service.endpoints.iter().filter(is_pod);
    clients.extend(own.take(2).map(|endpoint| Client::Pod(endpoint.address)));
    clients.retain(|client| match client {
        Client::Node => true,
        Client::Pod(address) | Client::Network(address) => IpFamily::of(*address) == family,
    });
    clients
}

/// Differences that are meant.
fn is_meant(connection: &Connection, attempt: &Attempt, node: &Node) -> bool {
    let to = attempt.destination.ip();
    // A socket is told at once that a cluster IP has no such port.
    if connection.nodegate.reason == "no-such-port" {
        return true;
    }
    let (decided, walked) = (connection.nodegate.verdict, connection.kube_proxy.verdict);
    // kube-proxy refuses node ports without endpoints even on addresses where it would not serve
    // them, and so takes them from whoever else listens there.
    let map_address = nodegate_programming::address::to_map(to);
    let serves = node.mirror().node_addresses.contains(&map_address);
    let refuses = matches!(walked, Verdict::Reject | Verdict::Drop);
    if decided == Verdict::Pass && refuses && !serves {
        return true;
    }
    // kube-proxy's refusal for external addresses is in INPUT and FORWARD only.
    let is_external = matches!(
        connection.nodegate.frontend,
        Some("external IP" | "load balancer IP")
    );
    if (decided, walked) == (Verdict::Reject, Verdict::Pass) {
        return attempt.client == Client::Node && is_external;
    }
    // nodegate's knowledge of pods is for both families.
    decided == walked && !node.detects_local(IpFamily::of(to)) && node.knows_pods()
}

#[test]
fn the_core_and_the_rules_lead_to_the_same_end() {
    let (mut wrong, mut count) = (Vec::new(), 0);
    let mut verdicts = BTreeSet::new();
    for set in sets().into_iter().chain(folders("20-partial-sync")) {
        let recording = Recording::of(&set);
        let node = node(&recording);
        // Large sets have many Services that are alike.
        let step = recording.services.len().div_ceil(80).max(1);
        for service in recording.services.iter().step_by(step) {
            for destination in destinations(service, &node) {
                let family = IpFamily::of(destination.ip());
                for client in clients(service, &recording.config, family) {
                    // Outside its own machine, 127.0.0.1 is nobody else's.
                    if destination.ip().is_loopback() && client != Client::Node {
                        continue;
                    }
                    let attempt = Attempt {
                        client,
                        destination,
                        protocol: service.protocol,
                    };
                    let connection = connection(&node, &attempt);
                    count += 1;
                    verdicts.insert(connection.nodegate.verdict.name());
                    if is_meant(&connection, &attempt, &node) {
                        continue;
                    }
                    let unlike = connection.backends.iter().any(|choice| {
                        (choice.probability - choice.kube_proxy_probability).abs() > 1e-6
                    });
                    if unlike || !connection.differences.is_empty() {
                        wrong.push(format!(
                            "{} {} {attempt:?}: {:?}",
                            set.name, service.name, connection.differences
                        ));
                    }
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {count} wrong\n{}",
        wrong.len(),
        wrong[..wrong.len().min(40)].join("\n")
    );
    assert!(count > 5_000, "{count}");
    let all = ["drop", "forward", "pass", "reject"];
    assert_eq!(verdicts, BTreeSet::from(all));
}

/// Without rules for UDP, TCP's would not be noticed to be missing.
#[test]
fn the_recordings_have_all_protocols() {
    let protocols: BTreeSet<_> = sets()
        .iter()
        .flat_map(|set| Recording::of(set).services)
        .map(|service| service.protocol)
        .collect();
    assert_eq!(protocols, BTreeSet::from(Protocol::ALL));
}
