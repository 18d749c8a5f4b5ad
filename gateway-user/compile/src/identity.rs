//! The node and the gateway pod that resources are compiled for.

use std::{collections::BTreeMap, str::FromStr};

/// The labels by which Istio's own manifests choose their ingress gateway.
pub const INGRESS_GATEWAY: (&str, &str) = ("istio", "ingressgateway");

/// The node that this is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeIdentity {
    /// Name of the Node object.
    pub name: String,
    /// Who follows TCP routes that are nothing but weights.
    pub tcp_shifting: TcpShifting,
}

/// Who follows a gateway's TCP routes that are nothing but weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TcpShifting {
    /// The kernel where it can, else the gateway's proxy.
    #[default]
    Auto,
    /// The same, and where the kernel can't, that is told.
    Kernel,
    /// The gateway's proxy.
    Proxy,
}

// === impl NodeIdentity ===

impl NodeIdentity {
    /// The node of this name, which is told nothing else.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }
}

// === impl TcpShifting ===

/// No such way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not who follows a TCP route (fix: auto, kernel or proxy)")]
pub struct UnknownShifting(pub String);

impl FromStr for TcpShifting {
    type Err = UnknownShifting;

    fn from_str(text: &str) -> Result<Self, UnknownShifting> {
        match text {
            "auto" => Ok(Self::Auto),
            "kernel" => Ok(Self::Kernel),
            "proxy" => Ok(Self::Proxy),
            _ => Err(UnknownShifting(text.to_owned())),
        }
    }
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
