//! How long finding a route takes, and how that grows with the number of routes and hosts.
//!
//! `cargo bench -p nodegate-route --bench matcher`

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use nodegate_model::gateway::{
    Destination, HeaderMatch, HttpRoute, HttpRoutes, MatchedHeader, PathMatch, RouteMatch,
    RouteOrigin, ValueMatch, VirtualHost,
};
use nodegate_route::{Query, RouteTable};
use nodegate_values::pattern::Pattern;

const SIZES: [usize; 3] = [10, 1_000, 10_000];

fn route(matches: RouteMatch) -> HttpRoute {
    let origin = RouteOrigin::virtual_service("default", "web", 0);
    let destination = Destination::new("outbound|80||web", 1);
    HttpRoute::forwarding(origin, matches, vec![destination])
}

fn host(domain: String, routes: Vec<HttpRoute>) -> VirtualHost {
    VirtualHost {
        name: format!("{domain}:80"),
        domains: vec![domain],
        routes,
        require_tls: false,
    }
}

fn table(virtual_hosts: Vec<VirtualHost>) -> RouteTable {
    RouteTable::new(HttpRoutes {
        name: "http.8080".into(),
        virtual_hosts,
    })
}

/// One virtual host with that many routes, of the kind that is asked for.
fn routes(count: usize, matches: impl Fn(usize) -> RouteMatch) -> RouteTable {
    let routes = (0..count).map(|at| route(matches(at))).collect();
    table(vec![host("*".into(), routes)])
}

fn tenant(at: usize) -> RouteMatch {
    RouteMatch {
        headers: vec![HeaderMatch {
            name: MatchedHeader::Field(HeaderName::from_static("x-tenant")),
            value: ValueMatch::Exact(format!("t{at}")),
            invert: false,
        }],
        ..RouteMatch::path(PathMatch::Prefix("/".into()))
    }
}

fn bench(
    criterion: &mut Criterion,
    name: &str,
    make: impl Fn(usize) -> (RouteTable, String, String),
) {
    let mut group = criterion.benchmark_group(name);
    for size in SIZES {
        let (table, host, path) = make(size);
        let mut headers = HeaderMap::new();
        let last = format!("t{}", size - 1);
        if let Ok(last) = HeaderValue::from_str(&last) {
            headers.insert("x-tenant", last);
        }
        let query = Query {
            host: &host,
            path: &path,
            query: None,
            method: &Method::GET,
            scheme: "http",
            headers: &headers,
        };
        assert!(table.find(&query).is_ok(), "{name} {size}");
        group.bench_with_input(
            BenchmarkId::from_parameter(size),
            &query,
            |bencher, query| {
                bencher.iter(|| table.find(black_box(query)));
            },
        );
    }
    group.finish();
}

/// The last of so many is what is asked for.
fn matcher(criterion: &mut Criterion) {
    bench(criterion, "exact paths", |size| {
        let of = |at| RouteMatch::path(PathMatch::Exact(format!("/api/v1/resource-{at}/items")));
        let path = format!("/api/v1/resource-{}/items", size - 1);
        (routes(size, of), "web.example:31373".into(), path)
    });
    bench(criterion, "prefixes", |size| {
        let of = |at| RouteMatch::path(PathMatch::Prefix(format!("/api/v1/resource-{at}/")));
        let path = format!("/api/v1/resource-{}/items", size - 1);
        (routes(size, of), "web.example:31373".into(), path)
    });
    bench(criterion, "regexes with a literal beginning", |size| {
        let of = |at| {
            let pattern = Pattern::new(&format!("/api/v1/resource-{at}/[0-9]+"));
            RouteMatch::path(PathMatch::Regex(pattern.expect("a pattern")))
        };
        let path = format!("/api/v1/resource-{}/12", size - 1);
        (routes(size, of), "web.example".into(), path)
    });
    bench(criterion, "tenants by header", |size| {
        (routes(size, tenant), "web.example".into(), "/x".into())
    });
    bench(criterion, "hosts", |size| {
        let of = |at| {
            let all = route(RouteMatch::path(PathMatch::Prefix("/".into())));
            host(format!("web-{at}.example"), vec![all])
        };
        let table = table((0..size).map(of).collect());
        (table, format!("web-{}.example:80", size - 1), "/x".into())
    });
    bench(criterion, "wildcard hosts", |size| {
        let of = |at| {
            let all = route(RouteMatch::path(PathMatch::Prefix("/".into())));
            host(format!("*.web-{at}.example"), vec![all])
        };
        let table = table((0..size).map(of).collect());
        (table, format!("a.web-{}.example:80", size - 1), "/x".into())
    });
}

criterion_group!(benches, matcher);
criterion_main!(benches);
