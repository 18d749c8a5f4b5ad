//! Requests for conditions, and those that miss them by little.

use super::{
    Make, Wanted, frames,
    words::{HEADERS, METHODS, ORIGINS, PATHS, QUERIES, VALUES},
};
use crate::differential::{behaviour::BEHAVE, request::Request};

/// What endpoints are asked to do.
const BEHAVIOURS: [&str; 13] = [
    "503", "503,1", "500,2", "404", "409,1", "204", "304", "418,1", "close", "reset,1", "reset",
    "cut", "hop",
];

/// Targets that are rare.
const TARGETS: [&str; 14] = [
    "*",
    "/a?",
    "/a??p=1",
    "/%2e%2e/a",
    "/a/%2E/b",
    "/a/..",
    "/..",
    "/a/b/",
    "/a?p=1&p=2",
    "/a?p",
    "/a?P=1&p=%31",
    "/a;b=1/c",
    "/%7Ea",
    "/b/1%2F2",
];

/// Headers that mean something to proxies, or are rare.
const SAYINGS: [(&str, &str); 18] = [
    ("x_under", "1"),
    ("x-a", ""),
    ("X-A", "1"),
    ("expect", "100-continue"),
    ("te", "trailers"),
    ("upgrade", "websocket"),
    ("via", "1.1 other"),
    ("x-forwarded-host", "elsewhere.test"),
    ("x-forwarded-port", "443"),
    ("x-envoy-upstream-rq-timeout-ms", "20000"),
    ("x-envoy-max-retries", "3"),
    ("x-envoy-original-path", "/elsewhere"),
    ("x-envoy-attempt-count", "7"),
    ("x-envoy-decorator-operation", "other"),
    ("x-envoy-peer-metadata", "eA=="),
    ("content-type", "application/grpc"),
    ("accept-encoding", "gzip"),
    ("referer", "http://a.test/"),
];

impl Make {
    pub(super) fn request(&mut self, host: &str, wanted: &[Wanted], is_impatient: bool) -> Request {
        let mut want = if wanted.is_empty() || self.chance(15) {
            Wanted {
                path: self.one(&PATHS).to_owned(),
                ..Wanted::default()
            }
        } else {
            wanted[self.0.usize(..wanted.len())].clone()
        };
        if self.chance(60) {
            self.spoil(&mut want);
        }
        let method = want.method.unwrap_or_else(|| self.one(&METHODS));
        let mut headers = self.order(&want);
        self.visit(method, &mut headers);
        if self.chance(25) {
            let behaviour = if self.chance(50) {
                self.one(&BEHAVIOURS)
            } else {
                self.one(&frames::BEHAVIOURS)
            };
            // Where nobody gives up, it would take for ever.
            let behaviour = if is_impatient { "silent" } else { behaviour };
            headers.push((BEHAVE.into(), behaviour.into()));
        }
        let sends = matches!(method, "POST" | "PUT");
        let mut request = Request {
            method: method.into(),
            target: target(&want),
            version: "HTTP/1.1",
            host: self.host(host),
            headers,
            body: (sends && self.chance(60)).then(|| "body".into()),
            is_chunked: self.chance(20),
            again: self.chance(20),
            ..Request::default()
        };
        if self.chance(12) {
            self.twist(&mut request);
        }
        if request.version != "HTTP/1.0" && self.chance(45) {
            self.frame(&mut request, is_impatient);
        }
        request
    }

    /// Says the same in another way, or something that is rarely said.
    fn twist(&mut self, request: &mut Request) {
        match self.0.u8(..10) {
            0 => request.version = "HTTP/1.0",
            1 => request.target = format!("http://{}{}", request.host, request.target),
            2 => {
                let method = self.one(&["PATCH", "TRACE", "PROPFIND", "get", "CONNECT"]);
                request.method = method.into();
            }
            3 | 4 => request.target = self.one(&TARGETS).into(),
            _ => {
                let (name, value) = self.one(&SAYINGS);
                request.headers.push((name.into(), value.into()));
            }
        }
    }

    /// The headers that are wanted, in some order.
    fn order(&mut self, want: &Wanted) -> Vec<(String, String)> {
        let headers = want.headers.iter();
        let mut headers: Vec<_> = headers
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        if self.chance(15) {
            let (name, value) = (self.one(&HEADERS), self.one(&VALUES));
            headers.push((name.to_uppercase(), value.into()));
        }
        self.0.shuffle(&mut headers);
        headers
    }

    /// What browsers, and proxies before this one, say.
    fn visit(&mut self, method: &str, headers: &mut Vec<(String, String)>) {
        let mut say = |name: &str, value: &str| headers.push((name.into(), value.into()));
        if self.chance(20) || method == "OPTIONS" {
            say("origin", self.one(&ORIGINS));
            if method == "OPTIONS" && self.chance(70) {
                say("access-control-request-method", self.one(&["PUT", "PATCH"]));
            }
        }
        if self.chance(6) {
            say(
                "x-forwarded-for",
                self.one(&["10.0.0.1", "10.0.0.1, 10.0.0.2"]),
            );
        }
        if self.chance(6) {
            say("x-forwarded-proto", self.one(&["https", "http"]));
        }
        if self.chance(4) {
            say("x-envoy-retry-on", "5xx");
        }
        if self.chance(4) {
            say("x-request-id", "7d3e0b0e-0000-4000-8000-000000000000");
        }
        if self.chance(4) {
            say("connection", self.one(&["close", "keep-alive", "x-a"]));
        }
        if self.chance(4) {
            say("cookie", "seen=\"0123\"; a=1");
        }
    }

    fn host(&mut self, host: &str) -> String {
        let port = self.one(&["", "", "", ":8080", ":80", ":31373"]);
        match self.0.u8(..12) {
            // The placeholder is part of it, and stays as it is.
            0 => format!("{}{port}", host.replace("differential", "DIFFERENTIAL")),
            1 => format!("other.{host}{port}"),
            _ => format!("{host}{port}"),
        }
    }

    /// Changes something, so that it may no longer be what is wanted.
    fn spoil(&mut self, want: &mut Wanted) {
        match self.0.u8(..15) {
            0 => want.path += "/",
            1 => want.path += "x",
            2 => want.path = want.path.to_uppercase(),
            3 => want.path = format!("/./{}", &want.path[1..]),
            4 => want.path += "/../b",
            5 => want.path = want.path.replace('a', "%61"),
            6 => want.path = want.path.replacen('/', "//", 1),
            7 => {
                want.headers.pop();
            }
            8 => {
                let (name, value) = (self.one(&HEADERS), self.one(&VALUES));
                want.headers.push((name, value.into()));
            }
            9 => {
                for (_, value) in &mut want.headers {
                    *value = format!("{value}x");
                }
            }
            10 => {
                for (name, _) in &mut want.query {
                    *name = "r";
                }
            }
            11 => {
                let (name, value) = (self.one(&QUERIES), self.one(&VALUES));
                want.query.push((name, value.into()));
            }
            12 => {
                for (_, value) in &mut want.query {
                    value.insert(0, '1');
                }
            }
            _ => want.method = Some(self.one(&METHODS)),
        }
    }
}

fn target(want: &Wanted) -> String {
    // A space is no part of a target.
    let query = want.query.iter();
    let query: Vec<_> = query
        .map(|(name, value)| format!("{name}={}", value.replace(' ', "%20")))
        .collect();
    let mark = if query.is_empty() { "" } else { "?" };
    format!("{}{mark}{}", want.path, query.join("&"))
}
