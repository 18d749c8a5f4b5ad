//! The node and the gateway pod that resources are compiled for.

use std::collections::BTreeMap;

/// The labels by which Istio's own manifests choose their ingress gateway.
pub const INGRESS_GATEWAY: (&str, &str) = ("istio", "ingressgateway");

/// The node that this is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeIdentity {
    /// Name of the Node object.
    pub name: String,
}

/// The gateway pod that this is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayIdentity {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's labels, by which Gateways and Services choose it.
    pub labels: BTreeMap<String, String>,
    /// What becomes of requests that a policy may be about.
    pub unenforced: Unenforced,
}

/// What becomes of requests where a policy is for the gateway that this version does not enforce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unenforced {
    /// They are served as if it were not there.
    #[default]
    Pass,
    /// All of them are answered with 403.
    Refuse,
}
