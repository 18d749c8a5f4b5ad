//! What routes do: redirect, answer, or lead somewhere.

use serde_json::{Map, Value, json};

use super::Make;
use crate::differential::ground::{ALONE, ALPHA, BETA, CALLS, DELTA, GAMMA, SHARDS};

/// Patterns and what replaces their matches.
const REPLACEMENTS: [(&str, &str); 4] = [
    ("/(a|b)", r"/x\1"),
    (r"^/([^/]*)/(.*)$", r"/\2/\1"),
    (r"\d", "n"),
    ("b+", "-"),
];

impl Make {
    pub(super) fn action(&mut self, route: &mut Map<String, Value>) {
        match self.0.u8(..10) {
            0 | 1 => {
                let redirect = self.redirect();
                route.insert("redirect".into(), redirect);
            }
            2 => {
                let direct = self.direct();
                route.insert("directResponse".into(), direct);
            }
            _ => self.forward(route),
        }
    }

    fn redirect(&mut self) -> Value {
        let mut redirect = Map::new();
        if self.chance(60) {
            let uri = self.one(&["/new", "/new?own=1", "/", "/%PREFIX()%", "/n%20w"]);
            redirect.insert("uri".into(), json!(uri));
        }
        if self.chance(40) {
            let authority = self.one(&["elsewhere.test", "elsewhere.test:81"]);
            redirect.insert("authority".into(), json!(authority));
        }
        if self.chance(30) {
            redirect.insert("scheme".into(), json!(self.one(&["http", "https"])));
        }
        match self.0.u8(..6) {
            0 => {
                redirect.insert("port".into(), json!(self.one(&[8443, 80, 443])));
            }
            1 => {
                let port = self.one(&["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"]);
                redirect.insert("derivePort".into(), json!(port));
            }
            _ => {}
        }
        if redirect.is_empty() {
            redirect.insert("uri".into(), json!("/only"));
        }
        if self.chance(50) {
            let status = self.one(&[301, 302, 303, 307, 308]);
            redirect.insert("redirectCode".into(), json!(status));
        }
        Value::Object(redirect)
    }

    fn direct(&mut self) -> Value {
        let mut direct = json!({"status": self.one(&[200, 204, 207, 302, 404, 429, 503])});
        if self.chance(70) {
            let body = self.one(&["direct", "", "two\nlines", "{\"a\": 1}"]);
            direct["body"] = json!({"string": body});
        } else if self.chance(30) {
            // "bytes"
            direct["body"] = json!({"bytes": "Ynl0ZXM="});
        }
        direct
    }

    fn forward(&mut self, route: &mut Map<String, Value>) {
        let mut destination = self.destination();
        if self.chance(20) {
            destination["headers"] = self.operations();
        }
        let destinations = match self.0.u8(..10) {
            // Whichever is chosen, it does the same.
            0 => {
                destination["weight"] = json!(1);
                json!([destination, destination])
            }
            1 => {
                let mut other = self.destination();
                destination["weight"] = json!(self.one(&[100, 1]));
                other["weight"] = json!(0);
                json!([destination, other])
            }
            _ => json!([destination]),
        };
        route.insert("route".into(), destinations);
        if self.chance(45) {
            let rewrite = self.rewrite();
            route.insert("rewrite".into(), rewrite);
        }
        self.policies(route);
    }

    fn destination(&mut self) -> Value {
        let destination = match self.0.u8(..20) {
            0 => json!({"host": "unknown.default.svc.cluster.local"}),
            1 => json!({"host": ALPHA, "port": {"number": 81}}),
            2 => {
                json!({"host": format!("{BETA}.default.svc.cluster.local"), "port": {"number": 80}})
            }
            3 => json!({"host": BETA}),
            4 => json!({"host": SHARDS, "subset": "v1"}),
            5 => json!({"host": SHARDS, "subset": self.one(&["v2", "none", "undefined"])}),
            6 => json!({"host": "CASE-own.test"}),
            7 => {
                json!({"host": self.one(&[&format!("{ALPHA}.default"), &format!("{ALPHA}.default.svc")])})
            }
            8 => json!({"host": GAMMA}),
            9..12 => json!({"host": DELTA}),
            12..14 => json!({"host": CALLS}),
            14..16 => json!({"host": ALONE}),
            _ => json!({"host": ALPHA, "port": {"number": 80}}),
        };
        json!({"destination": destination})
    }

    fn rewrite(&mut self) -> Value {
        match self.0.u8(..8) {
            0 => json!({"authority": "rewritten.test"}),
            1 => json!({"uri": "/both", "authority": "rewritten.test:81"}),
            2 | 3 => {
                let (pattern, to) = self.one(&REPLACEMENTS);
                json!({"uriRegexRewrite": {"match": pattern, "rewrite": to}})
            }
            _ => json!({"uri": self.one(&["/", "/new", "/new/", "/n%20w", "/new?own=1"])}),
        }
    }
}
