//! Cases by chance, from a seed: the same seed and number make the same case. Words are few, so that they meet.

use fastrand::Rng;
use serde_json::{Map, Value, json};

use super::{
    case::Case,
    names::{DOMAIN, LABEL, PLACEHOLDER},
};

mod actions;
mod changes;
mod conditions;
mod delegates;
mod faults;
mod frames;
mod gateways;
mod headers;
mod policies;
mod requests;
mod shares;
mod tcp;
mod words;

pub(super) use changes::{Change, VERSION, change};
pub(super) use faults::faulty;
pub(super) use shares::{ABORTED, Shared, shared};
pub(super) use tcp::tcp;

/// What a request must be for a condition, as far as requests are made from it.
#[derive(Clone, Debug, Default)]
struct Wanted {
    path: String,
    method: Option<&'static str>,
    headers: Vec<(&'static str, String)>,
    query: Vec<(&'static str, String)>,
}

/// Chance, and what it is asked.
struct Make(Rng);

/// The case of a number, with so many requests.
pub fn case(seed: u64, number: u64, requests: usize) -> Case {
    seeded(seed, number).case(requests)
}

/// The chance of a number.
fn seeded(seed: u64, number: u64) -> Make {
    // Neighbours have nothing in common (the increment of SplitMix64).
    let seed = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    Make(Rng::with_seed(seed))
}

impl Make {
    fn chance(&mut self, percent: u32) -> bool {
        self.0.u32(..100) < percent
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.0.usize(..of.len())]
    }

    fn case(&mut self, requests: usize) -> Case {
        let name = format!("{PLACEHOLDER}.{DOMAIN}");
        let (domain, host) = if self.chance(15) {
            (format!("*.{name}"), format!("x.{name}"))
        } else {
            (name.clone(), name.clone())
        };
        let mut wanted = Vec::new();
        let mut objects = Vec::new();
        let own_gateway = self.chance(20);
        if own_gateway {
            objects.push(self.own_gateway(&domain));
        }
        let is_impatient = self.chance(4);
        for index in 0..self.one(&[1, 1, 1, 1, 1, 2]) {
            let mut routes = self.routes(&mut wanted);
            if index == 0 && self.chance(12) {
                let part = self.delegate(&mut routes, &mut wanted);
                objects.push(part);
            }
            let gateways = self.gateways(own_gateway);
            let mut hosts = vec![domain.clone()];
            if self.chance(10) {
                hosts.push(format!("also.{name}"));
            }
            let spec = json!({"hosts": hosts, "gateways": gateways, "http": routes});
            objects.push(object("VirtualService", &index.to_string(), &spec));
        }
        if self.chance(25) {
            let own = self.own_service();
            objects.extend(own);
        }
        for object in &mut objects {
            if object["kind"] != "Gateway" && self.chance(8) {
                self.export(object);
            }
            let routes = object["spec"].get_mut("http");
            let routes = routes
                .filter(|_| is_impatient)
                .and_then(Value::as_array_mut);
            for route in routes.into_iter().flatten() {
                self.hurry(route);
            }
        }
        let requests = (0..requests)
            .map(|_| self.request(&host, &wanted, is_impatient))
            .collect();
        Case { objects, requests }
    }

    fn routes(&mut self, wanted: &mut Vec<Wanted>) -> Vec<Value> {
        let count = 1 + self.0.usize(..5);
        (0..count).map(|_| self.route(wanted)).collect()
    }

    fn route(&mut self, wanted: &mut Vec<Wanted>) -> Value {
        let mut route = Map::new();
        let conditions = self.0.usize(..4);
        if conditions > 0 {
            let conditions: Vec<_> = (0..conditions).map(|_| self.condition(wanted)).collect();
            route.insert("match".into(), json!(conditions));
        }
        self.action(&mut route);
        if self.chance(30) {
            let operations = self.operations();
            route.insert("headers".into(), operations);
        }
        Value::Object(route)
    }
}

/// An object of Istio's with the case's name and something after it.
fn object(kind: &str, suffix: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": kind,
        "metadata": {
            "name": format!("{PLACEHOLDER}-{suffix}"),
            "namespace": "default",
            "labels": {LABEL: "case"},
        },
        "spec": spec,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_and_a_number_make_one_case() {
        assert_eq!(case(7, 3, 5), case(7, 3, 5));
        assert_ne!(case(7, 3, 5), case(7, 4, 5));
        assert_ne!(case(7, 3, 5), case(8, 3, 5));
        // More requests are no other objects.
        assert_eq!(case(7, 3, 5).objects, case(7, 3, 9).objects);
    }

    #[test]
    fn everything_that_can_be_generated_is() {
        let cases: Vec<_> = (0..400).map(|number| case(1, number, 4)).collect();
        let text = format!("{cases:?}");
        for word in [
            "withoutHeaders",
            "ignoreUriCase",
            "queryParams",
            "uriRegexRewrite",
            "derivePort",
            "directResponse",
            "abort",
            "delay",
            "corsPolicy",
            "mirror",
            "retries",
            "timeout",
            "weight",
            "subset",
            "DestinationRule",
            "ServiceEntry",
            "httpsRedirect",
            "delegate",
            "exportTo",
            "sourceNamespace",
            "HTTP/1.0",
            "x-behave",
            "silent",
            "is_chunked: true",
            "HTTP/2",
            "application/grpc",
            "grpc-timeout",
            "useClientProtocol",
            "h2UpgradePolicy",
            "refused-stream",
            "Crumbs",
            "trailers: [(",
        ] {
            assert!(text.contains(word), "{word}");
        }
    }
}
