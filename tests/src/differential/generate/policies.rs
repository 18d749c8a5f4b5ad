//! What routes to destinations do beside leading there, and services of a case's own.

use serde_json::{Map, Value, json};

use super::{Make, object};
use crate::differential::ground::{ALONE, ENDPOINTS, Endpoint, MIRRORS, address};

impl Make {
    pub(super) fn policies(&mut self, route: &mut Map<String, Value>) {
        let mut put = |name: &str, value: Value| {
            route.insert(name.into(), value);
        };
        if self.chance(12) {
            put("fault", self.fault());
        }
        if self.chance(12) {
            put("timeout", json!(self.one(&["30s", "1m"])));
        }
        if self.chance(20) {
            put("retries", self.retries());
        }
        if self.chance(15) {
            put("corsPolicy", self.cors());
        }
        if self.chance(8) {
            let [first, second] = MIRRORS;
            let mirror = json!({"host": first, "port": {"number": 80}});
            let percentage = json!({"value": self.one(&[100.0, 0.0])});
            match self.0.u8(..3) {
                0 => put("mirror", mirror),
                1 => {
                    put("mirror", mirror);
                    put("mirrorPercentage", percentage);
                }
                _ => {
                    let all = [
                        json!({"destination": mirror}),
                        json!({"destination": {"host": second}, "percentage": percentage}),
                    ];
                    put("mirrors", json!(all));
                }
            }
        }
    }

    /// Gives up on endpoints that say nothing. The times are far apart, so that all attempts are made on a machine
    /// that is busy, too.
    pub(super) fn hurry(&mut self, route: &mut Value) {
        if route.get("route").is_none() {
            return;
        }
        if self.chance(50) {
            route["timeout"] = json!("2s");
            route["retries"] = json!({"attempts": 0});
        } else {
            let attempts = 1 + self.0.u8(..2);
            let retry_on = self.one(&[
                "5xx",
                "gateway-error",
                "reset",
                "connect-failure",
                "refused-stream",
            ]);
            route["timeout"] = json!("10s");
            route["retries"] =
                json!({"attempts": attempts, "retryOn": retry_on, "perTryTimeout": "1s"});
        }
    }

    fn fault(&mut self) -> Value {
        let percentage = json!({"value": self.one(&[100, 100, 0])});
        match self.0.u8(..3) {
            0 => json!({"delay": {"fixedDelay": "0.01s", "percentage": percentage}}),
            1 => json!({"abort": {"grpcStatus": "UNAVAILABLE", "percentage": percentage}}),
            _ => json!({"abort": {"httpStatus": self.one(&[418, 503]), "percentage": percentage}}),
        }
    }

    fn retries(&mut self) -> Value {
        let mut retries = json!({"attempts": self.0.u8(..4)});
        if retries["attempts"] == 0 {
            return retries;
        }
        if self.chance(75) {
            retries["retryOn"] = json!(self.one(&[
                "5xx",
                "gateway-error,reset",
                "retriable-4xx",
                "connect-failure",
                "503,404",
                "retriable-status-codes,418",
                "refused-stream",
                "reset",
                "reset-before-request",
                "cancelled,unavailable",
                "internal,deadline-exceeded,resource-exhausted",
            ]));
        }
        if self.chance(30) {
            retries["perTryTimeout"] = json!("20s");
        }
        if self.chance(20) {
            retries["backoff"] = json!("0.01s");
        }
        retries
    }

    fn cors(&mut self) -> Value {
        let origins = [
            json!({"exact": "https://a.test"}),
            json!({"regex": r"https://.*\.test"}),
            json!({"prefix": "https://b"}),
            json!({"exact": "*"}),
        ];
        let origin = self.0.choice(origins).unwrap_or_default();
        let mut policy = json!({"allowOrigins": [origin]});
        let mut put = |name: &str, value: Value| policy[name] = value;
        if self.chance(60) {
            put("allowMethods", json!(["GET", "PUT"]));
        }
        if self.chance(50) {
            put("allowHeaders", json!(["x-a", "X-B"]));
            put("exposeHeaders", json!(["x-of"]));
            put("maxAge", json!("10s"));
        }
        if self.chance(50) {
            put("allowCredentials", json!(self.0.bool()));
        }
        if self.chance(30) {
            let word = self.one(&["IGNORE", "FORWARD", "UNSPECIFIED"]);
            put("unmatchedPreflights", json!(word));
        }
        policy
    }

    /// A ServiceEntry, and maybe a DestinationRule for it.
    pub(super) fn own_service(&mut self) -> Vec<Value> {
        let host = "CASE-own.test";
        // One is only for those who have a connection for each request. Those of mirrors could not tell copies from
        // attempts.
        let shared = ENDPOINTS.map(|endpoint| {
            let [first, ..] = ENDPOINTS;
            if endpoint.name == ALONE || MIRRORS.contains(&endpoint.name) {
                first
            } else {
                endpoint
            }
        });
        let Endpoint { name, port } = self.one(&shared);
        let port_name = self.one(&["http", "http-own"]);
        let entry = json!({
            "hosts": [host],
            "location": self.one(&["MESH_INTERNAL", "MESH_EXTERNAL"]),
            "resolution": "STATIC",
            "ports": [{
                "number": self.one(&[80, 8000]),
                "name": port_name,
                "protocol": self.one(&["HTTP", "HTTP", "HTTP2", "GRPC"]),
            }],
            "endpoints": [{"address": address(), "ports": {port_name: port}, "labels": {"of": name}}],
        });
        let mut objects = vec![object("ServiceEntry", "own", &entry)];
        if self.chance(60) {
            let policies = [
                json!({"loadBalancer": {"simple": "ROUND_ROBIN"}}),
                json!({"connectionPool": {"http": {"maxRequestsPerConnection": 1}}}),
                // More than there ever are at once: which would be refused is chance.
                json!({"connectionPool": {"http": {"maxRetries": 100}}}),
                json!({"connectionPool": {"http": {"h2UpgradePolicy": "UPGRADE"}}}),
                json!({"connectionPool": {"http": {"h2UpgradePolicy": "DO_NOT_UPGRADE"}}}),
                json!({"connectionPool": {"http": {"useClientProtocol": true}}}),
                json!({"connectionPool": {"http": {"useClientProtocol": true, "h2UpgradePolicy": "UPGRADE"}}}),
                json!({"connectionPool": {"http": {"http2MaxRequests": 100, "maxConcurrentStreams": 1}}}),
                json!({"outlierDetection": {"consecutive5xxErrors": 0}}),
                json!({"loadBalancer": {"consistentHash": {"httpHeaderName": "x-a"}}}),
                json!({"loadBalancer": {"consistentHash": {"httpCookie": {"name": "seen", "ttl": "60s"}}}}),
            ];
            let policy = self.0.choice(policies).unwrap_or_default();
            let rule = json!({"host": host, "trafficPolicy": policy});
            objects.push(object("DestinationRule", "own", &rule));
        }
        objects
    }
}
