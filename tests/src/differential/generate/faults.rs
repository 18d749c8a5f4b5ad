//! Objects with something odd or wrong in them, to hear who takes them.

use std::{collections::BTreeMap, sync::LazyLock};

use fastrand::Rng;
use serde_json::{Map, Value, json};

use super::{Make, case};
use crate::differential::case::Case;

/// What is put into objects, by where: a name and its value.
static ADDITIONS: LazyLock<BTreeMap<String, Vec<BTreeMap<String, Value>>>> =
    LazyLock::new(|| serde_yaml::from_str(include_str!("faults.yaml")).unwrap_or_default());

/// Texts that are rarely meant.
const TEXTS: [&str; 50] = [
    "",
    " ",
    "*",
    "a b",
    "-",
    "..",
    "a..b",
    "UPPER",
    "/",
    "é",
    "a\nb",
    "1.2.3.4",
    "::1",
    "*.*",
    "foo*",
    "*foo",
    "*.test",
    "*.com",
    "test",
    "http://x",
    "x:80",
    "a_b",
    "-a",
    "a-",
    "(",
    "[a",
    "a{1001}",
    "(?=a)",
    "\\1",
    "%",
    "%%",
    "%REQ(x)%",
    "[%REQ(x):1%]",
    "%REQ(x",
    "%NONSENSE%",
    "%START_TIME%",
    "0s",
    "-1s",
    "1ns",
    "0.0001s",
    "1ms",
    "1.5h",
    "10",
    "1d",
    "24h",
    "9999999h",
    "a,b",
    "5xx,nonsense",
    "599",
    "default/x",
];
const NUMBERS: [f64; 17] = [
    -1.0,
    0.0,
    0.5,
    1.0,
    16.0,
    17.0,
    99.0,
    100.0,
    100.5,
    199.0,
    200.0,
    299.0,
    599.0,
    600.0,
    65535.0,
    65536.0,
    4_294_967_296.0,
];

/// An object that may not be valid, and what was done to it.
pub(crate) fn faulty(seed: u64, number: u64) -> (Value, String) {
    let Case { mut objects, .. } = case(seed, number, 0);
    let mut make = Make(Rng::with_seed(
        !seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15),
    ));
    let at = make.0.usize(..objects.len());
    let mut object = objects.swap_remove(at);
    let what = if make.chance(50) {
        make.add(&mut object)
    } else {
        let spec = object.get_mut("spec");
        spec.map_or_else(String::new, |spec| make.spoil_part(spec, "spec"))
    };
    (object, what)
}

impl Make {
    /// Puts something into it.
    fn add(&mut self, object: &mut Value) -> String {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        let routes = object["spec"]["http"].as_array_mut();
        let is_route = routes.is_some() && self.chance(80);
        if let Some(routes) = routes.filter(|_| is_route) {
            let at = self.0.usize(..routes.len());
            let (name, value) = self.addition("route");
            let what = format!("spec.http[{at}].{name} = {value}");
            let actions = ["redirect", "directResponse", "route", "delegate"];
            if let Some(route) = routes[at].as_object_mut() {
                if actions.contains(&name.as_str()) && self.chance(80) {
                    // Otherwise there would be two.
                    route.retain(|name, _| name == "match" || name == "headers");
                }
                route.insert(name, value);
            }
            return what;
        }
        let (name, value) = self.addition(&kind);
        let what = format!("spec.{name} = {value}");
        object["spec"][&name] = value;
        what
    }

    /// A name and a value to be put somewhere.
    fn addition(&mut self, place: &str) -> (String, Value) {
        let additions = ADDITIONS.get(place).into_iter().flatten();
        let addition = self.0.choice(additions.collect::<Vec<_>>());
        let fields = addition.into_iter().flatten().next();
        fields.map_or_else(Default::default, |(name, value)| {
            (name.clone(), value.clone())
        })
    }

    /// Makes one part of a value another one, or leaves it out.
    fn spoil_part(&mut self, value: &mut Value, place: &str) -> String {
        let goes_on = self.chance(85);
        match value {
            Value::Object(fields) if !fields.is_empty() && goes_on => {
                let names: Vec<_> = fields.keys().cloned().collect();
                let name = &names[self.0.usize(..names.len())];
                if self.chance(12) {
                    fields.remove(name);
                    return format!("without {place}.{name}");
                }
                if self.chance(6) {
                    return self.rename(fields, name, place);
                }
                self.spoil_part(&mut fields[name], &format!("{place}.{name}"))
            }
            Value::Array(items) if !items.is_empty() && goes_on => {
                let at = self.0.usize(..items.len());
                if self.chance(10) {
                    items.push(items[at].clone());
                    return format!("{place}[{at}] twice");
                }
                self.spoil_part(&mut items[at], &format!("{place}[{at}]"))
            }
            Value::Object(_) => replaced(value, json!({}), place),
            Value::Array(_) => replaced(value, json!([]), place),
            Value::Number(_) => {
                let number = self.one(&NUMBERS);
                let is_whole = number.fract() == 0.0;
                let number = if is_whole {
                    json!(number as i64)
                } else {
                    json!(number)
                };
                replaced(value, number, place)
            }
            Value::Bool(flag) => {
                let other = !*flag;
                replaced(value, json!(other), place)
            }
            Value::String(_) | Value::Null => {
                let text = if self.chance(5) {
                    "x".repeat(300)
                } else {
                    self.one(&TEXTS).to_owned()
                };
                replaced(value, json!(text), place)
            }
        }
    }

    fn rename(&mut self, fields: &mut Map<String, Value>, name: &str, place: &str) -> String {
        let new = self.one(&TEXTS);
        if let Some(value) = fields.remove(name) {
            fields.insert(new.to_owned(), value);
        }
        format!("{place}.{name} called {new:?}")
    }
}

fn replaced(value: &mut Value, new: Value, place: &str) -> String {
    let what = format!("{place} = {new}, for {value}");
    *value = new;
    what
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_something_to_add_everywhere() {
        let places: Vec<_> = ADDITIONS.keys().map(String::as_str).collect();
        assert_eq!(
            places,
            [
                "DestinationRule",
                "Gateway",
                "ServiceEntry",
                "VirtualService",
                "route"
            ]
        );
    }

    #[test]
    fn something_is_done_to_each_object_and_always_the_same() {
        for number in 0..300 {
            let (object, what) = faulty(3, number);
            assert!(!what.is_empty() && object["kind"].is_string(), "{object}");
            assert_eq!(faulty(3, number), (object, what));
        }
    }
}
