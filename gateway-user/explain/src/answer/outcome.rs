//! How a connection or a request ends, in one line.

use std::net::SocketAddr;

use gateway_common::decide::Verdict;
use serde::Serialize;

use super::shifted::Shifted;
use crate::{
    cluster::Cluster,
    connection::Connection,
    request::{End, Place, Routed},
};

/// How it ends.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Whether it gets where it should.
    pub good: bool,
    /// In words.
    pub text: String,
    /// What decides it, in a sentence; empty where the words say so already.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// What is to be said of the end, and whether it is a good one.
pub(super) fn outcome(
    connection: &Connection,
    cluster: &Cluster,
    ends: &[SocketAddr],
    shift: Option<&Shifted>,
    gateway: Option<&Routed>,
) -> Outcome {
    let decided = &connection.nodegate;
    let good = |good, text| Outcome {
        good,
        text,
        why: String::new(),
    };
    let because = |text, why| Outcome {
        good: true,
        text,
        why,
    };
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
    let by_service = match &decided.service {
        Some(service) => format!(
            "{} is an address of Service {service}",
            connection.destination
        ),
        None => decided.text.to_string(),
    };
    if let Some(shift) = shift.filter(|shift| shift.by_kernel()) {
        let why = format!("{} takes it, in the kernel", shift.place());
        return because(format!("reaches {}", list(ends)), why);
    }
    let Some(routed) = gateway else {
        return because(format!("reaches {}", list(ends)), by_service);
    };
    let by_route = || match (&routed.origin, &routed.http) {
        (Some(origin), Some(_)) => format!("{} takes it", Place::http(origin)),
        (Some(origin), None) => format!("{} takes it", Place::tcp(origin)),
        (None, _) => by_service.clone(),
    };
    let partly = |share: &f64| match share {
        1.0 => String::new(),
        share => format!(" for {:.1} % of it", share * 100.0),
    };
    match &routed.end {
        End::Unasked => because(format!("reaches {}", list(ends)), by_service),
        End::Endpoint => {
            let shares = routed.destinations.iter().filter(|share| share.share > 0.0);
            let (mut endpoints, mut names) = (Vec::new(), Vec::new());
            for share in shares {
                endpoints.extend(share.endpoints.iter().copied());
                names.extend(share.names.iter().cloned());
            }
            match names.as_slice() {
                [] => because(format!("reaches {}", list(&endpoints)), by_route()),
                names => because(
                    format!("reaches addresses of {}", names.join(" or ")),
                    by_route(),
                ),
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
