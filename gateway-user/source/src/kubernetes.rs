//! A cluster's API server as a source.
//!
//! | part | what it does |
//! |---|---|
//! | [`access`] | who we are to the API server, and how it is reached: kubeconfig, or a pod's ServiceAccount |
//! | [`server`] | where an API server is: a host and a port |
//! | [`dial`] | connections to one of several servers, in turn |
//! | [`interest`] | which kinds a role watches, and which objects of them |
//! | [`watch`] | one kind: a list, then every change, again and again |
//! | [`custom`] | in which version the cluster has a kind of Istio's |
//! | [`trim`] | what is kept of an object |
//! | [`trouble`] | why a kind cannot be watched, and what to do about it |
//! | [`ledger`] | what is known of all kinds; what is new for the other rooms |
//! | [`journal`] | the last state on disk, for a start without the API server |
//! | [`follow`] | all of it as a source, in a thread of its own |
//! | [`report`] | what the cluster is told of each nodegate, and by it everybody who asks |
//! | [`collect`] | once, and no more: what a source would read, as manifests |
//!
//! What was seen once is in force until the API server says otherwise: where it does not answer, is
//! restarted, forbids what it allowed, or has lost a kind, all objects stay.

pub mod access;
pub mod collect;
pub mod custom;
mod dial;
mod follow;
pub mod interest;
mod journal;
mod ledger;
pub mod report;
pub mod server;
#[cfg(test)]
mod tests;
mod trim;
pub mod trouble;
mod watch;

pub use follow::ApiServer;
