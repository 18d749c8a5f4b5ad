//! Where this proxy differs from Envoy on purpose, and options that make it do as Envoy does.

use std::{fmt, str::FromStr};

/// A difference that there is an option for. `docs/differences.md` says what each is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Answers say why the endpoint could not be reached.
    TransportFailure,
    /// A route with a fault has neither timeout nor retries.
    TimeoutWithFault,
    /// An endpoint that says `x-envoy-overloaded` isn't asked again.
    Overloaded,
    /// All `x-envoy-` headers of clients go.
    XEnvoyHeaders,
    /// Any `referer` is passed on.
    Referer,
    /// Two `Host` headers are a bad request.
    TwoHosts,
    /// An answer that doesn't wait for the request's body leaves the connection open.
    EarlyReply,
    /// A client that ends its side after its request still gets its answer, for a moment.
    HalfClose,
    /// A WebSocket of HTTP/2 has a `sec-websocket-key` for its endpoint.
    WebsocketKey,
    /// A host that another server of the port has is not found, and not misdirected.
    Misdirected,
}

/// The differences in which to do as Envoy does.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Parity(u16);

/// A name that is not the name of a difference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no difference that there is an option for (fix: all, or some of {names})", names = names())]
pub struct UnknownDifference(String);

impl Difference {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::TransportFailure,
        Self::TimeoutWithFault,
        Self::Overloaded,
        Self::XEnvoyHeaders,
        Self::Referer,
        Self::TwoHosts,
        Self::EarlyReply,
        Self::HalfClose,
        Self::WebsocketKey,
        Self::Misdirected,
    ];

    /// The name that options have for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TransportFailure => "transport-failure",
            Self::TimeoutWithFault => "timeout-with-fault",
            Self::Overloaded => "overloaded",
            Self::XEnvoyHeaders => "x-envoy-headers",
            Self::Referer => "referer",
            Self::TwoHosts => "two-hosts",
            Self::EarlyReply => "early-reply",
            Self::HalfClose => "half-close",
            Self::WebsocketKey => "websocket-key",
            Self::Misdirected => "misdirected",
        }
    }
}

fn names() -> String {
    Difference::ALL.map(Difference::name).join(", ")
}

impl Parity {
    /// All differences that there is an option for.
    pub fn all() -> Self {
        Difference::ALL
            .into_iter()
            .fold(Self::default(), Self::with)
    }

    /// With one difference more.
    #[must_use]
    pub const fn with(self, difference: Difference) -> Self {
        Self(self.0 | 1 << difference as u16)
    }

    /// Whether to do as Envoy does in this.
    pub const fn has(self, difference: Difference) -> bool {
        self.0 & 1 << difference as u16 != 0
    }
}

/// Reads `all`, or names with commas between them; an empty text stands for none.
impl FromStr for Parity {
    type Err = UnknownDifference;

    fn from_str(text: &str) -> Result<Self, UnknownDifference> {
        if text == "all" {
            return Ok(Self::all());
        }
        let names = text
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty());
        names.into_iter().try_fold(Self::default(), |parity, name| {
            let mut all = Difference::ALL.into_iter();
            let found = all.find(|difference| difference.name() == name);
            let unknown = || UnknownDifference(name.to_owned());
            Ok(parity.with(found.ok_or_else(unknown)?))
        })
    }
}

impl fmt::Debug for Parity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = Difference::ALL.into_iter().filter(|one| self.has(*one));
        f.debug_set().entries(has).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        let parity: Parity = "overloaded, referer".parse().unwrap();
        let expected = Parity::default()
            .with(Difference::Overloaded)
            .with(Difference::Referer);
        assert_eq!(parity, expected);
        assert!(!parity.has(Difference::TwoHosts));
        assert_eq!("".parse(), Ok(Parity::default()));
        let all: Parity = "all".parse().unwrap();
        assert!(Difference::ALL.into_iter().all(|one| all.has(one)));
        let error = "overloaded,lenient-syntax".parse::<Parity>().unwrap_err();
        assert!(
            error.to_string().starts_with(
                "`lenient-syntax` is no difference that there is an option for (fix: all, or some \
                 of transport-failure, timeout-with-fault, "
            ),
            "{error}"
        );
    }
}
