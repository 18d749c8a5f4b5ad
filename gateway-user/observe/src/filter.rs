//! Which of the proxy's records a trace shows.

use std::{fmt, net::SocketAddr, str::FromStr};

use ipnet::IpNet;

use super::record::Record;

/// All of it must hold; what is empty doesn't matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordFilter {
    /// The client's network.
    pub client: Option<IpNet>,
    /// Network of the address that the client connected to.
    pub local: Option<IpNet>,
    /// The port that the client connected to.
    pub local_port: Option<u16>,
    /// The host that is asked for, without its port. TCP connections have none.
    pub host: Option<String>,
    /// Of the response: one of them. TCP connections have none.
    pub statuses: Vec<StatusFilter>,
}

/// `404`, or `4xx` for a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusFilter {
    /// Only this one.
    Exact(u16),
    /// The first digit.
    Class(u16),
}

/// A text that is no status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no status (fix: 404, or 4xx)")]
pub struct NotAStatusFilter(String);

impl FromStr for StatusFilter {
    type Err = NotAStatusFilter;

    fn from_str(text: &str) -> Result<Self, NotAStatusFilter> {
        let wrong = || NotAStatusFilter(text.to_owned());
        if let Some(class) = text.strip_suffix("xx") {
            let class = class.parse().map_err(|_| wrong())?;
            return if (1..=5).contains(&class) {
                Ok(Self::Class(class))
            } else {
                Err(wrong())
            };
        }
        match text.parse() {
            // 0: the client left before there was one.
            Ok(status @ (0 | 100..=599)) => Ok(Self::Exact(status)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for StatusFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(status) => status.fmt(f),
            Self::Class(class) => write!(f, "{class}xx"),
        }
    }
}

impl RecordFilter {
    /// Whether a record is wanted.
    pub fn matches(&self, record: &Record) -> bool {
        let (client, local) = ends(record);
        let is_in = |net: &Option<IpNet>, at: SocketAddr| {
            net.is_none_or(|net| net.contains(&at.ip().to_canonical()))
        };
        if !is_in(&self.client, client)
            || !is_in(&self.local, local)
            || self.local_port.is_some_and(|port| port != local.port())
        {
            return false;
        }
        match record {
            Record::Request(request) => {
                let host = bare(&request.authority);
                let is_host = |wanted: &String| wanted.eq_ignore_ascii_case(host);
                let is_it = |status: &StatusFilter| match *status {
                    StatusFilter::Exact(status) => status == request.status,
                    StatusFilter::Class(class) => class == request.status / 100,
                };
                self.host.as_ref().is_none_or(is_host)
                    && (self.statuses.is_empty() || self.statuses.iter().any(is_it))
            }
            Record::Connection(_) => self.host.is_none() && self.statuses.is_empty(),
        }
    }
}

/// The client's address, and the address that it connected to.
pub fn ends(record: &Record) -> (SocketAddr, SocketAddr) {
    match record {
        Record::Request(record) => (record.client, record.local),
        Record::Connection(record) => (record.client, record.local),
    }
}

/// A host without its port.
fn bare(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn statuses() {
        for text in ["404", "5xx", "0"] {
            assert_eq!(text.parse::<StatusFilter>().unwrap().to_string(), text);
        }
        for text in ["", "xx", "6xx", "99", "600", "ok"] {
            let error = text.parse::<StatusFilter>().unwrap_err().to_string();
            assert_eq!(error, format!("`{text}` is no status (fix: 404, or 4xx)"));
        }
    }

    #[test]
    fn all_that_is_asked_for_must_hold() {
        let request = fixture::request();
        let record = Record::Request(Box::new(request.clone()));
        let host = bare(&request.authority).to_ascii_uppercase();
        let client = IpNet::from(request.client.ip());
        let wanted = RecordFilter {
            client: Some(client),
            local: Some(IpNet::from(request.local.ip())),
            local_port: Some(request.local.port()),
            host: Some(host),
            statuses: vec![
                StatusFilter::Exact(1),
                StatusFilter::Class(request.status / 100),
            ],
        };
        assert!(RecordFilter::default().matches(&record));
        assert!(wanted.matches(&record));
        let elsewhere: IpNet = "203.0.113.0/24".parse().unwrap();
        for other in [
            RecordFilter {
                client: Some(elsewhere),
                ..wanted.clone()
            },
            RecordFilter {
                local: Some(elsewhere),
                ..wanted.clone()
            },
            RecordFilter {
                local_port: Some(1),
                ..wanted.clone()
            },
            RecordFilter {
                host: Some("other".into()),
                ..wanted.clone()
            },
            RecordFilter {
                statuses: vec![StatusFilter::Exact(1)],
                ..wanted.clone()
            },
        ] {
            assert!(!other.matches(&record), "{other:?}");
        }
    }
}
