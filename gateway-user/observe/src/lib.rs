//! Records of the proxy's decisions, one per request and TCP connection, and the access log.

mod access_log;
mod filter;
mod record;
mod tap;

pub use access_log::{AccessLog, AccessLogOptions, Encoding, LineFormat, LogFormatError};
pub use filter::{NotAStatusFilter, RecordFilter, StatusFilter, ends};
#[cfg(test)]
pub(crate) use record::fixture;
pub use record::{
    ConnectionRecord, ConnectionState, Record, RequestRecord, ResponseFlag, ResponseFlags,
    RouteDecision,
};
pub use tap::{Subscription, Tap};
