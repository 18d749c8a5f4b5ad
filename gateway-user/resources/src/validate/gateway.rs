//! Gateways (`ValidateGateway` of istio's pkg/config/validation).
//!
//! A host or a server that cannot be read is left out, and the others are served, as istiod does when nobody
//! has validated. A Gateway of which nothing is left is refused.

use nodegate_values::port::port;

use super::{Findings, server_tls};
use crate::istio::{
    Gateway, Server,
    hosts::server_host,
    words::{ServerProtocol, Word as _},
};

pub(super) fn check(gateway: &Gateway, findings: &mut Findings<'_>) {
    let servers = &gateway.spec.servers;
    let mut is_served = false;
    for (index, server) in servers.iter().enumerate() {
        is_served |= one_server(server, &format!("spec.servers[{index}]"), findings);
    }
    if !is_served {
        let message = if servers.is_empty() {
            "no servers"
        } else {
            "no server is left"
        };
        let fix = "name at least one port and its hosts";
        findings.error("spec.servers", message, fix);
    }
}

/// Gives whether anything of the server can be read.
fn one_server(server: &Server, path: &str, findings: &mut Findings<'_>) -> bool {
    let mut is_served = true;
    let mut left_out = |findings: &mut Findings<'_>, field: &str, message: &str, fix: &str| {
        findings.left_out(format!("{path}.{field}"), "server", message, fix);
        is_served = false;
    };
    if let Err(error) = port(server.port.number) {
        left_out(findings, "port.number", &error.to_string(), "1 to 65535");
    }
    let protocol = server.port.protocol.to_ascii_uppercase();
    let read = server.port.protocol();
    if protocol.is_empty() {
        left_out(
            findings,
            "port.protocol",
            "missing",
            "HTTP, HTTPS, TLS or TCP",
        );
    } else if read.is_err() {
        let message = format!("`{}` is not a protocol", server.port.protocol);
        let known: Vec<_> = ServerProtocol::WORDS
            .iter()
            .map(|(word, _)| *word)
            .collect();
        let fix = format!("one of {}", known.join(", "));
        left_out(findings, "port.protocol", &message, &fix);
    }
    if server.port.name.is_empty() {
        left_out(
            findings,
            "port.name",
            "missing",
            "give it a name, such as `http`",
        );
    }
    if server.hosts.is_empty() {
        left_out(
            findings,
            "hosts",
            "no hosts",
            "name at least one; `*` is any",
        );
    }
    for (index, host) in server.hosts.iter().enumerate() {
        if let Err(error) = server_host(host) {
            findings.left_out(
                format!("{path}.hosts[{index}]"),
                "host",
                &error.to_string(),
                "`web.example.com`, `*.example.com`, `*`, or one of these after `namespace/`",
            );
        }
    }
    if server.port.target_port.is_some_and(|port| port != 0) {
        let message = "has no effect, in Istio neither; ignored";
        findings.warning(format!("{path}.port.targetPort"), message, "remove it");
    }
    if let Err(told) = server_tls::check(server, &format!("{path}.tls"), findings) {
        left_out(findings, told.field, &told.message, told.fix);
    }
    if server.port.target_port.is_some_and(|port| port != 0) {
        let message = "has no effect, in Istio neither; ignored";
        findings.warning(format!("{path}.port.targetPort"), message, "remove it");
    }
    if server.bind.as_ref().is_some_and(|bind| !bind.is_empty()) {
        findings.warning(
            format!("{path}.bind"),
            "not supported by this version; this server is left out",
            "remove it to listen on all addresses",
        );
    }
    findings.ignored(
        format!("{path}.defaultEndpoint"),
        server.default_endpoint.is_some(),
    );
    is_served && server.read_hosts().next().is_some()
}
