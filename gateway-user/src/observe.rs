//! What happened and why: one record per decision, for whoever listens.

mod record;
mod tap;

pub use record::{
    ConnectionRecord, ConnectionState, Decision, Record, RequestRecord, ResponseFlag, ResponseFlags,
};
pub use tap::{Subscription, Tap};
