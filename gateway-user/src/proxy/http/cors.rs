//! Who may use answers in a browser.

use http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
        ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
    },
    request::Parts,
};

use super::reply::LocalReply;
use crate::model::gateway::{CorsPolicy, ValueMatch};

/// What a policy says about a request.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Pass it on; nothing is said about the answer.
    Silent,
    /// Pass it on; the answer may be used by this origin.
    Allowed(HeaderValue),
    /// A preflight, answered here.
    Answer(LocalReply),
}

/// Judges a request.
// Envoy: CorsFilter::decodeHeaders.
pub(super) fn judge(policy: &CorsPolicy, parts: &Parts) -> Verdict {
    let Some(origin) = parts.headers.get(ORIGIN) else {
        return Verdict::Silent;
    };
    let preflight = parts.method == Method::OPTIONS
        && parts
            .headers
            .get(ACCESS_CONTROL_REQUEST_METHOD)
            .is_some_and(|method| !method.is_empty());
    let allowed = policy
        .allow_origins
        .iter()
        .any(|wanted| matches(wanted, origin.as_bytes()));
    match (preflight, allowed) {
        (false, true) => Verdict::Allowed(origin.clone()),
        (true, true) => Verdict::Answer(preflight_reply(policy, origin)),
        (true, false) if !policy.forward_unmatched_preflights => {
            Verdict::Answer(LocalReply::new(StatusCode::OK, "cors_response"))
        }
        (_, false) => Verdict::Silent,
    }
}

/// Lets the origin use an answer.
pub(super) fn expose(policy: &CorsPolicy, origin: &HeaderValue, headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    if policy.allow_credentials {
        headers.insert(
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
    }
    if let Some(exposed) = value(&policy.expose_headers) {
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

fn preflight_reply(policy: &CorsPolicy, origin: &HeaderValue) -> LocalReply {
    let mut reply = LocalReply::new(StatusCode::OK, "cors_response")
        .with_header(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    if policy.allow_credentials {
        let yes = HeaderValue::from_static("true");
        reply = reply.with_header(ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
    }
    for (name, text) in [
        (ACCESS_CONTROL_ALLOW_METHODS, &policy.allow_methods),
        (ACCESS_CONTROL_ALLOW_HEADERS, &policy.allow_headers),
    ] {
        if let Some(value) = value(text) {
            reply = reply.with_header(name, value);
        }
    }
    if let Some(seconds) = policy.max_age {
        reply = reply.with_header(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(seconds));
    }
    reply
}

fn value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text)
        .ok()
        .filter(|value| !value.is_empty())
}

fn matches(wanted: &ValueMatch, origin: &[u8]) -> bool {
    match wanted {
        ValueMatch::Present => true,
        // Envoy: an exact `*` stands for all.
        ValueMatch::Exact(text) => text == "*" || text.as_bytes() == origin,
        ValueMatch::Prefix(prefix) => origin.starts_with(prefix.as_bytes()),
        ValueMatch::Regex(pattern) => pattern.is_match(origin),
    }
}
