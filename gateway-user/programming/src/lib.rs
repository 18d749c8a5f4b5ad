//! What the maps are to hold, and how they come to hold it: pure, without a kernel.
//!
//! | file | what it does |
//! |---|---|
//! | [`desired`] | what the maps should hold for a Snapshot |
//! | [`reconcile`] | keeps that from one Snapshot to the next, so that a plan costs what has changed |
//! | [`difference`] | what is different between the Service ports of two Snapshots |
//! | [`plan`](mod@plan) | the steps from what they hold to that, in an order that no packet notices |
//! | [`step`] | one change to one map, and changes that stand or fall together |
//! | [`mirror`] | what the maps hold |
//! | [`capacity`] | how much the maps hold |
//! | [`tables`] | what the maps would decide |
//! | [`decision`] | one decision of the kernel programs, with names |
//! | [`filter`] | filters of a trace: which decisions it shows |
//! | [`address`], [`identity`] | addresses and Service ports, as maps and as people write them |
//! | [`masquerade`], [`node`] | what a node is told, and what it is |

pub mod address;
pub mod capacity;
pub mod decision;
pub mod desired;
pub mod difference;
pub mod filter;
pub mod identity;
pub mod masquerade;
pub mod mirror;
pub mod node;
pub mod plan;
pub mod reconcile;
pub mod step;
pub mod tables;
