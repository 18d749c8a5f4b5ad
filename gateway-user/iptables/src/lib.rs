//! kube-proxy's vocabulary: the chains and rules that people know from `iptables-save`.
//!
//! | part | what it does |
//! |---|---|
//! | [`chains`] | names of the chains of a Service port |
//! | [`config`] | kube-proxy's flags, and what it learns from the node |
//! | [`rules`] | chains and rules, typed |
//! | [`render`](mod@render) | Services → what kube-proxy hands to `iptables-restore` |
//! | [`normal`] | that → what `iptables-save` then prints |
//! | [`parse`](mod@parse) | what `iptables-save` prints → rules |
//! | [`services`] | rules → the Services that they implement |
//! | [`ports`](mod@ports) | rules → Service ports, as the compiler makes them of objects |
//! | [`diff`](mod@diff) | what rules and Services do not agree about |
//! | [`lint`](mod@lint) | what is wrong with rules by themselves |
//! | [`walk`](mod@walk) | the way of a packet through rules |

pub mod chains;
pub mod config;
pub mod diff;
pub mod lint;
pub mod node;
pub mod normal;
pub mod odd;
pub mod parse;
pub mod ports;
pub mod render;
pub mod rules;
pub mod services;
pub mod walk;
