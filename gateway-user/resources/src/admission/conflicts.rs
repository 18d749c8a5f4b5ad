//! What only one Service can have: a node port, a cluster IP.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use nodegate_values::diagnostic::{Diagnostic, ObjectKey, Severity};

use super::Round;
use crate::{
    object::{Body, Object},
    validate::NODE_PORTS,
};

/// Something that only one Service can have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    NodePort { port: i32, protocol: String },
    ClusterIp(IpAddr),
}

/// The claims of a Service, each with the path of its field.
fn claims(object: &Object) -> BTreeMap<Claim, String> {
    let mut claims = BTreeMap::new();
    let Body::Service(service) = &object.body else {
        return claims;
    };
    let Some(spec) = &service.spec else {
        return claims;
    };
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        if let Some(node_port) = port.node_port.filter(|port| *port != 0) {
            let claim = Claim::NodePort {
                port: node_port,
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
            };
            claims.insert(claim, format!("spec.ports[{index}].nodePort"));
        }
    }
    for (index, ip) in spec.cluster_ips.iter().flatten().enumerate() {
        if let Ok(ip) = ip.parse() {
            claims.insert(Claim::ClusterIp(ip), format!("spec.clusterIPs[{index}]"));
        }
    }
    if let Some(ip) = spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok()) {
        claims.insert(Claim::ClusterIp(ip), "spec.clusterIP".into());
    }
    claims
}

impl Round {
    /// Refuses Services that claim what another one has: the holder keeps it, among new ones the
    /// oldest gets it.
    pub(super) fn settle_conflicts(&mut self) {
        // A loser falls back on its last version, which may claim what a candidate hoped to get.
        // Each turn refuses at least one, so this ends.
        while let Some((claim, claimants)) = self.contested() {
            let rank = |key: &ObjectKey| {
                let proposal = &self.proposals[key];
                let holds = proposal
                    .last
                    .as_ref()
                    .is_some_and(|last| claims(last).contains_key(&claim));
                let created = proposal.chosen.as_ref().and_then(|object| object.created());
                (!holds, created, key.clone())
            };
            let Some(winner) = claimants.iter().min_by_key(|key| rank(key)).cloned() else {
                return;
            };
            for loser in claimants.into_iter().filter(|key| *key != winner) {
                self.lose(&loser, &winner, &claim);
            }
        }
    }

    /// A claim that several make.
    fn contested(&self) -> Option<(Claim, Vec<ObjectKey>)> {
        let mut claimants: BTreeMap<Claim, Vec<ObjectKey>> = BTreeMap::new();
        for (key, proposal) in &self.proposals {
            for claim in proposal
                .chosen
                .iter()
                .flat_map(|object| claims(object).into_keys())
            {
                claimants.entry(claim).or_default().push(key.clone());
            }
        }
        claimants.into_iter().find(|(_, keys)| keys.len() > 1)
    }

    fn lose(&mut self, loser: &ObjectKey, winner: &ObjectKey, claim: &Claim) {
        let fix = self.way_out(claim);
        let other = self.proposals[winner].chosen.as_ref().and_then(|object| {
            let path = claims(object).remove(claim).unwrap_or_default();
            object.origin.location(&path)
        });
        let Some(proposal) = self.proposals.get_mut(loser) else {
            return;
        };
        if let Some(object) = &proposal.chosen {
            let field = claims(object).remove(claim).unwrap_or_default();
            let place = other.map(|place| format!(" ({place})")).unwrap_or_default();
            self.diagnostics.push(Diagnostic {
                message: format!("{claim} is taken by {winner}{place}"),
                ..object.report(Severity::Error, field, "", fix)
            });
        }
        proposal.refuse();
    }

    fn way_out(&self, claim: &Claim) -> String {
        let Claim::NodePort { port: wanted, .. } = claim else {
            return "choose another address".into();
        };
        let taken: BTreeSet<i32> = self
            .proposals
            .values()
            .flat_map(|proposal| proposal.chosen.iter().chain(&proposal.last))
            .flat_map(|object| claims(object).into_keys())
            .filter_map(|claim| match claim {
                Claim::NodePort { port, .. } => Some(port),
                Claim::ClusterIp(_) => None,
            })
            .collect();
        (*wanted..=*NODE_PORTS.end())
            .chain(NODE_PORTS)
            .find(|port| !taken.contains(port))
            .map_or_else(
                || "free a node port".into(),
                |port| format!("{port} is free"),
            )
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NodePort { port, protocol } => write!(f, "{protocol} node port {port}"),
            Self::ClusterIp(ip) => write!(f, "cluster IP {ip}"),
        }
    }
}
