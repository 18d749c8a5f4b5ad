//! The pure matcher: which virtual host, which route, which destination. No I/O, no clock, no
//! randomness: the proxy, and whoever explains what the proxy would do, get the same answer.

#[cfg(test)]
mod fixture;
mod host;
mod predicate;
mod rewrite;
mod split;
mod table;

pub use predicate::{Failed, Query};
pub use rewrite::{Rewrite, RewriteError};
pub use split::Split;
pub use table::{Match, Miss, Table};
