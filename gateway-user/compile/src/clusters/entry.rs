//! ServiceEntries → where their hosts are.

use std::net::IpAddr;

use nodegate_model::gateway::{DnsTarget, Endpoint, Locality};
use nodegate_resources::{
    istio::{
        EntryPort, ServiceEntry, Subset, WorkloadEntry,
        words::{Resolution, Word as _},
    },
    lookup::selects,
};
use nodegate_values::port::{NotAPort, port as port_number};

use super::{members::Members, protocol::speaks_http2};
use crate::placement::Placement;

/// The members of an entry's host; none if it has no such port.
pub(super) fn members<'r>(
    entry: &'r ServiceEntry,
    host: &str,
    port: i64,
    subset: Option<&Subset>,
) -> Option<Members<'r>> {
    let spec = &entry.spec;
    let port = spec
        .ports
        .iter()
        .find(|candidate| candidate.number == port)?;
    let resolution = Resolution::read(spec.resolution.as_deref().unwrap_or("NONE"));
    let mut members = Members {
        http2: speaks_http2(Some(&port.protocol), None),
        ..Members::default()
    };
    let all = match resolution {
        Ok(Resolution::Dns) => true,
        Ok(Resolution::Static | Resolution::DnsRoundRobin) => false,
        // Validation has told that these lead nowhere.
        Ok(Resolution::None | Resolution::DynamicDns) | Err(_) => return Some(members),
    };
    let dns = resolution != Ok(Resolution::Static);
    if dns && spec.endpoints.is_empty() && subset.is_none_or(|subset| subset.labels.is_empty()) {
        let target = DnsTarget {
            host: host.into(),
            port: port_number(if port.target_port == 0 {
                port.number
            } else {
                port.target_port
            })
            .ok()?,
            weight: 1,
            all,
            locality: Locality::default(),
            priority: 0,
        };
        members.names.push((Placement::default(), target));
    }
    for endpoint in &spec.endpoints {
        if subset.is_some_and(|subset| !selects(&subset.labels, Some(&endpoint.labels))) {
            continue;
        }
        let Ok(target) = target(endpoint, port) else {
            continue;
        };
        let weight = endpoint.weight.max(1);
        let locality = Locality::parse(&endpoint.locality);
        let place = Placement {
            locality: locality.clone(),
            labels: Some(&endpoint.labels),
            node: None,
        };
        match endpoint.address.parse::<IpAddr>() {
            Ok(address) => {
                let endpoint = Endpoint {
                    weight,
                    locality,
                    ..Endpoint::new((address, target).into())
                };
                members.endpoints.push((place, endpoint));
            }
            Err(_) if dns => {
                let target = DnsTarget {
                    host: endpoint.address.to_ascii_lowercase(),
                    port: target,
                    weight,
                    all,
                    locality,
                    priority: 0,
                };
                members.names.push((place, target));
            }
            Err(_) => {}
        }
    }
    Some(members)
}

/// The endpoint's own port of that name, else the entry's target port, else its number
/// (`convertEndpoint` of istio's pilot/pkg/serviceregistry/serviceentry).
fn target(endpoint: &WorkloadEntry, port: &EntryPort) -> Result<u16, NotAPort> {
    port_number(match endpoint.ports.get(&port.name) {
        Some(own) => *own,
        None if port.target_port != 0 => port.target_port,
        None => port.number,
    })
}
