//! In what this proxy differs from Envoy and means to.

use nodegate_proxy::Parity;

/// A difference that is meant. Each is listed in `docs/differences.md`, too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Difference {
    /// As scripts name it: `differs:NAME`.
    pub(crate) name: &'static str,
    /// What may differ; all else must be the same. [`EVERYTHING`]: another answer altogether.
    pub(crate) aspects: &'static [&'static str],
    /// Why.
    pub(crate) reason: &'static str,
}

/// Stands for all aspects.
const EVERYTHING: &str = "*";

/// All of them. One that no script shows any more fails the tests.
pub(crate) const DIFFERENCES: &[Difference] = &[
    Difference {
        name: "transport-failure",
        aspects: &["body", "header content-length", "header grpc-message"],
        reason: "the answer says why the endpoint could not be reached, as Envoy's did up to 1.38.0",
    },
    Difference {
        name: "tls-words",
        aspects: &["log details"],
        reason: "what is wrong with TLS is said in other words than BoringSSL's",
    },
    Difference {
        name: "early-reply",
        aspects: &["header connection"],
        reason: "an answer that doesn't wait for the request's body leaves the connection open; \
                 the body is read and forgotten",
    },
    Difference {
        name: "empty-head",
        aspects: &["header transfer-encoding"],
        reason: "an answer to HEAD without a body announces none",
    },
    Difference {
        name: "timeout-with-fault",
        aspects: &[
            "upstream header x-envoy-expected-rq-timeout-ms",
            "upstream header grpc-timeout",
        ],
        reason: "a route with a fault has neither timeout nor retries, as Istio documents",
    },
    Difference {
        name: "overloaded",
        aspects: &["upstream header x-envoy-attempt-count", "log flags"],
        reason: "an endpoint that says x-envoy-overloaded isn't asked again",
    },
    Difference {
        name: "x-envoy-headers",
        aspects: &[
            "upstream header x-envoy-anything",
            "upstream header x-envoy-peer-metadata",
            "upstream header x-envoy-is-timeout-retry",
            "upstream header x-envoy-original-dst-host",
            "upstream header x-envoy-original-method",
        ],
        reason: "no client may speak as a proxy does: all its x-envoy- headers go, not a list of \
                 them",
    },
    Difference {
        name: "referer",
        aspects: &["upstream header referer"],
        reason: "a referer that is no URL is the endpoint's business",
    },
    Difference {
        name: "rewritten-path",
        aspects: &["upstream target"],
        reason: "what an expression puts into a path is encoded where no path may have it",
    },
    Difference {
        name: "two-hosts",
        aspects: &[
            "status",
            "header connection",
            "log status",
            "log flags",
            "log details",
            "log known",
        ],
        reason: "two Host headers are a bad request (RFC 9112, section 3.2), and not a host that \
                 no virtual host has",
    },
    Difference {
        name: "repeated-content-length",
        aspects: &[EVERYTHING],
        reason: "the same length said twice is that length (RFC 9110, section 8.6)",
    },
    Difference {
        name: "http-version",
        aspects: &[
            "status",
            "body",
            "header content-length",
            "log status",
            "log details",
        ],
        reason: "what is neither HTTP/1.0 nor HTTP/1.1 is a bad request; only HTTP/1.0 is told to \
                 upgrade",
    },
    Difference {
        name: "transfer-coding",
        aspects: &[
            "status",
            "body",
            "header content-length",
            "log status",
            "log details",
        ],
        reason: "a body whose end can't be found is a bad request (RFC 9112, section 6.3)",
    },
    Difference {
        name: "parser-details",
        aspects: &["log details"],
        reason: "the log has fewer words for what is wrong with a request that can't be read",
    },
    Difference {
        name: "logged-cluster",
        aspects: &["log cluster"],
        reason: "the log has the cluster that a request was meant for also where it doesn't exist, \
                 and none where CORS answers",
    },
    Difference {
        name: "lenient-syntax",
        aspects: &[EVERYTHING],
        reason: "folded headers and runs of spaces are refused, as RFC 9112 allows: parsers that \
                 disagree about them are how requests are smuggled",
    },
    Difference {
        name: "interim",
        aspects: &["interim"],
        reason: "an endpoint's interim answers stay here, but for the 100 Continue that a client asks \
                 for",
    },
    Difference {
        name: "unasked-switch",
        aspects: &[EVERYTHING],
        reason: "an endpoint that switches protocols unasked has given no answer",
    },
    Difference {
        name: "named-in-connection",
        aspects: &["header x-hop"],
        reason: "what an endpoint names in `connection` is for that connection (RFC 9110, section \
                 7.6.1)",
    },
    Difference {
        name: "endpoint-syntax",
        aspects: &[EVERYTHING],
        reason: "answers in other versions than HTTP/1.0 and HTTP/1.1, and chunks in HTTP/1.0, are \
                 refused; empty lines before an answer are not",
    },
    Difference {
        name: "target-characters",
        aspects: &[EVERYTHING],
        reason: "a target with `<`, `>`, `^` or a backtick is a bad request (RFC 3986)",
    },
    Difference {
        name: "absolute-target-without-path",
        aspects: &[EVERYTHING],
        reason: "`http://host?query` is a URI whose path is empty, and not one whose host has a `?`",
    },
];

impl Difference {
    /// Whether this proxy can be told to do as Envoy does.
    pub(crate) fn has_option(&self) -> bool {
        self.name.parse::<Parity>().is_ok()
    }

    /// Whether it is about an aspect.
    pub(crate) fn covers(&self, aspect: &str) -> bool {
        self.aspects
            .iter()
            .any(|&covered| covered == aspect || covered == EVERYTHING)
    }
}

/// The one with a name.
pub(crate) fn named(name: &str) -> Option<&'static Difference> {
    DIFFERENCES
        .iter()
        .find(|difference| difference.name == name)
}
