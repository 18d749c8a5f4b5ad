//! Which ports a gateway pod binds, and for which servers of its Gateways.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Pod, ServicePort},
    apimachinery::pkg::util::intstr::IntOrString,
};
use nodegate_model::service::Protocol;
use nodegate_resources::{Resources, istio, lookup::selects, object::Object};
use nodegate_values::{
    diagnostic::{Diagnostic, Severity},
    port::port as port_number,
};

use super::server::{GatewayServer, ListenerKind};
use crate::{
    identity::GatewayIdentity,
    ports::{ports, protocol},
};

/// The Gateways of this pod, in istiod's order (`mergeGateways` of `pilot/pkg/model/push_context.go`).
pub(super) fn gateways<'r>(
    resources: &'r Resources,
    identity: &GatewayIdentity,
) -> Vec<(&'r Object, &'r istio::Gateway)> {
    let mut gateways: Vec<_> = resources
        .gateways()
        .filter(|(_, gateway)| selects(&gateway.spec.selector, Some(&identity.labels)))
        .map(|(object, gateway)| (&**object, gateway))
        .collect();
    gateways.sort_by(|(a, _), (b, _)| a.age().cmp(&b.age()));
    gateways
}

/// The servers of this pod's Gateways, by the port to bind. HTTP servers share a port, and so do servers of TLS;
/// anything else that comes later is left out.
pub(super) fn servers_by_port<'r>(
    resources: &'r Resources,
    identity: &GatewayIdentity,
    diagnostics: &mut Vec<Diagnostic>,
) -> BTreeMap<u16, (ListenerKind, Vec<GatewayServer<'r>>)> {
    let mut ports: BTreeMap<u16, (ListenerKind, Vec<GatewayServer<'r>>)> = BTreeMap::new();
    for (gateway, spec) in gateways(resources, identity) {
        for (index, spec) in spec.spec.servers.iter().enumerate() {
            let kind = ListenerKind::of(gateway, spec);
            let (Some(kind), Ok(number)) = (kind, port_number(spec.port.number)) else {
                continue;
            };
            let server = GatewayServer {
                gateway,
                index,
                spec,
                port: number,
            };
            let bind = match target_port(resources, identity, number) {
                Ok(port) => port,
                Err((message, fix)) => {
                    diagnostics.push(server.report(Severity::Warning, message, fix.to_owned()));
                    number
                }
            };
            let (first_kind, servers) = ports.entry(bind).or_insert((kind, Vec::new()));
            match servers.first() {
                Some(first) if !kind.shares_with(*first_kind) => {
                    diagnostics.push(server.conflict(kind, first, *first_kind));
                    diagnostics.push(first.kept(*first_kind, &server, kind));
                }
                _ => servers.push(server),
            }
        }
    }
    ports
}

/// The port that a server with port `number` binds: the target of the first such port of a Service
/// that leads to this pod, else the number itself (`resolvePorts` of istio's pilot/pkg/model/gateway.go).
fn target_port(
    resources: &Resources,
    identity: &GatewayIdentity,
    number: u16,
) -> Result<u16, (String, &'static str)> {
    let mut services: Vec<_> = resources
        .services()
        .filter(|(object, service)| {
            let selector = service
                .spec
                .as_ref()
                .and_then(|spec| spec.selector.as_ref());
            object.key.namespace == identity.namespace
                && selector.is_some_and(|selector| {
                    !selector.is_empty() && selects(selector, Some(&identity.labels))
                })
        })
        .collect();
    services.sort_by(|(a, _), (b, _)| a.age().cmp(&b.age()));
    let port = services.iter().find_map(|(object, service)| {
        let port = ports(service).iter().find(|port| {
            port.port == i32::from(number) && protocol(port.protocol.as_deref()) == Protocol::Tcp
        })?;
        Some((object, port))
    });
    let Some((object, port)) = port else {
        let Some((first, service)) = services.first() else {
            return Ok(number);
        };
        let ports: Vec<_> = ports(service)
            .iter()
            .map(|port| port.port.to_string())
            .collect();
        // Which is as good, as long as a port of a Service leads there.
        let is_led_to = services.iter().any(|(_, service)| {
            let pod = resources.pod(&identity.namespace, &identity.name);
            let mut ports = crate::ports::ports(service).iter();
            ports.any(|port| resolved(port, pod) == Some(number))
        });
        if is_led_to {
            return Ok(number);
        }
        let message = format!(
            "{} has no port {number} (it has {}), so nobody outside reaches this server; {number} itself is bound",
            first.key,
            ports.join(", "),
        );
        return Err((message, "a port of the Service, not of the container"));
    };
    let pod = resources.pod(&identity.namespace, &identity.name);
    resolved(port, pod).ok_or_else(|| {
        let message = format!(
            "{} leads port {number} to a container port that this pod does not name; {number} itself is bound",
            object.key
        );
        (message, "name the container's port so, or give a number as targetPort")
    })
}

fn resolved(port: &ServicePort, pod: Option<&Pod>) -> Option<u16> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => u16::try_from(port.port).ok(),
        Some(IntOrString::Int(target)) => u16::try_from(*target).ok(),
        Some(IntOrString::String(name)) => {
            let containers = &pod?.spec.as_ref()?.containers;
            let mut ports = containers
                .iter()
                .flat_map(|container| container.ports.iter().flatten());
            let port = ports.find(|port| {
                port.name.as_ref() == Some(name)
                    && protocol(port.protocol.as_deref()) == Protocol::Tcp
            })?;
            u16::try_from(port.container_port).ok()
        }
    }
}
