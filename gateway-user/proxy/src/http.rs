//! HTTP from clients to endpoints and back. Each request goes through phases.
//!
//! | phase | what it decides |
//! |---|---|
//! | `connection`, `direct` | what is spoken: HTTP/1.1 directly or by hyper, HTTP/2 |
//! | `validate` | is the request proper, and what does it want |
//! | `find` | which route it takes |
//! | `prepare` | what the endpoint sees of it |
//! | `forward` | to which endpoint, over which connection, how often |
//! | `response` | what the client sees of the answer |
//! | `reply` | answers that come from here |
//!
//! `answer` leads a request through them.

mod acceptor;
mod answer;
mod authority;
mod body;
mod changes;
mod client;
mod connection;
mod context;
mod direct;
mod ended;
mod errand;
mod exchange;
mod expect;
mod extended;
mod facts;
mod failure;
mod fault;
mod find;
mod forward;
mod grpc;
mod hashing;
mod head_form;
mod headers;
mod identity;
mod mirror;
mod outgoing;
mod own_headers;
mod prepare;
mod refusal;
mod reply;
mod resets;
mod response;
mod response_body;
mod retry;
mod stream;
mod survey;
mod time_limit;
mod tunnel;
mod validate;

pub(crate) use acceptor::HttpAcceptor;
pub(crate) use client::HttpPool;
