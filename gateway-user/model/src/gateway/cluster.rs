//! Clusters: endpoints, and how to treat them.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use http::HeaderName;
use nodegate_values::percentage::Percentage;
use serde::Serialize;

use super::serial;

/// Endpoints of a Service port or of a subset of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// `outbound|80|v1|simple.simple.svc.cluster.local`
    pub name: String,
    /// Sorted by address, without duplicates. Empty: `no healthy upstream`.
    pub endpoints: Vec<Endpoint>,
    /// Names to be resolved to further endpoints, again and again. Empty for most clusters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<DnsTarget>,
    /// What goes to the endpoints of each locality, in proportion; empty: what they weigh together.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<(Locality, u32)>,
    /// Whether endpoints speak HTTP/2 without being asked: a port named or of the `appProtocol`
    /// `http2`, `grpc` or `h2c`.
    pub http2: bool,
    /// `name.namespace` of the DestinationRule that the policy or the subset is from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// How to treat the endpoints.
    pub policy: ClusterPolicy,
}

/// An endpoint of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Where it is.
    pub address: SocketAddr,
    /// Its share among the endpoints; at least 1.
    pub weight: u32,
    /// Where in the world it is, if that is known.
    #[serde(skip_serializing_if = "Locality::is_empty")]
    pub locality: Locality,
    /// Those with the lowest number are asked, as long as enough of them are healthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub priority: u32,
}

/// Region, zone and sub-zone; each empty if unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Locality {
    /// `topology.kubernetes.io/region`
    pub region: String,
    /// `topology.kubernetes.io/zone`
    pub zone: String,
    /// `topology.istio.io/subzone`
    pub subzone: String,
}

/// A name whose addresses are endpoints.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsTarget {
    /// Name to resolve.
    pub host: String,
    /// Port of the endpoints.
    pub port: u16,
    /// Share among the endpoints.
    pub weight: u32,
    /// Whether all addresses are endpoints at once (`DNS`); else one at a time is
    /// (`DNS_ROUND_ROBIN`).
    pub all: bool,
    /// Where the endpoints are, if that is known.
    #[serde(skip_serializing_if = "Locality::is_empty")]
    pub locality: Locality,
    /// As that of endpoints.
    #[serde(skip_serializing_if = "is_zero")]
    pub priority: u32,
}

/// How to treat the endpoints of a cluster (`TrafficPolicy`, with nothing left open).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterPolicy {
    /// Whose turn it is.
    pub balancing: Balancing,
    /// How much at once.
    pub limits: ConnectionLimits,
    /// When to avoid an endpoint; none: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outliers: Option<OutlierDetection>,
    /// Whether and how to encrypt; none: not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<UpstreamTls>,
    /// How slowly new endpoints start; none: at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Warmup>,
    /// Whether near endpoints are preferred; none: no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locality: Option<LocalityPolicy>,
}

/// Whose turn it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Balancing {
    /// Of two endpoints at random the one with fewer requests.
    #[default]
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
    /// The address that the client connected to.
    Passthrough,
    /// The same endpoint for the same key. A request without a key goes to any.
    ConsistentHash {
        /// What the key is.
        key: HashKey,
        /// How endpoints are found for a key.
        table: HashTable,
    },
}

/// What consistent hashing is by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum HashKey {
    /// A header of the request.
    Header(#[serde(serialize_with = "serial::header_name")] HeaderName),
    /// A cookie of the request.
    Cookie {
        /// Name of the cookie.
        name: String,
        /// Path of the cookie that is made.
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<String>,
        /// Life of a cookie that is made for clients without one, 0 for as long as the browser
        /// runs; none: no cookie is made.
        #[serde(skip_serializing_if = "Option::is_none")]
        ttl: Option<Duration>,
        /// Further attributes of the cookie that is made: names, and values that may be empty.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        attributes: Vec<(String, String)>,
    },
    /// The client's address.
    SourceIp,
    /// A parameter of the query.
    Query(String),
}

/// How consistent hashing finds an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum HashTable {
    /// A ring of at least so many points.
    Ring(u64),
    /// Maglev, with a table of so many entries: a prime.
    Maglev(u64),
}

/// How much at once, and for how long. Limits are per proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionLimits {
    /// Connections; none: as many as there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Requests that wait for a connection. More are answered with 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_pending_requests: Option<u32>,
    /// Requests at once. More are answered with 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    /// Retries at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    /// What counts in place of `max_retries`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudget>,
    /// After so many requests a connection is closed; none: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_requests_per_connection: Option<u32>,
    /// Streams at once on an HTTP/2 connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent_streams: Option<u32>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long a connection without requests is kept.
    pub idle_timeout: Duration,
    /// How long a TCP connection without bytes is kept.
    pub tcp_idle_timeout: Duration,
    /// How long a connection may live; none: for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connection_duration: Option<Duration>,
    /// TCP keepalive; none: the kernel's way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<Keepalive>,
    /// Whether to speak HTTP/2 even though nothing says that endpoints do (`h2UpgradePolicy:
    /// UPGRADE`).
    pub upgrade_to_http2: bool,
    /// Whether to speak to endpoints what the client spoke (`useClientProtocol`).
    pub use_client_protocol: bool,
}

/// How many retries there may be at once, by how many requests there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryBudget {
    /// Of the requests that are under way.
    pub percent: Percentage,
    /// So many there may always be.
    pub min_concurrency: u32,
}

/// TCP keepalive; what is none is the kernel's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Keepalive {
    /// Probes without an answer until a connection is dead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Duration>,
    /// Time between probes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
}

/// When to avoid an endpoint (Envoy's `OutlierDetection`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OutlierDetection {
    /// Consecutive 5xx (and failures of our own making, unless `split`); none: not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_5xx: Option<u32>,
    /// Consecutive 502, 503 and 504; none: not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_gateway_errors: Option<u32>,
    /// Whether failures to reach the endpoint are counted by themselves.
    pub split: bool,
    /// Consecutive failures to reach the endpoint; none: not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consecutive_local_failures: Option<u32>,
    /// Time between sweeps.
    pub interval: Duration,
    /// An endpoint is avoided for this long, times how often it was before.
    pub base_ejection: Duration,
    /// No endpoint is avoided for longer.
    pub max_ejection: Duration,
    /// Of a cluster's endpoints so many percent may be avoided, and one always.
    pub max_ejection_percent: u8,
    /// With fewer percent of healthy endpoints, all are used; 0: never.
    pub min_health_percent: u8,
}

/// How a cluster's endpoints are spoken to in TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamTls {
    /// Which side shows a certificate.
    pub mode: TlsMode,
    /// The name that is asked for; none: the request's host, for HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// Whether the certificate must be for the request's host.
    pub verify_host: bool,
    /// Names of which the certificate must have one; empty: it doesn't matter.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<String>,
    /// Where certificates and keys are.
    pub credentials: TlsCredentials,
    /// Whether any certificate will do.
    pub insecure_skip_verify: bool,
}

/// Which side shows a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TlsMode {
    /// The endpoint.
    Simple,
    /// Both sides.
    Mutual,
    /// Both sides, with the certificates of the mesh.
    IstioMutual,
}

/// Where certificates and keys are, in PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum TlsCredentials {
    /// In files, which may change at any time.
    Files {
        /// Our certificate and its chain, and its key; none: we show none.
        #[serde(skip_serializing_if = "Option::is_none")]
        identity: Option<(PathBuf, PathBuf)>,
        /// The authorities; none: those of the system.
        #[serde(skip_serializing_if = "Option::is_none")]
        authorities: Option<PathBuf>,
    },
    /// In a Secret of the gateway's namespace.
    Secret {
        /// Its name.
        name: String,
        /// What it holds; none if there is no such Secret.
        #[serde(skip)]
        content: Option<TlsSecret>,
    },
}

/// What a Secret holds. Neither written out nor printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TlsSecret {
    /// Our certificate and its chain, and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The authorities.
    pub authorities: Option<Vec<u8>>,
}

/// How slowly new endpoints start (Envoy's slow start).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Warmup {
    /// How long until an endpoint gets its full share.
    pub duration: Duration,
    /// What it gets at the beginning, in percent of its share; 1 to 100.
    pub minimum_percent: u8,
    /// How its share grows: 1000 is in proportion to time (Envoy's `aggression`, in thousandths).
    pub aggression_milli: u32,
}

/// Which endpoints are near (`LocalityLoadBalancerSetting`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalityPolicy {
    /// Shares of localities, by where the gateway is. Excludes the other two.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub distribute: Vec<Distribution>,
    /// To which region to turn from which one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failover: Vec<(String, String)>,
    /// Labels that make an endpoint near, the most important first: `key` or `key=value`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failover_priority: Vec<String>,
}

/// Where requests of a gateway at `from` go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Distribution {
    /// `region/zone/subzone`, of which the last may be `*`.
    pub from: String,
    /// Localities and their shares in percent.
    pub to: Vec<(String, u32)>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde hands fields over by reference"
)]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

// === impl Cluster ===

impl Cluster {
    /// Endpoints with nothing special about them.
    pub fn new(name: impl Into<String>, endpoints: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self {
            name: name.into(),
            endpoints: endpoints.into_iter().map(Endpoint::new).collect(),
            names: Vec::new(),
            shares: Vec::new(),
            http2: false,
            rule: None,
            policy: ClusterPolicy::default(),
        }
    }

    /// What the localities of a priority weigh: their shares, or else what their endpoints weigh together.
    pub fn locality_weights(&self, priority: u32) -> BTreeMap<&Locality, u64> {
        let mut weights = BTreeMap::new();
        for endpoint in &self.endpoints {
            if endpoint.priority == priority {
                *weights.entry(&endpoint.locality).or_default() += u64::from(endpoint.weight);
            }
        }
        for (locality, share) in &self.shares {
            if let Some(weight) = weights.get_mut(locality) {
                *weight = u64::from(*share);
            }
        }
        weights
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// An endpoint of usual weight, somewhere.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            weight: 1,
            locality: Locality::default(),
            priority: 0,
        }
    }
}

// === impl Locality ===

impl Locality {
    /// Of `region/zone/subzone`, of which the last may be missing.
    pub fn parse(text: &str) -> Self {
        let mut parts = text.splitn(3, '/').map(ToOwned::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Self {
            region: next(),
            zone: next(),
            subzone: next(),
        }
    }

    /// Whether it is what `pattern` says: `*` or nothing stands for any zone and sub-zone, `*` for any
    /// region (`LocalityMatch` of istio's pilot/pkg/networking/util).
    pub fn is_within(&self, pattern: &str) -> bool {
        let wanted = Self::parse(pattern);
        let any = |text: &str| matches!(text, "" | "*");
        (wanted.region == "*" || wanted.region == self.region)
            && (any(&wanted.zone) || wanted.zone == self.zone)
            && (any(&wanted.subzone) || wanted.subzone == self.subzone)
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty() && self.subzone.is_empty()
    }
}

// === impl TlsCredentials ===

impl TlsCredentials {
    /// Where a gateway pod finds the certificates of the mesh that it is of: the directory into which
    /// an identity provider puts them (`WorkloadIdentityCredentialsPath` of istio's pkg/security).
    pub fn of_workload() -> Self {
        let directory = Path::new("/var/run/secrets/workload-spiffe-credentials");
        Self::Files {
            identity: Some((directory.join("cert-chain.pem"), directory.join("key.pem"))),
            authorities: Some(directory.join("root-cert.pem")),
        }
    }
}

// === impl UpstreamTls ===

impl UpstreamTls {
    /// The Secret that no connection can be made without, and what it lacks; none if it is all there, or
    /// there is none.
    pub fn lacks(&self) -> Option<(&str, &'static str)> {
        let TlsCredentials::Secret { name, content } = &self.credentials else {
            return None;
        };
        let lack = match content {
            None => "is not in the gateway's namespace",
            Some(content) if self.mode == TlsMode::Mutual && content.identity.is_none() => {
                "has no tls.crt and tls.key"
            }
            Some(content) if content.authorities.is_none() && !self.insecure_skip_verify => {
                "has no ca.crt"
            }
            Some(_) => return None,
        };
        Some((name, lack))
    }
}

// === impl TlsSecret ===

impl fmt::Debug for TlsSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSecret")
            .field("identity", &self.identity.is_some())
            .field("authorities", &self.authorities.is_some())
            .finish()
    }
}

// === impl HashTable ===

impl HashTable {
    /// Istio's default size of rings (`ConsistentHashLB.minimumRingSize`).
    pub const DEFAULT_RING: u64 = 1024;
    /// Envoy's default size of Maglev's tables.
    pub const DEFAULT_MAGLEV: u64 = 65_537;
}

// === impl ConnectionLimits ===

impl Default for ConnectionLimits {
    /// No limits, and Istio's times (`applyConnectionPool` of istio's
    /// `pilot/pkg/networking/core/cluster_traffic_policy.go`; the mesh's `connectTimeout`).
    fn default() -> Self {
        Self {
            max_connections: None,
            max_pending_requests: None,
            max_requests: None,
            max_retries: None,
            retry_budget: None,
            max_requests_per_connection: None,
            max_concurrent_streams: None,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_hours(1),
            tcp_idle_timeout: Duration::from_hours(1),
            max_connection_duration: None,
            keepalive: None,
            upgrade_to_http2: false,
            use_client_protocol: false,
        }
    }
}

// === impl OutlierDetection ===

impl Default for OutlierDetection {
    /// Envoy's, with Istio's differences (`applyOutlierDetection`).
    fn default() -> Self {
        Self {
            consecutive_5xx: Some(5),
            consecutive_gateway_errors: None,
            split: false,
            consecutive_local_failures: Some(5),
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_mins(5),
            max_ejection_percent: 10,
            min_health_percent: 0,
        }
    }
}
