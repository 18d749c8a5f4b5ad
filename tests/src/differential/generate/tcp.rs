//! Routes of connections: Gateways with TCP ports of a case's own.

use serde_json::{Value, json};

use super::{Make, object, seeded};
use crate::differential::{
    behaviour::BEHAVE,
    case::Case,
    ground::{ALPHA, BETA, GAMMA, SHARDS},
    names::{DOMAIN, PLACEHOLDER},
    request::Request,
};

/// Each case has two ports from here on.
const FIRST_PORT: u16 = 20000;
/// How many cases have ports of their own.
const CASES: u64 = 5000;

/// What endpoints do with a connection. TCP has no time-out for silence.
const BEHAVIOURS: [&str; 5] = ["404", "close", "reset", "cut", "hop"];

/// The case of a number, with its requests: each of them is what one connection says.
pub(in crate::differential) fn tcp(seed: u64, number: u64) -> Case {
    let mut make = seeded(seed, number);
    let offset = u16::try_from(number % CASES).unwrap_or_default();
    let ports = [0, 1].map(|next| FIRST_PORT + 2 * offset + next);
    let mut objects = vec![make.tcp_gateway(ports)];
    for index in 0..make.one(&[1, 1, 1, 2]) {
        objects.push(make.tcp_service(index, ports));
    }
    let mut requests = Vec::new();
    for port in ports {
        let plain = Request {
            method: "GET".into(),
            target: "/".into(),
            version: "HTTP/1.1",
            host: format!("{PLACEHOLDER}.{DOMAIN}"),
            port: Some(port),
            ..Request::default()
        };
        let behaves = Request {
            headers: vec![(BEHAVE.into(), make.one(&BEHAVIOURS).into())],
            ..plain.clone()
        };
        requests.extend([plain, behaves]);
    }
    Case { objects, requests }
}

impl Make {
    fn tcp_gateway(&mut self, [first, second]: [u16; 2]) -> Value {
        let server = |make: &mut Self, port: u16| {
            let hosts = match make.0.u8(..5) {
                0 => json!([format!("{PLACEHOLDER}.{DOMAIN}")]),
                1 => json!([format!("./{PLACEHOLDER}.{DOMAIN}")]),
                // Which no VirtualService has.
                2 => json!(["elsewhere.test"]),
                _ => json!(["*"]),
            };
            json!({
                "port": {"number": port, "name": format!("tcp-{port}"), "protocol": "TCP"},
                "hosts": hosts,
            })
        };
        let mut servers = vec![server(self, first)];
        if self.chance(60) {
            servers.push(server(self, second));
        }
        let spec = json!({"selector": {"istio": "ingressgateway"}, "servers": servers});
        object("Gateway", "tcp", &spec)
    }

    fn tcp_service(&mut self, index: usize, ports: [u16; 2]) -> Value {
        let count = 1 + self.0.usize(..3);
        let routes: Vec<_> = (0..count).map(|_| self.tcp_route(ports)).collect();
        let host = if self.chance(30) {
            "*".to_owned()
        } else {
            format!("{PLACEHOLDER}.{DOMAIN}")
        };
        let spec = json!({
            "hosts": [host],
            "gateways": [format!("{PLACEHOLDER}-tcp")],
            "tcp": routes,
        });
        object("VirtualService", &index.to_string(), &spec)
    }

    fn tcp_route(&mut self, ports: [u16; 2]) -> Value {
        let mut destinations = [
            json!({"host": GAMMA}),
            json!({"host": GAMMA, "port": {"number": 80}}),
            json!({"host": ALPHA, "port": {"number": 81}}),
            json!({"host": format!("{BETA}.default.svc.cluster.local")}),
            json!({"host": SHARDS, "subset": "v1"}),
            json!({"host": SHARDS, "subset": self.one(&["v2", "v2", "none", "undefined"])}),
            json!({"host": "unknown.default.svc.cluster.local", "port": {"number": 80}}),
        ];
        let mut route = json!({});
        if self.chance(30) {
            self.0.shuffle(&mut destinations[..6]);
            let count = 2 + self.0.usize(..2);
            let weighted = destinations.iter().take(count).map(|destination| {
                json!({"destination": destination, "weight": self.one(&[1, 1, 2, 3, 5, 0])})
            });
            route["route"] = json!(weighted.collect::<Vec<_>>());
        } else {
            let destination = self.0.choice(destinations).unwrap_or_default();
            route["route"] = json!([{"destination": destination}]);
        }
        let conditions = self.one(&[0, 1, 1, 1, 2]);
        if conditions > 0 {
            let conditions: Vec<_> = (0..conditions).map(|_| self.tcp_condition(ports)).collect();
            route["match"] = json!(conditions);
        }
        route
    }

    fn tcp_condition(&mut self, [first, second]: [u16; 2]) -> Value {
        let conditions = [
            json!({"port": first}),
            json!({"port": second}),
            json!({"port": first, "gateways": [format!("{PLACEHOLDER}-tcp")]}),
            json!({"port": 80}),
            // The client's network, and another one.
            json!({"sourceSubnet": "192.168.170.0/24"}),
            json!({"sourceSubnet": "10.0.0.0/8", "port": first}),
            json!({"destinationSubnets": ["10.0.0.0/8"]}),
            json!({"destinationSubnets": ["192.168.170.3/32", "fd00::/8"], "port": second}),
            json!({"sourceLabels": {"app": "elsewhere"}}),
            json!({"gateways": ["elsewhere"]}),
            json!({"sourceNamespace": "other", "port": first}),
        ];
        self.0.choice(conditions).unwrap_or_default()
    }
}
