//! WorkloadEntries that a Service selects as it selects pods.

use std::net::IpAddr;

use k8s_openapi::{
    api::core::v1::{Service, ServicePort},
    apimachinery::pkg::util::intstr::IntOrString,
};
use nodegate_model::gateway::Endpoint;
use nodegate_resources::lookup::service_of;

use super::{
    entry::EntryHost,
    members::Members,
    workload::{Candidate, Named},
};

/// Adds the workloads behind a port of a Service (`serviceInstancesFromWorkloadInstances` of istio's
/// pilot/pkg/serviceregistry/kube/controller).
pub(super) fn add<'r>(
    members: &mut Members<'r>,
    service: &'r Service,
    port: &'r ServicePort,
    wanted: EntryHost<'r>,
) {
    let spec = service.spec.as_ref();
    let selector = spec.and_then(|spec| spec.selector.as_ref());
    let (Some(selector), Some((namespace, _))) = (selector, service_of(wanted.host)) else {
        return;
    };
    if selector.is_empty() {
        return;
    }
    let number = i64::from(port.port);
    let named = match &port.target_port {
        Some(IntOrString::String(name)) => Named {
            name: Some(name),
            number,
            needs_name: true,
        },
        target => Named {
            name: port.name.as_deref(),
            number: match target {
                Some(IntOrString::Int(target)) if *target > 0 => i64::from(*target),
                _ => number,
            },
            needs_name: false,
        },
    };
    for (workload, labels) in wanted.known.workloads(namespace, selector) {
        let candidate = Candidate::selected(&workload.spec, labels);
        let (port, address) = (candidate.port(named), candidate.address().parse::<IpAddr>());
        // A Service's endpoints have no names (`DNSServiceEntryOnly`).
        let (Some(port), Ok(address), true) = (port, address, candidate.is_in(wanted.subset))
        else {
            continue;
        };
        let place = candidate.place();
        let endpoint = Endpoint {
            weight: candidate.weight(),
            locality: place.locality.clone(),
            ..Endpoint::new((address, port).into())
        };
        members.endpoints.push((place, endpoint));
    }
}
