//! What `nodegate explain` says of the flows: it must be what happens on both nodes.

use std::{collections::BTreeMap, net::SocketAddr};

use gateway_common::decide::{Masquerade, Verdict};
use nodegate_explain::{
    connection::{Attempt, Client, Connection, connection},
    node::Node,
};
use nodegate_iptables::config::KubeProxyConfig;
use nodegate_model::service::{IpFamily, Protocol, ServicePort};

use crate::{
    agent::{Outcome, Seen, Via},
    compare::answers,
    core::Prediction,
    flows::{ENOUGH, Flow, Source},
    sides::{Load, Sides, is_nodes},
    world::{ALTERNATIVE, NODE, address},
};

/// The node as it is explained.
pub(crate) struct Explained {
    node: Node,
}

impl Explained {
    /// kube-proxy's rules for the load, and what nodegate's maps hold now.
    pub(crate) fn new(sides: &Sides, load: &Load) -> anyhow::Result<Self> {
        let pairs = [NODE, ALTERNATIVE].into_iter();
        let config = KubeProxyConfig {
            // All that the interfaces have.
            addresses: pairs
                .flat_map(|pair| IpFamily::ALL.map(|family| address(pair, family)))
                .collect(),
            ..load.config.clone()
        };
        Ok(Self {
            node: Node::running(&load.services, config, sides.loaded()?),
        })
    }

    /// Fails if the explanation is not what the core says and what kube-proxy's node did.
    pub(crate) fn check(
        &self,
        flow: &Flow,
        claimants: &[&ServicePort],
        prediction: &Prediction,
        theirs: &Seen,
    ) -> Result<(), String> {
        let client = match (flow.source, flow.source.address(flow.family())) {
            (Source::Pod | Source::PodPackets, Some(address)) => Client::Pod(address),
            (_, Some(address)) => Client::Network(address),
            (_, None) => Client::Node,
        };
        let explained = connection(
            &self.node,
            &Attempt {
                client,
                destination: flow.to,
                protocol: match flow.via {
                    Via::Tcp => Protocol::Tcp,
                    _ => Protocol::Udp,
                },
            },
        );
        // A pod is explained as one with sockets that the hooks see.
        if flow.source != Source::PodPackets {
            ours(&explained, prediction)?;
        }
        let is_open = |service: &&ServicePort| {
            let ranges = service.source_ranges.of(flow.family());
            !ranges.is_some_and(<[_]>::is_empty)
        };
        // Whose rule comes first is chance; and rules for ranges that cannot be read are others.
        if claimants.len() > 1 || !claimants.iter().all(is_open) {
            return Ok(());
        }
        // The node is asked about as one, by its main address.
        let by_address = claimants
            .iter()
            .any(|service| service.source_ranges.of(flow.family()).is_some());
        if flow.source == Source::NodeBound && by_address {
            return Ok(());
        }
        kube_proxys(flow, &explained, theirs)
    }
}

/// What the programs do has been compared with the prediction.
fn ours(explained: &Connection, prediction: &Prediction) -> Result<(), String> {
    let decided = &explained.nodegate;
    let backends = explained.backends.iter();
    let backends: BTreeMap<SocketAddr, Masquerade> = backends
        .filter(|choice| choice.probability > 0.0)
        .map(|choice| (choice.address, choice.masquerade))
        .collect();
    let same = decided.verdict == prediction.verdict
        && decided.reason == prediction.reason.name()
        && backends == prediction.masquerade;
    if same {
        return Ok(());
    }
    Err(format!(
        "`explain` says that nodegate does {:?} ({}) with {backends:?}",
        decided.verdict, decided.reason
    ))
}

/// Whether kube-proxy's node did what its rules are explained to do.
fn kube_proxys(flow: &Flow, explained: &Connection, seen: &Seen) -> Result<(), String> {
    let verdict = explained.kube_proxy.verdict;
    let backends = explained.backends.iter();
    let backends: BTreeMap<SocketAddr, bool> = backends
        .filter(|choice| choice.kube_proxy_probability > 0.0)
        .map(|choice| (choice.address, choice.kube_proxy_masquerade))
        .collect();
    let say = |what: String| {
        Err(format!(
            "`explain` says that kube-proxy does {verdict:?} with {backends:?}, but {what}"
        ))
    };
    let only = |may: fn(&Outcome) -> bool| match seen.keys().find(|outcome| !may(outcome)) {
        Some(other) => say(format!("{other:?}")),
        None => Ok(()),
    };
    match verdict {
        Verdict::Pass => match answers(seen).find(|(at, _)| *at != flow.to) {
            Some((at, _)) => say(format!("it was translated to {at}")),
            None => Ok(()),
        },
        Verdict::Reject => only(|outcome| matches!(outcome, Outcome::Refused)),
        // In OUTPUT, whoever sends hears of it.
        Verdict::Drop => {
            only(|outcome| matches!(outcome, Outcome::Silence | Outcome::Failed(libc::EPERM)))
        }
        Verdict::Forward => {
            only(|outcome| matches!(outcome, Outcome::Answered { .. }))?;
            let own = flow.source.address(flow.family());
            for (at, from) in answers(seen) {
                let Some(masqueraded) = backends.get(&at) else {
                    return say(format!("{at} answered"));
                };
                // What ends on the node itself does not pass POSTROUTING.
                let nodes = own.is_none() || (*masqueraded && !is_nodes(at.ip()));
                if nodes != is_nodes(from) || (!nodes && Some(from) != own) {
                    return say(format!("{at} saw {from}"));
                }
            }
            let met = answers(seen).map(|(at, _)| at);
            let met: std::collections::BTreeSet<_> = met.collect();
            if flow.affinity || met.len() >= ENOUGH || met.len() == backends.len() {
                return Ok(());
            }
            say(format!("only {met:?} were met"))
        }
    }
}
