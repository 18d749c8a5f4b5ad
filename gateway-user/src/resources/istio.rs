//! The `networking.istio.io` API, as far as manifests may name it.
//!
//! Every field of the API is here, so that a misspelled one can be told from one that this version
//! does not act on; the latter are [`Opaque`], and [`super::validate`] says what becomes of them.
//! v1alpha3, v1beta1 and v1 are the same (istio/api `networking/v1*`).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

/// The content of a field that this version does not look into.
pub type Opaque = serde_yaml::Value;

/// An object of a kind that Kubernetes knows from a CustomResourceDefinition.
#[derive(Clone, Debug, PartialEq, Deserialize)]
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

/// `Gateway.spec`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewaySpec {
    /// Labels of the gateway pods, in any namespace. Empty: all gateway pods.
    pub selector: BTreeMap<String, String>,
    /// What they serve.
    pub servers: Vec<Server>,
}

/// `Gateway.spec.servers[]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Server {
    /// The port.
    pub port: Port,
    /// The address to listen on.
    pub bind: Option<String>,
    /// `host`, `namespace/host`, `./host` or `*/host`.
    pub hosts: Vec<String>,
    /// How TLS is terminated, or passed on.
    pub tls: Option<Opaque>,
    /// Where to send what nothing else wants.
    pub default_endpoint: Option<Opaque>,
    /// Name of the server.
    pub name: Option<String>,
}

/// `Gateway.spec.servers[].port`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Port {
    /// A port of the *Service* in front of the gateway pods.
    pub number: i64,
    /// `HTTP`, `HTTP2`, `GRPC`, `HTTPS`, `TLS`, `TCP`, …
    pub protocol: String,
    /// Name of the port.
    pub name: String,
    /// Deprecated, and without effect in Istio too.
    pub target_port: Option<i64>,
}

/// `VirtualService.spec`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VirtualServiceSpec {
    /// The hosts of which this is about.
    pub hosts: Vec<String>,
    /// The gateways that apply this; empty: only sidecars (`mesh`).
    pub gateways: Vec<String>,
    /// HTTP routes, in order.
    pub http: Vec<HttpRoute>,
    /// Routes for TLS that is passed through.
    pub tls: Vec<Opaque>,
    /// TCP routes, in order.
    pub tcp: Vec<TcpRoute>,
    /// The namespaces that see this: names, `.` or `*`.
    pub export_to: Vec<String>,
}

/// `VirtualService.spec.http[]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRoute {
    /// Name, for logs.
    pub name: String,
    /// Conditions, of which one must be met; empty: none.
    #[serde(rename = "match")]
    pub matches: Vec<HttpMatch>,
    /// Where to, by weight.
    pub route: Vec<RouteDestination>,
    /// Changes to the request.
    pub rewrite: Option<Rewrite>,
    /// Not acted on in this version.
    pub redirect: Option<Opaque>,
    /// Not acted on in this version.
    pub direct_response: Option<Opaque>,
    /// Not acted on in this version.
    pub delegate: Option<Opaque>,
    /// Not acted on in this version.
    pub timeout: Option<Opaque>,
    /// Not acted on in this version.
    pub retries: Option<Opaque>,
    /// Not acted on in this version.
    pub fault: Option<Opaque>,
    /// Not acted on in this version.
    pub mirror: Option<Opaque>,
    /// Not acted on in this version.
    pub mirrors: Option<Opaque>,
    /// Not acted on in this version.
    pub mirror_percent: Option<Opaque>,
    /// Not acted on in this version.
    pub mirror_percentage: Option<Opaque>,
    /// Not acted on in this version.
    pub cors_policy: Option<Opaque>,
    /// Not acted on in this version.
    pub headers: Option<Opaque>,
}

/// `VirtualService.spec.http[].match[]`: all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpMatch {
    /// Name, for logs.
    pub name: String,
    /// The path.
    pub uri: Option<StringMatch>,
    /// The port of the Gateway's server; 0: any.
    pub port: i64,
    /// The gateways for which this counts; empty: those of the VirtualService.
    pub gateways: Vec<String>,
    /// Labels that the proxy itself must have.
    pub source_labels: BTreeMap<String, String>,
    /// The namespace that the proxy itself must be in.
    pub source_namespace: String,
    /// Prefix of the route's statistics.
    pub stat_prefix: Option<Opaque>,
    /// Whether upper and lower case count as the same in `uri`.
    pub ignore_uri_case: bool,
    /// Not acted on in this version.
    pub scheme: Option<Opaque>,
    /// Not acted on in this version.
    pub method: Option<Opaque>,
    /// Not acted on in this version.
    pub authority: Option<Opaque>,
    /// Not acted on in this version.
    pub headers: Option<Opaque>,
    /// Not acted on in this version.
    pub query_params: Option<Opaque>,
    /// Not acted on in this version.
    pub without_headers: Option<Opaque>,
}

/// `StringMatch`: exactly one of these.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StringMatch {
    /// Equals.
    pub exact: Option<String>,
    /// Begins with.
    pub prefix: Option<String>,
    /// Matches as a whole.
    pub regex: Option<String>,
}

/// `VirtualService.spec.http[].rewrite`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rewrite {
    /// Replaces what `match.uri` matched.
    pub uri: Option<String>,
    /// Not acted on in this version.
    pub authority: Option<Opaque>,
    /// Not acted on in this version.
    pub uri_regex_rewrite: Option<Opaque>,
}

/// A share of a route's traffic, of HTTP and TCP routes.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteDestination {
    /// Where to.
    pub destination: Destination,
    /// Its share of the sum of weights.
    pub weight: i64,
    /// Not acted on in this version.
    pub headers: Option<Opaque>,
}

/// `Destination`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
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
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortSelector {
    /// The port's number.
    pub number: i64,
}

/// `VirtualService.spec.tcp[]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpRoute {
    /// Conditions, of which one must be met; empty: none.
    #[serde(rename = "match")]
    pub matches: Vec<L4Match>,
    /// Where to, by weight.
    pub route: Vec<RouteDestination>,
}

/// `VirtualService.spec.tcp[].match[]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct L4Match {
    /// The port of the Gateway's server; 0: any.
    pub port: i64,
    /// The gateways for which this counts; empty: those of the VirtualService.
    pub gateways: Vec<String>,
    /// Without effect on a gateway.
    pub destination_subnets: Option<Opaque>,
    /// Without effect on a gateway.
    pub source_subnet: Option<Opaque>,
    /// Without effect on a gateway.
    pub source_labels: Option<Opaque>,
    /// Without effect on a gateway.
    pub source_namespace: Option<Opaque>,
}

/// `DestinationRule.spec`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DestinationRuleSpec {
    /// The destination: a full name, or a short one (without dots) in the same namespace.
    pub host: String,
    /// Named parts of the destination's pods.
    pub subsets: Vec<Subset>,
    /// The namespaces that see this: names, `.` or `*`.
    pub export_to: Vec<String>,
    /// Not acted on in this version.
    pub traffic_policy: Option<Opaque>,
    /// Not acted on in this version.
    pub workload_selector: Option<Opaque>,
}

/// `DestinationRule.spec.subsets[]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Subset {
    /// Name of the subset.
    pub name: String,
    /// Labels of its pods.
    pub labels: BTreeMap<String, String>,
    /// Not acted on in this version.
    pub traffic_policy: Option<Opaque>,
}

/// `ServiceEntry.spec`: known, so that its hosts are no misspelled ones; not acted on.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceEntrySpec {
    /// The hosts.
    pub hosts: Vec<String>,
    /// Not acted on in this version.
    pub addresses: Option<Opaque>,
    /// Not acted on in this version.
    pub ports: Option<Opaque>,
    /// Not acted on in this version.
    pub location: Option<Opaque>,
    /// Not acted on in this version.
    pub resolution: Option<Opaque>,
    /// Not acted on in this version.
    pub endpoints: Option<Opaque>,
    /// Not acted on in this version.
    pub workload_selector: Option<Opaque>,
    /// The namespaces that see this: names, `.` or `*`.
    pub export_to: Vec<String>,
    /// Not acted on in this version.
    pub subject_alt_names: Option<Opaque>,
}
