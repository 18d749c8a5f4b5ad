//! Fields that take one of a few words.

/// One of a few words.
pub trait Word: Copy + 'static {
    /// All of them; the empty one is a field that is left empty.
    const WORDS: &'static [(&'static str, Self)];

    /// Reads a word.
    ///
    /// # Errors
    ///
    /// If it is none of them.
    fn read(word: &str) -> Result<Self, UnknownWord> {
        let mut words = Self::WORDS.iter();
        let found = words.find(|(known, _)| *known == word);
        found
            .map(|(_, value)| *value)
            .ok_or_else(|| UnknownWord(word.to_owned()))
    }
}

/// A word that a field does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not among what is known")]
pub struct UnknownWord(String);

/// What a port may say that is spoken there: as its protocol, in front of the first hyphen of its name, or as
/// `appProtocol` (`Parse` of istio's pkg/config/protocol).
const PROTOCOL_NAMES: [&str; 14] = [
    "tcp",
    "udp",
    "grpc",
    "grpc-web",
    "http",
    "http_proxy",
    "http2",
    "https",
    "tls",
    "mongo",
    "redis",
    "mysql",
    "hbone",
    "doublehbone",
];

/// Whether a text is the name of a protocol, in any case.
pub fn is_protocol_name(text: &str) -> bool {
    let mut names = PROTOCOL_NAMES.iter();
    names.any(|name| text.eq_ignore_ascii_case(name))
}

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident {
        $($(#[$variant_doc:meta])* $variant:ident = $($word:literal)|+,)*
    })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl Word for $name {
            const WORDS: &'static [(&'static str, Self)] =
                &[$($(($word, Self::$variant),)+)*];
        }
    )*};
}

words! {
    /// `Gateway.spec.servers[].port.protocol`, in upper case (`protocol.Parse` of istio's
    /// pkg/config/protocol).
    ServerProtocol {
        /// HTTP/1.1 or HTTP/2, in the clear.
        Http = "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB",
        /// HTTP over TLS.
        Https = "HTTPS",
        /// TLS.
        Tls = "TLS",
        /// Connections.
        Tcp = "TCP" | "MONGO",
    }

    /// `ServerTLSSettings.mode`
    ServerTlsMode {
        /// TLS is passed on as it is, by the name that clients ask for.
        Passthrough = "" | "PASSTHROUGH",
        /// The gateway shows a certificate.
        Simple = "SIMPLE",
        /// Both sides do.
        Mutual = "MUTUAL",
        /// Clients may show one, which must be good then.
        OptionalMutual = "OPTIONAL_MUTUAL",
        /// Both do, with the mesh's own.
        IstioMutual = "ISTIO_MUTUAL",
        /// As `PASSTHROUGH`, where the name that is asked for names the cluster.
        AutoPassthrough = "AUTO_PASSTHROUGH",
    }

    /// `ServerTLSSettings.minProtocolVersion`, `maxProtocolVersion`
    TlsVersion {
        /// The gateway chooses.
        Auto = "" | "TLS_AUTO",
        /// TLS 1.0, which nobody should speak any more (RFC 8996).
        V10 = "TLSV1_0",
        /// TLS 1.1, which nobody should speak any more (RFC 8996).
        V11 = "TLSV1_1",
        /// TLS 1.2
        V12 = "TLSV1_2",
        /// TLS 1.3
        V13 = "TLSV1_3",
    }

    /// `ClientTLSSettings.mode`
    TlsMode {
        /// In the clear.
        Disable = "" | "DISABLE",
        /// The endpoint shows a certificate.
        Simple = "SIMPLE",
        /// Both sides do.
        Mutual = "MUTUAL",
        /// Both do, with the mesh's own.
        IstioMutual = "ISTIO_MUTUAL",
    }

    /// `LoadBalancerSettings.simple`
    SimpleBalancing {
        /// The endpoint with fewer requests of two.
        LeastRequest = "UNSPECIFIED" | "LEAST_REQUEST",
        /// One after the other.
        RoundRobin = "ROUND_ROBIN",
        /// Any.
        Random = "RANDOM",
        /// The one that the client asked for.
        Passthrough = "PASSTHROUGH",
        /// Deprecated: as `LEAST_REQUEST`.
        LeastConnections = "LEAST_CONN",
    }

    /// `ConnectionPoolSettings.http.h2UpgradePolicy`
    Http2Upgrade {
        /// What the mesh's configuration says: not.
        Default = "DEFAULT",
        /// HTTP/1.1 stays.
        Never = "DO_NOT_UPGRADE",
        /// Endpoints hear HTTP/2.
        Upgrade = "UPGRADE",
    }

    /// `ServiceEntry.spec.resolution`
    Resolution {
        /// As the client has resolved it.
        None = "NONE",
        /// The endpoints' addresses.
        Static = "STATIC",
        /// All addresses of a name.
        Dns = "DNS",
        /// The first address of a name.
        DnsRoundRobin = "DNS_ROUND_ROBIN",
        /// The name that the client asks for.
        DynamicDns = "DYNAMIC_DNS",
    }

    /// `ServiceEntry.spec.location`
    EntryLocation {
        /// Outside of the mesh.
        External = "MESH_EXTERNAL",
        /// Part of it.
        Internal = "MESH_INTERNAL",
    }

    /// `corsPolicy.unmatchedPreflights`
    UnmatchedPreflights {
        /// As `FORWARD`.
        Unspecified = "UNSPECIFIED",
        /// Passed on.
        Forward = "FORWARD",
        /// Answered.
        Ignore = "IGNORE",
    }

    /// `redirect.derivePort`
    DerivedPort {
        /// That of the scheme.
        ProtocolDefault = "FROM_PROTOCOL_DEFAULT",
        /// That which the client asked.
        Request = "FROM_REQUEST_PORT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        assert_eq!(TlsMode::read(""), Ok(TlsMode::Disable));
        assert_eq!(
            SimpleBalancing::read("LEAST_CONN"),
            Ok(SimpleBalancing::LeastConnections)
        );
        assert_eq!(
            Resolution::read("dns").unwrap_err().to_string(),
            "`dns` is not among what is known"
        );
    }
}
