//! VirtualServices and requests made by chance, from a seed: words are few, so that they meet.

use fastrand::Rng;
use serde_json::{Map, Value, json};

/// VirtualServices of one host, and requests for it.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// One VirtualService each, as JSON.
    pub(crate) manifests: Vec<String>,
    pub(crate) requests: Vec<String>,
}

const PATHS: [&str; 12] = [
    "/", "/a", "/a/", "/a/b", "/ab", "/A", "/a/B", "/b", "/b/1", "/b/12", "/a.b", "/a%2Fb",
];
const PREFIXES: [&str; 7] = ["/", "/a", "/a/", "/b", "/B", "/a/b", "/a."];
/// Expressions and what they match.
const PATTERNS: [(&str, &str); 8] = [
    ("/a.*", "/a/x"),
    (r"/b/\d+", "/b/12"),
    ("/(a|b)(/.*)?", "/b/x/y"),
    (".*b", "/a/b"),
    ("/[^/]+", "/ab"),
    ("/A/?", "/A/"),
    (".*", "/anything"),
    ("/(?i:ab)", "/AB"),
];
const HEADERS: [&str; 3] = ["x-a", "x-b", "x-c"];
const QUERIES: [&str; 2] = ["p", "q"];
const VALUES: [&str; 5] = ["1", "2", "12", "a b", "21"];
const METHODS: [&str; 6] = ["GET", "GET", "POST", "PUT", "DELETE", "OPTIONS"];
const ORIGINS: [&str; 3] = ["https://a.test", "https://b.a.test", "null"];

/// Makes `count` hosts with `requests` requests each.
pub(crate) fn samples(seed: u64, count: usize, requests: usize) -> Vec<Sample> {
    let mut make = Make(Rng::with_seed(seed));
    (0..count)
        .map(|index| make.sample(index, requests))
        .collect()
}

/// What a request must be for a route, as far as it is remembered to make requests from.
#[derive(Clone, Debug)]
struct Wanted {
    path: String,
    method: Option<&'static str>,
    headers: Vec<(&'static str, String)>,
    query: Vec<(&'static str, String)>,
}

struct Make(Rng);

impl Make {
    fn chance(&mut self, percent: u32) -> bool {
        self.0.u32(..100) < percent
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.0.usize(..of.len())]
    }

    fn sample(&mut self, index: usize, requests: usize) -> Sample {
        let name = format!("h{index}.generated.test");
        let wildcard = self.chance(15);
        let (domain, host) = if wildcard {
            (format!("*.{name}"), format!("x.{name}"))
        } else {
            (name.clone(), name)
        };
        let mut wanted = Vec::new();
        let services = if self.chance(20) { 2 } else { 1 };
        let manifests = (0..services)
            .map(|service| {
                let routes = 1 + self.0.usize(..5);
                let routes: Vec<_> = (0..routes)
                    .map(|route| self.route(route, &host, &mut wanted))
                    .collect();
                json!({
                    "apiVersion": "networking.istio.io/v1",
                    "kind": "VirtualService",
                    "metadata": {
                        "name": format!("g{index}-{service}"),
                        "namespace": "default",
                        "creationTimestamp": format!("202{}-01-01T00:00:00Z", self.0.u8(..5)),
                    },
                    "spec": {"hosts": [domain], "gateways": ["web"], "http": routes},
                })
                .to_string()
            })
            .collect();
        let requests = (0..requests)
            .map(|_| self.request(&host, &wanted))
            .collect();
        Sample {
            manifests,
            requests,
        }
    }

    fn route(&mut self, index: usize, host: &str, wanted: &mut Vec<Wanted>) -> Value {
        let mut route = Map::new();
        if self.chance(30) {
            route.insert("name".into(), json!(format!("r{index}")));
        }
        let conditions = self.0.usize(..4);
        if conditions > 0 {
            let conditions: Vec<_> = (0..conditions)
                .map(|_| self.condition(host, wanted))
                .collect();
            route.insert("match".into(), json!(conditions));
        }
        match self.0.u8(..10) {
            0 => {
                route.insert("redirect".into(), self.redirect());
            }
            1 => {
                let status = self.one(&[200, 207, 404, 503]);
                let mut direct = json!({"status": status});
                if self.chance(70) {
                    direct["body"] = json!({"string": format!("direct {index}")});
                }
                route.insert("directResponse".into(), direct);
            }
            _ => self.forward(&mut route),
        }
        if self.chance(30) {
            route.insert("headers".into(), self.operations(true));
        }
        Value::Object(route)
    }

    fn condition(&mut self, host: &str, wanted: &mut Vec<Wanted>) -> Value {
        let mut condition = Map::new();
        let mut want = Wanted {
            path: self.one(&PATHS).to_owned(),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        };
        match self.0.u8(..4) {
            0 => {
                condition.insert("uri".into(), json!({"exact": want.path}));
            }
            1 => {
                let prefix = self.one(&PREFIXES);
                want.path = format!("{prefix}{}", self.one(&["", "", "x", "/x/y", "b"]));
                condition.insert("uri".into(), json!({"prefix": prefix}));
            }
            2 => {
                let (pattern, path) = self.one(&PATTERNS);
                path.clone_into(&mut want.path);
                condition.insert("uri".into(), json!({"regex": pattern}));
            }
            _ => {}
        }
        if self.chance(20)
            && !condition
                .get("uri")
                .is_some_and(|uri| uri["regex"].is_string())
        {
            condition.insert("ignoreUriCase".into(), json!(true));
        }
        if self.chance(30) {
            let (name, value, text) = self.named(&HEADERS);
            condition.insert("headers".into(), json!({name: value}));
            want.headers.push((name, text));
        }
        if self.chance(15) {
            let (name, value, _) = self.named(&HEADERS);
            condition.insert("withoutHeaders".into(), json!({name: value}));
        }
        if self.chance(20) {
            let (name, value, text) = self.named(&QUERIES);
            condition.insert("queryParams".into(), json!({name: value}));
            want.query.push((name, text));
        }
        if self.chance(15) {
            let method = self.one(&METHODS);
            condition.insert("method".into(), json!({"exact": method}));
            want.method = Some(method);
        }
        if self.chance(5) {
            condition.insert("authority".into(), json!({"prefix": &host[..3]}));
        }
        if self.chance(5) {
            let scheme = self.one(&["http", "https"]);
            condition.insert("scheme".into(), json!({"exact": scheme}));
        }
        if condition.is_empty() {
            condition.insert("uri".into(), json!({"prefix": "/"}));
        }
        wanted.push(want);
        Value::Object(condition)
    }

    /// A condition on something that has a name, and a value that meets it.
    fn named(&mut self, names: &[&'static str]) -> (&'static str, Value, String) {
        let name = self.one(names);
        let value = self.one(&VALUES);
        let (condition, value) = match self.0.u8(..5) {
            0 | 1 => (json!({"exact": value}), value),
            2 => (json!({"prefix": &value[..1]}), value),
            3 => (json!({"regex": "[12]+"}), "121"),
            _ => (json!({}), value),
        };
        // A space is no part of a target.
        let value = if names == QUERIES {
            value.replace(' ', "%20")
        } else {
            value.to_owned()
        };
        (name, condition, value)
    }

    fn redirect(&mut self) -> Value {
        let mut redirect = Map::new();
        if self.chance(60) {
            redirect.insert("uri".into(), json!(self.one(&["/new", "/new?own=1", "/"])));
        }
        if self.chance(40) {
            redirect.insert("authority".into(), json!("elsewhere.test"));
        }
        if self.chance(30) {
            redirect.insert("scheme".into(), json!(self.one(&["http", "https"])));
        }
        match self.0.u8(..6) {
            0 => {
                redirect.insert("port".into(), json!(8443));
            }
            1 => {
                let port = self.one(&["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"]);
                redirect.insert("derivePort".into(), json!(port));
            }
            _ => {}
        }
        if self.chance(50) || redirect.is_empty() {
            let status = self.one(&[301, 302, 303, 307, 308]);
            redirect.insert("redirectCode".into(), json!(status));
        }
        Value::Object(redirect)
    }

    fn forward(&mut self, route: &mut Map<String, Value>) {
        let host = if self.chance(5) {
            "unknown.example"
        } else {
            "echo.example"
        };
        let mut destination = json!({"destination": {"host": host}});
        if self.chance(20) {
            destination["headers"] = self.operations(false);
        }
        let destinations = if self.chance(20) {
            // Whichever is chosen, it does the same.
            destination["weight"] = json!(1);
            json!([destination, destination])
        } else {
            json!([destination])
        };
        route.insert("route".into(), destinations);
        match self.0.u8(..8) {
            0 | 1 => {
                let uri = self.one(&["/", "/new", "/new/", "/n%20w"]);
                route.insert("rewrite".into(), json!({"uri": uri}));
            }
            2 => {
                route.insert("rewrite".into(), json!({"authority": "rewritten.test"}));
            }
            3 => {
                let rewrite = json!({"uri": "/both", "authority": "rewritten.test:81"});
                route.insert("rewrite".into(), rewrite);
            }
            4 => {
                let (pattern, to) = self.one(&[
                    ("/(a|b)", r"/x\1"),
                    (r"^/([^/]*)/(.*)$", r"/\2/\1"),
                    (r"\d", "n"),
                    ("b+", "-"),
                ]);
                let rewrite = json!({"uriRegexRewrite": {"match": pattern, "rewrite": to}});
                route.insert("rewrite".into(), rewrite);
            }
            _ => {}
        }
        if self.chance(10) {
            let abort = json!({"httpStatus": self.one(&[418, 503]), "percentage": {"value": 100}});
            route.insert("fault".into(), json!({"abort": abort}));
        } else if self.chance(15) {
            route.insert("timeout".into(), json!("5s"));
        }
        if self.chance(10) {
            let retry = json!({"attempts": 1, "retryOn": "5xx", "perTryTimeout": "4s"});
            route.insert("retries".into(), retry);
        }
        if self.chance(15) {
            let origin = match self.0.u8(..3) {
                0 => json!({"exact": "https://a.test"}),
                1 => json!({"regex": r"https://.*\.test"}),
                _ => json!({"exact": "*"}),
            };
            let mut policy = json!({"allowOrigins": [origin], "allowMethods": ["GET", "PUT"]});
            if self.chance(50) {
                policy["allowHeaders"] = json!(["x-a"]);
                policy["exposeHeaders"] = json!(["x-r"]);
                policy["maxAge"] = json!("10s");
            }
            if self.chance(50) {
                policy["allowCredentials"] = json!(self.0.bool());
            }
            if self.chance(30) {
                policy["unmatchedPreflights"] = json!("IGNORE");
            }
            route.insert("corsPolicy".into(), policy);
        }
    }

    /// Changes of headers. Hosts are for `rewrite` to change.
    fn operations(&mut self, of_route: bool) -> Value {
        let mut both = Map::new();
        for direction in ["request", "response"] {
            let mut changes = Map::new();
            for kind in ["set", "add"] {
                if self.chance(50) {
                    let name = self.one(&["x-a", "x-new", "x-r", "X-Mixed", "user-agent"]);
                    let value = self.one(&[
                        "plain",
                        "100%%",
                        "%REQ(x-a)%",
                        "%REQ(x-none)%",
                        "[%REQ(x-b):1%]",
                        "%REQ(:path)%",
                        "%REQ(:authority)%",
                        "%REQ(x-none?x-a)%",
                        "%PROTOCOL%",
                        "%RESPONSE_CODE%",
                        "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
                        "%ROUTE_NAME%",
                    ]);
                    changes.insert(kind.into(), json!({name: value}));
                }
            }
            if self.chance(40) {
                let name = self.one(&["x-a", "x-b", "X-New", "x-none"]);
                changes.insert("remove".into(), json!([name]));
            }
            if !changes.is_empty() {
                both.insert(direction.into(), Value::Object(changes));
            }
        }
        if both.is_empty() {
            let name = if of_route { "x-route" } else { "x-destination" };
            both.insert("response".into(), json!({"set": {name: "1"}}));
        }
        Value::Object(both)
    }

    fn request(&mut self, host: &str, wanted: &[Wanted]) -> String {
        let any = Wanted {
            path: self.one(&PATHS).to_owned(),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        };
        let mut want = if wanted.is_empty() || self.chance(15) {
            any
        } else {
            wanted[self.0.usize(..wanted.len())].clone()
        };
        self.spoil(&mut want);
        let method = want.method.unwrap_or_else(|| self.one(&METHODS));
        let mut target = want.path;
        for (index, (name, value)) in want.query.iter().enumerate() {
            target += if index == 0 { "?" } else { "&" };
            target += name;
            target += "=";
            target += value;
        }
        let port = self.one(&["", "", ":31373", ":80"]);
        let host = if self.chance(10) {
            host.to_uppercase()
        } else {
            host.to_owned()
        };
        let mut lines = vec![
            format!("{method} {target} HTTP/1.1"),
            format!("Host: {host}{port}"),
        ];
        let headers = want.headers.iter();
        lines.extend(headers.map(|(name, value)| format!("{name}: {value}")));
        if self.chance(20) {
            lines.push(format!("origin: {}", self.one(&ORIGINS)));
            if method == "OPTIONS" && self.chance(70) {
                lines.push("access-control-request-method: PUT".to_owned());
            }
        }
        if self.chance(10) {
            let status = self.one(&[201, 404, 500, 503]);
            lines.push(format!("answer-status: {status}"));
            lines.push("answer-header: x-r=endpoint".to_owned());
        }
        let mut body = "";
        if matches!(method, "POST" | "PUT") && self.chance(60) {
            lines.push("content-length: 4".to_owned());
            body = "body";
        }
        format!("{}\r\n\r\n{body}", lines.join("\r\n"))
    }

    /// Changes something, so that it may no longer be what is wanted.
    fn spoil(&mut self, want: &mut Wanted) {
        match self.0.u8(..14) {
            0 => want.path += "/",
            1 => want.path += "x",
            2 => want.path = want.path.to_uppercase(),
            3 => want.path = format!("/./{}", &want.path[1..]),
            4 => want.path += "/../b",
            5 => want.path = want.path.replace('a', "%61"),
            6 => want.headers.clear(),
            7 => {
                let (name, _, text) = self.named(&HEADERS);
                want.headers.push((name, text));
            }
            8 => {
                for (name, _) in &mut want.query {
                    *name = "r";
                }
            }
            9 => {
                let (name, _, text) = self.named(&QUERIES);
                want.query.push((name, text));
            }
            10 => want.method = Some(self.one(&METHODS)),
            _ => {}
        }
    }
}
