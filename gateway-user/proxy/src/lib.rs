//! The proxy: listeners, HTTP and TCP, connections to endpoints.
//!
//! [`Proxy::start`] starts workers, which listen on nothing; [`Proxy::apply`] gives them a
//! [`Snapshot`](nodegate_model::Snapshot), again and again while they serve.

mod accept;
mod clock;
mod cluster;
mod config;
mod connections;
mod counters;
mod counts;
mod deadlines;
mod dns;
#[cfg(test)]
pub(crate) mod fixture;
mod fronts;
mod http;
pub mod http1;
mod http2;
mod options;
mod overload;
mod parity;
mod pipes;
mod pool;
mod tcp;
#[cfg(test)]
mod tests;
mod thread;
mod tls;
mod worker;
mod workers;

pub use accept::BindError;
pub use counters::Counts;
pub use counts::{ClusterCounts, ProxyCounts, RouteCounts};
pub use options::{ConnectionLimits, Fronts, Options, PortLimit};
pub use overload::{Refusal, memory::allowed as allowed_memory};
pub use parity::{Difference, Parity, UnknownDifference};
pub use workers::{Applied, Proxy};
