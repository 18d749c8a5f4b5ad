//! A question as it travels to a running nodegate: what people write, unread.

use std::str::FromStr;

use nodegate_model::service::Protocol;
use serde::{Deserialize, Serialize};

use super::{
    answer::{Question, RequestParts},
    question::{ClientSpec, SpecError, TargetSpec},
};

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    /// A [`ClientSpec`].
    pub from: String,
    /// A [`TargetSpec`].
    pub to: String,
    /// `tcp`, `udp` or `sctp`; none for that of the Service's port, else TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Which node it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// `GET`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The `Host` header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Path and query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Other headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// The name that is asked for in TLS, if it is another than the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// What of it cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The client or the target.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The protocol.
    #[error(transparent)]
    Protocol(<Protocol as FromStr>::Err),
}

impl Ask {
    /// Reads it.
    ///
    /// # Errors
    /// Says what cannot be asked.
    pub fn question(self) -> Result<Question, AskError> {
        let protocol = |name: &str| name.parse::<Protocol>().map_err(AskError::Protocol);
        Ok(Question {
            from: self.from.parse::<ClientSpec>()?,
            to: self.to.parse::<TargetSpec>()?,
            protocol: self.protocol.as_deref().map(protocol).transpose()?,
            node: self.node,
            request: RequestParts {
                method: self.method,
                host: self.host,
                path: self.path,
                headers: self.headers,
                server_name: self.server_name,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_asked_is_named() {
        let ask = |from: &str, to: &str, protocol: &str| Ask {
            from: from.into(),
            to: to.into(),
            protocol: Some(protocol.into()),
            ..Ask::default()
        };
        for (ask, part) in [
            (ask("nobody", "10.96.0.1:80", "tcp"), "`nobody`"),
            (ask("node", "10.96.0.1", "tcp"), "10.96.0.1:80"),
            (ask("node", "10.96.0.1:80", "icmp"), "`icmp` is no protocol"),
        ] {
            let error = ask.question().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let good = ask("node", "10.96.0.1:80", "udp").question().unwrap();
        assert_eq!(good.protocol, Some(Protocol::Udp));
    }
}
