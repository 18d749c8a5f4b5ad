//! Values with a syntax of their own, and messages about them: what all other crates use, without
//! knowledge of what it is used for.
//!
//! | part | what it holds |
//! |---|---|
//! | [`diagnostic`] | a message to the author of a manifest |
//! | [`duration`], [`percentage`] | how long, and how many of a hundred |
//! | [`mod@format`] | text with Envoy's variables in it |
//! | [`grpc`] | the names of gRPC's statuses |
//! | [`pattern`] | regular expressions in RE2's dialect |
//! | [`port`] | numbers of ports |
//! | [`pseudo_header`] | `:path` and its like |
//! | [`query`] | what stands behind the `?` of a target |
//! | [`retry`] | the words of `retryOn` |
//! | [`spelling`] | the word that was probably meant |
//! | [`split`] | whose turn it is among those with weights |

pub mod diagnostic;
pub mod duration;
pub mod format;
pub mod grpc;
pub mod pattern;
pub mod percentage;
pub mod port;
pub mod pseudo_header;
pub mod query;
pub mod retry;
pub mod spelling;
pub mod split;
