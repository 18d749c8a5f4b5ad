//! A case: the objects of one host, and requests for it. Many of them stand beside each other at once.

use serde_json::Value;

use super::{names::PLACEHOLDER, request::Request};

/// Objects and requests, with the [placeholder](PLACEHOLDER) for the name.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// To be applied together.
    pub objects: Vec<Value>,
    /// What is then asked.
    pub requests: Vec<Request>,
}

impl Case {
    /// The objects under a name.
    pub(super) fn objects(&self, name: &str) -> Vec<Value> {
        let objects = self.objects.iter();
        objects.map(|object| renamed(object, name)).collect()
    }
}

/// The value with a name in all places that have the placeholder.
fn renamed(value: &Value, name: &str) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace(PLACEHOLDER, name)),
        Value::Array(items) => items.iter().map(|item| renamed(item, name)).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.replace(PLACEHOLDER, name), renamed(value, name)))
            .collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_case_has_its_name_wherever_the_placeholder_is() {
        let case = Case {
            objects: vec![json!({"metadata": {"name": "CASE-0"}, "hosts": ["CASE.test"], "n": 1})],
            requests: Vec::new(),
        };
        assert_eq!(
            case.objects("h1"),
            [json!({"metadata": {"name": "h1-0"}, "hosts": ["h1.test"], "n": 1})]
        );
    }
}
