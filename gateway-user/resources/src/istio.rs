//! The `networking.istio.io` and `security.istio.io` APIs, as far as manifests may name it.
//!
//! Every field of the API is here, so that a misspelled one can be told from one that this version
//! does not act on; the latter are [`Opaque`], and [`super::validate`] says what becomes of them.
//! v1alpha3, v1beta1 and v1 are the same (istio/api `networking/v1*`).

use std::collections::BTreeMap;

mod entry;
pub mod hosts;
mod http;
mod l4;
mod policy;
pub mod reading;
mod secrets;
mod security;
mod server;
pub mod words;
mod workload;

pub use entry::{EntryPort, EntrySelector, ServiceEntrySpec, WorkloadEntry};
pub use http::{
    Abort, CorsPolicy, Delay, Delegate, DirectResponse, Fault, HeaderChanges, Headers, HttpBody,
    HttpMatch, HttpRoute, MirrorPolicy, Percent, Redirect, RegexRewrite, Retries, Rewrite,
    StringMatch,
};
pub use policy::{
    ConnectionPool, ConsistentHash, Cookie, CookieAttribute, Distribute, Failover, HttpPool,
    Keepalive, LoadBalancer, LocalityLb, Maglev, OutlierDetection, PortPolicy, RetryBudget,
    RingHash, TcpPool, Tls, TrafficPolicy, Warmup,
};

pub use l4::{L4Match, TcpRoute, TlsMatch, TlsRoute};
pub use secrets::{own_secret, secret_names};
pub use security::{AuthorizationPolicy, PolicySelector, RequestAuthentication};
pub use server::{Port, Server, ServerCertificate, ServerTls};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

/// The content of a field that this version does not look into.
pub type Opaque = serde_yaml::Value;

/// An object of a kind that Kubernetes knows from a CustomResourceDefinition.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Custom<Spec> {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// The object's metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What the author wants.
    #[serde(default)]
    pub spec: Spec,
    /// Written by istiod.
    pub status: Option<Opaque>,
}

/// Which ports and hosts a gateway pod serves.
pub type Gateway = Custom<GatewaySpec>;
/// Where requests for hosts go.
pub type VirtualService = Custom<VirtualServiceSpec>;
/// Subsets and policies of a destination.
pub type DestinationRule = Custom<DestinationRuleSpec>;
/// A host that is no Service.
pub type ServiceEntry = Custom<ServiceEntrySpec>;
/// An endpoint that is no pod, of ServiceEntries and Services that select it.
pub type Workload = Custom<WorkloadEntry>;

/// `Gateway.spec`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewaySpec {
    /// Labels of the gateway pods, in any namespace. Empty: all gateway pods.
    pub selector: BTreeMap<String, String>,
    /// What they serve.
    pub servers: Vec<Server>,
}

/// `VirtualService.spec`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VirtualServiceSpec {
    /// The hosts of which this is about.
    pub hosts: Vec<String>,
    /// The gateways that apply this; empty: only sidecars (`mesh`).
    pub gateways: Vec<String>,
    /// HTTP routes, in order.
    pub http: Vec<HttpRoute>,
    /// Routes for TLS that is passed through.
    pub tls: Vec<TlsRoute>,
    /// TCP routes, in order.
    pub tcp: Vec<TcpRoute>,
    /// The namespaces that see this: names, `.` or `*`.
    pub export_to: Vec<String>,
}

/// A share of a route's traffic, of HTTP and TCP routes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteDestination {
    /// Where to.
    pub destination: Destination,
    /// Its share of the sum of weights.
    pub weight: i64,
    /// Changes of headers, of HTTP routes only.
    pub headers: Option<Headers>,
}

/// `Destination`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Destination {
    /// A Service: a full name, or a short one (without dots) in the same namespace.
    pub host: String,
    /// A subset that a DestinationRule names.
    pub subset: String,
    /// A port of the Service.
    pub port: Option<PortSelector>,
}

/// `Destination.port`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortSelector {
    /// The port's number.
    pub number: i64,
}

/// `DestinationRule.spec`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DestinationRuleSpec {
    /// The destination: a full name, or a short one (without dots) in the same namespace.
    pub host: String,
    /// Named parts of the destination's pods.
    pub subsets: Vec<Subset>,
    /// The namespaces that see this: names, `.` or `*`.
    pub export_to: Vec<String>,
    /// How to treat the destination.
    pub traffic_policy: Option<TrafficPolicy>,
    /// The pods whose proxies this is for.
    pub workload_selector: Option<WorkloadSelector>,
}

/// `DestinationRule.spec.subsets[]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Subset {
    /// Name of the subset.
    pub name: String,
    /// Labels of its pods.
    pub labels: BTreeMap<String, String>,
    /// How to treat this part, where it differs.
    pub traffic_policy: Option<TrafficPolicy>,
}

/// `DestinationRule.spec.workloadSelector`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadSelector {
    /// Labels of the pods.
    pub match_labels: BTreeMap<String, String>,
}
