//! `key: null`, and `key:` with nothing behind it.
//!
//! In an object with fields the API server treats it as if the key were not there. It does so with the keys of
//! a map of a custom resource, too (`PruneNonNullableNullsWithoutDefaults` of kubernetes'
//! apiextensions-apiserver): a header's condition is gone before anybody sees it, and the route takes
//! everything. In a text that can still be told, as Istio's validation does ("cannot be null").

use serde::de::DeserializeOwned;
use serde_yaml::Value;

use super::{
    fields::{Shape, shape},
    mismatch::Mismatch,
    steps::{Path, Step},
};

/// What nulls came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Nulls {
    /// Those without which the object would do something else than its author wants.
    pub(super) refused: Vec<Mismatch>,
    /// Paths of conditions that are not there.
    pub(super) conditions: Vec<String>,
}

/// Takes the nulls out of a value that is to be read as a `T`. `custom`: whether it is a custom resource. What
/// has a null where a map of Kubernetes' own kinds has texts is an empty text, as for their API server.
pub(super) fn take<T: DeserializeOwned>(value: &mut Value, custom: bool) -> Nulls {
    let mut nulls = Nulls::default();
    let mut taker = Taker::<T> {
        custom,
        nulls: &mut nulls,
        reads: std::marker::PhantomData,
    };
    taker.within(value, &mut Vec::new());
    nulls
}

struct Taker<'n, T> {
    custom: bool,
    nulls: &'n mut Nulls,
    reads: std::marker::PhantomData<T>,
}

impl<T: DeserializeOwned> Taker<'_, T> {
    fn within(&mut self, value: &mut Value, path: &mut Vec<Step>) {
        match value {
            Value::Mapping(mapping) => {
                if mapping.values().any(Value::is_null) {
                    let is_map = shape::<T>(path) == Some(Shape::Map);
                    for (key, value) in mapping.iter_mut().filter(|(_, value)| value.is_null()) {
                        path.push(Step::Key(key.as_str().unwrap_or_default().to_owned()));
                        self.key(value, is_map, path);
                        path.pop();
                    }
                    mapping.retain(|_, value| !value.is_null());
                }
                for (key, value) in mapping.iter_mut() {
                    path.push(Step::Key(key.as_str().unwrap_or_default().to_owned()));
                    self.within(value, path);
                    path.pop();
                }
            }
            Value::Sequence(items) => {
                for (index, value) in items.iter_mut().enumerate() {
                    path.push(Step::Index(index));
                    if value.is_null() && self.custom {
                        self.refuse(path, "null is no entry", "remove it, or say what it is");
                    }
                    self.within(value, path);
                    path.pop();
                }
            }
            _ => {}
        }
    }

    fn key(&mut self, value: &mut Value, is_map: bool, path: &[Step]) {
        if is_map && !self.custom && shape::<T>(path) == Some(Shape::Text) {
            *value = Value::String(String::new());
        } else if is_map && self.custom {
            let message = "null says nothing: an API server would drop it without a word";
            let fix = if is_condition(path) {
                "`{}` asks that it is there; else `exact`, `prefix` or `regex`"
            } else {
                "remove it, or give it a value"
            };
            self.refuse(path, message, fix);
        } else if is_condition(path) {
            self.nulls.conditions.push(Path(path).to_string());
        }
    }

    fn refuse(&mut self, path: &[Step], message: &str, fix: &str) {
        self.nulls.refused.push(Mismatch {
            path: Path(path).to_string(),
            message: message.to_owned(),
            fix: Some(fix.to_owned()),
        });
    }
}

/// Whether it is below an entry of a `match`.
fn is_condition(path: &[Step]) -> bool {
    let mut pairs = path.windows(2);
    pairs.any(|pair| matches!(pair, [Step::Key(key), Step::Index(_)] if key == "match"))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;

    use super::*;
    use crate::istio::VirtualService;

    fn of_routes(http: &str) -> (Vec<String>, Vec<String>) {
        let text = format!("{{spec: {{hosts: [a], timeout: null, http: {http}}}}}");
        let mut value = serde_yaml::from_str(&text).unwrap();
        let nulls = take::<VirtualService>(&mut value, true);
        let refused = nulls.refused.into_iter().map(|mismatch| mismatch.path);
        (refused.collect(), nulls.conditions)
    }

    #[test]
    fn conditions_that_are_null_are_refused_or_told() {
        for (matches, refused, told) in [
            ("[{headers: {x-a: }}]", "headers.x-a", ""),
            ("[{withoutHeaders: {x-a: ~}}]", "withoutHeaders.x-a", ""),
            ("[{queryParams: {q: null}}]", "queryParams.q", ""),
            ("[~, {uri: {prefix: /b}}]", "", ""),
            ("[{uri: }]", "-", "uri"),
            ("[{headers: {x-a: {exact: }}}]", "-", "headers.x-a.exact"),
            ("[{headers: {x-a: {}}}]", "-", ""),
        ] {
            let found = of_routes(&format!("[{{match: {matches}}}]"));
            let path = |rest: &str| match rest {
                "" => "spec.http[0].match[0]".to_owned(),
                rest => format!("spec.http[0].match[0].{rest}"),
            };
            let expected = match refused {
                "-" => Vec::new(),
                rest => vec![path(rest)],
            };
            assert_eq!(found.0, expected, "{matches}");
            let told: Vec<_> = Some(told)
                .filter(|told| !told.is_empty())
                .into_iter()
                .collect();
            assert_eq!(
                found.1,
                told.into_iter().map(path).collect::<Vec<_>>(),
                "{matches}"
            );
        }
    }

    /// A selector that lost its only label would be everybody's.
    #[test]
    fn a_label_of_a_service_that_is_null_is_empty() {
        let mut value = serde_yaml::from_str("{spec: {selector: {app: }, ports: null}}").unwrap();
        assert_eq!(take::<Service>(&mut value, false), Nulls::default());
        let expected: Value = serde_yaml::from_str("{spec: {selector: {app: ''}}}").unwrap();
        assert_eq!(value, expected);
    }
}
