//! Destinations, their endpoints, and why there are none.

use super::{Fault, Known, Share};
use nodegate_model::gateway::{Destination, UpstreamTls};
use nodegate_observe::ResponseFlag;
use nodegate_resources::{
    istio,
    lookup::{Destinations, RuleUser, service_of},
};

/// How much of the traffic each of the destinations gets, and where.
pub(super) fn shares(known: &Known<'_>, destinations: &[Destination]) -> Vec<Share> {
    let sum: u64 = destinations.iter().map(|to| u64::from(to.weight)).sum();
    let share = |destination: &Destination| match sum {
        // A single one gets all, whatever its weight.
        0 => 1.0 / destinations.len() as f64,
        sum => f64::from(destination.weight) / sum as f64,
    };
    destinations
        .iter()
        .map(|destination| {
            let (mut endpoints, mut names) = (Vec::new(), Vec::new());
            let fault = match known.gateway.clusters.get(&destination.cluster) {
                None => Some(unknown(known, &destination.cluster)),
                Some(cluster) => {
                    endpoints.extend(cluster.endpoints.iter().map(|endpoint| endpoint.address));
                    names.extend(cluster.names.iter().map(|name| name.host.clone()));
                    let none = endpoints.is_empty() && names.is_empty();
                    let lacks = cluster.policy.tls.as_ref().and_then(UpstreamTls::lacks);
                    match lacks {
                        _ if none => Some(empty(known, &destination.cluster)),
                        Some((name, lack)) => Some(without_secret(known, name, lack)),
                        None => None,
                    }
                }
            };
            Share {
                cluster: destination.cluster.clone(),
                share: share(destination),
                endpoints,
                names,
                fault,
            }
        })
        .collect()
}

/// Port, subset and host of a cluster: `outbound|80|v1|simple.simple.svc.cluster.local`.
fn parts(cluster: &str) -> Option<(u16, &str, &str)> {
    let mut parts = cluster.strip_prefix("outbound|")?.splitn(3, '|');
    let port = parts.next()?.parse().ok()?;
    Some((port, parts.next()?, parts.next()?))
}

/// Why there is no such cluster.
fn unknown(known: &Known<'_>, cluster: &str) -> Fault {
    let destinations = Destinations::of(known.resources.objects.values());
    let miss = parts(cluster).and_then(|(port, subset, host)| {
        let destination = istio::Destination {
            host: host.to_owned(),
            subset: subset.to_owned(),
            port: Some(istio::PortSelector {
                number: port.into(),
            }),
        };
        let client = RuleUser {
            namespace: &known.identity.namespace,
            labels: &known.identity.labels,
        };
        destinations
            .miss(&destination, "")
            .or_else(|| destinations.hidden(&destination, "", client))
    });
    let (text, fix) = match miss {
        Some(miss) => (miss.message, miss.fix),
        None => ("the gateway has no such cluster".to_owned(), String::new()),
    };
    Fault {
        flag: ResponseFlag::NoCluster,
        text,
        fix,
    }
}

/// Why no connection to a cluster can be made.
fn without_secret(known: &Known<'_>, name: &str, lack: &str) -> Fault {
    Fault {
        flag: ResponseFlag::UpstreamConnectionFailure,
        text: format!("no connection can be made: Secret {name} {lack}"),
        fix: format!(
            "create it in {}, the gateway's namespace, with ca.crt, and for MUTUAL with tls.crt and tls.key",
            known.identity.namespace
        ),
    }
}

/// Why a cluster has no endpoints.
fn empty(known: &Known<'_>, cluster: &str) -> Fault {
    let found = parts(cluster).and_then(|(port, subset, host)| {
        let (namespace, name) = service_of(host)?;
        let service = known.services.iter().find(|service| {
            service.name.namespace == namespace && service.name.name == name && service.port == port
        })?;
        Some((service, subset))
    });
    let Some((service, subset)) = found else {
        return Fault {
            flag: ResponseFlag::NoHealthyUpstream,
            text: "it has no endpoints".to_owned(),
            fix: "see that pods with the Service's labels are there and ready".to_owned(),
        };
    };
    let (all, ready) = (
        service.endpoints.len(),
        service.endpoints.iter().filter(|e| e.ready).count(),
    );
    let name = &service.name;
    let (text, fix) = match (all, ready) {
        (0, _) => (
            format!("Service {name} has no endpoints"),
            "see that pods with the labels of its selector are there",
        ),
        (1, 0) => (
            format!("the only endpoint of Service {name} is not ready"),
            "see why the pod is not ready",
        ),
        (_, 0) => (
            format!("none of the {all} endpoints of Service {name} is ready"),
            "see why the pods are not ready",
        ),
        _ => (
            format!(
                "none of the {ready} ready endpoints of Service {name} has the labels of subset \
                 {subset}"
            ),
            "compare the labels of the pods with those of the subset in the DestinationRule",
        ),
    };
    Fault {
        flag: ResponseFlag::NoHealthyUpstream,
        text,
        fix: fix.to_owned(),
    }
}
