//! Routes that stand in another VirtualService, and who sees which objects.

use serde_json::{Value, json};

use super::{Make, Wanted, object};
use crate::differential::names::PLACEHOLDER;

impl Make {
    /// Lets a route of a VirtualService be those of another one, which is given.
    pub(super) fn delegate(&mut self, routes: &mut [Value], wanted: &mut Vec<Wanted>) -> Value {
        let name = format!("{PLACEHOLDER}-part");
        let delegate = match self.0.u8(..5) {
            0 => json!({"name": name}),
            // There is none.
            1 => json!({"name": name, "namespace": "other"}),
            _ => json!({"name": name, "namespace": "default"}),
        };
        let index = self.0.usize(..routes.len());
        let mut route = json!({"delegate": delegate});
        if let Some(conditions) = routes[index].get("match") {
            route["match"] = conditions.clone();
        }
        routes[index] = route;
        let mut parts = self.routes(wanted);
        if self.chance(70) {
            for route in routes.iter_mut().chain(&mut parts) {
                if let Some(conditions) = route.get_mut("match") {
                    without_expressions(conditions);
                }
            }
        }
        object("VirtualService", "part", &json!({"http": parts}))
    }

    /// Says which namespaces see an object.
    pub(super) fn export(&mut self, object: &mut Value) {
        let kinds = [
            json!(["."]),
            json!(["*"]),
            json!(["istio-system"]),
            json!(["other"]),
            json!(["default", "istio-system"]),
        ];
        let namespaces = self.0.choice(kinds).unwrap_or_default();
        object["spec"]["exportTo"] = namespaces;
    }
}

/// Puts prefixes in the place of expressions, which Istio's documentation does not allow there.
fn without_expressions(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(without_expressions),
        Value::Object(fields) => {
            if let Some(pattern) = fields.remove("regex") {
                let is_path = pattern.as_str().is_some_and(|text| text.starts_with('/'));
                let prefix = if is_path { "/b" } else { "1" };
                fields.insert("prefix".into(), json!(prefix));
            }
            fields.values_mut().for_each(without_expressions);
        }
        _ => {}
    }
}
