//! The model as configuration of other programs, for comparing with them.

pub mod envoy;
