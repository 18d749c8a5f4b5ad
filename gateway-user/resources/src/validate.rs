//! What the API server or istiod would refuse about one object, and what this version of nodegate
//! does not act on.

mod gateway;
mod policy;
mod server_tls;
mod service;
mod service_entry;
mod virtual_service;
mod workload_entry;

use std::net::IpAddr;

use nodegate_values::{
    diagnostic::{Diagnostic, Severity},
    port::port,
};

use super::{
    istio::{Server, Subset, words::Word},
    names,
    object::{Body, Object},
};

pub(crate) use service::NODE_PORTS;

/// What was found about an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What there is to say.
    pub diagnostics: Vec<Diagnostic>,
    /// Whether it must not come into force. An error about something that stands by itself, such as one of
    /// several hosts, takes down that and not the object.
    pub refused: bool,
}

/// Looks one object over.
pub fn validate(object: &Object) -> Verdict {
    let mut findings = Findings {
        object,
        verdict: Verdict::default(),
    };
    if matches!(object.body, Body::PodMaker(_)) {
        // Nothing in them is judged here.
        return findings.verdict;
    }
    findings.metadata();
    match &object.body {
        Body::Service(service) => service::check(service, &mut findings),
        Body::Gateway(gateway) => gateway::check(gateway, &mut findings),
        Body::VirtualService(service) => virtual_service::check(service, &mut findings),
        Body::DestinationRule(rule) => policy::check(rule, &mut findings),
        Body::ServiceEntry(entry) => service_entry::check(entry, &mut findings),
        Body::WorkloadEntry(workload) => workload_entry::check(workload, &mut findings),
        Body::Namespace(_) => injection(&mut findings),
        Body::Pod(_)
        | Body::Node(_)
        | Body::Secret(_)
        | Body::EndpointSlice(_)
        | Body::PodMaker(_)
        | Body::AuthorizationPolicy(_)
        | Body::RequestAuthentication(_) => {}
    }
    findings.verdict
}

/// Whether a subset of a DestinationRule can be served.
pub(crate) fn is_good_subset(object: &Object, subset: &Subset) -> bool {
    let mut findings = Findings {
        object,
        verdict: Verdict::default(),
    };
    policy::one_subset(subset, "", &mut findings)
}

/// Whether a server of a Gateway can be served with what it says of TLS.
pub fn is_good_server_tls(gateway: &Object, server: &Server) -> bool {
    let mut findings = Findings {
        object: gateway,
        verdict: Verdict::default(),
    };
    server_tls::check(server, "", &mut findings).is_ok()
}

/// What was found about an object.
struct Findings<'o> {
    object: &'o Object,
    verdict: Verdict,
}

impl Findings<'_> {
    /// What the object can't be in force with: without it, something else would happen than its author
    /// wants.
    fn error(&mut self, path: impl Into<String>, message: impl Into<String>, fix: &str) {
        self.verdict.refused = true;
        self.add(Severity::Error, path, message, fix);
    }

    /// What the object is in force without. Whoever compiles it leaves the same out.
    fn left_out(&mut self, path: impl Into<String>, what: &str, message: &str, fix: &str) {
        let message = format!("{message}; this {what} is left out");
        self.add(Severity::Error, path, message, fix);
    }

    fn warning(&mut self, path: impl Into<String>, message: impl Into<String>, fix: &str) {
        self.add(Severity::Warning, path, message, fix);
    }

    fn info(&mut self, path: impl Into<String>, message: impl Into<String>, fix: &str) {
        self.add(Severity::Info, path, message, fix);
    }

    /// An action that this version leaves out; the rest of the object is applied.
    fn ignored(&mut self, path: impl Into<String>, given: bool) {
        if given {
            self.warning(path, "not supported by this version; ignored", "");
        }
    }

    /// A field that must not be ignored: without its effect the object would do something else than its
    /// author wants.
    fn unsupported(&mut self, path: impl Into<String>, given: bool, why: &str) {
        if given {
            let message = format!("not supported by this version, and {why}");
            self.error(path, message, "remove it");
        }
    }

    fn port(&mut self, path: impl Into<String>, number: i64) {
        if let Err(error) = port(number) {
            self.error(path, error.to_string(), "1 to 65535");
        }
    }

    /// A word must be one of those that are known.
    fn one_of<W: Word>(&mut self, path: impl Into<String>, word: &str) {
        let Err(error) = W::read(word) else {
            return;
        };
        let words = W::WORDS.iter().map(|(word, _)| *word);
        let named: Vec<_> = words.filter(|word| !word.is_empty()).collect();
        let fix = format!("one of {}", named.join(", "));
        self.error(path, error.to_string(), &fix);
    }

    fn address(&mut self, path: impl Into<String>, text: &str) -> Option<IpAddr> {
        let address = text.parse().ok();
        if address.is_none() {
            let message = format!("`{text}` is not an IP address");
            self.error(path, message, "an address such as 192.168.96.50");
        }
        address
    }

    fn add(
        &mut self,
        severity: Severity,
        path: impl Into<String>,
        message: impl Into<String>,
        fix: &str,
    ) {
        let fix = (!fix.is_empty()).then(|| fix.to_owned());
        let diagnostic = self.object.report(severity, path, message, fix);
        self.verdict.diagnostics.push(diagnostic);
    }

    fn metadata(&mut self) {
        let key = &self.object.key;
        if !names::is_subdomain(&key.name) {
            let message = format!("`{}` is not a name", key.name);
            self.error(
                "metadata.name",
                message,
                "lower-case letters, digits, `-` and `.`, at most 253",
            );
        }
        if !key.namespace.is_empty() && !names::is_label(&key.namespace) {
            let message = format!("`{}` is not a namespace", key.namespace);
            self.error(
                "metadata.namespace",
                message,
                "lower-case letters, digits and `-`, at most 63",
            );
        }
    }
}

/// Sidecar injection is asked for by labels of the Namespace
/// (istio.io/docs/setup/additional-setup/sidecar-injection).
fn injection(findings: &mut Findings<'_>) {
    let labels = findings
        .object
        .metadata()
        .labels
        .clone()
        .unwrap_or_default();
    for label in ["istio-injection", "istio.io/rev"] {
        if labels.contains_key(label) {
            findings.info(
                format!("metadata.labels.{label}"),
                "no sidecars are injected: traffic is handled on the node, with this label or without it",
                "",
            );
        }
    }
}

#[cfg(test)]
mod tests;
