//! What went wrong with a request or a connection, in Envoy's letters.

use std::fmt;

use serde::{Serialize, Serializer};

/// What went wrong: Envoy's response flags (its access log's `%RESPONSE_FLAGS%`), in Envoy's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFlag {
    /// The cluster has no endpoint that may be used.
    NoHealthyUpstream,
    /// It took too long.
    UpstreamRequestTimeout,
    /// The endpoint reset the stream.
    UpstreamRemoteReset,
    /// The endpoint could not be reached.
    UpstreamConnectionFailure,
    /// The endpoint closed the connection too early.
    UpstreamConnectionTermination,
    /// The cluster's limits are reached.
    UpstreamOverflow,
    /// No route.
    NoRoute,
    /// A fault policy made it wait.
    DelayInjected,
    /// A fault policy made it fail.
    FaultInjected,
    /// The client left.
    DownstreamConnectionTermination,
    /// All retries have been used up.
    UpstreamRetryLimitExceeded,
    /// The client doesn't speak HTTP.
    DownstreamProtocolError,
    /// The endpoint doesn't speak HTTP.
    UpstreamProtocolError,
    /// The route's cluster is unknown.
    NoCluster,
    /// The client reset the stream.
    DownstreamRemoteReset,
}

/// All that went wrong. Empty: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseFlags(u32);

impl ResponseFlag {
    const ALL: &[Self] = &[
        Self::NoHealthyUpstream,
        Self::UpstreamRequestTimeout,
        Self::UpstreamRemoteReset,
        Self::UpstreamConnectionFailure,
        Self::UpstreamConnectionTermination,
        Self::UpstreamOverflow,
        Self::NoRoute,
        Self::DelayInjected,
        Self::FaultInjected,
        Self::DownstreamConnectionTermination,
        Self::UpstreamRetryLimitExceeded,
        Self::DownstreamProtocolError,
        Self::UpstreamProtocolError,
        Self::NoCluster,
        Self::DownstreamRemoteReset,
    ];

    /// Envoy's letters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoHealthyUpstream => "UH",
            Self::UpstreamConnectionFailure => "UF",
            Self::UpstreamOverflow => "UO",
            Self::NoRoute => "NR",
            Self::UpstreamRetryLimitExceeded => "URX",
            Self::NoCluster => "NC",
            Self::UpstreamRemoteReset => "UR",
            Self::UpstreamConnectionTermination => "UC",
            Self::DelayInjected => "DI",
            Self::FaultInjected => "FI",
            Self::UpstreamRequestTimeout => "UT",
            Self::DownstreamProtocolError => "DPE",
            Self::UpstreamProtocolError => "UPE",
            Self::DownstreamConnectionTermination => "DC",
            Self::DownstreamRemoteReset => "DR",
        }
    }
}

impl fmt::Display for ResponseFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Envoy's letters.
impl Serialize for ResponseFlag {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl ResponseFlags {
    /// Whether nothing went wrong.
    pub const fn is_empty(&self) -> bool {
        self.0 == 0
    }

    /// Whether this went wrong.
    pub const fn contains(self, flag: ResponseFlag) -> bool {
        self.0 & (1 << flag as u32) != 0
    }

    /// This went wrong too.
    pub const fn insert(&mut self, flag: ResponseFlag) {
        self.0 |= 1 << flag as u32;
    }

    /// All that went wrong.
    pub fn iter(self) -> impl Iterator<Item = ResponseFlag> {
        let flags = ResponseFlag::ALL.iter().copied();
        flags.filter(move |flag| self.contains(*flag))
    }
}

impl From<ResponseFlag> for ResponseFlags {
    fn from(flag: ResponseFlag) -> Self {
        let mut flags = Self::default();
        flags.insert(flag);
        flags
    }
}

impl From<Option<ResponseFlag>> for ResponseFlags {
    fn from(flag: Option<ResponseFlag>) -> Self {
        flag.map_or_else(Self::default, Self::from)
    }
}

/// `UF,URX`; empty if nothing went wrong.
impl fmt::Display for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, flag) in self.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            f.write_str(flag.as_str())?;
        }
        Ok(())
    }
}
