//! In what nodegate means to be different from kube-proxy.

use std::{collections::BTreeSet, net::SocketAddr};

use anyhow::ensure;
use gateway_common::decide::{Reason, Verdict};
use nodegate_iptables::{normal, render::render, rules::Dialect};
use nodegate_model::service::{IpFamily, ServicePort, SourceRanges};

use crate::{
    agent::{Outcome, Seen},
    compare::{Tally, agrees, answers, compare},
    core::Prediction,
    flows::{Flow, Source, flows},
    generate::{config, endpoints, service},
    sides::{Load, Sides, is_nodes},
};

/// A way in which nodegate means to be different from kube-proxy.
pub(crate) struct Difference {
    pub(crate) name: &'static str,
    pub(crate) reason: &'static str,
    /// Whether this is it.
    pub(crate) applies: fn(&Case<'_>) -> bool,
}

/// All of them: the only tolerance of these tests. `docs/differences.md` has the same list.
pub(crate) const DIFFERENCES: [Difference; 11] = [
    Difference {
        name: "sockets-keep-their-source",
        reason: "a pod's socket connects to the backend itself, so replies need no masquerading, and \
                 the backend sees the pod where kube-proxy shows it the node",
        applies: |case| {
            case.flow.source == Source::Pod && case.same_backends() && case.ours_keep_source()
        },
    },
    Difference {
        name: "the-node-comes-from-the-address-towards-the-backend",
        reason: "a process's source address is chosen for where its socket connects to: the backend, \
                 where with kube-proxy it is the frontend",
        applies: |case| {
            let nodes = |seen: &Seen| answers(seen).all(|(_, from)| is_nodes(from));
            case.flow.source.is_node()
                && case.same_backends()
                && nodes(case.theirs)
                && nodes(case.ours)
        },
    },
    Difference {
        name: "sockets-hear-of-drops",
        reason: "where kube-proxy drops the packets of a connection, a socket gets EHOSTUNREACH at once \
                 instead of waiting for its time-out",
        applies: |case| {
            let told = Outcome::Failed(libc::EHOSTUNREACH);
            case.prediction.verdict == Verdict::Drop
                && case.prediction.by_socket
                && case.is_dropped()
                && case.ours.keys().eq([&told])
        },
    },
    Difference {
        name: "unknown-ports-of-cluster-ips-are-refused",
        reason: "a cluster IP is nobody's address; a socket that asks for a port that its Service does \
                 not have gets ECONNREFUSED, where kube-proxy lets packets go to wherever the \
                 default route leads",
        applies: |case| {
            case.prediction.reason == Reason::NoSuchPort
                && case.prediction.by_socket
                && case.ours.keys().eq([&Outcome::Refused])
        },
    },
    Difference {
        name: "the-node-is-refused-too",
        reason: "kube-proxy refuses in OUTPUT what is for a cluster IP only: a process of the node that \
                 connects to an external IP without endpoints waits, and nodegate refuses it",
        applies: |case| {
            case.prediction.reason == Reason::NoEndpoints
                && case.flow.source.is_node()
                && case.is_dropped()
                && case.ours.keys().eq([&Outcome::Refused])
        },
    },
    Difference {
        name: "only-served-node-ports-are-dropped",
        reason: "kube-proxy's DROP for a node port without local endpoints is for all of the node's \
                 addresses, those too on which it serves none (::1, or others than \
                 --nodeport-addresses); nodegate leaves these to whoever listens there",
        applies: |case| {
            let ip = case.flow.to.ip();
            case.prediction.verdict == Verdict::Pass
                && case.is_dropped()
                && (ip.is_loopback() || is_nodes(ip))
                && case.ours.keys().eq([&Outcome::Refused])
        },
    },
    Difference {
        name: "a-frontend-claimed-twice-goes-to-the-first-by-name",
        reason: "where two Services claim an address and port, the one whose rule comes first wins with \
                 kube-proxy, and that changes with every sync",
        applies: |case| {
            case.claimants.len() > 1
                && answers(case.theirs).count() == case.theirs.len()
                && answers(case.theirs).all(|(at, _)| {
                    let has = |service: &&ServicePort| {
                        service
                            .endpoints
                            .iter()
                            .any(|endpoint| endpoint.socket() == at)
                    };
                    case.claimants.iter().any(has)
                })
        },
    },
    Difference {
        name: "unreadable-source-ranges-let-nobody-in",
        reason: "where none of a Service's loadBalancerSourceRanges can be read, kube-proxy leaves it open; \
                 who wrote them wanted it closed",
        applies: |case| {
            let unreadable = |service: &&ServicePort| {
                let ranges = service.source_ranges.of(case.flow.family());
                ranges.is_some_and(<[_]>::is_empty)
            };
            case.prediction.reason == Reason::SourceRange
                && case.claimants.iter().any(unreadable)
                && answers(case.theirs).count() == case.theirs.len()
        },
    },
    Difference {
        name: "source-ranges-know-the-node-by-its-main-address",
        reason: "a process's source address is not chosen yet when its socket asks, so that source ranges go by the \
                 node's main address, also where the socket is bound to another one; kube-proxy goes by that",
        applies: |case| {
            let ranges =
                |service: &&ServicePort| service.source_ranges.of(case.flow.family()).is_some();
            case.flow.source == Source::NodeBound
                && case.claimants.iter().any(ranges)
                && case.prediction.by_socket
                && (case.prediction.verdict == Verdict::Forward && case.is_dropped()
                    || case.prediction.reason == Reason::SourceRange
                        && answers(case.theirs).count() == case.theirs.len())
        },
    },
    Difference {
        name: "the-node-and-each-pod-are-one-client",
        reason: "a socket has no address yet when its backend is chosen, so session affinity goes by its \
                 network namespace, where kube-proxy goes by the packets' source: a node's process that \
                 connects to its node port by another address of the node may get another backend",
        // Two flows are needed to see it: `chance::affinity` does.
        applies: |_| false,
    },
    Difference {
        name: "pods-are-known-in-both-families",
        reason: "kube-proxy knows pods of the families that --cluster-cidr has a network of; nodegate \
                 knows this node's by their devices and network namespaces",
        applies: |case| {
            case.unknown.as_ref().is_some_and(|unknown| {
                agrees(case.flow, case.theirs, unknown, false).is_ok()
                    || (case.is_dropped() && unknown.verdict == Verdict::Drop)
            })
        },
    },
];

/// What is known of a flow that went differently on the two nodes.
pub(crate) struct Case<'c> {
    pub(crate) flow: &'c Flow,
    pub(crate) theirs: &'c Seen,
    pub(crate) ours: &'c Seen,
    pub(crate) prediction: &'c Prediction,
    /// Services that have this address and port.
    pub(crate) claimants: Vec<&'c ServicePort>,
    /// What would be done if pods were not known, where kube-proxy does not know them.
    pub(crate) unknown: Option<Prediction>,
}

impl Case<'_> {
    fn same_backends(&self) -> bool {
        let backends =
            |seen: &Seen| -> BTreeSet<SocketAddr> { answers(seen).map(|(at, _)| at).collect() };
        let (theirs, ours) = (backends(self.theirs), backends(self.ours));
        let known = |at: &SocketAddr| self.prediction.masquerade.contains_key(at);
        if self.flow.affinity {
            return theirs.len() == 1 && ours.len() == 1 && theirs.iter().all(known);
        }
        theirs == ours && !ours.is_empty()
    }

    /// Everybody sees the pod here; there, the pod or the node.
    fn ours_keep_source(&self) -> bool {
        let own = self.flow.source.address(self.flow.family());
        answers(self.ours).all(|(_, from)| Some(from) == own)
            && answers(self.theirs).all(|(_, from)| Some(from) == own || is_nodes(from))
    }

    /// EPERM is what sendto() says when netfilter drops what is sent.
    fn is_dropped(&self) -> bool {
        let mut theirs = self.theirs.keys();
        theirs.all(|seen| matches!(seen, Outcome::Silence | Outcome::Failed(libc::EPERM)))
    }
}

/// What never happens is no difference.
pub(crate) fn all_occur(total: &Tally) -> anyhow::Result<Tally> {
    for difference in &DIFFERENCES {
        let occurs = total.differences.contains_key(difference.name);
        ensure!(occurs, "{} did not occur", difference.name);
    }
    Ok(Tally::default())
}

/// kube-proxy drops what it cannot read while it reads, so that its rules are those of a Service without
/// ranges.
pub(crate) fn unreadable_source_ranges(sides: &mut Sides) -> anyhow::Result<Tally> {
    let open = service("unreadable", 20, endpoints(1, 1));
    let closed = ServicePort {
        source_ranges: SourceRanges::parse(&["everybody"]),
        ..open.clone()
    };
    let config = config(true, false);
    let rules = IpFamily::ALL.map(|family| {
        let ruleset = render(std::slice::from_ref(&open), family, &config);
        normal::dump(&ruleset).text(Dialect::Save)
    });
    let flows = flows(&closed, 0);
    let load = Load {
        services: vec![closed],
        config,
        rules: Some(rules),
    };
    let (tally, _) = compare(sides, &load, &flows)?;
    let name = "unreadable-source-ranges-let-nobody-in";
    // Both families, from everywhere.
    ensure!(
        tally.differences.get(name) == Some(&(2 * Source::ALL.len())),
        "{:?}",
        tally.differences
    );
    Ok(tally)
}
