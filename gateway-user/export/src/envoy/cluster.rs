//! Clusters.

use std::collections::BTreeMap;

use nodegate_model::gateway::{
    Balancing, Cluster, ConnectionLimits, Endpoint, HashTable, Locality, OutlierDetection, Warmup,
};
use serde_json::{Value, json};

use super::{address, duration, kind, tls};

/// Envoy's Cluster.
pub(super) fn cluster(cluster: &Cluster) -> Value {
    let policy = &cluster.policy;
    let kind = if policy.balancing == Balancing::Passthrough {
        "ORIGINAL_DST"
    } else {
        match cluster.names.as_slice() {
            [] => "STATIC",
            [name, ..] if name.all => "STRICT_DNS",
            _ => "LOGICAL_DNS",
        }
    };
    let panic = policy.outliers.as_ref();
    let panic = panic.map_or(0, |outliers| outliers.min_health_percent);
    let (balancer, ring, maglev) = match &policy.balancing {
        Balancing::LeastRequest => ("LEAST_REQUEST", None, None),
        Balancing::RoundRobin => ("ROUND_ROBIN", None, None),
        Balancing::Random => ("RANDOM", None, None),
        Balancing::Passthrough => ("CLUSTER_PROVIDED", None, None),
        Balancing::ConsistentHash { table, .. } => match table {
            HashTable::Ring(size) => ("RING_HASH", Some(json!({"minimum_ring_size": size})), None),
            HashTable::Maglev(size) => ("MAGLEV", None, Some(json!({"table_size": size}))),
        },
    };
    let slow_start = policy.warmup.map(slow_start);
    let slow = |of| {
        (policy.balancing == of)
            .then_some(slow_start.clone())
            .flatten()
    };
    json!({
        "name": cluster.name,
        // As Istio has it (`DelimitedStatsPrefix` of pilot/pkg/networking/util).
        "alt_stat_name": format!("{};", cluster.name),
        "type": kind,
        // Istio's, with respect for what answers say.
        "dns_refresh_rate": (!cluster.names.is_empty()).then_some("60s"),
        "respect_dns_ttl": (!cluster.names.is_empty()).then_some(true),
        "dns_lookup_family": (!cluster.names.is_empty()).then_some("V4_PREFERRED"),
        "connect_timeout": duration(policy.limits.connect_timeout),
        "lb_policy": balancer,
        "ring_hash_lb_config": ring,
        "maglev_lb_config": maglev,
        "least_request_lb_config": slow(Balancing::LeastRequest),
        "round_robin_lb_config": slow(Balancing::RoundRobin),
        "common_lb_config": {
            "healthy_panic_threshold": {"value": panic},
            "locality_weighted_lb_config": policy.locality.as_ref().map(|_| json!({})),
        },
        "load_assignment": (kind != "ORIGINAL_DST").then(|| load_assignment(cluster)),
        "circuit_breakers": {"thresholds": [thresholds(&policy.limits)]},
        "outlier_detection": policy.outliers.as_ref().map(outlier_detection),
        "transport_socket": policy.tls.as_ref().map(|tls| tls::socket(tls, speaks_http2(cluster))),
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocol(cluster),
        },
    })
}

fn load_assignment(cluster: &Cluster) -> Value {
    /// Endpoints, and what they weigh together.
    type EndpointGroup = (u32, Vec<Value>);
    let mut groups: BTreeMap<(u32, &Locality), EndpointGroup> = BTreeMap::new();
    let mut add = |priority, locality, weight, endpoint: Value| {
        let (together, endpoints) = groups.entry((priority, locality)).or_default();
        *together = together.saturating_add(weight);
        endpoints.push(json!({"endpoint": endpoint, "load_balancing_weight": weight}));
    };
    for endpoint in &cluster.endpoints {
        let at = address(endpoint.address.ip(), endpoint.address.port());
        let Endpoint {
            priority,
            locality,
            weight,
            ..
        } = endpoint;
        add(*priority, locality, *weight, json!({"address": at}));
    }
    for name in &cluster.names {
        let to = json!({"address": name.host, "port_value": name.port});
        let at = json!({"address": {"socket_address": to}});
        add(name.priority, &name.locality, name.weight, at);
    }
    let endpoints = groups
        .into_iter()
        .map(|((priority, locality), (together, endpoints))| {
            let share = cluster.shares.iter().find(|(place, _)| place == locality);
            let weight = share.map_or(together, |(_, share)| *share);
            json!({
                "locality": {
                    "region": locality.region,
                    "zone": locality.zone,
                    "sub_zone": locality.subzone,
                },
                "priority": (priority != 0).then_some(priority),
                "load_balancing_weight": cluster.policy.locality.as_ref().map(|_| weight),
                "lb_endpoints": endpoints,
            })
        });
    json!({"cluster_name": cluster.name, "endpoints": endpoints.collect::<Vec<_>>()})
}

/// `getDefaultCircuitBreakerThresholds` of istio's `cluster_traffic_policy.go`: no limit is the
/// largest number.
fn thresholds(limits: &ConnectionLimits) -> Value {
    let or_none = |limit: Option<u32>| limit.unwrap_or(u32::MAX);
    json!({
        "max_connections": or_none(limits.max_connections),
        "max_pending_requests": or_none(limits.max_pending_requests),
        "max_requests": or_none(limits.max_requests),
        "max_retries": or_none(limits.max_retries),
        "retry_budget": limits.retry_budget.map(|budget| json!({
            "budget_percent": {"value": f64::from(budget.percent.millionths()) / 10_000.0},
            "min_retry_concurrency": budget.min_concurrency,
        })),
        "track_remaining": true,
    })
}

fn outlier_detection(outliers: &OutlierDetection) -> Value {
    let enforced = |count: Option<u32>| count.map_or(0, |_| 100);
    json!({
        "consecutive_5xx": outliers.consecutive_5xx,
        "enforcing_consecutive_5xx": enforced(outliers.consecutive_5xx),
        "consecutive_gateway_failure": outliers.consecutive_gateway_errors,
        "enforcing_consecutive_gateway_failure": enforced(outliers.consecutive_gateway_errors),
        "split_external_local_origin_errors": outliers.split,
        "consecutive_local_origin_failure": outliers.consecutive_local_failures,
        "enforcing_success_rate": 0,
        "interval": duration(outliers.interval),
        "base_ejection_time": duration(outliers.base_ejection),
        "max_ejection_time": duration(outliers.max_ejection),
        "max_ejection_percent": outliers.max_ejection_percent,
    })
}

fn slow_start(warmup: Warmup) -> Value {
    json!({"slow_start_config": {
        "slow_start_window": duration(warmup.duration),
        "aggression": {
            "default_value": f64::from(warmup.aggression_milli) / 1000.0,
            "runtime_key": "aggression",
        },
        "min_weight_percent": {"value": warmup.minimum_percent},
    }})
}

fn speaks_http2(cluster: &Cluster) -> bool {
    cluster.http2 || cluster.policy.limits.upgrade_to_http2
}

fn protocol(cluster: &Cluster) -> Value {
    let limits = &cluster.policy.limits;
    let http2 = json!({"max_concurrent_streams": limits.max_concurrent_streams});
    let (explicit, client) = if limits.use_client_protocol {
        let both = json!({"http_protocol_options": {}, "http2_protocol_options": http2});
        (Value::Null, both)
    } else if speaks_http2(cluster) {
        (json!({"http2_protocol_options": http2}), Value::Null)
    } else {
        (json!({"http_protocol_options": {}}), Value::Null)
    };
    json!({
        "@type": kind("upstreams.http.v3.HttpProtocolOptions"),
        "common_http_protocol_options": {
            "idle_timeout": duration(limits.idle_timeout),
            "max_connection_duration": limits.max_connection_duration.map(duration),
            "max_requests_per_connection": limits.max_requests_per_connection,
        },
        "upstream_http_protocol_options": cluster.policy.tls.as_ref().and_then(tls::from_the_host),
        "explicit_http_config": explicit,
        "use_downstream_protocol_config": client,
    })
}
