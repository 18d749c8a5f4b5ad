//! The model in other programs' words.

pub mod envoy;
