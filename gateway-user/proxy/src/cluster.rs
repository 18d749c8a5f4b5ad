//! Clusters at work: which endpoint is next, which ones are avoided, and how much may be under way.
//!
//! What is counted here is counted over all workers, so that limits hold for the proxy and the least
//! busy endpoint is that of the proxy. It outlives configurations: an endpoint that stays keeps its
//! counts.

mod balance;
mod endpoint;
mod hash;
mod limits;
mod outlier;
mod state;
mod tiers;
mod warmup;

pub(crate) use hash::key_hash;
pub(crate) use limits::{Overflow, Permit, RetryPermit};
pub(crate) use outlier::Observation;
pub(crate) use state::{ClusterState, Engaged};
