//! DestinationRules that Istio's webhook refuses, and that can be served.

use std::time::Duration;

use super::{Findings, labels};
use crate::{
    istio::{ConnectionPool, DestinationRuleSpec, TrafficPolicy},
    names,
};

/// `ValidateDestinationRule`
pub(super) fn check(spec: &DestinationRuleSpec, findings: &mut Findings<'_>) {
    if names::is_lax_host(&spec.host) {
        let message = format!("`{}` is no domain", spec.host);
        findings.not_admitted("spec.host", &message, "the name of a Service");
    }
    if let Some(given) = &spec.traffic_policy {
        policy(given, "spec.trafficPolicy", findings);
    }
    for (index, subset) in spec.subsets.iter().enumerate() {
        let path = format!("spec.subsets[{index}]");
        labels(&subset.labels, &format!("{path}.labels"), findings);
        if let Some(given) = &subset.traffic_policy {
            policy(given, &format!("{path}.trafficPolicy"), findings);
        }
    }
}

/// `validateTrafficPolicy`
fn policy(given: &TrafficPolicy, path: &str, findings: &mut Findings<'_>) {
    if *given == TrafficPolicy::default() {
        findings.not_admitted(path, "says nothing", "remove it");
    }
    pool(given.connection_pool.as_ref(), path, findings);
    for (index, of_port) in given.port_level_settings.iter().enumerate() {
        let path = format!("{path}.portLevelSettings[{index}]");
        let says_nothing = of_port.load_balancer.is_none()
            && of_port.connection_pool.is_none()
            && of_port.outlier_detection.is_none()
            && of_port.tls.is_none();
        if says_nothing {
            findings.not_admitted(&path, "says nothing of its port", "remove it");
        }
        pool(of_port.connection_pool.as_ref(), &path, findings);
    }
}

/// `validateConnectionPool`
fn pool(given: Option<&ConnectionPool>, path: &str, findings: &mut Findings<'_>) {
    let Some(given) = given else {
        return;
    };
    let path = format!("{path}.connectionPool");
    if given.tcp.is_none() && given.http.is_none() {
        findings.not_admitted(&path, "says nothing", "give it `tcp` or `http`");
    }
    let keepalive = given.tcp.iter().flat_map(|tcp| &tcp.tcp_keepalive);
    let of_keepalive = keepalive.flat_map(|keepalive| {
        [
            ("tcp.tcpKeepalive.time", keepalive.time),
            ("tcp.tcpKeepalive.interval", keepalive.interval),
        ]
    });
    let idle = [
        (
            "tcp.idleTimeout",
            given.tcp.as_ref().and_then(|tcp| tcp.idle_timeout),
        ),
        (
            "http.idleTimeout",
            given.http.as_ref().and_then(|http| http.idle_timeout),
        ),
    ];
    for (field, time) in of_keepalive.chain(idle) {
        if time.is_some_and(|time| time.0 < Duration::from_millis(1)) {
            let path = format!("{path}.{field}");
            findings.not_admitted(path, "is too short", "1ms or more");
        }
    }
}
