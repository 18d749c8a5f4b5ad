//! A server of a Gateway: what it speaks, and which hosts it has for a VirtualService.

use nodegate_resources::{
    istio::{self, hosts::ServerHost, words::ServerProtocol},
    lookup::{full_host, is_host_within},
    object::Object,
    validate::is_good_server_tls,
};
use nodegate_values::diagnostic::{Diagnostic, Severity};

use super::binding::BoundService;

/// A server of a Gateway.
#[derive(Clone, Copy)]
pub(super) struct GatewayServer<'r> {
    pub(super) gateway: &'r Object,
    /// Place in `spec.servers`.
    pub(super) index: usize,
    pub(super) spec: &'r istio::Server,
    /// The Gateway's port number: a Service port.
    pub(super) port: u16,
}

/// What the listener of a server does with connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListenerKind {
    Http,
    Tcp,
    /// The name that is asked for tells the servers apart.
    Tls,
}

// === impl ListenerKind ===

impl ListenerKind {
    /// What a server speaks; none for what is left out, which validation has told.
    pub(super) fn of(gateway: &Object, server: &istio::Server) -> Option<Self> {
        let is_bound = server.bind.as_ref().is_some_and(|bind| !bind.is_empty());
        if is_bound || server.port.name.is_empty() || server.hosts.is_empty() {
            return None;
        }
        if !is_good_server_tls(gateway, server) {
            return None;
        }
        match server.port.protocol() {
            Ok(ServerProtocol::Http) => Some(Self::Http),
            Ok(ServerProtocol::Tcp) => Some(Self::Tcp),
            Ok(ServerProtocol::Https | ServerProtocol::Tls) => Some(Self::Tls),
            Err(_) => None,
        }
    }

    /// Whether servers of the two kinds can share a port.
    pub(super) fn shares_with(self, other: Self) -> bool {
        self == other && self != Self::Tcp
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
        }
    }
}

// === impl GatewayServer ===

impl GatewayServer<'_> {
    pub(super) fn report(
        &self,
        severity: Severity,
        message: impl Into<String>,
        fix: impl Into<Option<String>>,
    ) -> Diagnostic {
        let path = format!("spec.servers[{}].port.number", self.index);
        self.gateway.report(severity, path, message, fix)
    }

    pub(super) fn conflict(
        &self,
        kind: ListenerKind,
        first: &Self,
        first_kind: ListenerKind,
    ) -> Diagnostic {
        let path = format!("spec.servers[{}].port.number", first.index);
        let place = first.gateway.origin.location(&path);
        let message = format!(
            "port {} is taken by the {} server of {}{}; this {} server is left out",
            self.port,
            first_kind.name(),
            first.gateway.key,
            place.map(|place| format!(" ({place})")).unwrap_or_default(),
            kind.name(),
        );
        self.report(Severity::Error, message, "use another port".to_owned())
    }

    /// What is to be said of the first of two that cannot share a port.
    pub(super) fn kept(
        &self,
        kind: ListenerKind,
        other: &Self,
        other_kind: ListenerKind,
    ) -> Diagnostic {
        let message = format!(
            "port {} is that of this {} server; the {} server of {} for it is left out",
            self.port,
            kind.name(),
            other_kind.name(),
            other.gateway.key,
        );
        self.report(Severity::Info, message, None)
    }

    /// The domains that this server serves for a VirtualService: of each pair of hosts that have
    /// something in common, the narrower one (`Names.Intersection` of istio's pkg/config/host).
    pub(super) fn domains(&self, service: &BoundService<'_>) -> Vec<String> {
        let hosts = service.spec.read_hosts();
        self.domains_of(hosts, &service.object.key.namespace)
    }

    /// The same for hosts of a VirtualService in `namespace`.
    pub(super) fn domains_of(
        &self,
        hosts: impl Iterator<Item = String>,
        namespace: &str,
    ) -> Vec<String> {
        let hosts: Vec<_> = hosts.map(|host| full_host(&host, namespace)).collect();
        let mut domains = Vec::new();
        for server_host in self.spec.read_hosts() {
            if !self.is_for(&server_host, namespace) {
                continue;
            }
            let server_host = server_host.domain;
            for host in &hosts {
                let narrower = if is_host_within(host, &server_host) {
                    host.clone()
                } else if is_host_within(&server_host, host) {
                    server_host.clone()
                } else {
                    continue;
                };
                if !domains.contains(&narrower) {
                    domains.push(narrower);
                }
            }
        }
        domains
    }

    /// Whether requests in the clear are sent to `https`.
    pub(super) fn redirects_to_https(&self) -> bool {
        self.spec.tls.as_ref().is_some_and(|tls| tls.https_redirect)
    }

    /// The hosts that are redirected even where no VirtualService serves them: those for VirtualServices of any
    /// namespace. With a namespace, Istio waits for a VirtualService of it, so that no other Gateway loses the
    /// host (`buildGatewayHTTPRouteConfig` of istio's pilot/pkg/networking/core/gateway.go: the text is the
    /// domain, without `*/`).
    pub(super) fn own_domains(&self) -> Vec<String> {
        let mut domains = Vec::new();
        let of_any = |host: &ServerHost<'_>| host.namespace == "*";
        for host in self.spec.read_hosts().filter(of_any) {
            if !domains.contains(&host.domain) {
                domains.push(host.domain);
            }
        }
        domains
    }

    /// Whether a host of this server is for VirtualServices of `namespace`: `host` and `*/host` are for
    /// all, `./host` is for those of the Gateway's own namespace, `ns/host` for those of `ns`.
    fn is_for(&self, host: &ServerHost<'_>, namespace: &str) -> bool {
        match host.namespace {
            "*" => true,
            "." => self.gateway.key.namespace == namespace,
            its => its == namespace,
        }
    }
}
