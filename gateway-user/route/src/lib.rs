//! The pure matcher: which virtual host, which route, which destination. No I/O, no clock, no
//! randomness: the proxy and the explanations of what the proxy would do get the same answer.
//!
//! | part | what it decides |
//! |---|---|
//! | [`edge`] | which of a client's headers count, before a route is looked for |
//! | [`SniTable`] | which chain takes a connection of TLS |
//! | [`RouteTable`] | virtual host and route of a request |
//! | [`Rewrite`], [`headers`] | what the endpoint and the client see |
//! | [`path`] | the form in which a path is matched |
//! | [`redirect`] | where a redirection leads |
//! | [`cors`] | what a browser is told |
//! | [`fault`], [`retry`], [`timeout`] | when to fail, to try again and to give up |

pub mod cors;
#[cfg(test)]
mod cover;
pub mod edge;
pub mod fault;
#[cfg(test)]
mod fixture;
pub mod headers;
mod host;
mod index;
pub mod path;
mod predicate;
pub mod redirect;
pub mod retry;
mod rewrite;
mod sni;

mod table;
pub mod timeout;

pub use host::is_in_domain;
pub use predicate::{Failed, Query, pseudo_value};
pub use rewrite::{Rewrite, RewriteError};
pub use sni::SniTable;

pub use table::{Explanation, Match, Miss, RouteTable, Tried, explain};
