//! Cross-origin requests (fetch.spec.whatwg.org): what a browser is told.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
        ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD,
        ORIGIN,
    },
};
use nodegate_model::gateway::CorsPolicy;

use super::predicate;

/// What a policy makes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsDecision {
    /// It is passed on, and the response stays as it is.
    Unconcerned,
    /// It is passed on, and the response is [annotated](annotate) for this origin.
    Allowed(HeaderValue),
    /// It is a preflight, answered with status 200 and these headers, without a body.
    Answer(HeaderMap),
}

/// Decides.
// Envoy: CorsFilter::decodeHeaders.
pub fn decide(policy: &CorsPolicy, method: &Method, headers: &HeaderMap) -> CorsDecision {
    let Some(origin) = headers.get(ORIGIN).filter(|origin| !origin.is_empty()) else {
        return CorsDecision::Unconcerned;
    };
    let allowed = is_allowed(policy, origin);
    let asked = headers
        .get(ACCESS_CONTROL_REQUEST_METHOD)
        .filter(|asked| !asked.is_empty());
    let preflight = asked.filter(|_| method == Method::OPTIONS);
    match preflight {
        Some(asked) if allowed || !policy.forward_unmatched_preflights => {
            CorsDecision::Answer(answer(policy, allowed.then_some(origin), asked, headers))
        }
        _ if allowed => CorsDecision::Allowed(origin.clone()),
        _ => CorsDecision::Unconcerned,
    }
}

/// Tells the browser that the origin may use the response.
// Envoy: CorsFilter::encodeHeaders.
pub fn annotate(policy: &CorsPolicy, origin: HeaderValue, response: &mut HeaderMap) {
    response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if policy.allow_credentials {
        response.insert(
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
    }
    insert(
        response,
        ACCESS_CONTROL_EXPOSE_HEADERS,
        &policy.expose_headers,
    );
}

/// Whether one of the policy's patterns matches the origin, or is one for everybody: one that matches
/// `*`.
// Envoy: CorsFilter::isOriginAllowed.
fn is_allowed(policy: &CorsPolicy, origin: &HeaderValue) -> bool {
    policy.allow_origins.iter().any(|allowed| {
        predicate::value(allowed, b"*") || predicate::value(allowed, origin.as_bytes())
    })
}

fn answer(
    policy: &CorsPolicy,
    origin: Option<&HeaderValue>,
    method: &HeaderValue,
    request: &HeaderMap,
) -> HeaderMap {
    let mut answer = HeaderMap::new();
    if let Some(origin) = origin {
        // It is annotated on its way back, as any response is.
        annotate(policy, origin.clone(), &mut answer);
    }
    if policy.allow_credentials {
        answer.insert(
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
    }
    // `*` is not for requests with credentials, so what was asked for is repeated.
    if policy.allow_methods == "*" {
        answer.insert(ACCESS_CONTROL_ALLOW_METHODS, method.clone());
    } else {
        insert(
            &mut answer,
            ACCESS_CONTROL_ALLOW_METHODS,
            &policy.allow_methods,
        );
    }
    if policy.allow_headers == "*" {
        let asked = request.get(ACCESS_CONTROL_REQUEST_HEADERS);
        let asked = asked.cloned().unwrap_or(HeaderValue::from_static(""));
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked);
    } else {
        insert(
            &mut answer,
            ACCESS_CONTROL_ALLOW_HEADERS,
            &policy.allow_headers,
        );
    }
    if let Some(age) = policy.max_age {
        answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(age));
    }
    answer
}

/// Validation has seen to it that the value is one; an empty one is left out.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Some(value) = HeaderValue::from_str(value)
        .ok()
        .filter(|value| !value.is_empty())
    {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nodegate_model::gateway::ValueMatch;
    use nodegate_values::pattern::Pattern;

    fn policy(forward: bool) -> CorsPolicy {
        CorsPolicy {
            allow_origins: vec![
                ValueMatch::Exact("https://a.x".into()),
                ValueMatch::Regex(Pattern::new(r"https://.+\.b\.x").unwrap()),
            ],
            allow_methods: "GET,PUT".into(),
            allow_headers: "*".into(),
            expose_headers: "x-e".into(),
            max_age: Some(60),
            allow_credentials: true,
            forward_unmatched_preflights: forward,
        }
    }

    fn request(headers: &[(HeaderName, &'static str)]) -> HeaderMap {
        let headers = headers.iter().cloned();
        headers
            .map(|(name, value)| (name, HeaderValue::from_static(value)))
            .collect()
    }

    const PREFLIGHT: (HeaderName, &str) = (ACCESS_CONTROL_REQUEST_METHOD, "PUT");

    #[test]
    fn a_preflight_is_answered() {
        let headers = request(&[
            (ORIGIN, "https://c.b.x"),
            PREFLIGHT,
            (ACCESS_CONTROL_REQUEST_HEADERS, "x-a"),
        ]);
        let CorsDecision::Answer(answer) = decide(&policy(true), &Method::OPTIONS, &headers) else {
            panic!("a preflight");
        };
        for (name, wanted) in [
            (ACCESS_CONTROL_ALLOW_ORIGIN, "https://c.b.x"),
            (ACCESS_CONTROL_ALLOW_METHODS, "GET,PUT"),
            (ACCESS_CONTROL_ALLOW_HEADERS, "x-a"),
            (ACCESS_CONTROL_ALLOW_CREDENTIALS, "true"),
            (ACCESS_CONTROL_MAX_AGE, "60"),
            (ACCESS_CONTROL_EXPOSE_HEADERS, "x-e"),
        ] {
            assert_eq!(answer[&name], wanted, "{name}");
        }
        assert_eq!(answer.len(), 6);
    }

    #[test]
    fn what_is_no_preflight_or_of_a_stranger_is_passed_on() {
        let (policy, strict) = (policy(true), policy(false));
        let stranger = request(&[(ORIGIN, "https://evil"), PREFLIGHT]);
        let unconcerned = CorsDecision::Unconcerned;
        assert_eq!(decide(&policy, &Method::OPTIONS, &stranger), unconcerned);
        let CorsDecision::Answer(answer) = decide(&strict, &Method::OPTIONS, &stranger) else {
            panic!("answered without the origin");
        };
        assert!(!answer.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));

        let known = request(&[(ORIGIN, "https://a.x")]);
        let allowed = CorsDecision::Allowed(HeaderValue::from_static("https://a.x"));
        assert_eq!(decide(&policy, &Method::GET, &known), allowed);
        assert_eq!(decide(&policy, &Method::OPTIONS, &known), allowed);
        assert_eq!(decide(&policy, &Method::GET, &request(&[])), unconcerned);
    }

    #[test]
    fn responses_name_the_origin_and_not_a_star() {
        let everybody = CorsPolicy {
            allow_origins: vec![ValueMatch::Exact("*".into())],
            ..policy(true)
        };
        let known = request(&[(ORIGIN, "https://any")]);
        let CorsDecision::Allowed(origin) = decide(&everybody, &Method::GET, &known) else {
            panic!("allowed");
        };
        let mut response = request(&[(ACCESS_CONTROL_ALLOW_ORIGIN, "*")]);
        annotate(&everybody, origin, &mut response);
        assert_eq!(response[ACCESS_CONTROL_ALLOW_ORIGIN], "https://any");
        assert_eq!(response[ACCESS_CONTROL_EXPOSE_HEADERS], "x-e");
        assert_eq!(response[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
    }
}
