//! What a node's kube-proxy goes by.

use nodegate_compile::{NodeIdentity, kube_proxy};
use nodegate_model::service::ServicePort;
use nodegate_resources::Resources;
use nodegate_values::diagnostic::Diagnostic;
use serde::{Deserialize, Serialize};

use super::config::{ConfigError, KubeProxyArgs, KubeProxyConfig};

/// A node's kube-proxy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KubeProxyNode {
    /// The Services that it has.
    pub services: Vec<ServicePort>,
    /// How it is configured.
    pub config: KubeProxyConfig,
}

impl KubeProxyNode {
    /// One with these flags, where these objects are. What is wrong with Services is added to
    /// `diagnostics`.
    ///
    /// # Errors
    ///
    /// If kube-proxy would not start with these flags there.
    pub fn new(
        resources: &Resources,
        args: &KubeProxyArgs,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Result<Self, ConfigError> {
        let config = KubeProxyConfig::new(args, resources)?;
        let node = NodeIdentity::named(&args.hostname_override);
        let services = kube_proxy(resources, &node, diagnostics);
        Ok(Self { services, config })
    }
}
