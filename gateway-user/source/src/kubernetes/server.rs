//! Where an API server is.

use std::{fmt, str::FromStr};

use http::Uri;

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// A name or an address, of IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// A text that is no [`Server`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no server (fix: HOST:PORT, such as 192.0.2.10:6443 or [2001:db8::10]:6443)")]
pub struct NotAServer(String);

// === impl Server ===

impl Server {
    pub(super) fn of(url: &Uri) -> Self {
        let secure = url.scheme_str() != Some("http");
        let host = url.host().unwrap_or_default();
        Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port_u16().unwrap_or(if secure { 443 } else { 80 }),
        }
    }
}

impl FromStr for Server {
    type Err = NotAServer;

    fn from_str(text: &str) -> Result<Self, NotAServer> {
        let wrong = || NotAServer(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let is_bare_ipv6 = bare.is_none() && host.contains(':');
        let host = bare.unwrap_or(host);
        if host.is_empty() || is_bare_ipv6 || host.contains(['/', '[', ']']) {
            return Err(wrong());
        }
        let port = port.parse().ok().filter(|port| *port > 0);
        Ok(Self {
            host: host.to_owned(),
            port: port.ok_or_else(wrong)?,
        })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_host_and_a_port() {
        for text in ["192.0.2.10:6443", "[2001:db8::10]:6443", "api.example:443"] {
            assert_eq!(text.parse::<Server>().unwrap().to_string(), text);
        }
        for text in [
            "192.0.2.10",
            "2001:db8::10:6443",
            "https://api.example:443",
            "api.example:0",
            "api.example:99999",
            ":6443",
        ] {
            let error = text.parse::<Server>().unwrap_err();
            assert!(error.to_string().contains("HOST:PORT"), "{text}");
        }
    }

    #[test]
    fn a_url_names_its_server() {
        let server = |url: &str| Server::of(&url.parse().unwrap()).to_string();
        assert_eq!(server("https://10.96.0.1"), "10.96.0.1:443");
        assert_eq!(server("https://[fd00::1]:6443/prefix"), "[fd00::1]:6443");
    }
}
