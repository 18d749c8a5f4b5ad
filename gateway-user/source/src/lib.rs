//! Where Services and all else come from, and what changes there.
//!
//! | file | what it holds |
//! |---|---|
//! | [`source`](mod@source) | what a source is: it tells what there is, and every change after; any number may be combined |
//! | [`combined`] | sources → the objects in force |
//! | [`directory`] | a directory of manifests, or files |
//! | [`watch`] | that as a source |
//! | [`rules`] | Services that are read from rules |
//! | [`kubernetes`] | a cluster's API server |
//! | [`iptables`] | for Services alone, the rules that kube-proxy writes on this node |

pub mod combined;
pub mod directory;
mod error;
pub mod iptables;
mod kept;
pub mod kubernetes;
pub mod rules;
pub mod source;
#[cfg(test)]
mod tests;
pub mod watch;

pub use error::SourceError;
