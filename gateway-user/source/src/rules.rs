//! Services that are read from the rules of a kube-proxy.

use nodegate_iptables::ports::KubeProxyFacts;
use nodegate_model::service::ServicePort;
use nodegate_values::diagnostic::Diagnostic;

/// What the rules say, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The Services, sorted by name and protocol.
    pub services: Vec<ServicePort>,
    /// kube-proxy's flags, as far as the rules tell.
    pub facts: KubeProxyFacts,
    /// Which programs print the rules.
    pub programs: Vec<&'static str>,
    /// What is wrong with the rules.
    pub diagnostics: Vec<Diagnostic>,
}
