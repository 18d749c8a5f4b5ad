//! In what nodegate differs from Istio and means to, or is known to: the one place for it.
//!
//! nodegate runs with `--envoy-parity all`; what is left of `docs/differences.md` then is here, as far as
//! chance comes upon it.

use super::{
    compare::{Divergence, Outcome},
    ground::MIRROR,
    request::Request,
};

/// What something differs in.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    pub(super) request: &'a Request,
    /// What became of it with Istio.
    pub(super) istio: &'a Outcome,
}

/// A difference that is known.
#[derive(Debug)]
pub struct Difference {
    /// As reports call it.
    pub name: &'static str,
    /// Why.
    pub reason: &'static str,
    /// Whether something that differs for a request is it.
    is: fn(&Divergence, &Seen<'_>) -> bool,
}

/// All of them.
pub const DIFFERENCES: &[Difference] = &[
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
            ["x-envoy-internal", "x-forwarded-for"]
                .iter()
                .any(|name| found.aspect == format!("at {MIRROR}: header {name}"))
        },
    },
    Difference {
        name: "bodiless-status",
        reason: "answers with status 204 and 304 have no body, also where directResponse gives them one",
        is: |found, seen| {
            found.aspect == "header content-length" && matches!(seen.istio.status, 204 | 304)
        },
    },
    Difference {
        name: "empty-head",
        reason: "an answer to HEAD without a body announces none",
        is: |found, seen| {
            seen.request.method == "HEAD" && found.aspect == "header transfer-encoding"
        },
    },
];

/// The known difference that this is.
pub(super) fn known(found: &Divergence, seen: &Seen<'_>) -> Option<&'static Difference> {
    DIFFERENCES.iter().find(|known| (known.is)(found, seen))
}
