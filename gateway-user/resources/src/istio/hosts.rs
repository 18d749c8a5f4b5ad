//! The hosts that objects name.
//!
//! Each stands by itself: one that is none is left out, and the others are served. Validation reports what
//! cannot be read, and the compiler takes what can.

use std::net::{IpAddr, Ipv6Addr};

use nodegate_values::port::port;

use super::{EntryPort, Server, ServiceEntrySpec, VirtualServiceSpec, WorkloadEntry};
use crate::names;

/// A host of a Gateway's server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHost<'h> {
    /// For VirtualServices of which namespace it is: a name, `.` for the Gateway's own, `*` for any.
    pub namespace: &'h str,
    /// Lower case.
    pub domain: String,
}

/// A text that is not a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a host")]
pub struct NotAHost(String);

/// Reads a host, or the wildcard of hosts. Lower case.
///
/// # Errors
///
/// If it is neither.
pub fn host(host: &str) -> Result<String, NotAHost> {
    let lower = host.to_ascii_lowercase();
    if lower.parse::<Ipv6Addr>().is_ok() {
        // As requests have it (`IPv6Compliant` of istio's pilot/pkg/networking/util).
        return Ok(format!("[{lower}]"));
    }
    if names::is_host(&lower) {
        Ok(lower)
    } else {
        Err(NotAHost(host.to_owned()))
    }
}

/// Reads a host of a server: `host`, `namespace/host`, `./host` or `*/host`
/// (`ValidateNamespaceSlashWildcardHostname` of istio's pkg/config/validation/agent).
///
/// # Errors
///
/// If it is none of them.
pub fn server_host(text: &str) -> Result<ServerHost<'_>, NotAHost> {
    let (namespace, domain) = text.split_once('/').unwrap_or(("*", text));
    match host(domain) {
        Ok(domain) if matches!(namespace, "*" | ".") || names::is_label(namespace) => {
            Ok(ServerHost { namespace, domain })
        }
        _ => Err(NotAHost(text.to_owned())),
    }
}

// === impl Server ===

impl Server {
    /// The hosts that can be read. `*/*` stands for all others, too (`sanitizeServerHostNamespace` of
    /// istio's pilot/pkg/model).
    pub fn read_hosts(&self) -> impl Iterator<Item = ServerHost<'_>> {
        let any = self.hosts.iter().position(|host| host == "*/*");
        let hosts = match any {
            Some(index) => &self.hosts[index..=index],
            None => self.hosts.as_slice(),
        };
        hosts.iter().filter_map(|host| server_host(host).ok())
    }
}

// === impl VirtualServiceSpec ===

impl VirtualServiceSpec {
    /// The hosts that can be read, in lower case.
    pub fn read_hosts(&self) -> impl Iterator<Item = String> {
        self.hosts.iter().filter_map(|text| host(text).ok())
    }
}

// === impl ServiceEntrySpec ===

impl ServiceEntrySpec {
    /// The hosts that can be read, in lower case. `*` would be everything, and addresses are no names
    /// (`ValidateServiceEntry` of istio's pkg/config/validation).
    pub fn read_hosts(&self) -> impl Iterator<Item = String> {
        let hosts = self.hosts.iter().filter_map(|text| host(text).ok());
        hosts.filter(|host| host != "*" && !host.starts_with('['))
    }

    /// The ports that can be read; of two with one number or one name, the first.
    pub fn read_ports(&self) -> impl Iterator<Item = &EntryPort> {
        let ports = self.ports.iter().enumerate();
        let good = ports.filter(|(index, port)| {
            let mut before = self.ports[..*index].iter();
            let twice = |other: &EntryPort| other.number == port.number || other.name == port.name;
            port.is_good() && !before.any(twice)
        });
        good.map(|(_, port)| port)
    }

    /// Whether endpoints may be named by names, which are resolved.
    pub fn is_resolved(&self) -> bool {
        matches!(self.resolution.as_deref(), Some("DNS" | "DNS_ROUND_ROBIN"))
    }
}

// === impl EntryPort ===

impl EntryPort {
    fn is_good(&self) -> bool {
        let target = self.target_port == 0 || port(self.target_port).is_ok();
        port(self.number).is_ok() && target && !self.name.is_empty()
    }
}

// === impl WorkloadEntry ===

impl WorkloadEntry {
    /// Whether its address is one, or a name where names are resolved.
    pub fn is_somewhere(&self, resolved: bool) -> bool {
        let address = self.address.as_str();
        let is_address = address.parse::<IpAddr>().is_ok();
        let is_name = || !address.starts_with('*') && host(address).is_ok();
        is_address || resolved && is_name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_host_may_be_for_one_namespace() {
        let read = |text| {
            let host = server_host(text).ok()?;
            Some((host.namespace, host.domain))
        };
        let is = |namespace, domain: &str| Some((namespace, domain.to_owned()));
        assert_eq!(read("Web.x"), is("*", "web.x"));
        assert_eq!(read("*/*"), is("*", "*"));
        assert_eq!(read("./*.x"), is(".", "*.x"));
        assert_eq!(read("ns/a"), is("ns", "a"));
        for none in ["~/a", "ns/", "/a", "N/a", "a b", "a.*"] {
            assert_eq!(read(none), None, "{none}");
        }
    }
}
