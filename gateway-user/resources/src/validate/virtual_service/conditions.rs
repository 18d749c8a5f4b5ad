//! `VirtualService.spec.http[].match[]`

use std::collections::BTreeMap;

use nodegate_values::pseudo_header::PseudoHeader;

use super::Findings;
use crate::istio::{HttpMatch, StringMatch, reading::header_name};

/// Headers that stand for what a token of the client says (`jwt.ToRoutingClaim` of istio's
/// pilot/pkg/security).
const CLAIMS: &str = "@request.auth.claims";

pub(super) fn check(matches: &HttpMatch, path: &str, findings: &mut Findings<'_>) {
    if let Some(uri) = &matches.uri {
        let path = format!("{path}.uri");
        let said = [&uri.exact, &uri.prefix, &uri.regex];
        if said.into_iter().all(Option::is_none) {
            // A route's path is the prefix `/` unless something else is said (`TranslateRouteMatch` of
            // istio's pilot/pkg/networking/core/route).
            let fix = "give it `exact`, `prefix` or `regex`";
            findings.warning(&path, "says nothing, and matches every path", fix);
        }
        // Envoy lets a path's prefix be empty, and nothing else (`validateHTTPRouteMatchRequest`).
        if uri.prefix.as_deref() != Some("") {
            string(uri, false, &path, findings);
        }
        slash(uri, &path, findings);
    }
    for (field, wanted) in [
        ("scheme", &matches.scheme),
        ("method", &matches.method),
        ("authority", &matches.authority),
    ] {
        if let Some(wanted) = wanted {
            string(wanted, true, &format!("{path}.{field}"), findings);
        }
    }
    upper_case(matches, path, findings);
    for (field, headers) in [
        ("headers", &matches.headers),
        ("withoutHeaders", &matches.without_headers),
    ] {
        header_names(headers, &format!("{path}.{field}"), findings);
        strings(headers, &format!("{path}.{field}"), findings);
    }
    let path_of_query = format!("{path}.queryParams");
    strings(&matches.query_params, &path_of_query, findings);
    if matches.port != 0 {
        findings.port(format!("{path}.port"), matches.port);
    }
}

fn strings(wanted: &BTreeMap<String, StringMatch>, path: &str, findings: &mut Findings<'_>) {
    for (name, wanted) in wanted {
        string(wanted, true, &format!("{path}.{name}"), findings);
    }
}

/// `optional`: what is compared may be absent, and `{}` and the regex `*` say that it is there.
pub(super) fn string(
    matches: &StringMatch,
    optional: bool,
    path: &str,
    findings: &mut Findings<'_>,
) {
    let StringMatch {
        exact,
        prefix,
        regex,
    } = matches;
    if [exact, prefix, regex].into_iter().flatten().count() > 1 {
        findings.error(
            path,
            "says more than one thing",
            "only one of `exact`, `prefix`, `regex`",
        );
    }
    if prefix.as_deref() == Some("") {
        let fix = if optional {
            "`{}` matches every value"
        } else {
            "`/` matches every path"
        };
        findings.error(format!("{path}.prefix"), "empty", fix);
    }
    let Some(regex) = regex else {
        return;
    };
    let path = format!("{path}.regex");
    if regex.is_empty() {
        findings.error(path, "empty", "`.*` matches everything");
    } else if let Err(error) = if optional {
        matches.read_optional()
    } else {
        matches.read()
    } {
        findings.error(
            path,
            error.to_string(),
            "the syntax is at https://github.com/google/re2/wiki/Syntax",
        );
    }
}

fn slash(uri: &StringMatch, path: &str, findings: &mut Findings<'_>) {
    for (field, value) in [("exact", &uri.exact), ("prefix", &uri.prefix)] {
        if let Some(value) = value
            && !value.is_empty()
            && !value.starts_with('/')
        {
            let message = format!("`{value}` matches no request: every path begins with `/`");
            findings.warning(format!("{path}.{field}"), message, "begin with `/`");
        }
        if let Some((before, _)) = value.as_ref().and_then(|value| value.split_once('?')) {
            let message = "matches no request: the query is no part of the path";
            let fix = format!("`{before}`, and the query in queryParams");
            findings.warning(format!("{path}.{field}"), message, &fix);
        }
    }
}

/// Methods are compared as they are (RFC 9110, section 9.1).
fn upper_case(matches: &HttpMatch, path: &str, findings: &mut Findings<'_>) {
    let exact = matches
        .method
        .as_ref()
        .and_then(|method| method.exact.as_ref());
    if let Some(method) = exact
        && method.bytes().any(|byte| byte.is_ascii_lowercase())
    {
        let message = format!("`{method}` matches no usual request: methods are in upper case");
        findings.warning(
            format!("{path}.method.exact"),
            message,
            &format!("`{}`", method.to_ascii_uppercase()),
        );
    }
}

fn header_names(headers: &BTreeMap<String, StringMatch>, path: &str, findings: &mut Findings<'_>) {
    for name in headers.keys() {
        let path = format!("{path}.{name}");
        if name.starts_with(CLAIMS) {
            let why = "without it the route would match too much";
            findings.unsupported(path, true, why);
        } else if let Some(pseudo) = PseudoHeader::named(name) {
            if pseudo == PseudoHeader::Status {
                let message = "no request has a status: it counts as missing";
                findings.warning(path, message, "remove it");
            }
        } else if name.starts_with(':') {
            let message = format!("`{name}` is not a header");
            let known = PseudoHeader::ALL.map(PseudoHeader::name).join(", ");
            findings.error(path, message, &format!("one of {known}"));
        } else if let Err(error) = header_name(name) {
            findings.error(path, error.to_string(), "letters, digits and `-`");
        } else if matches!(name.as_str(), "uri" | "scheme" | "method" | "authority") {
            let message = format!("is about a header of the name `{name}`");
            findings.warning(path, message, &format!("use match.{name}"));
        }
    }
}
