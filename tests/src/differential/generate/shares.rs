//! Routes of which chance chooses what becomes of a request, with the shares that each outcome has.

use serde_json::{Value, json};

use super::{Make, object, seeded};
use crate::differential::{
    case::Case,
    ground::{ALPHA, BETA, DELTA, GATEWAY, MIRRORS, SHARDS},
    names::{DOMAIN, PLACEHOLDER},
};

/// The status of a request that is aborted.
pub(in crate::differential) const ABORTED: u16 = 418;

/// Destinations, and which endpoint each leads to.
const DESTINATIONS: [(&str, Option<&str>, &str); 5] = [
    (ALPHA, None, "alpha"),
    (BETA, None, "beta"),
    (SHARDS, Some("v1"), "v1"),
    (SHARDS, Some("v2"), "v2"),
    (DELTA, None, "delta"),
];

/// A route, and what becomes of its requests.
#[derive(Clone, Debug)]
pub(in crate::differential) struct Shared {
    pub(in crate::differential) case: Case,
    /// Endpoints and their weights.
    pub(in crate::differential) weights: Vec<(&'static str, u32)>,
    /// How many of a hundred are aborted.
    pub(in crate::differential) aborted: f64,
    /// Of how many of a hundred others a mirror gets a copy.
    pub(in crate::differential) mirrored: f64,
}

/// The route of a number.
pub(in crate::differential) fn shared(seed: u64, number: u64) -> Shared {
    let mut make = seeded(seed, number);
    let mut destinations = DESTINATIONS;
    make.0.shuffle(&mut destinations);
    let count = 2 + make.0.usize(..3);
    let mut weights = Vec::new();
    let mut route = Vec::new();
    for (host, subset, endpoint) in destinations.into_iter().take(count) {
        let weight = make.one(&[0, 1, 1, 2, 3, 5, 10, 33, 50, 90, 99]);
        weights.push((endpoint, weight));
        let mut destination = json!({"host": host});
        if host != SHARDS {
            destination["port"] = json!({"number": 80});
        }
        if let Some(subset) = subset {
            destination["subset"] = json!(subset);
        }
        route.push(json!({"destination": destination, "weight": weight}));
    }
    if weights.iter().all(|(_, weight)| *weight == 0) {
        weights[0].1 = 1;
        route[0]["weight"] = json!(1);
    }
    let mut route = json!({"route": route});
    let aborted = make.percentage(30);
    if aborted > 0.0 {
        route["fault"] =
            json!({"abort": {"httpStatus": ABORTED, "percentage": {"value": aborted}}});
    }
    let mirrored = make.percentage(30);
    if mirrored > 0.0 {
        let [mirror, _] = MIRRORS;
        route["mirror"] = json!({"host": mirror, "port": {"number": 80}});
        route["mirrorPercentage"] = json!({"value": mirrored});
    }
    Shared {
        case: Case {
            objects: vec![service(&route)],
            requests: Vec::new(),
        },
        weights,
        aborted,
        mirrored,
    }
}

fn service(route: &Value) -> Value {
    let spec = json!({
        "hosts": [format!("{PLACEHOLDER}.{DOMAIN}")],
        "gateways": [GATEWAY],
        "http": [route],
    });
    object("VirtualService", "0", &spec)
}

impl Make {
    /// A percentage, so often; otherwise none.
    fn percentage(&mut self, often: u32) -> f64 {
        if self.chance(often) {
            self.one(&[50.0, 25.0, 10.0, 1.0, 0.5, 33.3, 90.0])
        } else {
            0.0
        }
    }
}
