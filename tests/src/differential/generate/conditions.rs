//! HTTPMatchRequest.

use serde_json::{Map, Value, json};

use super::{
    Make, Wanted,
    words::{HEADERS, METHODS, PATHS, PATTERNS, PREFIXES, QUERIES, VALUES},
};

impl Make {
    pub(super) fn condition(&mut self, wanted: &mut Vec<Wanted>) -> Value {
        let mut condition = Map::new();
        let mut want = Wanted {
            path: self.one(&PATHS).to_owned(),
            ..Wanted::default()
        };
        if let Some(uri) = self.uri(&mut want) {
            condition.insert("uri".into(), uri);
            if self.chance(20) {
                condition.insert("ignoreUriCase".into(), json!(true));
            }
        }
        if self.chance(30) {
            let headers = self.named(&HEADERS, &mut want.headers);
            condition.insert("headers".into(), headers);
        }
        if self.chance(15) {
            let headers = self.named(&HEADERS, &mut Vec::new());
            condition.insert("withoutHeaders".into(), headers);
        }
        if self.chance(20) {
            let queries = self.named(&QUERIES, &mut want.query);
            condition.insert("queryParams".into(), queries);
        }
        if self.chance(15) {
            let method = self.one(&METHODS);
            want.method = Some(method);
            let kinds = [
                json!({"exact": method}),
                json!({"prefix": &method[..1]}),
                json!({"regex": format!("{method}|POST")}),
            ];
            condition.insert("method".into(), self.0.choice(kinds).unwrap_or_default());
        }
        if self.chance(6) {
            let kinds = [
                json!({"prefix": "CASE."}),
                json!({"prefix": "x."}),
                json!({"regex": r".*differential\.test"}),
                json!({"exact": "CASE.differential.test"}),
            ];
            condition.insert("authority".into(), self.0.choice(kinds).unwrap_or_default());
        }
        if self.chance(5) {
            let scheme = self.one(&["http", "https"]);
            condition.insert("scheme".into(), json!({"exact": scheme}));
        }
        if self.chance(4) {
            condition.insert("port".into(), json!(self.one(&[8080, 8080, 80])));
        }
        if self.chance(4) {
            let kinds = [
                ("gateways", json!(["web"])),
                ("gateways", json!(["mesh"])),
                ("sourceNamespace", json!("istio-system")),
                ("sourceNamespace", json!("default")),
                ("sourceLabels", json!({"istio": "ingressgateway"})),
                ("sourceLabels", json!({"istio": "elsewhere"})),
            ];
            let (name, value) = self.0.choice(kinds).unwrap_or_default();
            condition.insert(name.into(), value);
        }
        if condition.is_empty() {
            condition.insert("uri".into(), json!({"prefix": "/"}));
        }
        wanted.push(want);
        Value::Object(condition)
    }

    fn uri(&mut self, want: &mut Wanted) -> Option<Value> {
        match self.0.u8(..4) {
            0 => Some(json!({"exact": want.path})),
            1 => {
                let prefix = self.one(&PREFIXES);
                want.path = format!("{prefix}{}", self.one(&["", "", "x", "/x/y", "b"]));
                Some(json!({"prefix": prefix}))
            }
            2 => {
                let (pattern, path) = self.one(&PATTERNS);
                path.clone_into(&mut want.path);
                Some(json!({"regex": pattern}))
            }
            _ => None,
        }
    }

    /// Conditions on one or two things that have names, with what meets them.
    fn named(&mut self, names: &[&'static str], want: &mut Vec<(&'static str, String)>) -> Value {
        let mut conditions = Map::new();
        for _ in 0..self.one(&[1, 1, 2]) {
            let name = self.one(names);
            let value = self.one(&VALUES);
            let (condition, value) = match self.0.u8(..6) {
                0 | 1 => (json!({"exact": value}), value),
                2 => (json!({"prefix": &value[..1]}), value),
                3 => (json!({"regex": "[12]+"}), "121"),
                4 => (json!({"exact": ""}), ""),
                _ => (json!({}), value),
            };
            conditions.insert(name.into(), condition);
            want.push((name, value.to_owned()));
        }
        Value::Object(conditions)
    }
}
