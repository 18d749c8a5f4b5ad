//! Ports and protocols as Services and EndpointSlices write them.

use k8s_openapi::api::core::v1::{Service, ServicePort};
use nodegate_model::service::Protocol;

/// A protocol as Services and slices write it; TCP if they do not.
pub(crate) fn protocol(name: Option<&str>) -> Protocol {
    match name {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        _ => Protocol::Tcp,
    }
}

/// The ports of a Service.
pub(crate) fn ports(service: &Service) -> &[ServicePort] {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    ports.map_or(&[], Vec::as_slice)
}
