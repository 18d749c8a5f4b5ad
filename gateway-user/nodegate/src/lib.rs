//! nodegate: what kube-proxy and an Istio ingress gateway do on a node, in one program.
//!
//! This crate is the program: its command line ([`cli`], one file per subcommand), and a running
//! nodegate with the rooms wired together ([`daemon`]). The rooms are crates of their own. Data goes one
//! way through them, and nothing downstream reaches back up:
//!
//! | crate | what it holds |
//! |---|---|
//! | [`nodegate_source`] | where objects come from: a directory of manifests, kube-proxy's rules |
//! | [`nodegate_resources`] | what users write: Kubernetes and Istio objects, strict parsing, validation |
//! | [`nodegate_compile`] | objects compiled to a [`Snapshot`](nodegate_model::Snapshot), one per change |
//! | [`nodegate_model`] | what a Snapshot holds |
//! | [`nodegate_programming`] | what the maps are to hold, and the steps to it: pure |
//! | [`nodegate_datapath`] | Snapshot → BPF maps: load, attach, adopt, reconcile, events |
//! | [`nodegate_route`] | the pure matcher: request → virtual host → route → cluster |
//! | [`nodegate_proxy`] | listeners, HTTP and TCP, upstream pools |
//! | [`nodegate_observe`] | decision records and counters |
//! | [`nodegate_admin`] | status and trace endpoints on a Unix socket |
//! | [`nodegate_iptables`] | kube-proxy's rules: rendered, predicted, read |
//! | [`nodegate_export`] | the model in other programs' words |
//! | [`nodegate_explain`] | what would become of a connection and a request, and why |
#![allow(
    clippy::missing_errors_doc,
    reason = "nobody but the binary and its tests calls this crate; errors go to the user as they are"
)]

pub mod cli;
pub mod daemon;
