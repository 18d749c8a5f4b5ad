//! The search for a route: the table must find what trying everything in order finds.

use std::sync::LazyLock;

use arbitrary::{Arbitrary, Result, Unstructured};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use nodegate_model::gateway::{
    Destination, HeaderMatch, HttpRoute, HttpRoutes, MatchedHeader, PathMatch, QueryMatch,
    RouteMatch, RouteOrigin, ValueMatch, VirtualHost,
};
use nodegate_route::{Miss, Query, RouteTable, explain};
use nodegate_values::{pattern::Pattern, pseudo_header::PseudoHeader};

/// Few words, so that requests meet routes.
const HOSTS: [&str; 8] = [
    "a.x", "b.a.x", "*.x", "*.a.x", "*-b.a.x", "*", "[::1]", "c.b.a.x",
];
const ASKED: [&str; 8] = [
    "a.x",
    "A.X:80",
    "b.a.x",
    "c-b.a.x",
    "x",
    ".x",
    "[::1]:8080",
    "c.b.a.x:",
];
const PIECES: [&str; 12] = [
    "/", "/a", "/A", "/ab", "/a/b", "b", "/%20", "/b/c/", "//", "é", ".", "/aa",
];
const PATTERNS: [&str; 8] = [
    "/a.*", ".*", "/(a|b)/?", "/a/[^/]+", "(?i)/a", "/a\\.b", "/a+", "/a|/b",
];
const NAMES: [&str; 4] = ["x-a", "x-b", "user-agent", "host"];
const VALUES: [&str; 4] = ["", "1", "12", "a.x"];

/// A route without anything but a condition and a destination.
pub fn route(matches: RouteMatch) -> HttpRoute {
    let origin = RouteOrigin::virtual_service("default", "web", 0);
    let destination = Destination::new("outbound|80||web", 1);
    HttpRoute::forwarding(origin, matches, vec![destination])
}

/// Makes a table and asks it several times.
pub fn run(input: &[u8]) {
    // Nothing to make anything of.
    let _ = check(&mut Unstructured::new(input));
}

fn check(input: &mut Unstructured<'_>) -> Result<()> {
    let mut hosts = Vec::new();
    for _ in 0..input.int_in_range(1..=4)? {
        let mut routes = Vec::new();
        for _ in 0..input.int_in_range(0..=24)? {
            routes.push(route(condition(input)?));
        }
        let domain = *input.choose(&HOSTS)?;
        hosts.push(VirtualHost {
            name: format!("{domain}:80"),
            domains: vec![domain.to_owned()],
            routes,
            require_tls: input.ratio(1, 16)?,
        });
    }
    let table = RouteTable::new(HttpRoutes {
        name: "http.8080".into(),
        virtual_hosts: hosts,
    });
    for _ in 0..16 {
        ask(&table, input)?;
        if input.is_empty() {
            break;
        }
    }
    Ok(())
}

fn ask(table: &RouteTable, input: &mut Unstructured<'_>) -> Result<()> {
    let mut headers = HeaderMap::new();
    for _ in 0..input.int_in_range(0..=3)? {
        let name = HeaderName::from_static(input.choose(&NAMES)?);
        headers.append(name, HeaderValue::from_static(input.choose(&VALUES)?));
    }
    let path = text(input)?;
    let method = if bool::arbitrary(input)? {
        Method::GET
    } else {
        Method::POST
    };
    let query = Query {
        host: input.choose(&ASKED)?,
        path: &path,
        query: *input.choose(&[None, Some(""), Some("a=1&b"), Some("a=12&a=1")])?,
        method: &method,
        scheme: input.choose(&["http", "https"])?,
        headers: &headers,
    };
    let found = table.find(&query);
    let hosts = &table.routes().virtual_hosts;
    let virtual_host = slow_host(hosts, query.host);
    // What `explain` does is to try one route after the other.
    let explained = explain(table.routes(), &query);
    match virtual_host {
        None => assert_eq!(found, Err(Miss::NoVirtualHost), "{query:?}"),
        Some(virtual_host) if hosts[virtual_host].require_tls && query.scheme == "http" => {
            assert_eq!(found, Err(Miss::TlsRequired { virtual_host }), "{query:?}");
        }
        Some(virtual_host) => {
            let first = explained
                .tried
                .iter()
                .position(|tried| tried.failed.is_none());
            let found = match found {
                Ok(found) => Ok((found.virtual_host, found.route)),
                Err(miss) => Err(miss),
            };
            let wanted = first.map(|route| (virtual_host, route));
            assert_eq!(
                found,
                wanted.ok_or(Miss::NoRoute { virtual_host }),
                "{query:?}"
            );
        }
    }
    Ok(())
}

/// The virtual host of a host, by looking at all of them: exact, then the longest suffix, then `*`.
fn slow_host(hosts: &[VirtualHost], asked: &str) -> Option<usize> {
    let asked = asked.to_ascii_lowercase();
    let end = match (asked.rfind(':'), asked.rfind(']')) {
        (Some(colon), bracket) if bracket.is_none_or(|bracket| bracket < colon) => colon,
        _ => asked.len(),
    };
    let asked = &asked[..end];
    let mut best: Option<(usize, usize)> = None;
    for (at, host) in hosts.iter().enumerate() {
        for domain in &host.domains {
            let rank = match domain.strip_prefix('*') {
                None if domain == asked => usize::MAX,
                Some("") => 0,
                // A star stands for at least one character.
                Some(suffix) if asked.len() > suffix.len() && asked.ends_with(suffix) => {
                    suffix.len()
                }
                _ => continue,
            };
            if best.is_none_or(|(_, known)| rank > known) {
                best = Some((at, rank));
            }
        }
    }
    best.map(|(at, _)| at)
}

fn condition(input: &mut Unstructured<'_>) -> Result<RouteMatch> {
    let path = match input.int_in_range(0..=4)? {
        0 | 1 => PathMatch::Prefix(text(input)?),
        2 | 3 => PathMatch::Exact(text(input)?),
        _ => PathMatch::Regex(pattern(input)?),
    };
    let mut matches = RouteMatch {
        ignore_case: !matches!(path, PathMatch::Regex(_)) && input.ratio(1, 4)?,
        ..RouteMatch::path(path)
    };
    if input.ratio(1, 4)? {
        for _ in 0..input.int_in_range(1..=2)? {
            matches.headers.push(HeaderMatch {
                name: if input.ratio(1, 4)? {
                    MatchedHeader::Pseudo(*input.choose(&PseudoHeader::ALL)?)
                } else {
                    MatchedHeader::Field(HeaderName::from_static(input.choose(&NAMES)?))
                },
                value: value(input)?,
                invert: input.ratio(1, 4)?,
            });
        }
    }
    if input.ratio(1, 8)? {
        matches.query.push(QueryMatch {
            name: (*input.choose(&["a", "b"])?).to_owned(),
            value: value(input)?,
        });
    }
    if input.ratio(1, 8)? {
        matches.method = Some(ValueMatch::Exact("GET".into()));
    }
    if input.ratio(1, 8)? {
        matches.authority = Some(value(input)?);
    }
    Ok(matches)
}

fn value(input: &mut Unstructured<'_>) -> Result<ValueMatch> {
    let word = (*input.choose(&VALUES)?).to_owned();
    Ok(match input.int_in_range(0..=4)? {
        0 => ValueMatch::Present,
        1 => ValueMatch::Prefix(word),
        2 => ValueMatch::Regex(pattern(input)?),
        _ => ValueMatch::Exact(word),
    })
}

fn pattern(input: &mut Unstructured<'_>) -> Result<Pattern> {
    // Compiled once: that is not what is looked for here.
    static COMPILED: LazyLock<Vec<Pattern>> = LazyLock::new(|| {
        let compiled = PATTERNS.iter().map(|pattern| Pattern::new(pattern));
        compiled
            .collect::<std::result::Result<_, _>>()
            .expect("patterns")
    });
    input.choose(&COMPILED).cloned()
}

fn text(input: &mut Unstructured<'_>) -> Result<String> {
    let mut text = String::new();
    for _ in 0..input.int_in_range(0..=4)? {
        text.push_str(input.choose(&PIECES)?);
    }
    Ok(text)
}
