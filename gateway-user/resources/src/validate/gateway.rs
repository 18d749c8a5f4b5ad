//! Gateways (`ValidateGateway` of istio's pkg/config/validation).

use super::{Findings, names};
use crate::istio::{
    Gateway, Server,
    words::{ServerProtocol, Word as _},
};

pub(super) fn check(gateway: &Gateway, findings: &mut Findings<'_>) {
    if gateway.spec.servers.is_empty() {
        findings.error(
            "spec.servers",
            "no servers",
            "name at least one port and its hosts",
        );
    }
    for (index, server) in gateway.spec.servers.iter().enumerate() {
        one_server(server, &format!("spec.servers[{index}]"), findings);
    }
}

fn one_server(server: &Server, path: &str, findings: &mut Findings<'_>) {
    findings.port(format!("{path}.port.number"), server.port.number);
    let protocol = server.port.protocol.to_ascii_uppercase();
    let read = server.port.protocol();
    if protocol.is_empty() {
        findings.error(format!("{path}.port.protocol"), "missing", "HTTP or TCP");
    } else if read.is_err() {
        let message = format!("`{}` is not a protocol", server.port.protocol);
        let known: Vec<_> = ServerProtocol::WORDS
            .iter()
            .map(|(word, _)| *word)
            .collect();
        let fix = format!("one of {}", known.join(", "));
        findings.error(format!("{path}.port.protocol"), message, &fix);
    }
    if server.port.name.is_empty() {
        findings.error(
            format!("{path}.port.name"),
            "missing",
            "give it a name, such as `http`",
        );
    }
    if server.hosts.is_empty() {
        findings.error(
            format!("{path}.hosts"),
            "no hosts",
            "name at least one; `*` is any",
        );
    }
    for (index, host) in server.hosts.iter().enumerate() {
        let domain = host
            .split_once('/')
            .map_or(host.as_str(), |(_, domain)| domain);
        let namespace = host.split_once('/').map(|(namespace, _)| namespace);
        let namespace_is_good =
            namespace.is_none_or(|name| matches!(name, "*" | ".") || names::is_label(name));
        if !namespace_is_good || !names::is_host(&domain.to_ascii_lowercase()) {
            let message = format!("`{host}` is not a host");
            findings.error(
                format!("{path}.hosts[{index}]"),
                message,
                "`web.example.com`, `*.example.com`, `*`, or one of these after `namespace/`",
            );
        }
    }
    let redirects = server.tls.as_ref().is_some_and(|tls| tls.https_redirect);
    if matches!(read, Ok(ServerProtocol::Https | ServerProtocol::Tls)) {
        let message =
            format!("{protocol} is not supported by this version; this server is left out");
        findings.warning(format!("{path}.port.protocol"), message, "");
    } else if !(redirects && read == Ok(ServerProtocol::Http)) {
        findings.ignored(format!("{path}.tls"), server.tls.is_some());
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
}
