//! nodegate: what kube-proxy and an Istio ingress gateway do on a node, in one program.
//!
//! Data goes one way: [`source`] → [`resources`] → [`model`] (one immutable
//! [`Snapshot`](model::Snapshot) per change) → [`datapath`] and [`proxy`], which report to
//! [`admin`]. Nothing downstream reaches back up.
//!
//! | room | what it holds |
//! |---|---|
//! | [`resources`] | what users write: Kubernetes and Istio objects, strict parsing, validation |
//! | [`source`] | where it comes from: a directory of manifests |
//! | [`model`] | what it means: objects compiled to a Snapshot |
//! | [`iptables`] | kube-proxy's rules: rendered, predicted, read |
//! | [`programming`] | what the maps are to hold, and the steps to it: pure |
//! | [`datapath`] | Snapshot → BPF maps: load, attach, adopt, reconcile, events |
//! | [`export`] | the model in other programs' words |
//! | [`route`] | the pure matcher: request → virtual host → route → cluster |
//! | [`proxy`] | listeners, HTTP and TCP, upstream pools |
//! | [`observe`] | decision records |
//! | [`admin`] | status and trace endpoints on a Unix socket |
//! | [`explain`] | what would become of a connection and a request, and why |
//! | [`daemon`] | a running nodegate: the rooms wired together |
//! | [`cli`] | one file per subcommand |
#![allow(
    clippy::missing_errors_doc,
    reason = "nobody but the binary and its tests calls this crate; errors go to the user as they are"
)]

pub use nodegate_admin as admin;
pub mod cli;
pub mod daemon;
pub use nodegate_datapath as datapath;
pub use nodegate_explain as explain;
pub use nodegate_export as export;
pub use nodegate_iptables as iptables;
pub mod model {
    //! What the resources mean.
    pub use nodegate_compile as compile;
    pub use nodegate_model::*;
}
pub use nodegate_observe as observe;
pub use nodegate_programming as programming;
pub use nodegate_proxy as proxy;
pub mod resources {
    //! What users write.
    pub use nodegate_resources::*;
    pub use nodegate_values::*;
}
pub use nodegate_route as route;
pub use nodegate_source as source;
