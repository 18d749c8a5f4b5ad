//! What chance decides: which backend, and who is sent to the same one again.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, ensure};
use nodegate_model::service::{IpFamily, Protocol, ServicePort};

use crate::{
    agent::{Outcome, Probe, Seen, Via},
    compare::Tally,
    flows::Source,
    generate::{config, endpoints, node, service},
    sides::{Hooks, Lanes, Load, Sides},
    world::{self, CROWD, Space},
};

/// So many connections to ten backends.
const CONNECTIONS: usize = 2_000;
/// Below this, chi-squared with nine degrees of freedom is with probability 1 - 1e-6.
const BOUND: f64 = 45.08;

/// Ten backends are met equally often, through every hook and every rule.
pub(crate) fn shares(sides: &mut Sides) -> anyhow::Result<Tally> {
    let names: Vec<_> = [Protocol::Tcp, Protocol::Udp]
        .into_iter()
        .enumerate()
        .map(|(index, protocol)| ServicePort {
            protocol,
            ..service(
                &format!("share-{index}"),
                10 + index as u32,
                endpoints(5, 5),
            )
        })
        .collect();
    let load = Load {
        services: names,
        config: config(true, false),
        rules: None,
    };
    sides.load(&load)?;
    let mut lanes = Lanes::new();
    let mut what = Vec::new();
    for family in IpFamily::ALL {
        for (service, via) in [(0, Via::Tcp), (1, Via::Connected), (1, Via::Unconnected)] {
            for source in [
                Source::Pod,
                Source::PodPackets,
                Source::Node,
                Source::Client,
            ] {
                // Datagrams of either kind are the same to a hook that sees packets.
                if via == Via::Unconnected && source.hooks() == Hooks::Packets {
                    continue;
                }
                let service = &load.services[service];
                let to = SocketAddr::new(service.cluster_ips[family as usize], service.port);
                let probe = source.probe(to, via, CONNECTIONS);
                // In four parts, for the machine has more than one core and much to wait for.
                let parts = 4;
                for _ in 0..parts {
                    let part = Probe {
                        wanted: usize::MAX,
                        at_least: CONNECTIONS / parts,
                        at_most: CONNECTIONS / parts,
                        ..probe.clone()
                    };
                    lanes.push((source.hooks(), vec![part]));
                    what.push(format!("{source:?} to {to} ({via:?})"));
                }
            }
        }
    }
    let (theirs, ours) = sides.run(&lanes, patience::limit())?;
    let mut tally = Tally::default();
    for (who, results) in [("kube-proxy", theirs), ("nodegate", ours)] {
        let parts: Vec<Seen> = results.into_iter().flatten().collect();
        for (parts, what) in parts.chunks(4).zip(what.chunks(4)) {
            let mut counts = std::collections::BTreeMap::new();
            for (outcome, count) in parts.iter().flatten() {
                let Outcome::Answered { at, .. } = outcome else {
                    anyhow::bail!("{who}: {}: {outcome:?}", what[0]);
                };
                *counts.entry(*at).or_insert(0) += count;
            }
            let expected = CONNECTIONS as f64 / 10.0;
            let squares = counts
                .values()
                .map(|count| (*count as f64 - expected).powi(2));
            let chi: f64 = squares.sum::<f64>() / expected;
            ensure!(
                counts.len() == 10 && chi < BOUND,
                "{who}: {}: chi-squared is {chi:.1} of {counts:?}",
                what[0]
            );
            tally.attempts += CONNECTIONS;
        }
    }
    tally.flows = what.len() / 4;
    Ok(tally)
}

/// So many Services with affinity: that all of them choose the same one of ten by chance does not
/// happen.
const SERVICES: u32 = 12;

/// Clients stay with their backends. For packets, a client is an address, as for kube-proxy. Sockets
/// have none yet, and are told apart by their network namespace: that of the node is one client
/// by whatever address it comes, and a pod's is one client to each of the two ways.
pub(crate) fn affinity(sides: &mut Sides) -> anyhow::Result<Tally> {
    let services: Vec<_> = (0..SERVICES)
        .map(|index| ServicePort {
            affinity: Some(600),
            ..service(&format!("stay-{index}"), 100 + index, endpoints(5, 5))
        })
        .collect();
    let load = Load {
        services,
        config: config(true, false),
        rules: None,
    };
    sides.load(&load)?;
    let mut tally = Tally::default();
    for family in IpFamily::ALL {
        crowd(sides, &load.services, family, &mut tally)?;
    }
    two_addresses(sides, &load.services, &mut tally)?;
    Ok(tally)
}

fn lane(space: Space, source: Option<IpAddr>, to: SocketAddr) -> Probe {
    Probe {
        space,
        source,
        port: None,
        to,
        via: Via::Tcp,
        wanted: usize::MAX,
        at_least: 3,
        at_most: 3,
    }
}

fn only(seen: &Seen) -> Option<SocketAddr> {
    match seen.keys().collect::<Vec<_>>()[..] {
        [Outcome::Answered { at, .. }] => Some(*at),
        _ => None,
    }
}

/// More clients than kube-proxy can remember (`ip_list_tot` of xt_recent is 100 for each endpoint)
/// would need more than these; each has its own backend, also by another frontend.
fn crowd(
    sides: &mut Sides,
    services: &[ServicePort],
    family: IpFamily,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let service = &services[0];
    let clusters = SocketAddr::new(service.cluster_ips[family as usize], service.port);
    let node_port = service.node_port.context("it has one")?;
    let lanes: Lanes = (0..CROWD)
        .map(|number| {
            let source = Some(world::crowd(number, family));
            let to = [clusters, (node(family), node_port).into()];
            let probes = to.map(|to| lane(Space::Outside, source, to));
            (Hooks::Packets, probes.into())
        })
        .collect();
    let (theirs, ours) = sides.run(&lanes, patience::limit())?;
    for (who, results) in [("kube-proxy", theirs), ("nodegate", ours)] {
        let mut met = BTreeSet::new();
        for (number, result) in results.iter().enumerate() {
            let places: Vec<_> = result.iter().map(only).collect();
            ensure!(
                places[0].is_some() && places[0] == places[1],
                "{who}: client {number} did not stay: {result:?}"
            );
            met.extend(places);
        }
        ensure!(met.len() == 10, "{who}: all {CROWD} clients are at {met:?}");
    }
    tally.flows += lanes.len();
    tally.attempts += lanes.len() * 6;
    Ok(())
}

/// The node by its address, and by 127.0.0.1.
fn two_addresses(
    sides: &mut Sides,
    services: &[ServicePort],
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let lanes: Lanes = services
        .iter()
        .map(|service| {
            let port = service.node_port.unwrap_or_default();
            let to = [node(IpFamily::V4), [127, 0, 0, 1].into()];
            let probes = to.map(|ip| lane(Space::Node, None, SocketAddr::new(ip, port)));
            (Hooks::Sockets, probes.into())
        })
        .collect();
    let (theirs, ours) = sides.run(&lanes, patience::limit())?;
    let same = |results: &[Vec<Seen>]| -> anyhow::Result<usize> {
        let mut same = 0;
        for result in results {
            let places: Vec<_> = result.iter().map(only).collect();
            ensure!(
                places.iter().all(Option::is_some),
                "did not stay: {result:?}"
            );
            same += usize::from(places[0] == places[1]);
        }
        Ok(same)
    };
    let (theirs, ours) = (same(&theirs)?, same(&ours)?);
    ensure!(
        ours == lanes.len(),
        "the node is one client, but to {} of {} Services it was two",
        lanes.len() - ours,
        lanes.len()
    );
    ensure!(
        theirs < lanes.len(),
        "kube-proxy knows the node's two addresses for one client"
    );
    let name = "the-node-and-each-pod-are-one-client";
    *tally.differences.entry(name).or_default() += lanes.len() - theirs;
    tally.flows += lanes.len();
    tally.attempts += lanes.len() * 6;
    Ok(())
}
