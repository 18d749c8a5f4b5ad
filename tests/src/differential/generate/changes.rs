//! Changes of objects, of which one sees whether a request was answered before or after them.

use serde_json::{Value, json};

use super::{Make, object, seeded};
use crate::differential::{
    case::Case,
    ground::{ALPHA, BETA, DELTA, GATEWAY, SHARDS, address},
    names::{DOMAIN, PLACEHOLDER},
};

/// The header of answers that says which objects were in force.
pub(in crate::differential) const VERSION: &str = "x-version";

/// The same host before and after a change.
#[derive(Clone, Debug)]
pub(in crate::differential) struct Change {
    /// What changes.
    pub(in crate::differential) what: &'static str,
    pub(in crate::differential) before: Case,
    pub(in crate::differential) after: Case,
}

/// The change of a number.
pub(in crate::differential) fn change(seed: u64, number: u64) -> Change {
    let mut make = seeded(seed, number);
    let (what, [before, after]) = match make.0.u8(..6) {
        0 => ("another destination", make.destinations()),
        1 => ("a subset of its own", make.subsets()),
        2 => ("an endpoint of a ServiceEntry", make.moved()),
        3 => ("a route before the others", make.inserted()),
        4 => ("a Service for a ServiceEntry", make.replaced()),
        _ => ("an answer of the gateway's own", make.answered()),
    };
    let case = |objects| Case {
        objects,
        requests: Vec::new(),
    };
    Change {
        what,
        before: case(before),
        after: case(after),
    }
}

impl Make {
    fn destinations(&mut self) -> [Vec<Value>; 2] {
        let mut all = [
            json!({"host": ALPHA, "port": {"number": 80}}),
            json!({"host": BETA}),
            json!({"host": DELTA}),
            json!({"host": SHARDS, "subset": "v1"}),
            json!({"host": SHARDS, "subset": "v2"}),
        ];
        self.0.shuffle(&mut all);
        let [first, second, ..] = all;
        [
            vec![service(&[to("1", &first)])],
            vec![service(&[to("2", &second)])],
        ]
    }

    /// The rule with the subset comes before the route that leads there.
    fn subsets(&mut self) -> [Vec<Value>; 2] {
        let own = format!("{PLACEHOLDER}-own.test");
        let entry = entry(&own, &[(9001, "a"), (9002, "b")]);
        let subset = |name: &str| json!({"name": name, "labels": {"of": name}});
        let rule = |subsets: &[Value]| {
            object(
                "DestinationRule",
                "own",
                &json!({"host": own, "subsets": subsets}),
            )
        };
        let (first, second) = if self.0.bool() {
            ("a", "b")
        } else {
            ("b", "a")
        };
        let route =
            |version, name: &str| service(&[to(version, &json!({"host": own, "subset": name}))]);
        [
            vec![entry.clone(), rule(&[subset(first)]), route("1", first)],
            vec![
                entry,
                rule(&[subset(first), subset(second)]),
                route("2", second),
            ],
        ]
    }

    fn moved(&mut self) -> [Vec<Value>; 2] {
        let own = format!("{PLACEHOLDER}-own.test");
        let ports = if self.0.bool() {
            [9001, 9002]
        } else {
            [9002, 9001]
        };
        ports.map(|port| {
            vec![
                entry(&own, &[(port, "a")]),
                service(&[to("1", &json!({"host": own}))]),
            ]
        })
    }

    fn inserted(&mut self) -> [Vec<Value>; 2] {
        let last = to("1", &json!({"host": ALPHA, "port": {"number": 80}}));
        let mut first = to("2", &json!({"host": BETA}));
        let conditions = [
            json!([{"uri": {"prefix": "/"}}]),
            json!([{"uri": {"regex": ".*"}}]),
            json!([{"method": {"exact": "GET"}}]),
            json!([{"authority": {"prefix": PLACEHOLDER}}]),
        ];
        first["match"] = self.0.choice(conditions).unwrap_or_default();
        [
            vec![service(std::slice::from_ref(&last))],
            vec![service(&[first, last])],
        ]
    }

    fn replaced(&mut self) -> [Vec<Value>; 2] {
        let own = format!("{PLACEHOLDER}-own.test");
        let entry = entry(&own, &[(9002, "a")]);
        let before = to("1", &json!({"host": own}));
        let after = to("2", &json!({"host": ALPHA, "port": {"number": 81}}));
        let objects = [before, after].map(|route| vec![entry.clone(), service(&[route])]);
        let [before, after] = objects;
        if self.0.bool() {
            [before, after]
        } else {
            [after, before]
        }
    }

    fn answered(&mut self) -> [Vec<Value>; 2] {
        let forwarded = to("1", &json!({"host": ALPHA, "port": {"number": 80}}));
        let mut own = json!({"directResponse": {"status": 200, "body": {"string": "own"}}});
        own["headers"] = json!({"response": {"set": {VERSION: "2"}}});
        let both = [forwarded, own].map(|route| vec![service(&[route])]);
        let [before, after] = both;
        if self.0.bool() {
            [before, after]
        } else {
            [after, before]
        }
    }
}

/// A route to a destination, whose answers say the version.
fn to(version: &str, destination: &Value) -> Value {
    json!({
        "route": [{"destination": destination}],
        "headers": {"response": {"set": {VERSION: version}}},
    })
}

fn service(routes: &[Value]) -> Value {
    let spec = json!({
        "hosts": [format!("{PLACEHOLDER}.{DOMAIN}")],
        "gateways": [GATEWAY],
        "http": routes,
    });
    object("VirtualService", "0", &spec)
}

/// Endpoints by their ports, with labels.
fn entry(host: &str, endpoints: &[(u16, &str)]) -> Value {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|(port, of)| {
            json!({"address": address(), "ports": {"http": port}, "labels": {"of": of}})
        })
        .collect();
    let spec = json!({
        "hosts": [host],
        "resolution": "STATIC",
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
        "endpoints": endpoints,
    });
    object("ServiceEntry", "own", &spec)
}
