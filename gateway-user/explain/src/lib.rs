//! What would become of a connection and of a request, and why: without a packet, without a kernel.
//!
//! | part | what it does |
//! |---|---|
//! | [`node`] | a node as manifests describe it: kube-proxy's rules and the maps' content |
//! | [`connection`] | what the decision core decides, beside the way through kube-proxy's rules |
//! | [`cluster`] | the objects: nodes, pods, who has which address |
//! | [`question`] | who asks, and what for |
//! | [`request`] | what a gateway does with a request |
//! | [`answer`] | all of it together |
//! | [`ask`] | a question on its way to a running nodegate |
//!
//! The decision is that of the function that the kernel programs are made of, on the content that the
//! daemon would write to the maps, or that a running one has written. The rules are those that kube-proxy would write. Where the two do
//! not lead to the same end, the answer says so.

pub mod answer;
pub mod ask;
pub mod cluster;
pub mod connection;
pub mod node;
pub mod question;
pub mod request;
