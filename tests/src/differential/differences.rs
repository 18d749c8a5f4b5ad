//! In what nodegate differs from Istio, and means to or does not yet do better: the one place for it.
//!
//! nodegate runs with `--envoy-parity all`; what is left of `docs/differences.md` then is here, as far as
//! chance comes upon it.

use std::collections::BTreeSet;

use super::{
    behaviour::BEHAVE,
    compare::{Divergence, Outcome},
    ground::MIRRORS,
    log::Line,
    odd::Odd,
    request::Request,
};

/// The headers that tell endpoints how long they have.
const TIMES: [&str; 2] = [
    "header x-envoy-expected-rq-timeout-ms",
    "header grpc-timeout",
];

/// What something differs in.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    pub(super) request: &'a Request,
    /// What became of it with Istio.
    pub(super) istio: &'a Outcome,
    /// And with nodegate.
    pub(super) nodegate: &'a Outcome,
}

/// A difference that is known.
#[derive(Debug)]
pub struct Difference {
    /// As reports call it.
    pub name: &'static str,
    /// Why it is, or what is wrong.
    pub reason: &'static str,
    /// Whether something is it.
    is: fn(&Divergence, &Seen<'_>) -> bool,
}

/// Those that are meant, or chance.
pub const MEANT: &[Difference] = &[
    Difference {
        name: "header-order",
        reason: "the order of headers with different names means nothing (RFC 9110, section 5.3): those that a \
                 gateway adds or sets stand elsewhere among the others",
        is: |found, _| {
            found.aspect.ends_with("order") || found.aspect.ends_with("order with its own")
        },
    },
    Difference {
        name: "mirror-copies",
        reason: "a copy is what the endpoint gets, without x-envoy-internal and this proxy's address",
        is: |found, _| {
            at_mirror(found, "header x-envoy-internal")
                || at_mirror(found, "header x-forwarded-for")
        },
    },
    Difference {
        name: "bodiless-status",
        reason: "answers with status 204 and 304 have no body, also where directResponse gives them one",
        is: |found, seen| {
            let about = ["header content-length", "body", "log bytes sent"];
            about.contains(&found.aspect.as_str())
                && is_bodiless(seen.istio)
                && seen.nodegate.answer.body.is_empty()
        },
    },
    Difference {
        name: "empty-head",
        reason: "an answer to HEAD without a body announces none",
        is: |found, seen| {
            seen.request.method == "HEAD" && found.aspect == "header transfer-encoding"
        },
    },
    Difference {
        name: "time-left",
        reason: "how much of a timeout is left for another attempt is the machine's doing",
        is: |found, _| {
            let is_rest = |value: &str| {
                let value = value.trim_end_matches("\"])").trim_end_matches('m');
                value != "None" && !value.ends_with("000")
            };
            let is_time = TIMES.iter().any(|name| found.aspect.ends_with(name));
            is_time && is_rest(&found.istio) && is_rest(&found.nodegate)
        },
    },
    Difference {
        name: "early-reply",
        reason: "whether an answer of its own comes before the request's body does is chance",
        is: |found, seen| {
            let is_about = matches!(found.aspect.as_str(), "header connection" | "kept");
            is_about && !seen.request.is_http2() && seen.request.body.is_some()
        },
    },
    Difference {
        name: "hash-cookie",
        reason: "the value of a new cookie for consistent hashing is made of the gateway's own address, too",
        is: |found, _| {
            let is_new = |value: &str| value.contains("Max-Age=60; HttpOnly");
            found.aspect == "header set-cookie" && is_new(&found.istio) && is_new(&found.nodegate)
        },
    },
    Difference {
        name: "chunks-in-1.0",
        reason: "a body of HTTP/1.0 in chunks is a bad request (RFC 9112, section 6.1), before the version is",
        is: |_, seen| seen.request.version == "HTTP/1.0" && seen.request.is_chunked,
    },
    Difference {
        name: "continue",
        reason: "to a client that waits for 100 Continue from an endpoint that says nothing for a second, the \
                 gateway says it itself",
        is: |found, seen| found.aspect == "interim" && says(seen.request, "expect"),
    },
    Difference {
        name: "interim",
        reason: "interim answers of endpoints stay at the gateway, but for the 100 Continue that is asked for",
        is: |found, seen| found.aspect == "interim" && says_value(seen.request, BEHAVE, "interim"),
    },
    Difference {
        name: "malformed-stream",
        reason: "a request in HTTP/2 that none may be costs its stream (RFC 9113, section 8.1.1), and not the \
                 connection with all others",
        is: |_, seen| seen.request.is_http2() && is_malformed(seen),
    },
    Difference {
        name: "reason-of-the-end",
        reason: "a connection in HTTP/2 ends with a frame that says why (RFC 9113, section 5.4.1)",
        is: |found, seen| {
            found.aspect == "away"
                && [seen.istio, seen.nodegate]
                    .iter()
                    .all(|one| one.kept == Some(false))
        },
    },
    Difference {
        name: "pseudo-headers-of-answers",
        reason: "what an endpoint says in other pseudo-headers than :status is ignored",
        is: |_, seen| says_value(seen.request, BEHAVE, "odd:path"),
    },
    Difference {
        name: "whole-answer",
        reason: "an answer in HTTP/1.1 is whole with the last byte of its length, and without a body where its \
                 status has none: what an endpoint does to its stream then costs no client its connection",
        is: |found, seen| {
            let does = |what| says_value(seen.request, BEHAVE, what);
            let is_head = seen.request.method == "HEAD";
            let is_whole = does("body-204") || does("half") || does("headed") && is_head;
            let about = ["kept", "log flags", "log details"];
            about.contains(&found.aspect.as_str()) && !seen.request.is_http2() && is_whole
        },
    },
    Difference {
        name: "framing-trailers",
        reason: "trailers that are about where a message ends stay here (RFC 9110, section 6.5.1)",
        is: |found, seen| {
            found.aspect.ends_with("trailer content-length")
                && seen.request.odd == Some(Odd::Trailer("content-length", "9"))
        },
    },
    Difference {
        name: "host-of-no-uri",
        reason: "a host that is part of no URI is told to endpoints in HTTP/2 by host, and not by :authority",
        is: |found, _| {
            let is_host = ["header :authority", "header host"];
            is_host.iter().any(|name| found.aspect.ends_with(name))
                && (found.istio.contains('%') || found.nodegate.contains('%'))
        },
    },
    Difference {
        name: "logged-cluster",
        reason: "the log has the cluster that a request was meant for also where it doesn't exist, and none where \
                 CORS answers",
        is: |found, seen| {
            let is_none = |value: &str| value == "\"-\"";
            // A fault or a preflight is answered before anybody sees that there is none.
            let is_missing = is_none(&found.istio)
                && (flags(seen.istio, "NC")
                    || logs(seen.istio, "details", "fault_filter_abort")
                    || logs(seen.istio, "details", "cors_response"));
            let is_preflight = is_none(&found.nodegate)
                && seen.request.method == "OPTIONS"
                && seen.nodegate.reports.is_empty();
            found.aspect == "log cluster" && (is_missing || is_preflight)
        },
    },
    Difference {
        name: "abandoned-stream",
        reason: "how far a stream comes that its client resets at once is chance: whether an endpoint hears of it, \
                 whether an answer of the gateway's own has been said, and how much is counted",
        is: |found, seen| {
            let about = [
                "endpoints",
                "log connection",
                "log bytes received",
                "log bytes sent",
            ];
            let has_left = |outcome| logs(outcome, "details", "http2.remote_reset");
            // Envoy says its own answers before it reads on.
            let is_answered = seen.istio.reports.is_empty() && !has_left(seen.istio);
            let is_about = about.contains(&found.aspect.as_str())
                || is_answered && ["log flags", "log details"].contains(&found.aspect.as_str());
            is_about && is_reset(seen.request) && has_left(seen.nodegate)
        },
    },
    Difference {
        name: "star",
        reason: "OPTIONS * is answered before a route is looked for: it has no headers of a route whose expression \
                 matches the star",
        is: |found, seen| {
            let is_about = found.aspect.starts_with("header ")
                || ["log cluster", "log route"].contains(&found.aspect.as_str());
            is_about
                && seen.request.target == "*"
                && logs(seen.nodegate, "details", "absolute_path_rejected")
        },
    },
    Difference {
        name: "broken-body",
        reason: "whether an endpoint is there by the time that a body turns out to be broken is chance",
        is: |found, seen| {
            let is_broken = |outcome| logs(outcome, "details", "http1.codec_error");
            found.aspect == "log connection" && is_broken(seen.istio) && is_broken(seen.nodegate)
        },
    },
    Difference {
        name: "bytes-by-then",
        reason: "how much of a body has come by the time that a header is made of it (%BYTES_RECEIVED%) is chance",
        is: |found, seen| {
            let body = seen.request.body.as_ref().map_or(0, String::len);
            let both = [&found.istio, &found.nodegate].map(|text| number(text));
            // Here nothing is counted before somebody takes it.
            found.aspect.contains("header ") && body > 0 && both == [Some(body), Some(0)]
        },
    },
    Difference {
        name: "flags-order",
        reason: "the order of flags means nothing: Envoy has them in the order in which they came about",
        is: |found, _| {
            let (theirs, ours) = (values(&found.istio), values(&found.nodegate));
            let same = |(one, other): (&&str, &&str)| {
                one == other || flags_of(one).is_some() && flags_of(one) == flags_of(other)
            };
            !theirs.is_empty() && theirs.len() == ours.len() && theirs.iter().zip(&ours).all(same)
        },
    },
    Difference {
        name: "empty-host",
        reason: "a host that is empty is - to the log, as one that is not there",
        is: |found, _| found.aspect == "log authority" && found.istio == "\"\"",
    },
    Difference {
        name: "unread-body",
        reason: "of a body that nobody wants the log counts nothing: Envoy counts what has come by the time of its \
                 answer",
        is: |found, seen| {
            let nobody_asked = seen.istio.reports.is_empty() && seen.nodegate.reports.is_empty();
            found.aspect == "log bytes received" && nobody_asked && found.nodegate == "\"0\""
        },
    },
    Difference {
        name: "logged-though-refused",
        reason: "the log says what was asked also where a request is refused by its first line, and counts no bytes \
                 of a body that is not sent",
        is: |found, seen| {
            let about = [
                "method",
                "path",
                "authority",
                "protocol",
                "user agent",
                "forwarded for",
                "request id",
                "bytes sent",
            ];
            let aspect = found.aspect.strip_prefix("log ");
            logs(seen.istio, "method", "-") && aspect.is_some_and(|aspect| about.contains(&aspect))
        },
    },
    Difference {
        name: "parser-details",
        reason: "the log has fewer words for what is wrong with a request that can't be read",
        is: |found, seen| {
            found.aspect == "log details"
                && found.istio.contains("http1.")
                && seen.istio.status == seen.nodegate.status
        },
    },
    Difference {
        name: "scheme",
        reason: "what has come in the clear is http, whatever :scheme says",
        is: |_, seen| matches!(seen.request.odd, Some(Odd::With(":scheme", _))),
    },
];

/// Those that are to be mended, here or in a library. Whoever mends one takes it out.
pub const OPEN: &[Difference] = &[
    Difference {
        name: "keep-alive-1.0",
        reason: "the answer to HTTP/1.0 with connection: keep-alive says close alone",
        is: |found, seen| seen.request.version == "HTTP/1.0" && found.aspect == "header connection",
    },
    Difference {
        name: "connect-with-length",
        reason: "CONNECT in HTTP/2 with a content-length costs the connection: what serves it (hyper) ends it",
        is: |_, seen| {
            let has_length = seen.request.body.is_some() && !seen.request.is_chunked
                || matches!(seen.request.odd, Some(Odd::Length(_)));
            seen.request.is_http2() && seen.request.method == "CONNECT" && has_length
        },
    },
    Difference {
        name: "connect-to-tls",
        reason: "CONNECT in HTTP/2 to a host that redirects to https finds no route (404), and is not an upgrade \
                 that is refused (403)",
        is: |_, seen| {
            let is_connect = seen.request.is_http2() && seen.request.method == "CONNECT";
            is_connect && seen.istio.status == 403 && seen.nodegate.status == 404
        },
    },
];

/// The known difference that this is.
pub(super) fn known(found: &Divergence, seen: &Seen<'_>) -> Option<&'static Difference> {
    let mut all = MEANT.iter().chain(OPEN);
    all.find(|known| (known.is)(found, seen))
}

/// Whether Istio has ended the connection, and nodegate has refused the request. Where what is wrong comes after the
/// head, endpoints may have answered it already.
fn is_malformed(seen: &Seen<'_>) -> bool {
    let Seen {
        request,
        istio,
        nodegate,
    } = seen;
    let comes_late = matches!(request.odd, Some(Odd::Trailer(..) | Odd::Length(_)));
    let refuses = matches!(nodegate.status, 0 | 400..=499)
        || nodegate.answer.values("grpc-status").next().is_some();
    let nobody_asked = istio.reports.is_empty() && nodegate.reports.is_empty();
    istio.status == 0 && istio.kept == Some(false) && (nobody_asked && refuses || comes_late)
}

/// Whether the answer has a status without a body; of one that a client did not wait for, the log says it.
fn is_bodiless(outcome: &Outcome) -> bool {
    matches!(outcome.status, 204 | 304)
        || ["204", "304"]
            .iter()
            .any(|status| logs(outcome, "status", status))
}

/// Whether the client resets its stream, or what it says of its length makes the gateway do so.
fn is_reset(request: &Request) -> bool {
    matches!(request.odd, Some(Odd::Abandoned | Odd::Length(_)))
}

/// The number that is the one value of a header.
fn number(text: &str) -> Option<usize> {
    let [value] = values(text)[..] else {
        return None;
    };
    value.parse().ok()
}

/// The values of a header.
fn values(text: &str) -> Vec<&str> {
    let inner = text.strip_prefix("Some([\"");
    let inner = inner.and_then(|inner| inner.strip_suffix("\"])"));
    inner.map_or_else(Vec::new, |inner| inner.split("\", \"").collect())
}

/// The flags that a value is, as generated rules write them, in no order.
fn flags_of(value: &str) -> Option<BTreeSet<&str>> {
    let value = value.strip_prefix('[')?.strip_suffix(']')?;
    let is_flag =
        |word: &&str| (2..=3).contains(&word.len()) && word.bytes().all(|c| c.is_ascii_uppercase());
    let flags: BTreeSet<_> = value.split(',').collect();
    flags.iter().all(is_flag).then_some(flags)
}

/// Whether a gateway has written down that a field has this value.
fn logs(outcome: &Outcome, name: &str, value: &str) -> bool {
    let mut fields = outcome.line.iter().flat_map(Line::fields);
    fields.any(|field| field == (name, value))
}

/// Whether a gateway has written down a flag.
fn flags(outcome: &Outcome, flag: &str) -> bool {
    let fields = outcome.line.iter().flat_map(Line::fields);
    let mut flags = fields.filter(|(name, _)| *name == "flags");
    flags.any(|(_, flags)| flags.split(',').any(|own| own == flag))
}

/// Whether a request has a header whose value begins so.
fn says_value(request: &Request, name: &str, value: &str) -> bool {
    let mut headers = request.headers.iter();
    headers.any(|(own, text)| own.eq_ignore_ascii_case(name) && text.starts_with(value))
}

/// Whether a request has a header.
fn says(request: &Request, name: &str) -> bool {
    let mut headers = request.headers.iter();
    headers.any(|(own, _)| own.eq_ignore_ascii_case(name))
}

/// Whether something differs in what a mirror gets.
fn at_mirror(found: &Divergence, aspect: &str) -> bool {
    let mut mirrors = MIRRORS.iter();
    mirrors.any(|name| found.aspect == format!("at {name}: {aspect}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_they_are_shown() {
        let shown = format!("{:?}", Some(["plain", "[URX,UR]"]));
        assert_eq!(values(&shown), ["plain", "[URX,UR]"]);
        assert_eq!(flags_of("[URX,UR]"), flags_of("[UR,URX]"));
        assert_eq!(flags_of("[a,b]"), None);
        assert_eq!(number(&format!("{:?}", Some(["12"]))), Some(12));
        assert_eq!(number("None"), None);
    }
}
