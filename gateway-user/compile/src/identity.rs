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
}
