//! Changes of headers.

use serde_json::{Map, Value, json};

use super::Make;

const VALUES: [&str; 25] = [
    "plain",
    "",
    "100%%",
    "%REQ(x-a)%",
    "%REQ(x-none)%",
    "[%REQ(x-b)%]",
    "%REQ(:path)%",
    "%REQ(:authority)%",
    "%REQ(x-none?x-a)%",
    "%PROTOCOL%",
    "%RESPONSE_CODE%",
    "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "%UPSTREAM_CLUSTER%",
    "%UPSTREAM_CLUSTER_RAW%",
    "%UPSTREAM_HOST%",
    "%ROUTE_NAME%",
    "[%RESPONSE_FLAGS%]",
    "%RESPONSE_CODE_DETAILS%",
    "%REQ(:method)%",
    "%RESP(content-type)%",
    "%BYTES_RECEIVED%",
    "%QUERY_PARAM(p)%",
    "%PATH(NQ)%",
    "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "%GRPC_STATUS%",
];

impl Make {
    /// `headers` of a route or of a destination.
    pub(super) fn operations(&mut self) -> Value {
        let mut both = Map::new();
        for direction in ["request", "response"] {
            let changes = self.changes(direction);
            if !changes.is_empty() {
                both.insert(direction.into(), Value::Object(changes));
            }
        }
        if both.is_empty() {
            both.insert("response".into(), json!({"set": {"x-new": "1"}}));
        }
        Value::Object(both)
    }

    fn changes(&mut self, direction: &str) -> Map<String, Value> {
        let mut changes = Map::new();
        for kind in ["set", "add"] {
            if !self.chance(45) {
                continue;
            }
            let mut values = Map::new();
            for _ in 0..self.one(&[1, 1, 2]) {
                let name = self.one(&["x-a", "x-new", "x-of", "X-Mixed", "user-agent", "server"]);
                values.insert(name.into(), json!(self.one(&VALUES)));
            }
            changes.insert(kind.into(), Value::Object(values));
        }
        if direction == "request" && self.chance(5) {
            let host = self.one(&["changed.test", "%REQ(x-a)%"]);
            changes.insert("set".into(), json!({"host": host}));
        }
        if self.chance(40) {
            let name = self.one(&["x-a", "x-b", "X-New", "x-none", "set-cookie", "server"]);
            changes.insert("remove".into(), json!([name]));
        }
        changes
    }
}
