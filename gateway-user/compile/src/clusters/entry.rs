//! ServiceEntries → where their hosts are.

use std::net::IpAddr;

use nodegate_model::gateway::{DnsTarget, Endpoint, Locality};
use nodegate_resources::{
    istio::{
        EntryPort, ServiceEntry, Subset,
        words::{Resolution, Word as _},
    },
    lookup::{Destinations, HostEntries},
    object::Object,
};
use nodegate_values::port::port as port_number;

use super::{
    members::Members,
    protocol::speaks_http2,
    workload::{self, Named},
};
use crate::placement::Placement;

/// What members are looked for.
#[derive(Clone, Copy)]
pub(super) struct EntryHost<'p> {
    pub(super) known: &'p Destinations<'p>,
    pub(super) host: &'p str,
    pub(super) subset: Option<&'p Subset>,
}

/// The members that a host's entries have together; none if the first of them, which says what there is, has
/// no such port. The others' are those behind their ports of the same name, or of the same number where the
/// host is resolved (`snapshotEndpointsForPort` of istio's pilot/pkg/xds/endpoints; `CopyEndpoints` of its
/// pilot/pkg/model).
pub(super) fn members<'r>(
    entries: &HostEntries<'r>,
    number: i64,
    wanted: EntryHost<'r>,
) -> Option<Members<'r>> {
    let (first, others) = entries.together.split_first()?;
    let mut ports = first.1.spec.read_ports();
    let port = ports.find(|port| port.number == number)?;
    let mut members = Members {
        http2: speaks_http2(Some(&port.protocol), None),
        ..Members::default()
    };
    add(&mut members, *first, port, wanted);
    for (object, other) in others {
        let mut ports = other.spec.read_ports();
        let same = ports.find(|candidate| {
            if other.spec.is_resolved() {
                candidate.number == port.number
            } else {
                candidate.name == port.name
            }
        });
        if let Some(port) = same {
            add(&mut members, (object, other), port, wanted);
        }
    }
    Some(members)
}

/// The members that entries with a Service's host add to those of its port of that name.
pub(super) fn beside<'r>(
    entries: &HostEntries<'r>,
    name: &str,
    wanted: EntryHost<'r>,
) -> Members<'r> {
    let mut members = Members::default();
    for (object, entry) in &entries.together {
        if let Some(port) = entry.spec.read_ports().find(|port| port.name == name) {
            add(&mut members, (object, entry), port, wanted);
        }
    }
    members
}

/// Adds the members of one entry's port.
fn add<'r>(
    members: &mut Members<'r>,
    (object, entry): (&'r Object, &'r ServiceEntry),
    port: &'r EntryPort,
    wanted: EntryHost<'r>,
) {
    let spec = &entry.spec;
    let resolution = Resolution::read(spec.resolution.as_deref().unwrap_or("NONE"));
    let resolved = match resolution {
        Ok(Resolution::Dns) => Some(true),
        Ok(Resolution::DnsRoundRobin) => Some(false),
        Ok(Resolution::Static) => None,
        // Validation has told that these lead nowhere.
        Ok(Resolution::None | Resolution::DynamicDns) | Err(_) => return,
    };
    let number = if port.target_port == 0 {
        port.number
    } else {
        port.target_port
    };
    let all = wanted.subset.is_none_or(|subset| subset.labels.is_empty());
    if let Some(at_once) = resolved
        && spec.endpoints.is_empty()
        && spec.workload_selector.is_none()
        && all
        && let Ok(port) = port_number(number)
    {
        let target = DnsTarget {
            host: wanted.host.into(),
            port,
            weight: 1,
            all: at_once,
            locality: Locality::default(),
            priority: 0,
        };
        if !members.names.iter().any(|(_, known)| *known == target) {
            members.names.push((Placement::default(), target));
        }
    }
    let named = Named {
        name: Some(&port.name),
        number,
        needs_name: false,
    };
    let own = spec.endpoints.iter().map(workload::Candidate::of_entry);
    let selected = spec.workload_selector.iter().flat_map(|selector| {
        let namespace = &object.key.namespace;
        let selected = wanted.known.workloads(namespace, &selector.labels);
        selected.map(|(workload, labels)| workload::Candidate::selected(&workload.spec, labels))
    });
    for candidate in own.chain(selected) {
        if !candidate.is_in(wanted.subset) {
            continue;
        }
        let Some(target) = candidate.port(named) else {
            continue;
        };
        let (weight, place) = (candidate.weight(), candidate.place());
        let locality = place.locality.clone();
        if let Ok(address) = candidate.address().parse::<IpAddr>() {
            let endpoint = Endpoint {
                weight,
                locality,
                ..Endpoint::new((address, target).into())
            };
            members.endpoints.push((place, endpoint));
        } else if let Some(all) = resolved {
            let target = DnsTarget {
                host: candidate.address().to_ascii_lowercase(),
                port: target,
                weight,
                all,
                locality,
                priority: 0,
            };
            members.names.push((place, target));
        }
        // A name where none is resolved is no endpoint.
    }
}
