//! Kubernetes' own tests of Services, in a [cluster](crate::cluster) where nodegate is in place of kube-proxy.
//!
//! The tests are those of Kubernetes' end-to-end suite, built as a [part](crate::cluster::parts) of their own.
//! nodegate is deployed as a user would do it: its image, `deploy/crds`, and the overlay for clusters without
//! kube-proxy.

mod junit;
mod known;
mod product;
mod report;
mod suite;

pub use junit::write as write_junit;
pub use known::{Known, parse as parse_known};
pub use product::{install, save_logs, spread};
pub use report::{Report, Result, Verdict};
pub use suite::{ALL, Choice, Ended, Event, SCTP, SERVICES, images, list, run};

/// The tests that can't pass here, each with its reason.
pub const KNOWN: &str = include_str!("../conformance/known.txt");

/// A test's name without what all names begin with.
pub fn short(name: &str) -> &str {
    name.strip_prefix("[sig-network] ").unwrap_or(name)
}
