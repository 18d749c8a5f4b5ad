use http::{HeaderMap, HeaderName, HeaderValue, Method};
use nodegate_model::gateway::{
    HeaderMatch, MatchedHeader, PathMatch, QueryMatch, RouteMatch, ValueMatch,
};
use nodegate_values::{pattern::Pattern, pseudo_header::PseudoHeader};

use super::*;
use crate::fixture::{query, route};

fn prefix(path: &str) -> HttpRoute {
    route(RouteMatch::path(PathMatch::Prefix(path.into())))
}

fn exact(path: &str) -> HttpRoute {
    route(RouteMatch::path(PathMatch::Exact(path.into())))
}

fn table(virtual_hosts: &[(&[&str], Vec<HttpRoute>)]) -> RouteTable {
    RouteTable::new(HttpRoutes {
        name: "http.8080".into(),
        virtual_hosts: virtual_hosts
            .iter()
            .map(|(domains, routes)| VirtualHost {
                name: format!("{}:80", domains[0]),
                domains: domains.iter().map(ToString::to_string).collect(),
                routes: routes.clone(),
                require_tls: false,
            })
            .collect(),
    })
}

#[test]
fn prefixes_are_raw_and_exact_is_exact() {
    let table = table(&[(&["*"], vec![prefix("/fft"), exact("/metrics")])]);
    let none = Err(Miss::NoRoute { virtual_host: 0 });
    for (path, wanted) in [
        ("/fft", Ok(0)),
        ("/fftX", Ok(0)),
        ("/fft/x", Ok(0)),
        ("/FFT", none),
        ("/metrics", Ok(1)),
        ("/metrics/", none),
        ("/", none),
        ("*", none),
        ("", none),
    ] {
        let found = table.find(&query("192.168.170.137:30001", path));
        assert_eq!(found.map(|found| found.route), wanted, "{path:?}");
    }
}

#[test]
fn first_route_wins_whatever_its_length() {
    let table = table(&[(&["*"], vec![prefix("/"), exact("/a"), prefix("/a/b")])]);
    for path in ["/", "/a", "/a/b/c"] {
        let found = table.find(&query("x", path)).unwrap();
        assert_eq!(found.route, 0, "{path:?}");
    }
}

#[test]
fn no_fall_through_to_another_virtual_host() {
    let table = table(&[
        (&["*"], vec![prefix("/")]),
        (&["a.example"], vec![exact("/only")]),
    ]);
    let find = |host, path| table.find(&query(host, path));
    assert_eq!(
        find("A.example:31373", "/other"),
        Err(Miss::NoRoute { virtual_host: 1 })
    );
    assert_eq!(
        find("a.example", "/only"),
        Ok(Match {
            virtual_host: 1,
            route: 0
        })
    );
    assert_eq!(find("b.example", "/other").unwrap().virtual_host, 0);
}

#[test]
fn tls_is_required_before_routes_are_looked_at() {
    let mut routes = table(&[(&["a.x"], Vec::new())]).routes().clone();
    routes.virtual_hosts[0].require_tls = true;
    let table = RouteTable::new(routes);
    let clear = query("a.x:81", "/");
    let miss = table.find(&clear).unwrap_err();
    assert_eq!(miss, Miss::TlsRequired { virtual_host: 0 });
    assert!(explain(table.routes(), &clear).tls_required);
    let tls = Query {
        scheme: "https",
        ..clear
    };
    assert_eq!(table.find(&tls), Err(Miss::NoRoute { virtual_host: 0 }));
    assert!(!explain(table.routes(), &tls).tls_required);
}

#[test]
fn unknown_host_has_no_virtual_host() {
    let table = table(&[(&["a.example", "*.b.example"], vec![prefix("/")])]);
    let find = |host| table.find(&query(host, "/"));
    assert_eq!(find("b.example"), Err(Miss::NoVirtualHost));
    assert_eq!(find("").unwrap_err().virtual_host(), None);
    assert_eq!(find("c.b.example:80").unwrap().virtual_host, 0);
}

/// Conditions other than the path, by header.
fn header(name: &'static str, value: ValueMatch, invert: bool) -> HeaderMatch {
    HeaderMatch {
        name: MatchedHeader::Field(HeaderName::from_static(name)),
        value,
        invert,
    }
}

#[test]
fn every_condition_is_looked_at() {
    let exact = |text: &str| ValueMatch::Exact(text.into());
    let regex = |text: &str| ValueMatch::Regex(Pattern::new(text).unwrap());
    let any = || RouteMatch::path(PathMatch::Prefix("/".into()));
    let mut headers = HeaderMap::new();
    for (name, value) in [("a", "1"), ("b", "1"), ("b", "2"), ("empty", "")] {
        headers.append(name, HeaderValue::from_static(value));
    }
    let query = Query {
        query: Some("p=1&q&r=%20&p=2&&=x"),
        headers: &headers,
        ..query("Web.example:31373", "/Path")
    };
    let with_header = |header| RouteMatch {
        headers: vec![header],
        ..any()
    };
    let with_query = |name: &str, value| RouteMatch {
        query: vec![QueryMatch {
            name: name.into(),
            value,
        }],
        ..any()
    };
    let path = |path, ignore_case| RouteMatch {
        ignore_case,
        ..RouteMatch::path(path)
    };
    for (matches, wanted) in [
        (path(PathMatch::Exact("/path".into()), false), false),
        (path(PathMatch::Exact("/path".into()), true), true),
        (path(PathMatch::Prefix("/PA".into()), true), true),
        (path(PathMatch::Prefix("/PA".into()), false), false),
        (
            path(PathMatch::Regex(Pattern::new("/P[a-z]+").unwrap()), false),
            true,
        ),
        (
            path(PathMatch::Regex(Pattern::new("/P").unwrap()), false),
            false,
        ),
        (
            RouteMatch {
                method: Some(exact("GET")),
                ..any()
            },
            true,
        ),
        (
            RouteMatch {
                method: Some(regex("PUT|POST")),
                ..any()
            },
            false,
        ),
        (
            RouteMatch {
                scheme: Some(exact("https")),
                ..any()
            },
            false,
        ),
        // As it was sent: with the port, and in its case.
        (
            RouteMatch {
                authority: Some(exact("web.example")),
                ..any()
            },
            false,
        ),
        (
            RouteMatch {
                authority: Some(exact("Web.example:31373")),
                ..any()
            },
            true,
        ),
        (
            RouteMatch {
                authority: Some(ValueMatch::Prefix("Web.".into())),
                ..any()
            },
            true,
        ),
        (with_header(header("a", exact("1"), false)), true),
        (with_header(header("a", exact("2"), false)), false),
        // One of several values is enough, and too many for what must not be.
        (with_header(header("b", exact("1"), false)), true),
        (with_header(header("b", exact("2"), false)), true),
        (with_header(header("b", exact("1,2"), false)), false),
        (with_header(header("b", exact("2"), true)), false),
        (with_header(header("b", exact("3"), true)), true),
        (with_header(header("a", ValueMatch::Present, false)), true),
        (
            with_header(header("empty", ValueMatch::Present, false)),
            true,
        ),
        (
            with_header(header("gone", ValueMatch::Present, false)),
            false,
        ),
        (with_header(header("gone", exact(""), false)), false),
        (with_header(header("gone", regex(".*"), false)), false),
        (
            with_header(header("host", exact("Web.example:31373"), false)),
            true,
        ),
        // What must not be: a missing one counts as empty.
        (with_header(header("a", exact("1"), true)), false),
        (with_header(header("a", exact("2"), true)), true),
        (with_header(header("gone", exact("1"), true)), true),
        (with_header(header("gone", regex(".*"), true)), false),
        (with_header(header("gone", ValueMatch::Present, true)), true),
        (with_header(header("a", ValueMatch::Present, true)), false),
        (with_query("p", exact("1")), true),
        (with_query("p", exact("2")), false),
        (with_query("q", exact("")), true),
        (with_query("q", ValueMatch::Present), true),
        (with_query("r", exact(" ")), false),
        (with_query("r", exact("%20")), true),
        (with_query("s", ValueMatch::Present), false),
        (with_query("", exact("x")), false),
        (with_query("p", regex("[0-9]")), true),
    ] {
        let table = table(&[(&["*"], vec![route(matches.clone())])]);
        assert_eq!(table.find(&query).is_ok(), wanted, "{matches:?}");
    }
}

#[test]
fn an_explanation_names_what_failed() {
    let method = RouteMatch {
        method: Some(ValueMatch::Exact("PUT".into())),
        ..RouteMatch::path(PathMatch::Prefix("/".into()))
    };
    let table = table(&[(
        &["a.x"],
        vec![exact("/b"), route(method), prefix("/a"), prefix("/")],
    )]);
    let explained = explain(table.routes(), &query("A.x:80", "/a"));
    assert_eq!(
        (explained.host.as_str(), explained.virtual_host),
        ("a.x", Some(0))
    );
    assert_eq!(explained.tried.len(), 3);
    assert!(matches!(explained.tried[0].failed, Some(Failed::Path(_))));
    assert!(matches!(explained.tried[1].failed, Some(Failed::Method(_))));
    assert_eq!(explained.found(), Some(&prefix("/a")));
    let missed = explain(table.routes(), &query("b.x", "/a"));
    assert_eq!((missed.virtual_host, missed.tried.len()), (None, 0));
    assert_eq!(missed.found(), None);
}

/// Routes and requests from a small alphabet, so that they often meet.
struct Generator(fastrand::Rng);

impl Generator {
    fn path(&mut self) -> String {
        let mut path = String::from("/");
        for _ in 0..self.0.usize(..6) {
            path.push(*self.0.choice(&['a', 'b', 'A', '/', 'ü']).unwrap());
        }
        path
    }

    fn value(&mut self) -> ValueMatch {
        match self.0.u8(..4) {
            0 => ValueMatch::Present,
            1 => ValueMatch::Prefix("1".into()),
            2 => ValueMatch::Regex(Pattern::new("[12]*").unwrap()),
            _ => ValueMatch::Exact(["1", "2", "12", ""][self.0.usize(..4)].into()),
        }
    }

    fn matches(&mut self) -> RouteMatch {
        let path = self.path();
        let pattern = ["/a.*", "/[ab]+", "(?i)/a?b*", "/b|/a/b", ".*", "/ab?(a|b)"];
        let path = match self.0.u8(..8) {
            0 => PathMatch::Regex(Pattern::new(pattern[self.0.usize(..pattern.len())]).unwrap()),
            1..5 => PathMatch::Exact(path),
            _ => PathMatch::Prefix(path),
        };
        let mut matches = RouteMatch {
            ignore_case: self.0.u8(..5) == 0 && !matches!(path, PathMatch::Regex(_)),
            ..RouteMatch::path(path)
        };
        for name in ["x", "y", "z", "v", "w", "u"] {
            if self.0.u8(..8) == 0 {
                let value = self.value();
                matches
                    .headers
                    .push(header(name, value, self.0.u8(..4) == 0));
            }
        }
        if self.0.u8(..8) == 0 {
            let wanted = ["/", "/a?q=1", "PUT", "a"][self.0.usize(..4)];
            matches.headers.push(HeaderMatch {
                name: MatchedHeader::Pseudo(PseudoHeader::ALL[self.0.usize(..5)]),
                value: ValueMatch::Exact(wanted.into()),
                invert: self.0.u8(..4) == 0,
            });
        }
        if self.0.u8(..8) == 0 {
            matches.method = Some(ValueMatch::Exact("PUT".into()));
        }
        if self.0.u8(..8) == 0 {
            let value = self.value();
            matches.query.push(QueryMatch {
                name: "q".into(),
                value,
            });
        }
        matches
    }

    fn headers(&mut self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for name in ["x", "y", "z", "v", "w", "u"] {
            for _ in 0..self.0.usize(..3) {
                let value = ["1", "2", "12", ""][self.0.usize(..4)];
                headers.append(name, HeaderValue::from_static(value));
            }
        }
        headers
    }
}

/// The index finds what trying one after the other finds.
#[test]
fn the_index_changes_nothing() {
    let mut generator = Generator(fastrand::Rng::with_seed(42));
    let mut found = 0;
    for round in 0..400 {
        let count = [3, 30, 300][round % 3];
        let routes: Vec<_> = (0..count).map(|_| route(generator.matches())).collect();
        let table = table(&[(&["*"], routes)]);
        for _ in 0..50 {
            let (path, headers) = (generator.path(), generator.headers());
            let query = Query {
                query: [None, Some("q=1"), Some("q"), Some("p=1&q=2")][generator.0.usize(..4)],
                method: if generator.0.bool() {
                    &Method::GET
                } else {
                    &Method::PUT
                },
                headers: &headers,
                ..query("a", &path)
            };
            let routes = &table.virtual_host(0).routes;
            let naive = routes
                .iter()
                .position(|route| predicate::check(&route.matches, &query).is_ok());
            let indexed = table.find(&query).ok().map(|found| found.route);
            assert_eq!(indexed, naive, "{query:?}");
            assert_eq!(
                explain(table.routes(), &query).found().is_some(),
                naive.is_some(),
                "{query:?}"
            );
            found += usize::from(naive.is_some());
        }
    }
    // Neither always nor never.
    assert!((5_000..19_000).contains(&found), "{found} of 20000 matched");
}

/// Istio's validation lists them among the headers of a match, and Envoy keeps them as such.
#[test]
fn what_stands_beside_headers_can_be_matched_as_they_can() {
    let query = Query {
        query: Some("b=c"),
        ..query("Web.example:81", "/a")
    };
    let exact = |text: &str| ValueMatch::Exact(text.into());
    let regex = |text: &str| ValueMatch::Regex(Pattern::new(text).unwrap());
    let prefix = |text: &str| ValueMatch::Prefix(text.into());
    for (name, value, wanted) in [
        (":path", exact("/a?b=c"), true),
        (":path", exact("/a"), false),
        (":path", prefix("/a"), true),
        (":path", regex("/a.b=."), true),
        (":path", ValueMatch::Present, true),
        (":method", exact("GET"), true),
        (":method", exact("PUT"), false),
        (":authority", exact("Web.example:81"), true),
        (":authority", exact("web.example"), false),
        (":scheme", exact("http"), true),
        (":status", ValueMatch::Present, false),
        (":status", exact(""), false),
    ] {
        for invert in [false, true] {
            let matches = RouteMatch {
                headers: vec![HeaderMatch {
                    name: MatchedHeader::Pseudo(PseudoHeader::named(name).unwrap()),
                    value: value.clone(),
                    invert,
                }],
                ..RouteMatch::path(PathMatch::Prefix("/".into()))
            };
            // What is missing counts as empty where it must not be (`treat_missing_header_as_empty`).
            let wanted = if name == ":status" && value == exact("") {
                false
            } else {
                wanted != invert
            };
            let holds = predicate::check(&matches, &query).is_ok();
            assert_eq!(holds, wanted, "{name} {value:?} {invert}");
        }
    }
}
