//! What an HTTP route of a VirtualService does.

use std::time::Duration;

use http::{HeaderValue, uri};
use nodegate_values::{
    percentage::{NotAPercentage, Percentage},
    retry::{self, RetryOn, UnknownWords},
    spelling::nearest,
};

use super::{Findings, conditions, destination};
use crate::istio::{
    CorsPolicy, DirectResponse, Fault, HeaderChanges, Headers, HttpMatch, HttpRoute, Percent,
    Redirect, Retries, Rewrite,
    reading::{
        AbortError, BodyError, HeaderValueError, NotAnAnswer, RegexRewriteError, changed_header,
        header_value, is_authority, whole_percent,
    },
    words::{DerivedPort, UnmatchedPreflights},
};

pub(super) fn check(route: &HttpRoute, delegate: bool, path: &str, findings: &mut Findings<'_>) {
    conflicts(route, delegate, path, findings);
    if let Some(redirect) = &route.redirect {
        let path = format!("{path}.redirect");
        one_redirect(redirect, &path, findings);
        prefix_rewrite(redirect, &route.matches, &path, findings);
    }
    if let Some(response) = &route.direct_response {
        direct_response(response, &format!("{path}.directResponse"), findings);
    }
    if let Some(rewrite) = &route.rewrite {
        one_rewrite(rewrite, &format!("{path}.rewrite"), findings);
    }
    if let Some(retries) = &route.retries {
        one_retries(retries, &format!("{path}.retries"), findings);
    }
    if let Some(fault) = &route.fault {
        one_fault(fault, &format!("{path}.fault"), findings);
    }
    if let Some(cors) = &route.cors_policy {
        cors_policy(cors, &format!("{path}.corsPolicy"), findings);
    }
    if let Some(given) = &route.headers {
        headers(given, &format!("{path}.headers"), findings);
        authority_twice(route, given, path, findings);
    }
    mirrors(route, path, findings);
}

/// What excludes each other (`validateHTTPRouteConflict`).
fn conflicts(route: &HttpRoute, delegate: bool, path: &str, findings: &mut Findings<'_>) {
    let actions = [
        ("route", !route.route.is_empty()),
        ("redirect", route.redirect.is_some()),
        ("directResponse", route.direct_response.is_some()),
        ("delegate", route.delegate.is_some()),
    ];
    let mut given = actions.iter().filter(|(_, given)| *given);
    let Some((first, _)) = given.next() else {
        findings.error(
            path,
            "leads nowhere",
            "give it a `route` with a destination, a `redirect` or a `directResponse`",
        );
        return;
    };
    for (second, _) in given {
        let message = format!("a route has either `{first}` or `{second}`");
        findings.error(format!("{path}.{second}"), message, "remove one of them");
    }
    if route.delegate.is_some() && delegate {
        let message = "what others delegate to cannot delegate any further";
        findings.error(format!("{path}.delegate"), message, "give it a `route`");
    }
    if matches!(*first, "redirect" | "directResponse") {
        for (field, given) in [
            ("fault", route.fault.is_some()),
            ("rewrite", route.rewrite.is_some()),
        ] {
            if given {
                let message = format!("nothing is passed on by a route with `{first}`");
                findings.error(format!("{path}.{field}"), message, "remove it");
            }
        }
    }
}

fn one_redirect(redirect: &Redirect, path: &str, findings: &mut Findings<'_>) {
    if let Err(error) = redirect.status() {
        findings.error(
            format!("{path}.redirectCode"),
            error.to_string(),
            "301, 302, 303, 307 or 308",
        );
    }
    if let Some(port) = redirect.port.filter(|port| *port != 0) {
        findings.port(format!("{path}.port"), port);
    }
    if let Some(derived) = &redirect.derive_port {
        findings.one_of::<DerivedPort>(format!("{path}.derivePort"), derived);
        if redirect.port.is_some() {
            let message = "the port is given already";
            findings.error(format!("{path}.derivePort"), message, "remove one of them");
        }
    }
    if !redirect.scheme.is_empty() && redirect.scheme.parse::<uri::Scheme>().is_err() {
        let message = format!("`{}` is not a scheme", redirect.scheme);
        findings.error(format!("{path}.scheme"), message, "http or https");
    }
    for (field, value) in [
        ("uri", &redirect.uri),
        ("prefixRewrite", &redirect.prefix_rewrite),
        ("authority", &redirect.authority),
    ] {
        if HeaderValue::try_from(value.as_str()).is_err() {
            let message = "has characters that no header can hold";
            findings.error(format!("{path}.{field}"), message, "encode them with `%`");
        }
    }
}

/// `validateHTTPRedirect`: a prefix is replaced where one is matched.
fn prefix_rewrite(
    redirect: &Redirect,
    matches: &[HttpMatch],
    path: &str,
    findings: &mut Findings<'_>,
) {
    if redirect.prefix_rewrite.is_empty() {
        return;
    }
    let path = format!("{path}.prefixRewrite");
    if !redirect.uri.is_empty() {
        findings.error(
            &path,
            "the whole path is given already",
            "keep one, or `uri`",
        );
    }
    let mut uris = matches.iter().filter_map(|matches| matches.uri.as_ref());
    if uris.any(|uri| uri.prefix.is_none()) {
        let message = "replaces a prefix, and a `match.uri` here is none";
        findings.error(path, message, "`uri.prefix`, or `redirect.uri`");
    }
}

fn direct_response(response: &DirectResponse, path: &str, findings: &mut Findings<'_>) {
    if let Err(error) = response.status() {
        status(error, format!("{path}.status"), findings);
    }
    let Err(error) = response.body() else {
        return;
    };
    let (field, fix) = match error {
        BodyError::Twice => ("body", "`string` or `bytes`"),
        BodyError::Base64(_) => ("body.bytes", "RFC 4648, with padding"),
        BodyError::TooLong(_) => ("body", "at most 1048576"),
    };
    findings.error(format!("{path}.{field}"), error.to_string(), fix);
}

fn status(error: NotAnAnswer, path: String, findings: &mut Findings<'_>) {
    findings.error(path, error.to_string(), "200 to 599");
}

fn one_rewrite(rewrite: &Rewrite, path: &str, findings: &mut Findings<'_>) {
    let uri = rewrite.uri.as_ref().filter(|uri| !uri.is_empty());
    if uri.is_some() && rewrite.uri_regex_rewrite.is_some() {
        let message = "the path is rewritten already";
        let fix = "either `uri` or `uriRegexRewrite`";
        findings.error(format!("{path}.uriRegexRewrite"), message, fix);
    }
    if uri.is_none() && rewrite.uri_regex_rewrite.is_none() && rewrite.authority.is_empty() {
        let fix = "give it `uri`, `uriRegexRewrite` or `authority`";
        findings.error(path, "rewrites nothing", fix);
    }
    let authority = rewrite.authority.as_str();
    let is_host = |text: &str| text.parse::<uri::Authority>().is_ok() && !text.contains('@');
    if !authority.is_empty() && !is_host(authority) {
        let message = format!("`{}` is not a host", rewrite.authority);
        findings.error(
            format!("{path}.authority"),
            message,
            "a name, with a port or without",
        );
    }
    let Some(regex) = &rewrite.uri_regex_rewrite else {
        return;
    };
    let path = format!("{path}.uriRegexRewrite");
    if regex.matches.is_empty() {
        let fix = "`^.*$` matches every path";
        return findings.error(format!("{path}.match"), "empty", fix);
    }
    if let Err(error) = regex.read() {
        let (field, fix) = match &error {
            RegexRewriteError::Match(_) => (
                "match",
                "the syntax is at https://github.com/google/re2/wiki/Syntax",
            ),
            RegexRewriteError::Rewrite(_) => ("rewrite", r"`\1` is the first group"),
        };
        findings.error(format!("{path}.{field}"), error.to_string(), fix);
    }
}

fn one_retries(retries: &Retries, path: &str, findings: &mut Findings<'_>) {
    if let Err(error) = retries.attempts() {
        findings.error(format!("{path}.attempts"), error.to_string(), "0 or more");
    }
    for (field, given) in [
        ("perTryTimeout", retries.per_try_timeout),
        ("backoff", retries.backoff),
    ] {
        findings.duration(format!("{path}.{field}"), given);
    }
    let unknown = match retry::parse(&retries.retry_on) {
        Ok(_) => Vec::new(),
        Err(UnknownWords(words)) => words,
    };
    for word in unknown {
        let message = format!("`{word}` is neither a condition nor a status");
        let fix = match nearest(&word, RetryOn::NAMES) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("some of {}", RetryOn::NAMES.join(", ")),
        };
        findings.error(format!("{path}.retryOn"), message, &fix);
    }
    findings.ignored(
        format!("{path}.retryRemoteLocalities"),
        retries.retry_remote_localities == Some(true),
    );
    let says_more = retries.per_try_timeout.is_some()
        || !retries.retry_on.is_empty()
        || retries.retry_remote_localities.is_some();
    if retries.attempts == 0 && says_more {
        let message = "0, or absent: nothing is tried again, and the rest has no effect";
        findings.not_admitted(format!("{path}.attempts"), message, "1 or more");
    }
}

fn one_fault(fault: &Fault, path: &str, findings: &mut Findings<'_>) {
    if fault.delay.is_none() && fault.abort.is_none() {
        findings.error(path, "does nothing", "give it `delay` or `abort`");
    }
    if let Some(delay) = &fault.delay {
        let path = format!("{path}.delay");
        if delay.fixed_delay.is_none() {
            let message = "missing: no request is delayed";
            findings.warning(format!("{path}.fixedDelay"), message, "such as `5s`");
        }
        if delay.exponential_delay.is_some() {
            let message = "has no effect, in Istio neither; ignored";
            findings.warning(
                format!("{path}.exponentialDelay"),
                message,
                "use fixedDelay",
            );
        }
        findings.duration(format!("{path}.fixedDelay"), delay.fixed_delay);
        if delay.percent > 100 {
            let message = format!("{} is as much as 100", delay.percent);
            findings.warning(format!("{path}.percent"), message, "0 to 100");
        } else {
            let read = whole_percent(delay.percent);
            percentage(format!("{path}.percent"), read, findings);
        }
        percent(delay.percentage, &path, findings);
        if delay.percent != 0 {
            deprecated(format!("{path}.percent"), "`percentage`", findings);
        }
        if delay.percentage.is_none() && delay.percent == 0 {
            let message = "missing: no request is delayed";
            findings.warning(format!("{path}.percentage"), message, "`{value: 100}`");
        }
    }
    if let Some(abort) = &fault.abort {
        let path = format!("{path}.abort");
        match abort.status() {
            Ok(Some(_)) => {}
            Ok(None) => {
                let message = "says no status: no request is aborted";
                findings.warning(&path, message, "`httpStatus` or `grpcStatus`");
            }
            Err(AbortError::Http(error)) => status(error, format!("{path}.httpStatus"), findings),
            Err(AbortError::Grpc(error)) => {
                let fix = "such as UNAVAILABLE";
                findings.error(format!("{path}.grpcStatus"), error.to_string(), fix);
            }
            Err(error @ AbortError::NotOne) => {
                findings.error(&path, error.to_string(), "`httpStatus` or `grpcStatus`");
            }
        }
        if abort.http2_error.is_some() {
            let message = "has no effect, in Istio neither; ignored";
            findings.warning(format!("{path}.http2Error"), message, "use httpStatus");
        }
        percent(abort.percentage, &path, findings);
        if abort.percentage.is_none() {
            let message = "missing: no request is aborted";
            findings.warning(format!("{path}.percentage"), message, "`{value: 100}`");
        }
    }
}

fn percent(percent: Option<Percent>, path: &str, findings: &mut Findings<'_>) {
    if let Some(percent) = percent {
        percentage(
            format!("{path}.percentage.value"),
            percent.share(),
            findings,
        );
    }
}

/// A field that has its effect, and that Istio will not have for ever.
fn deprecated(path: String, instead: &str, findings: &mut Findings<'_>) {
    findings.info(path, "is deprecated", &format!("use {instead}"));
}

fn percentage(path: String, read: Result<Percentage, NotAPercentage>, findings: &mut Findings<'_>) {
    if let Err(error) = read {
        findings.error(path, error.to_string(), "0 to 100");
    }
}

fn cors_policy(cors: &CorsPolicy, path: &str, findings: &mut Findings<'_>) {
    for (index, origin) in cors.allow_origins.iter().flatten().enumerate() {
        let path = format!("{path}.allowOrigins[{index}]");
        if origin.exact.is_none() && origin.prefix.is_none() && origin.regex.is_none() {
            findings.error(
                &path,
                "says nothing",
                "give it `exact`, `prefix` or `regex`",
            );
        }
        conditions::string(origin, false, &path, findings);
    }
    for (field, values) in [
        ("allowMethods", &cors.allow_methods),
        ("allowHeaders", &cors.allow_headers),
        ("exposeHeaders", &cors.expose_headers),
    ] {
        for (index, value) in values.iter().enumerate() {
            if HeaderValue::try_from(value.as_str()).is_err() || value.is_empty() {
                let message = format!("`{value}` is no name");
                findings.error(format!("{path}.{field}[{index}]"), message, "one name each");
            }
        }
    }
    if let Some(policy) = &cors.unmatched_preflights {
        findings.one_of::<UnmatchedPreflights>(format!("{path}.unmatchedPreflights"), policy);
    }
    if cors.max_age.is_some_and(|age| age.0.subsec_nanos() != 0) {
        let message = "a fraction of a second cannot be said to a browser";
        findings.error(format!("{path}.maxAge"), message, "whole seconds");
    }
}

/// Changes of headers, of a route or of a destination.
pub(super) fn headers(headers: &Headers, path: &str, findings: &mut Findings<'_>) {
    changes(&headers.request, true, &format!("{path}.request"), findings);
    changes(
        &headers.response,
        false,
        &format!("{path}.response"),
        findings,
    );
}

fn changes(changes: &HeaderChanges, request: bool, path: &str, findings: &mut Findings<'_>) {
    for (field, values) in [("set", &changes.set), ("add", &changes.add)] {
        for (name, value) in values {
            let path = format!("{path}.{field}.{name}");
            let authority = is_authority(name);
            header_name(name, request && authority, &path, findings);
            if request && authority {
                if HeaderValue::try_from(value.as_str()).is_err() {
                    findings.error(path, format!("`{value}` is not a host"), "a name");
                }
                continue;
            }
            match header_value(value) {
                Ok(format) => {
                    for name in format.unserved() {
                        let message = format!("`%{name}%` is always empty in this version");
                        findings.warning(&path, message, "");
                    }
                }
                Err(error) => {
                    let fix = match error {
                        HeaderValueError::Format(_) => "write `%%` for a `%`",
                        HeaderValueError::Characters => "remove them",
                    };
                    findings.error(&path, error.to_string(), fix);
                }
            }
            if request && is_of_router(name) {
                let message = "is read by Envoy's router, and has no effect here";
                findings.warning(path, message, "use `retries` and `timeout`");
            }
        }
    }
    for (index, name) in changes.remove.iter().enumerate() {
        header_name(name, false, &format!("{path}.remove[{index}]"), findings);
    }
}

/// Whether a request's header says to Envoy's router how to retry.
fn is_of_router(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let Some(kind) = name.strip_prefix("x-envoy-") else {
        return false;
    };
    matches!(
        kind,
        "retry-on"
            | "retry-grpc-on"
            | "max-retries"
            | "hedge-on-per-try-timeout"
            | "retriable-header-names"
            | "retriable-status-codes"
            | "upstream-rq-per-try-timeout-ms"
    )
}

/// `Host` and what begins with a colon is left alone (`isInternalHeader` of istio's
/// pilot/pkg/networking/core/route), except that setting `Host` rewrites the authority.
fn header_name(name: &str, may_be_host: bool, path: &str, findings: &mut Findings<'_>) {
    match changed_header(name) {
        Ok(None) if !may_be_host => {
            let message = format!("`{name}` cannot be changed here, and is left alone");
            findings.not_admitted(path, &message, "remove it");
        }
        Ok(_) => {}
        Err(error) => findings.error(path, error.to_string(), "letters, digits and `-`"),
    }
}

/// `validateAuthorityRewrite`
fn authority_twice(route: &HttpRoute, headers: &Headers, path: &str, findings: &mut Findings<'_>) {
    let rewrite = route
        .rewrite
        .iter()
        .filter(|rewrite| !rewrite.authority.is_empty());
    let request = &headers.request;
    let names = request.set.keys().chain(request.add.keys());
    if rewrite.count() + names.filter(|name| is_authority(name)).count() > 1 {
        let message = "the host is rewritten more than once";
        findings.error(format!("{path}.headers.request"), message, "keep one");
    }
}

fn mirrors(route: &HttpRoute, path: &str, findings: &mut Findings<'_>) {
    if let Some(mirror) = &route.mirror {
        destination(mirror, &format!("{path}.mirror"), findings);
    }
    for (index, mirror) in route.mirrors.iter().enumerate() {
        let path = format!("{path}.mirrors[{index}]");
        destination(
            &mirror.destination,
            &format!("{path}.destination"),
            findings,
        );
        percent(mirror.percentage, &path, findings);
    }
    if route.mirror.is_some() && !route.mirrors.is_empty() {
        let message = "both are given";
        findings.error(
            format!("{path}.mirrors"),
            message,
            "move `mirror` into `mirrors`",
        );
    }
    if let Some(whole) = route.mirror_percent {
        let field = format!("{path}.mirrorPercent");
        deprecated(field, "`mirrorPercentage`", findings);
        percentage(
            format!("{path}.mirrorPercent"),
            whole_percent(whole),
            findings,
        );
    }
    if let Some(percent) = route.mirror_percentage {
        percentage(
            format!("{path}.mirrorPercentage.value"),
            percent.share(),
            findings,
        );
    }
    if let Some(timeout) = route.timeout
        && timeout.0 != Duration::ZERO
    {
        findings.duration(format!("{path}.timeout"), Some(timeout));
    }
}
