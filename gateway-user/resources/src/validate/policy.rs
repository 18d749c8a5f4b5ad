//! DestinationRules (`ValidateDestinationRule` of istio's pkg/config/validation).
//!
//! A subset that cannot be served is left out. A policy for all that cannot be applied makes the DestinationRule an
//! error: without it connections might be in the clear, or without limits.

use std::{mem, time::Duration};

use nodegate_values::duration::Interval;

use super::{Findings, names};
use crate::istio::{
    ConnectionPool, ConsistentHash, DestinationRule, LoadBalancer, LocalityLb, OutlierDetection,
    RetryBudget, Subset, Tls, TrafficPolicy, Warmup,
    reading::{header_name, limit, whole_percent},
    words::{Http2Upgrade, SimpleBalancing, TlsMode},
};

/// Envoy's largest ring and Maglev table.
const LARGEST_RING: u64 = 8 * 1024 * 1024;
const LARGEST_MAGLEV: u64 = 5_000_011;

pub(super) fn check(rule: &DestinationRule, findings: &mut Findings<'_>) {
    let spec = &rule.spec;
    if spec.host.is_empty() {
        findings.error("spec.host", "missing", "name a Service");
    } else if !names::is_host(&spec.host.to_ascii_lowercase()) {
        let message = format!("`{}` is not a host", spec.host);
        findings.error("spec.host", message, "the name of a Service");
    }
    if let Some(traffic) = &spec.traffic_policy {
        policy(traffic, "spec.trafficPolicy", findings);
    }
    for (index, subset) in spec.subsets.iter().enumerate() {
        let path = format!("spec.subsets[{index}]");
        let mut before = spec.subsets[..index].iter();
        if before.any(|other| other.name == subset.name) && names::is_label(&subset.name) {
            let message = format!("the subset `{}` is there already", subset.name);
            let fix = "rename or remove one";
            findings.left_out(format!("{path}.name"), "subset", &message, fix);
        }
        one_subset(subset, &path, findings);
    }
}

/// Gives whether it can be served. One that cannot is left out: requests to it are answered with 503, and
/// go nowhere else.
pub(super) fn one_subset(subset: &Subset, path: &str, findings: &mut Findings<'_>) -> bool {
    let is_named = names::is_label(&subset.name);
    if !is_named {
        let message = format!("`{}` is not a subset's name", subset.name);
        let fix = "lower-case letters, digits and `-`";
        findings.left_out(format!("{path}.name"), "subset", &message, fix);
    }
    let Some(traffic) = &subset.traffic_policy else {
        return is_named;
    };
    let refused = mem::take(&mut findings.verdict.refused);
    policy(traffic, &format!("{path}.trafficPolicy"), findings);
    let is_good = !mem::replace(&mut findings.verdict.refused, refused);
    if !is_good {
        let message = "its policy cannot be applied";
        let path = format!("{path}.trafficPolicy");
        findings.left_out(path, "subset", message, "correct what is said of it");
    }
    is_named && is_good
}

fn policy(policy: &TrafficPolicy, path: &str, findings: &mut Findings<'_>) {
    for (field, given) in [
        ("tunnel", policy.tunnel.is_some()),
        ("proxyProtocol", policy.proxy_protocol.is_some()),
    ] {
        findings.ignored(format!("{path}.{field}"), given);
    }
    if let Some(budget) = &policy.retry_budget {
        retry_budget(budget, &format!("{path}.retryBudget"), findings);
    }
    let top = LevelSettings {
        balancer: policy.load_balancer.as_ref(),
        pool: policy.connection_pool.as_ref(),
        outliers: policy.outlier_detection.as_ref(),
        tls: policy.tls.as_ref(),
    };
    top.check(path, findings);
    for (index, of_port) in policy.port_level_settings.iter().enumerate() {
        let path = format!("{path}.portLevelSettings[{index}]");
        match &of_port.port {
            Some(of) => findings.port(format!("{path}.port.number"), of.number),
            None => findings.error(format!("{path}.port"), "missing", "`{number: 80}`"),
        }
        let settings = LevelSettings {
            balancer: of_port.load_balancer.as_ref(),
            pool: of_port.connection_pool.as_ref(),
            outliers: of_port.outlier_detection.as_ref(),
            tls: of_port.tls.as_ref(),
        };
        settings.check(&path, findings);
    }
}

/// What both levels have.
struct LevelSettings<'p> {
    balancer: Option<&'p LoadBalancer>,
    pool: Option<&'p ConnectionPool>,
    outliers: Option<&'p OutlierDetection>,
    tls: Option<&'p Tls>,
}

impl LevelSettings<'_> {
    fn check(&self, path: &str, findings: &mut Findings<'_>) {
        if let Some(balancer) = self.balancer {
            load_balancer(balancer, &format!("{path}.loadBalancer"), findings);
        }
        if let Some(pool) = self.pool {
            connection_pool(pool, &format!("{path}.connectionPool"), findings);
        }
        if let Some(outliers) = self.outliers {
            outlier_detection(outliers, &format!("{path}.outlierDetection"), findings);
        }
        if let Some(tls) = self.tls {
            one_tls(tls, &format!("{path}.tls"), findings);
        }
    }
}

fn retry_budget(budget: &RetryBudget, path: &str, findings: &mut Findings<'_>) {
    if let Err(error) = budget.share() {
        findings.error(format!("{path}.percent"), error.to_string(), "0 to 100");
    }
    if let Err(error) = budget.least() {
        let path = format!("{path}.minRetryConcurrency");
        findings.error(path, error.to_string(), "1 or more; 0 for 3");
    }
    findings.ignored(
        format!("{path}.budgetInterval"),
        budget
            .budget_interval
            .is_some_and(|interval| !interval.0.is_zero()),
    );
}

fn load_balancer(balancer: &LoadBalancer, path: &str, findings: &mut Findings<'_>) {
    if let Some(simple) = &balancer.simple {
        findings.one_of::<SimpleBalancing>(format!("{path}.simple"), simple);
        findings.ignored(format!("{path}.simple"), simple == "PASSTHROUGH");
        if balancer.consistent_hash.is_some() {
            let message = "there is only one way of balancing";
            let fix = "either `simple` or `consistentHash`";
            findings.error(format!("{path}.consistentHash"), message, fix);
        }
    }
    if let Some(hash) = &balancer.consistent_hash {
        consistent_hash(hash, &format!("{path}.consistentHash"), findings);
    }
    findings.duration(
        format!("{path}.warmupDurationSecs"),
        balancer.warmup_duration_secs,
    );
    if let Some(warmup) = &balancer.warmup {
        one_warmup(warmup, &format!("{path}.warmup"), findings);
    }
    if let Some(locality) = &balancer.locality_lb_setting {
        locality_lb(locality, &format!("{path}.localityLbSetting"), findings);
    }
    for (field, given) in [
        (
            "zoneAwareLbSetting",
            balancer.zone_aware_lb_setting.is_some(),
        ),
        ("backendUtilization", balancer.backend_utilization.is_some()),
    ] {
        findings.ignored(format!("{path}.{field}"), given);
    }
}

fn consistent_hash(hash: &ConsistentHash, path: &str, findings: &mut Findings<'_>) {
    let keys = [
        hash.http_header_name.is_some(),
        hash.http_cookie.is_some(),
        hash.use_source_ip == Some(true),
        hash.http_query_parameter_name.is_some(),
    ];
    let count = keys.iter().filter(|given| **given).count();
    if count == 0 {
        let message = "says no key: requests go to endpoints by chance";
        let fix = "httpHeaderName, httpCookie, useSourceIp or httpQueryParameterName";
        findings.warning(path, message, fix);
    } else if count > 1 {
        findings.error(
            path,
            "one key is needed",
            "httpHeaderName, httpCookie, useSourceIp or httpQueryParameterName",
        );
    }
    if let Some(name) = &hash.http_header_name
        && let Err(error) = header_name(name)
    {
        findings.error(
            format!("{path}.httpHeaderName"),
            error.to_string(),
            "letters, digits and `-`",
        );
    }
    if let Some(cookie) = &hash.http_cookie {
        if cookie.name.is_empty() {
            findings.error(
                format!("{path}.httpCookie.name"),
                "missing",
                "name the cookie",
            );
        }
        for (index, attribute) in cookie.attributes.iter().enumerate() {
            if !attribute.is_good() {
                let message = format!("`{}` cannot stand in a cookie", attribute.name);
                let path = format!("{path}.httpCookie.attributes[{index}]");
                findings.error(path, message, "such as `{name: SameSite, value: Lax}`");
            }
        }
        if cookie.ttl.is_none() && !cookie.attributes.is_empty() {
            let message = "without a ttl no cookie is made";
            findings.warning(
                format!("{path}.httpCookie.attributes"),
                message,
                "give it a ttl",
            );
        }
    }
    let ring = hash.ring_hash.as_ref().map(|ring| ring.minimum_ring_size);
    if ring
        .or(hash.minimum_ring_size)
        .is_some_and(|size| size > LARGEST_RING)
    {
        let message = "is larger than Envoy's largest ring";
        findings.error(
            format!("{path}.ringHash.minimumRingSize"),
            message,
            "at most 8388608",
        );
    }
    if let Some(maglev) = &hash.maglev {
        let path = format!("{path}.maglev.tableSize");
        if hash.ring_hash.is_some() {
            findings.error(
                &path,
                "there is only one table",
                "either `ringHash` or `maglev`",
            );
        }
        let size = maglev.table_size;
        if size > LARGEST_MAGLEV || (size != 0 && !is_prime(size)) {
            let message = format!("{size} is not a prime up to {LARGEST_MAGLEV}");
            findings.error(&path, message, "such as 65537");
        }
    }
}

fn is_prime(number: u64) -> bool {
    number > 1 && (2..=number.isqrt()).all(|divisor| !number.is_multiple_of(divisor))
}

fn one_warmup(warmup: &Warmup, path: &str, findings: &mut Findings<'_>) {
    match warmup.duration {
        None => findings.error(format!("{path}.duration"), "missing", "such as `60s`"),
        given => findings.duration(format!("{path}.duration"), given),
    }
    if warmup
        .minimum_percent
        .is_some_and(|percent| !(0.0..=100.0).contains(&percent))
    {
        findings.error(
            format!("{path}.minimumPercent"),
            "not a percentage",
            "0 to 100",
        );
    }
    if warmup
        .aggression
        .is_some_and(|value| !(1.0..=1000.0).contains(&value))
    {
        findings.error(format!("{path}.aggression"), "out of range", "1 to 1000");
    }
}

fn locality_lb(locality: &LocalityLb, path: &str, findings: &mut Findings<'_>) {
    if !locality.distribute.is_empty()
        && (!locality.failover.is_empty() || !locality.failover_priority.is_empty())
    {
        let message = "shares of localities leave nothing to turn to";
        let fix = "either `distribute`, or `failover` and `failoverPriority`";
        findings.error(format!("{path}.distribute"), message, fix);
    }
    for (index, distribution) in locality.distribute.iter().enumerate() {
        let sum: u64 = distribution
            .to
            .values()
            .map(|share| u64::from(*share))
            .sum();
        if sum != 100 {
            let path = format!("{path}.distribute[{index}].to");
            findings.error(path, format!("the shares sum up to {sum}"), "100");
        }
    }
    for (index, failover) in locality.failover.iter().enumerate() {
        if failover.from == failover.to {
            let path = format!("{path}.failover[{index}]");
            findings.error(path, "from a region to itself", "name another region");
        }
    }
}

fn connection_pool(pool: &ConnectionPool, path: &str, findings: &mut Findings<'_>) {
    if pool.tcp.is_none() && pool.http.is_none() {
        findings.error(path, "says nothing", "give it `tcp` or `http`");
    }
    let mut numbers = Vec::new();
    let mut times = Vec::new();
    if let Some(tcp) = &pool.tcp {
        numbers.push(("tcp.maxConnections", tcp.max_connections));
        times.push(("tcp.connectTimeout", tcp.connect_timeout));
        times.push(("tcp.maxConnectionDuration", tcp.max_connection_duration));
    }
    if let Some(http) = &pool.http {
        numbers.extend([
            (
                "http.http1MaxPendingRequests",
                http.http1_max_pending_requests,
            ),
            ("http.http2MaxRequests", http.http2_max_requests),
            (
                "http.maxRequestsPerConnection",
                http.max_requests_per_connection,
            ),
            ("http.maxRetries", http.max_retries),
            ("http.maxConcurrentStreams", http.max_concurrent_streams),
        ]);
        let keeps_alive = http.http2_keep_alive.is_some();
        findings.ignored(format!("{path}.http.http2KeepAlive"), keeps_alive);
        if let Some(policy) = &http.h2_upgrade_policy {
            findings.one_of::<Http2Upgrade>(format!("{path}.http.h2UpgradePolicy"), policy);
            if policy == "UPGRADE" && http.use_client_protocol {
                let message = "endpoints hear either HTTP/2 or what the client spoke";
                let fix = "remove it, or h2UpgradePolicy";
                findings.error(format!("{path}.http.useClientProtocol"), message, fix);
            }
        }
    }
    for (field, number) in numbers {
        if let Err(error) = limit(number) {
            findings.error(
                format!("{path}.{field}"),
                error.to_string(),
                "1 or more; 0 for no limit",
            );
        }
    }
    for (field, time) in times {
        findings.duration(format!("{path}.{field}"), time);
    }
}

fn outlier_detection(outliers: &OutlierDetection, path: &str, findings: &mut Findings<'_>) {
    if outliers.consecutive_errors.is_some() {
        let message = "has no effect, in Istio neither; ignored";
        let fix = "use consecutive5xxErrors or consecutiveGatewayErrors";
        findings.warning(format!("{path}.consecutiveErrors"), message, fix);
    }
    for (field, percent) in [
        ("maxEjectionPercent", outliers.max_ejection_percent),
        ("minHealthPercent", outliers.min_health_percent),
    ] {
        if let Err(error) = whole_percent(percent) {
            findings.error(format!("{path}.{field}"), error.to_string(), "0 to 100");
        }
    }
    findings.ignored(
        format!("{path}.outlierDetectionHttpErrorCodes"),
        outliers.outlier_detection_http_error_codes.is_some(),
    );
    findings.duration(format!("{path}.interval"), outliers.interval);
    findings.duration(
        format!("{path}.baseEjectionTime"),
        outliers.base_ejection_time,
    );
    if outliers.consecutive_local_origin_failures.is_some()
        && !outliers.split_external_local_origin_errors
    {
        let message = "has no effect without splitExternalLocalOriginErrors";
        let fix = "set splitExternalLocalOriginErrors: true";
        findings.error(
            format!("{path}.consecutiveLocalOriginFailures"),
            message,
            fix,
        );
    }
}

/// `validateTLS` of istio's pkg/config/validation.
fn one_tls(tls: &Tls, path: &str, findings: &mut Findings<'_>) {
    findings.one_of::<TlsMode>(format!("{path}.mode"), &tls.mode);
    let insecure = tls.insecure_skip_verify.unwrap_or_default();
    if insecure && tls.mode == "SIMPLE" && !tls.subject_alt_names.is_empty() {
        let message = "names can't be verified where any certificate will do";
        let fix = "either `subjectAltNames` or `insecureSkipVerify`";
        findings.error(format!("{path}.subjectAltNames"), message, fix);
    }
    if insecure && !tls.ca_certificates.is_empty() {
        let message = "nobody's certificate is looked at where any will do";
        let fix = "either `caCertificates` or `insecureSkipVerify`";
        findings.error(format!("{path}.caCertificates"), message, fix);
    }
    let by_system = tls.ca_certificates.is_empty() && tls.credential_name.is_empty() && !insecure;
    if by_system && matches!(tls.mode.as_str(), "SIMPLE" | "MUTUAL") {
        let message =
            "no authorities are named: those of the gateway's system say whose certificate is good";
        findings.info(
            format!("{path}.caCertificates"),
            message,
            "name a file, or use `credentialName`",
        );
    }
    let files = [
        ("clientCertificate", &tls.client_certificate),
        ("privateKey", &tls.private_key),
        ("caCertificates", &tls.ca_certificates),
    ];
    let by_name = !tls.credential_name.is_empty();
    for (field, file) in files {
        let path = format!("{path}.{field}");
        if tls.mode == "MUTUAL" && !by_name && file.is_empty() && field != "caCertificates" {
            let message = "missing: with MUTUAL both sides show a certificate";
            findings.error(path, message, "name a file, or use `credentialName`");
        } else if tls.mode == "SIMPLE" && !file.is_empty() && field != "caCertificates" {
            let message = "has no effect with SIMPLE: only the endpoint shows a certificate";
            findings.warning(path, message, "remove it, or use MUTUAL");
        } else if by_name && !file.is_empty() {
            let message = "certificates are in files or in a Secret";
            findings.error(path, message, "remove it, or `credentialName`");
        } else if tls.mode == "ISTIO_MUTUAL" && !file.is_empty() {
            let message = "has no effect: ISTIO_MUTUAL has the certificates of the mesh";
            findings.warning(path, message, "remove it, or use MUTUAL");
        }
    }
    if tls.mode == "ISTIO_MUTUAL" {
        let message = "there is no mesh here that would issue certificates; unless something else puts \
                       cert-chain.pem, key.pem and root-cert.pem into \
                       /var/run/secrets/workload-spiffe-credentials, requests are answered with 503";
        findings.warning(format!("{path}.mode"), message, "MUTUAL, or DISABLE");
    }
    let open = !tls.sni.is_empty() && tls.subject_alt_names.is_empty() && !insecure;
    if open && matches!(tls.mode.as_str(), "SIMPLE" | "MUTUAL") {
        let message =
            "with `sni`, Istio verifies who has issued the certificate, but not whose it is";
        findings.warning(format!("{path}.sni"), message, "add `subjectAltNames`");
    }
    findings.ignored(format!("{path}.caCrl"), tls.ca_crl.is_some());
}

impl Findings<'_> {
    /// A duration must be of whole milliseconds, and at least one (`ValidateDuration` of istio's
    /// pkg/config/validation/agent).
    pub(super) fn duration(&mut self, path: impl Into<String>, given: Option<Interval>) {
        let Some(Interval(duration)) = given else {
            return;
        };
        if duration < Duration::from_millis(1) {
            self.error(path, "is too short", "1ms or more");
        } else if duration.subsec_nanos() % 1_000_000 != 0 {
            self.error(path, "is finer than a millisecond", "whole milliseconds");
        }
    }
}
