//! What stands beside the headers of a request, under names that no header may have (RFC 9113, section
//! 8.3).

/// One of them. With HTTP/1, too, a request has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PseudoHeader {
    /// The host, with the port if the client named one.
    Authority,
    /// The method.
    Method,
    /// Path and query.
    Path,
    /// `http` or `https`
    Scheme,
    /// Of answers; no request has one.
    Status,
}

// === impl PseudoHeader ===

impl PseudoHeader {
    /// All, sorted by name (`pseudoHeaders` of istio's pkg/config/validation).
    pub const ALL: [Self; 5] = [
        Self::Authority,
        Self::Method,
        Self::Path,
        Self::Scheme,
        Self::Status,
    ];

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }

    /// With the colon.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Authority => ":authority",
            Self::Method => ":method",
            Self::Path => ":path",
            Self::Scheme => ":scheme",
            Self::Status => ":status",
        }
    }
}
