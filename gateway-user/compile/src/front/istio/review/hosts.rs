//! Hosts of VirtualServices that no server of their Gateways has.

use nodegate_resources::{Resources, istio, istio::hosts::host, object::Object};
use nodegate_values::{
    diagnostic::{Diagnostic, Severity},
    spelling::nearest,
};

use super::{listed, named};
use crate::front::istio::server::GatewayServer;

pub(super) fn report(resources: &Resources, diagnostics: &mut Vec<Diagnostic>) {
    for (object, service) in resources.virtual_services() {
        let spec = &service.spec;
        let gateways = named(&spec.gateways, &object.key.namespace, resources);
        if gateways.is_empty() {
            continue;
        }
        let hosts: Vec<_> = spec.hosts.iter().enumerate().collect();
        let hosts = hosts.into_iter().filter_map(|(index, text)| {
            let host = host(text).ok()?;
            Some((index, host))
        });
        let hosts: Vec<_> = hosts.collect();
        let has = |gateway: (&Object, &istio::Gateway), host: &str| {
            has(gateway, host, &object.key.namespace)
        };
        let lost: Vec<_> = hosts
            .iter()
            .filter(|(_, host)| !gateways.iter().any(|(_, it, spec)| has((it, spec), host)))
            .collect();
        for (index, host) in &lost {
            diagnostics.push(no_server(object, *index, host, &gateways));
        }
        if lost.len() == hosts.len() {
            continue;
        }
        for (index, gateway, of) in &gateways {
            if hosts.iter().any(|(_, host)| has((gateway, of), host)) {
                continue;
            }
            let message = format!(
                "no server of {} has any of the hosts (they have {}): there these routes are not",
                gateway.key,
                its_hosts(of)
            );
            let fix = "add a host to a server there, or leave this Gateway out".to_owned();
            let path = format!("spec.gateways[{index}]");
            diagnostics.push(object.report(Severity::Warning, path, message, fix));
        }
    }
}

/// Whether a server of the Gateway has something in common with a host of a VirtualService in `namespace`.
fn has((gateway, spec): (&Object, &istio::Gateway), host: &str, namespace: &str) -> bool {
    let servers = spec.spec.servers.iter().enumerate();
    let mut servers = servers.map(|(index, spec)| GatewayServer {
        gateway,
        index,
        spec,
        port: 0,
    });
    servers.any(|server| {
        let only = std::iter::once(host.to_owned());
        !server.domains_of(only, namespace).is_empty()
    })
}

fn no_server(
    object: &Object,
    index: usize,
    host: &str,
    gateways: &[(usize, &Object, &istio::Gateway)],
) -> Diagnostic {
    let of_one = |(_, gateway, spec): &(usize, &Object, &istio::Gateway)| {
        format!("{} (they have {})", gateway.key, its_hosts(spec))
    };
    let gateways_and_hosts: Vec<_> = gateways.iter().map(of_one).collect();
    let message = format!(
        "no server of {} has `{host}`: requests for it are answered with 404",
        gateways_and_hosts.join(" or ")
    );
    let all: Vec<_> = gateways
        .iter()
        .flat_map(|(_, _, spec)| &spec.spec.servers)
        .flat_map(istio::Server::read_hosts)
        .collect();
    let elsewhere = all.iter().find(|of| of.domain == host);
    let fix = match elsewhere {
        Some(of) => format!(
            "its `{}/{host}` is for VirtualServices of another namespace: `*/{host}` is for all",
            of.namespace
        ),
        None => match nearest(host, all.iter().map(|of| of.domain.as_str())) {
            Some(near) => format!("did you mean `{near}`? Else add it to a server of the Gateway"),
            None => "add it to a server of the Gateway".to_owned(),
        },
    };
    object.report(
        Severity::Warning,
        format!("spec.hosts[{index}]"),
        message,
        fix,
    )
}

fn its_hosts(gateway: &istio::Gateway) -> String {
    let hosts = gateway.spec.servers.iter().flat_map(|server| &server.hosts);
    let mut hosts: Vec<_> = hosts.map(|host| format!("`{host}`")).collect();
    hosts.dedup();
    listed(&hosts)
}
