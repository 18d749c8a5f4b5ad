//! `VirtualService.spec.http[]`

use std::collections::BTreeMap;

use nodegate_values::duration::Interval;
use serde::{Deserialize, Serialize};

use super::{Destination, Opaque, RouteDestination};

/// `VirtualService.spec.http[]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRoute {
    /// Name, for logs.
    pub name: String,
    /// Conditions, of which one must be met; empty: none.
    #[serde(rename = "match")]
    pub matches: Vec<HttpMatch>,
    /// Where to, by weight.
    pub route: Vec<RouteDestination>,
    /// Changes to the request's target.
    pub rewrite: Option<Rewrite>,
    /// Sends the client elsewhere.
    pub redirect: Option<Redirect>,
    /// Answers.
    pub direct_response: Option<DirectResponse>,
    /// Another VirtualService says the rest.
    pub delegate: Option<Delegate>,
    /// How long all may take.
    pub timeout: Option<Interval>,
    /// When to try again.
    pub retries: Option<Retries>,
    /// Failing on purpose.
    pub fault: Option<Fault>,
    /// Who gets a copy.
    pub mirror: Option<Destination>,
    /// Who get copies.
    pub mirrors: Vec<MirrorPolicy>,
    /// Deprecated: in whole percent.
    pub mirror_percent: Option<i64>,
    /// Of how many requests `mirror` gets a copy.
    pub mirror_percentage: Option<Percent>,
    /// Who may use the answers in a browser.
    pub cors_policy: Option<CorsPolicy>,
    /// Changes of headers.
    pub headers: Option<Headers>,
}

/// `VirtualService.spec.http[].match[]`: all that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
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
    /// `http` or `https`.
    pub scheme: Option<StringMatch>,
    /// The method.
    pub method: Option<StringMatch>,
    /// The host, with the port if the client named one.
    pub authority: Option<StringMatch>,
    /// Headers, by lower-case name.
    pub headers: BTreeMap<String, StringMatch>,
    /// Parameters of the query, by name.
    pub query_params: BTreeMap<String, StringMatch>,
    /// What headers must *not* look like.
    pub without_headers: BTreeMap<String, StringMatch>,
}

/// `StringMatch`: one of these. None at all stands for any value of what is there, where that can be
/// absent.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
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
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rewrite {
    /// Replaces what `match.uri` matched.
    pub uri: Option<String>,
    /// Replaces the host.
    pub authority: String,
    /// Replaces what a pattern matches in the path.
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

/// `VirtualService.spec.http[].rewrite.uriRegexRewrite`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RegexRewrite {
    /// The pattern.
    #[serde(rename = "match")]
    pub matches: String,
    /// The replacement, with `\\1` for groups.
    pub rewrite: String,
}

/// `VirtualService.spec.http[].redirect`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Redirect {
    /// Replaces the path.
    pub uri: String,
    /// Replaces the host.
    pub authority: String,
    /// Replaces the port.
    pub port: Option<i64>,
    /// `FROM_PROTOCOL_DEFAULT` or `FROM_REQUEST_PORT`.
    pub derive_port: Option<String>,
    /// Replaces the scheme.
    pub scheme: String,
    /// The status; 0: 301.
    pub redirect_code: i64,
    /// Replaces what `match.uri.prefix` matched.
    pub prefix_rewrite: String,
}

/// `VirtualService.spec.http[].directResponse`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DirectResponse {
    /// The status.
    pub status: i64,
    /// The body.
    pub body: Option<HttpBody>,
}

/// `VirtualService.spec.http[].directResponse.body`: one of these.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpBody {
    /// Text.
    pub string: Option<String>,
    /// Base64 (RFC 4648).
    pub bytes: Option<String>,
}

/// `VirtualService.spec.http[].delegate`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Delegate {
    /// Name of a VirtualService without hosts.
    pub name: String,
    /// Its namespace; empty: the same.
    pub namespace: String,
}

/// `VirtualService.spec.http[].retries`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Retries {
    /// How often to try again; 0: never.
    pub attempts: i64,
    /// How long one try may take.
    pub per_try_timeout: Option<Interval>,
    /// Conditions and status codes, with commas between.
    pub retry_on: String,
    /// Whether to turn to other localities.
    pub retry_remote_localities: Option<bool>,
    /// Whether to avoid endpoints that have been tried.
    pub retry_ignore_previous_hosts: Option<bool>,
    /// The first pause.
    pub backoff: Option<Interval>,
}

/// `VirtualService.spec.http[].fault`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Fault {
    /// Waiting.
    pub delay: Option<Delay>,
    /// Answering.
    pub abort: Option<Abort>,
}

/// `VirtualService.spec.http[].fault.delay`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Delay {
    /// Deprecated: in whole percent.
    pub percent: i64,
    /// Of how many requests.
    pub percentage: Option<Percent>,
    /// How long.
    pub fixed_delay: Option<Interval>,
    /// Not acted on by Istio either.
    pub exponential_delay: Option<Interval>,
}

/// `VirtualService.spec.http[].fault.abort`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Abort {
    /// The status.
    pub http_status: Option<i64>,
    /// Name of a gRPC status, or its number.
    pub grpc_status: Option<String>,
    /// Not acted on by Istio either.
    pub http2_error: Option<String>,
    /// Of how many requests; none: of none.
    pub percentage: Option<Percent>,
}

/// `Percent`
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Percent {
    /// 0 to 100.
    pub value: f64,
}

/// `VirtualService.spec.http[].mirrors[]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MirrorPolicy {
    /// Who gets a copy.
    pub destination: Destination,
    /// Of how many requests; none: of all.
    pub percentage: Option<Percent>,
}

/// `VirtualService.spec.http[].corsPolicy`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CorsPolicy {
    /// Deprecated: origins, as they are.
    pub allow_origin: Option<Vec<String>>,
    /// Origins.
    pub allow_origins: Option<Vec<StringMatch>>,
    /// `access-control-allow-methods`
    pub allow_methods: Vec<String>,
    /// `access-control-allow-headers`
    pub allow_headers: Vec<String>,
    /// `access-control-expose-headers`
    pub expose_headers: Vec<String>,
    /// `access-control-max-age`
    pub max_age: Option<Interval>,
    /// `access-control-allow-credentials`
    pub allow_credentials: Option<bool>,
    /// `FORWARD` or `IGNORE`.
    pub unmatched_preflights: Option<String>,
}

/// `Headers`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Headers {
    /// Of requests.
    pub request: HeaderChanges,
    /// Of responses.
    pub response: HeaderChanges,
}

/// `Headers.HeaderOperations`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderChanges {
    /// Replaces.
    pub set: BTreeMap<String, String>,
    /// Adds to what is there.
    pub add: BTreeMap<String, String>,
    /// Removes.
    pub remove: Vec<String>,
}

// === impl HttpRoute ===

impl HttpRoute {
    /// Whether every request that comes this far is for this route (`isCatchAllRoute` of istio's
    /// route.go).
    pub fn takes_all(&self) -> bool {
        self.matches.is_empty() || self.matches.iter().any(HttpMatch::takes_all)
    }
}

// === impl HttpMatch ===

impl HttpMatch {
    fn takes_all(&self) -> bool {
        let any_path = self.uri.as_ref().is_none_or(StringMatch::is_any_path);
        let nothing_else = Self {
            name: self.name.clone(),
            uri: self.uri.clone(),
            stat_prefix: self.stat_prefix.clone(),
            ignore_uri_case: self.ignore_uri_case,
            ..Self::default()
        };
        any_path && *self == nothing_else
    }
}

// === impl StringMatch ===

impl StringMatch {
    fn is_any_path(&self) -> bool {
        self.exact.is_none()
            && (self.prefix.as_deref() == Some("/") || self.regex.as_deref() == Some(".*"))
    }
}
