//! How a connection or a request ends, in one line.

use std::net::SocketAddr;

use gateway_common::decide::Verdict;
use serde::Serialize;

use crate::{
    cluster::Cluster,
    connection::Connection,
    request::{End, Routed},
};

/// How it ends.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Whether it gets where it should.
    pub good: bool,
    /// In words.
    pub text: String,
}

/// What is to be said of the end, and whether it is a good one.
pub(super) fn outcome(
    connection: &Connection,
    cluster: &Cluster,
    ends: &[SocketAddr],
    gateway: Option<&Routed>,
) -> Outcome {
    let decided = &connection.nodegate;
    let good = |good, text| Outcome { good, text };
    match decided.verdict {
        Verdict::Reject => return good(false, format!("refused: {}", decided.text)),
        Verdict::Drop => return good(false, format!("dropped: {}", decided.text)),
        Verdict::Pass if ends.iter().all(|end| cluster.pod_with(end.ip()).is_none()) => {
            let text = format!(
                "goes on to {} as it is: {}",
                connection.destination, decided.text
            );
            return good(false, text);
        }
        Verdict::Pass | Verdict::Forward => {}
    }
    let Some(routed) = gateway else {
        return good(true, format!("reaches {}", list(ends)));
    };
    let partly = |share: &f64| match share {
        1.0 => String::new(),
        share => format!(" for {:.1} % of it", share * 100.0),
    };
    match &routed.end {
        End::Unasked => good(true, format!("reaches {}", list(ends))),
        End::Endpoint => {
            let shares = routed.destinations.iter().filter(|share| share.share > 0.0);
            let (mut endpoints, mut names) = (Vec::new(), Vec::new());
            for share in shares {
                endpoints.extend(share.endpoints.iter().copied());
                names.extend(share.names.iter().cloned());
            }
            match names.as_slice() {
                [] => good(true, format!("reaches {}", list(&endpoints))),
                names => good(true, format!("reaches addresses of {}", names.join(" or "))),
            }
        }
        End::Answer { status, text } => good(true, format!("{status}: {text}")),
        End::Status {
            status,
            flag,
            text,
            share,
        } => {
            let flag = flag.map(|flag| format!(" {flag}")).unwrap_or_default();
            good(false, format!("{status}{flag}{}: {text}", partly(share)))
        }
        End::Closed { flag, text, share } => {
            good(false, format!("closed ({flag}){}: {text}", partly(share)))
        }
    }
}

fn list(addresses: &[SocketAddr]) -> String {
    match addresses {
        [] => "nothing".to_owned(),
        [one] => one.to_string(),
        [first, rest @ ..] if rest.len() > 4 => format!("{first} or one of {} others", rest.len()),
        several => {
            let several: Vec<_> = several.iter().map(ToString::to_string).collect();
            several.join(" or ")
        }
    }
}
