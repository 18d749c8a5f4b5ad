//! `TrafficPolicy`

use std::collections::BTreeMap;

use nodegate_values::duration::Interval;
use serde::{Deserialize, Serialize};

use super::{Opaque, PortSelector};

macro_rules! plain {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
    )*};
}

plain! {
    /// `DestinationRule.spec.trafficPolicy`
    TrafficPolicy {
        /// Whose turn it is.
        load_balancer: Option<LoadBalancer>,
        /// How much at once.
        connection_pool: Option<ConnectionPool>,
        /// When to avoid an endpoint.
        outlier_detection: Option<OutlierDetection>,
        /// How to encrypt.
        tls: Option<Tls>,
        /// What replaces all that for a port.
        port_level_settings: Vec<PortPolicy>,
        /// Not acted on in this version.
        tunnel: Option<Opaque>,
        /// Not acted on in this version.
        proxy_protocol: Option<Opaque>,
        /// How many retries, by how many requests.
        retry_budget: Option<RetryBudget>,
    }

    /// `TrafficPolicy.retryBudget`
    RetryBudget {
        /// Of the requests that are under way; none: 20.
        percent: Option<f64>,
        /// So many there may always be; 0: 3.
        min_retry_concurrency: i64,
        /// Not acted on in this version.
        budget_interval: Option<Interval>,
    }

    /// `TrafficPolicy.portLevelSettings[]`
    PortPolicy {
        /// A port of the Service.
        port: Option<PortSelector>,
        /// Whose turn it is.
        load_balancer: Option<LoadBalancer>,
        /// How much at once.
        connection_pool: Option<ConnectionPool>,
        /// When to avoid an endpoint.
        outlier_detection: Option<OutlierDetection>,
        /// How to encrypt.
        tls: Option<Tls>,
    }

    /// `LoadBalancerSettings`
    LoadBalancer {
        /// `LEAST_REQUEST`, `ROUND_ROBIN`, `RANDOM`, `PASSTHROUGH` or `LEAST_CONN`.
        simple: Option<String>,
        /// By a key of the request.
        consistent_hash: Option<ConsistentHash>,
        /// Which endpoints are near.
        locality_lb_setting: Option<LocalityLb>,
        /// Deprecated: how long endpoints take to warm up.
        warmup_duration_secs: Option<Interval>,
        /// How slowly new endpoints start.
        warmup: Option<Warmup>,
        /// Not acted on in this version.
        zone_aware_lb_setting: Option<Opaque>,
        /// Not acted on in this version.
        backend_utilization: Option<Opaque>,
    }

    /// `LoadBalancerSettings.warmup`
    Warmup {
        /// How long until an endpoint gets its full share.
        duration: Option<Interval>,
        /// What it gets at the beginning.
        minimum_percent: Option<f64>,
        /// How its share grows.
        aggression: Option<f64>,
    }

    /// `LoadBalancerSettings.consistentHash`
    ConsistentHash {
        /// By a header.
        http_header_name: Option<String>,
        /// By a cookie.
        http_cookie: Option<Cookie>,
        /// By the client's address.
        use_source_ip: Option<bool>,
        /// By a parameter of the query.
        http_query_parameter_name: Option<String>,
        /// Deprecated: size of the ring.
        minimum_ring_size: Option<u64>,
        /// A ring.
        ring_hash: Option<RingHash>,
        /// A table.
        maglev: Option<Maglev>,
    }

    /// `LoadBalancerSettings.consistentHash.httpCookie`
    Cookie {
        /// Name.
        name: String,
        /// Path of a cookie that is made.
        path: String,
        /// Life of a cookie that is made.
        ttl: Option<Interval>,
        /// Further attributes of a cookie that is made.
        attributes: Vec<CookieAttribute>,
    }

    /// `LoadBalancerSettings.consistentHash.httpCookie.attributes[]`
    CookieAttribute {
        /// Name.
        name: String,
        /// Value, if it has one.
        value: String,
    }

    /// `LoadBalancerSettings.consistentHash.ringHash`
    RingHash {
        /// Smallest size.
        minimum_ring_size: u64,
    }

    /// `LoadBalancerSettings.consistentHash.maglev`
    Maglev {
        /// Size.
        table_size: u64,
    }

    /// `LocalityLoadBalancerSetting`
    LocalityLb {
        /// Shares.
        distribute: Vec<Distribute>,
        /// Regions to turn to.
        failover: Vec<Failover>,
        /// Labels that make endpoints near.
        failover_priority: Vec<String>,
        /// Whether any of it counts.
        enabled: Option<bool>,
    }

    /// `LocalityLoadBalancerSetting.distribute[]`
    Distribute {
        /// Where the proxy is.
        from: String,
        /// Shares of localities, in percent.
        to: BTreeMap<String, u32>,
    }

    /// `LocalityLoadBalancerSetting.failover[]`
    Failover {
        /// A region.
        from: String,
        /// The region to turn to.
        to: String,
    }

    /// `ConnectionPoolSettings`
    ConnectionPool {
        /// Of connections.
        tcp: Option<TcpPool>,
        /// Of requests.
        http: Option<HttpPool>,
    }

    /// `ConnectionPoolSettings.tcp`
    TcpPool {
        /// Connections; 0: any number.
        max_connections: i64,
        /// How long connecting may take.
        connect_timeout: Option<Interval>,
        /// Keepalive.
        tcp_keepalive: Option<Keepalive>,
        /// How long a connection may live.
        max_connection_duration: Option<Interval>,
        /// How long a connection may be idle.
        idle_timeout: Option<Interval>,
    }

    /// `ConnectionPoolSettings.tcp.tcpKeepalive`
    Keepalive {
        /// Probes until a connection is dead.
        probes: Option<u32>,
        /// Idle time before the first.
        time: Option<Interval>,
        /// Time between them.
        interval: Option<Interval>,
    }

    /// `ConnectionPoolSettings.http`
    HttpPool {
        /// Requests that wait; 0: any number.
        http1_max_pending_requests: i64,
        /// Requests; 0: any number.
        http2_max_requests: i64,
        /// Requests in the life of a connection; 0: any number.
        max_requests_per_connection: i64,
        /// Retries; 0: any number.
        max_retries: i64,
        /// How long a connection may be idle.
        idle_timeout: Option<Interval>,
        /// `DEFAULT`, `DO_NOT_UPGRADE` or `UPGRADE`.
        h2_upgrade_policy: Option<String>,
        /// Whether endpoints hear what the client spoke.
        use_client_protocol: bool,
        /// Streams of a connection; 0: any number.
        max_concurrent_streams: i64,
        /// Not acted on in this version.
        http2_keep_alive: Option<Opaque>,
    }

    /// `OutlierDetection`
    OutlierDetection {
        /// Deprecated, and without effect in Istio too.
        consecutive_errors: Option<i64>,
        /// Whether failures to reach an endpoint are counted by themselves.
        split_external_local_origin_errors: bool,
        /// How many of those; 0: any number.
        consecutive_local_origin_failures: Option<u32>,
        /// 502, 503 and 504; 0: any number.
        consecutive_gateway_errors: Option<u32>,
        /// 5xx; 0: any number.
        #[serde(rename = "consecutive5xxErrors")] consecutive_5xx_errors: Option<u32>,
        /// Time between sweeps.
        interval: Option<Interval>,
        /// How long an endpoint is avoided at first.
        base_ejection_time: Option<Interval>,
        /// How many may be avoided; 0: the default.
        max_ejection_percent: i64,
        /// With fewer healthy ones all are used.
        min_health_percent: i64,
        /// Not acted on in this version.
        outlier_detection_http_error_codes: Option<Opaque>,
    }

    /// `ClientTLSSettings`
    Tls {
        /// `DISABLE`, `SIMPLE`, `MUTUAL` or `ISTIO_MUTUAL`.
        mode: String,
        /// File of our certificate.
        client_certificate: String,
        /// File of our key.
        private_key: String,
        /// File of the authorities.
        ca_certificates: String,
        /// Secret with all three.
        credential_name: String,
        /// Names that the endpoint's certificate may have.
        subject_alt_names: Vec<String>,
        /// The name that is asked for.
        sni: String,
        /// Whether any certificate will do.
        insecure_skip_verify: Option<bool>,
        /// File of revocations.
        ca_crl: Option<Opaque>,
    }
}
