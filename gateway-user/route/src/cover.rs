//! What [`RouteMatch::covers`] says is held to what the matcher finds, for conditions and requests from chance.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use nodegate_model::gateway::{
    HeaderMatch, MatchedHeader, PathMatch, QueryMatch, RouteMatch, ValueMatch,
};
use nodegate_values::pattern::Pattern;

use crate::{Query, predicate::check};

fn any<'t>(random: &mut fastrand::Rng, texts: &[&'t str]) -> &'t str {
    texts[random.usize(..texts.len())]
}

fn value(random: &mut fastrand::Rng) -> ValueMatch {
    match random.u8(..4) {
        0 => ValueMatch::Present,
        1 => ValueMatch::Exact(any(random, &["", "a", "ab", "b"]).into()),
        2 => ValueMatch::Prefix(any(random, &["a", "ab", "b"]).into()),
        _ => ValueMatch::Regex(Pattern::new(any(random, &[".*", "a.*", "[ab]", ""])).expect("one")),
    }
}

fn condition(random: &mut fastrand::Rng) -> RouteMatch {
    let paths = ["/", "/a", "/A", "/a/b", "/ab"];
    let path = match random.u8(..3) {
        0 => PathMatch::Prefix(any(random, &paths).into()),
        1 => PathMatch::Exact(any(random, &paths).into()),
        _ => PathMatch::Regex(Pattern::new(any(random, &[".*", "/a.*", "/a"])).expect("one")),
    };
    let some = |random: &mut fastrand::Rng| (random.u8(..3) == 0).then(|| value(random));
    let mut headers = Vec::new();
    for name in ["x-a", "x-b"] {
        if random.u8(..3) == 0 {
            headers.push(HeaderMatch {
                name: MatchedHeader::Field(HeaderName::from_static(name)),
                value: value(random),
                invert: random.bool(),
            });
        }
    }
    let query = some(random).map(|value| QueryMatch {
        name: "q".into(),
        value,
    });
    RouteMatch {
        ignore_case: random.bool() && !matches!(path, PathMatch::Regex(_)),
        path,
        method: some(random),
        scheme: None,
        authority: some(random),
        headers,
        query: query.into_iter().collect(),
    }
}

#[test]
fn what_is_covered_is_matched() {
    let mut random = fastrand::Rng::with_seed(11);
    let conditions: Vec<_> = (0..250).map(|_| condition(&mut random)).collect();
    let mut pairs = Vec::new();
    for one in &conditions {
        for other in &conditions {
            if one.covers(other) {
                pairs.push((one, other));
            }
        }
    }
    assert!(pairs.len() > conditions.len(), "{}", pairs.len());
    let mut matched = 0;
    for _ in 0..1500 {
        let mut headers = HeaderMap::new();
        for name in ["x-a", "x-b"] {
            for _ in 0..random.u8(..3) {
                let value = any(&mut random, &["", "a", "ab", "b", "c"]);
                headers.append(name, HeaderValue::from_static(value));
            }
        }
        let method = Method::from_bytes(any(&mut random, &["a", "ab", "b", "GET"]).as_bytes());
        let method = method.expect("a method");
        let query = Query {
            host: any(&mut random, &["a", "ab", "b"]),
            path: any(
                &mut random,
                &["/", "/a", "/A", "/a/b", "/A/b", "/ab", "/abc", "/b"],
            ),
            query: Some(any(&mut random, &["", "q", "q=a", "q=ab", "q=b", "r=a"])),
            method: &method,
            scheme: "http",
            headers: &headers,
        };
        for (one, other) in &pairs {
            if check(other, &query).is_ok() {
                matched += 1;
                assert!(check(one, &query).is_ok(), "{one:?}\n{other:?}\n{query:?}");
            }
        }
    }
    assert!(matched > 1000, "{matched}");
}
