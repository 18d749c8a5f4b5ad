//! The pure matcher: which virtual host, which route, which destination. No I/O, no clock, no
//! randomness: the proxy, and whoever explains what the proxy would do, get the same answer.

mod host;
mod rewrite;
mod split;
mod table;

pub use rewrite::{Rewrite, RewriteError};
pub use split::Split;
pub use table::{Match, Miss, Query, Table};
