//! Kubernetes' own table of who is masqueraded and sent where (`TestInternalExternalMasquerade` in
//! pkg/proxy/iptables/proxier_test.go): 30 flows in four configurations, here in both families and
//! through both TCP and UDP.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::ensure;
use nodegate_model::service::{IpFamily, Protocol, ServicePort, TrafficPolicy};

use crate::{
    agent::{Outcome, Via},
    compare::{Tally, compare},
    flows::{Flow, Source},
    generate::{config, endpoints, node, service},
    sides::{Load, Sides, is_nodes},
};

/// Rows of the table: pod, node, localhost, external. Columns: cluster IP, node port, load balancer IP
/// of svc1 (both policies Cluster), svc2 (external policy Local), svc3 (internal policy Local). `A`: to
/// all endpoints; `L`: to local ones; `m`: masqueraded; `-`: no flow.
const TABLE: [(&str, [&str; 9]); 4] = [
    ("pod", ["A", "Am", "Am", "A", "A", "A", "L", "Am", "Am"]),
    (
        "node",
        ["Am", "Am", "Am", "Am", "Am", "Am", "Lm", "Am", "Am"],
    ),
    (
        "localhost",
        ["-", "Am", "-", "-", "Am", "-", "-", "Am", "-"],
    ),
    (
        "external",
        ["Am", "Am", "Am", "Am", "L", "L", "Lm", "Am", "Am"],
    ),
];

/// What becomes of a cell in another configuration.
fn expected(row: &str, column: usize, cell: &str, knows_pods: bool, all: bool) -> String {
    let cluster_ip = column.is_multiple_of(3);
    let mut cell = cell.to_owned();
    if !knows_pods {
        if cluster_ip {
            cell = cell.replace('m', "");
        }
        if row == "pod" && (column == 4 || column == 5) {
            // Pods are as good as outside.
            cell = "L".into();
        }
    }
    if all && cluster_ip && !cell.contains('m') {
        cell.push('m');
    }
    cell
}

fn services(protocol: Protocol) -> Vec<ServicePort> {
    let mut services: Vec<_> = (0..3)
        .map(|index| {
            let name = format!("svc{}", index + 1);
            ServicePort {
                protocol,
                ..service(&name, index, endpoints(1, 1))
            }
        })
        .collect();
    services[1].external_policy = TrafficPolicy::Local;
    services[2].internal_policy = TrafficPolicy::Local;
    services
}

/// The flows of the table, and their cells.
fn flows(protocol: Protocol, knows_pods: bool, all: bool) -> (Vec<Flow>, Vec<String>) {
    let vias: &[Via] = match protocol {
        Protocol::Udp => &[Via::Connected, Via::Unconnected],
        _ => &[Via::Tcp],
    };
    let mut flows = Vec::new();
    let mut cells = Vec::new();
    let services = services(protocol);
    for (row, columns) in TABLE {
        let sources: &[Source] = match row {
            "pod" => &[Source::Pod, Source::PodPackets],
            "node" | "localhost" => &[Source::Node],
            _ => &[Source::Client, Source::OtherNode],
        };
        for (column, cell) in columns.iter().enumerate() {
            if *cell == "-" {
                continue;
            }
            let service = &services[column / 3];
            for family in IpFamily::ALL {
                let local = row == "localhost";
                if local && family == IpFamily::V6 {
                    // There, kube-proxy has no node ports on loopback.
                    continue;
                }
                let to = match column % 3 {
                    0 => (service.cluster_ips[family as usize], service.port),
                    1 if local => ([127, 0, 0, 1].into(), service.node_port.unwrap_or(0)),
                    1 => (node(family), service.node_port.unwrap_or(0)),
                    _ => (service.load_balancer_ips[family as usize], service.port),
                };
                for source in sources {
                    for via in vias {
                        flows.push(Flow {
                            what: format!("{row} column {column}"),
                            source: *source,
                            to: SocketAddr::from(to),
                            via: *via,
                            affinity: false,
                            lane: 0,
                        });
                        cells.push(expected(row, column, cell, knows_pods, all));
                    }
                }
            }
        }
    }
    (flows, cells)
}

/// One configuration.
pub(crate) fn run(sides: &mut Sides, knows_pods: bool, all: bool) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let load = Load {
            services: services(protocol),
            config: config(knows_pods, all),
            rules: None,
        };
        let local: BTreeMap<_, _> = load.services[0]
            .endpoints
            .iter()
            .map(|endpoint| (endpoint.socket(), endpoint.local))
            .collect();
        let (flows, cells) = flows(protocol, knows_pods, all);
        let (of_these, results) = compare(sides, &load, &flows)?;
        tally.add(&of_these);
        for ((flow, cell), result) in flows.iter().zip(&cells).zip(&results) {
            let (mut places, mut masqueraded) = (Vec::new(), Vec::new());
            for seen in result.theirs.keys() {
                let Outcome::Answered { at, from } = seen else {
                    anyhow::bail!("{flow}: {seen:?}");
                };
                places.push(local[at]);
                masqueraded.push(is_nodes(*from));
            }
            // The node's own connections come from it anyway.
            let masquerade = flow.source != Source::Node;
            let as_in_table = match places[..] {
                [true] => cell.starts_with('L'),
                [_, _] => cell.starts_with('A'),
                _ => false,
            } && (!masquerade
                || masqueraded.iter().all(|m| *m == cell.contains('m')));
            ensure!(
                as_in_table,
                "{flow}: {cell} in the table, {:?}",
                result.theirs
            );
        }
    }
    Ok(tally)
}
