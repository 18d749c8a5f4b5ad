//! TrafficPolicies → how to treat a cluster's endpoints.

use std::time::Duration;

use nodegate_model::gateway::{
    Balancing, ClusterPolicy, ConnectionLimits, Distribution, HashKey, HashTable, Keepalive,
    LocalityPolicy, OutlierDetection, RetryBudget, UpstreamTls, Warmup,
};
use nodegate_resources::istio::{
    self, ConnectionPool, ConsistentHash, LoadBalancer, LocalityLb, Tls, TrafficPolicy,
    reading::{header_name, limit},
    words::{Http2Upgrade, SimpleBalancing, Word as _},
};
use nodegate_values::duration::Interval;

/// What counts for one port of one subset.
#[derive(Clone, Copy, Default)]
struct PortSettings<'p> {
    balancer: Option<&'p LoadBalancer>,
    pool: Option<&'p ConnectionPool>,
    outliers: Option<&'p istio::OutlierDetection>,
    tls: Option<&'p Tls>,
    budget: Option<&'p istio::RetryBudget>,
}

/// The policy for a Service's `port`: of the whole destination, and on top of it that of the subset.
/// `tls` says what the TLS settings mean.
pub(super) fn of<'p>(
    whole: Option<&'p TrafficPolicy>,
    subset: Option<&'p TrafficPolicy>,
    port: i64,
    tls: impl FnOnce(&'p Tls) -> Option<UpstreamTls>,
) -> ClusterPolicy {
    let settings = [whole, subset]
        .into_iter()
        .flatten()
        .fold(PortSettings::default(), |settings, policy| {
            settings.under(policy, port)
        });
    let outliers = settings.outliers.map(outlier_detection);
    ClusterPolicy {
        balancing: settings.balancer.map(balancing).unwrap_or_default(),
        limits: ConnectionLimits {
            retry_budget: settings.budget.and_then(retry_budget),
            ..settings.pool.map(limits).unwrap_or_default()
        },
        tls: settings.tls.and_then(tls),
        warmup: settings.balancer.and_then(warmup),
        locality: locality(
            settings
                .balancer
                .and_then(|balancer| balancer.locality_lb_setting.as_ref()),
            outliers.is_some(),
        ),
        outliers,
    }
}

impl<'p> PortSettings<'p> {
    /// A policy replaces what it has, and its settings for the port replace everything, what they
    /// leave out included (`MergeTrafficPolicy` of istio's pilot/pkg/networking/util).
    fn under(self, policy: &'p TrafficPolicy, port: i64) -> Self {
        let for_port = policy
            .port_level_settings
            .iter()
            .find(|settings| settings.port.as_ref().is_some_and(|of| of.number == port));
        if let Some(settings) = for_port {
            return Self {
                balancer: settings.load_balancer.as_ref(),
                pool: settings.connection_pool.as_ref(),
                outliers: settings.outlier_detection.as_ref(),
                tls: settings.tls.as_ref(),
                // Ports have none of their own (`GetPortLevelTrafficPolicy`, `MergeTrafficPolicy`).
                budget: self.budget,
            };
        }
        Self {
            balancer: policy.load_balancer.as_ref().or(self.balancer),
            pool: policy.connection_pool.as_ref().or(self.pool),
            outliers: policy.outlier_detection.as_ref().or(self.outliers),
            tls: policy.tls.as_ref().or(self.tls),
            budget: policy.retry_budget.as_ref().or(self.budget),
        }
    }
}

fn balancing(balancer: &LoadBalancer) -> Balancing {
    if let Some(hash) = &balancer.consistent_hash {
        // Envoy's rings and tables take any endpoint where there is no key.
        return hash_key(hash).map_or(Balancing::Random, |key| Balancing::ConsistentHash {
            key,
            table: hash_table(hash),
        });
    }
    match balancer.simple.as_deref().map(SimpleBalancing::read) {
        Some(Ok(SimpleBalancing::RoundRobin)) => Balancing::RoundRobin,
        Some(Ok(SimpleBalancing::Random)) => Balancing::Random,
        Some(Ok(SimpleBalancing::Passthrough)) => Balancing::Passthrough,
        // Validation has refused what is none of the words.
        Some(Ok(SimpleBalancing::LeastRequest | SimpleBalancing::LeastConnections) | Err(_))
        | None => Balancing::LeastRequest,
    }
}

fn hash_key(hash: &ConsistentHash) -> Option<HashKey> {
    if let Some(name) = &hash.http_header_name {
        return header_name(name).ok().map(HashKey::Header);
    }
    if let Some(cookie) = &hash.http_cookie {
        return Some(HashKey::Cookie {
            name: cookie.name.clone(),
            path: Some(cookie.path.clone()).filter(|path| !path.is_empty()),
            ttl: duration(cookie.ttl),
            attributes: cookie
                .attributes
                .iter()
                .map(|attribute| (attribute.name.clone(), attribute.value.clone()))
                .collect(),
        });
    }
    if let Some(name) = &hash.http_query_parameter_name {
        return Some(HashKey::Query(name.clone()));
    }
    (hash.use_source_ip == Some(true)).then_some(HashKey::SourceIp)
}

/// `ApplyRingHashLoadBalancer` of istio's `pilot/pkg/networking/core/cluster_traffic_policy.go`.
fn hash_table(hash: &ConsistentHash) -> HashTable {
    let or = |given: u64, default| if given == 0 { default } else { given };
    if let Some(maglev) = &hash.maglev {
        return HashTable::Maglev(or(maglev.table_size, HashTable::DEFAULT_MAGLEV));
    }
    let ring = hash.ring_hash.as_ref().map(|ring| ring.minimum_ring_size);
    let size = ring.or(hash.minimum_ring_size).unwrap_or_default();
    HashTable::Ring(or(size, HashTable::DEFAULT_RING))
}

/// Only where requests are spread by load or by turn (`setWarmup`).
#[expect(
    clippy::cast_sign_loss,
    reason = "validation has seen to it that both are in range"
)]
fn warmup(balancer: &LoadBalancer) -> Option<Warmup> {
    let spread = balancer.consistent_hash.is_none()
        && !matches!(balancer.simple.as_deref(), Some("RANDOM" | "PASSTHROUGH"));
    let given = balancer.warmup.as_ref();
    let duration = match given {
        Some(warmup) => duration(warmup.duration),
        None => duration(balancer.warmup_duration_secs),
    }?;
    spread.then(|| Warmup {
        duration,
        minimum_percent: given
            .and_then(|warmup| warmup.minimum_percent)
            .map_or(10, |percent| percent as u8),
        aggression_milli: given
            .and_then(|warmup| warmup.aggression)
            .map_or(1000, |value| (value * 1000.0) as u32),
    })
}

/// Endpoints near by are preferred only if those that fail are noticed, or by given shares
/// (`applyLocalityLoadBalancer`).
fn locality(given: Option<&LocalityLb>, outliers: bool) -> Option<LocalityPolicy> {
    let Some(given) = given else {
        return outliers.then(LocalityPolicy::default);
    };
    if given.enabled == Some(false) || (given.distribute.is_empty() && !outliers) {
        return None;
    }
    let distribution = |from: &istio::Distribute| Distribution {
        from: from.from.clone(),
        to: from
            .to
            .iter()
            .map(|(to, share)| (to.clone(), *share))
            .collect(),
    };
    Some(LocalityPolicy {
        distribute: given.distribute.iter().map(distribution).collect(),
        failover: given
            .failover
            .iter()
            .map(|failover| (failover.from.clone(), failover.to.clone()))
            .collect(),
        failover_priority: given.failover_priority.clone(),
    })
}

/// 0 is no limit (`applyConnectionPool`).
fn limits(pool: &ConnectionPool) -> ConnectionLimits {
    // Validation has refused what is not a limit.
    let limit = |given: i64| limit(given).unwrap_or_default();
    let mut limits = ConnectionLimits::default();
    let mut idle = None;
    if let Some(http) = &pool.http {
        limits.max_pending_requests = limit(http.http1_max_pending_requests);
        limits.max_requests = limit(http.http2_max_requests);
        limits.max_retries = limit(http.max_retries);
        limits.max_requests_per_connection = limit(http.max_requests_per_connection);
        limits.max_concurrent_streams = limit(http.max_concurrent_streams);
        limits.upgrade_to_http2 = http.h2_upgrade_policy.as_deref().map(Http2Upgrade::read)
            == Some(Ok(Http2Upgrade::Upgrade));
        limits.use_client_protocol = http.use_client_protocol;
        idle = duration(http.idle_timeout);
    }
    if let Some(tcp) = &pool.tcp {
        limits.max_connections = limit(tcp.max_connections);
        limits.max_connection_duration = duration(tcp.max_connection_duration);
        if let Some(timeout) = duration(tcp.connect_timeout) {
            limits.connect_timeout = timeout;
        }
        if let Some(timeout) = duration(tcp.idle_timeout) {
            limits.tcp_idle_timeout = timeout;
            // It is also that of HTTP, where HTTP has none of its own.
            idle = idle.or(Some(timeout));
        }
        limits.keepalive = tcp.tcp_keepalive.as_ref().map(|keepalive| Keepalive {
            probes: keepalive.probes,
            time: duration(keepalive.time),
            interval: duration(keepalive.interval),
        });
    }
    if let Some(timeout) = idle {
        limits.idle_timeout = timeout;
    }
    limits
}

/// `applyRetryBudget`. Validation has refused what is none.
fn retry_budget(given: &istio::RetryBudget) -> Option<RetryBudget> {
    Some(RetryBudget {
        percent: given.share().ok()?,
        min_concurrency: given.least().ok()?,
    })
}

/// `applyOutlierDetection`
fn outlier_detection(given: &istio::OutlierDetection) -> OutlierDetection {
    let default = OutlierDetection::default();
    let count = |given: u32| Some(given).filter(|count| *count != 0);
    let percent = |given: i64| u8::try_from(given).unwrap_or(100);
    let base_ejection = duration(given.base_ejection_time).unwrap_or(default.base_ejection);
    OutlierDetection {
        consecutive_5xx: given
            .consecutive_5xx_errors
            .map_or(default.consecutive_5xx, count),
        consecutive_gateway_errors: given.consecutive_gateway_errors.and_then(count),
        split: given.split_external_local_origin_errors,
        consecutive_local_failures: given
            .consecutive_local_origin_failures
            .map_or(default.consecutive_local_failures, count),
        interval: duration(given.interval).unwrap_or(default.interval),
        base_ejection,
        // Envoy: DetectorConfig.
        max_ejection: default.max_ejection.max(base_ejection),
        max_ejection_percent: match given.max_ejection_percent {
            0 => default.max_ejection_percent,
            given => percent(given),
        },
        min_health_percent: percent(given.min_health_percent),
    }
}

fn duration(given: Option<Interval>) -> Option<Duration> {
    given.map(|interval| interval.0)
}
