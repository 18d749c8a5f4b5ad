//! A cluster in network namespaces: a client, a switch, nodes, pods.
//!
//! A testbed plays API server, scheduler, kubelet and endpoint controller for plain Kubernetes
//! manifests, runs the real `nodegate` binary on every node and in every gateway pod, and a
//! server of its own in all other pods. There is no daemon: each command works on the state
//! below `/run/nodegate-testbed/NAME/`, under a lock. Everything is confined to namespaces without a
//! route out of the machine, one cgroup subtree and one directory of bpffs, and
//! [`Testbed::down`] takes all of it away.
//!
//! ```no_run
//! use nodegate_programs::Program;
//! use nodegate_testbed::{Binaries, Options, Testbed};
//!
//! # fn main() -> anyhow::Result<()> {
//! let binaries = Binaries { nodegate: "target/testbed/nodegate".into(), pod: "target/testbed/testbed-pod".into() };
//! let testbed = Testbed::up(&Options::new("mine", binaries, vec!["manifests/".into()]))?;
//! let answer = testbed.exec("client", Program::Curl, ["-s", "http://192.168.170.11:30080/"])?;
//! assert!(answer.status.success());
//! # Ok(())
//! # }
//! ```
//!
//! # Addresses
//!
//! Everybody has an IPv4 and an IPv6 address. `clusterIP`, `externalIPs` and `nodePort` stay as
//! manifests give them; what they leave out is allocated from 10.96.0.0/12, fd00:96::/112 and
//! 30000–32767. Pods get addresses from the pod CIDRs, a /24 and a /64 for each node. A pod, or a
//! Deployment's pod template, may ask by annotation, with commas between the replicas':
//! `testbed.nodegate.io/address: 10.10.1.13,10.10.1.14,fd00::13,fd00::14` (counted in each family) and
//! `testbed.nodegate.io/node: node1,node2`.
//!
//! # Endpoints
//!
//! Services get the IP families that the API server gives them, and EndpointSlices as the real
//! controller writes them. `testbed.nodegate.io/ready: "false"` lets a pod's readiness probe fail, and
//! `testbed.nodegate.io/terminating: "true"` deletes it without an end; neither stops its server.
//! A Service's `status.loadBalancer.ingress` stays as its author gives it.
//!
//! # Faults
//!
//! [`Testbed::kill`] sends signals to a node's or a gateway pod's nodegate; while it is dead, changes
//! don't wait for it. [`Testbed::restart`] starts it again.
//!
//! # `testbed.yaml`
//!
//! Lies in a directory of manifests, or next to a manifest. Everything in it may be left out; a key
//! that is not known is an error.
//!
//! ```yaml
//! nodes:                      # node1 when absent; more are added for --nodes
//! - name: master
//!   address: 192.168.170.137  # the next free one of the subnet when absent
//!   addressV6: fd00:c0::137
//!   zone: zone-a              # the label topology.kubernetes.io/zone
//!   labels: {disk: ssd}
//!   nodegate:                 # `nodegate: false` for a node without it
//!     args: [--services, gateway]     # of `nodegate run`; replaces --services all
//!     env: {NODEGATE_ATTACH: clsact}  # for all commands on the node
//! client:
//!   address: 192.168.170.1
//!   addressV6: fd00:c0::1
//! podCIDR: 10.10.0.0/16
//! podCIDRV6: fd00:10::/48
//! pods:                       # the longest name that a pod's begins with counts
//! - namespace: simple
//!   name: nginx
//!   addresses: [10.10.1.14]   # for the first pods, in each family; the others' are allocated
//!   node: master
//! gateway:                    # one pod on each node, unless the manifests have pods that are
//!   name: istio-ingressgateway-576c469c96-spndl   # labelled `istio: ingressgateway`
//!   namespace: istio-system
//!   labels: {app: istio-ingressgateway, istio: ingressgateway}
//!   addresses: [10.10.1.4]    # in the order of the nodes, in each family
//!   nodes: [master]           # all when absent
//! unownedExternalIPs: [192.168.96.51]   # routed to the first node, which doesn't have them
//! ```
#![allow(
    clippy::missing_errors_doc,
    reason = "only tests call this crate; what fails fails the test"
)]

pub mod admission;
pub mod attack;
pub mod cluster;
pub mod config;
pub mod conformance;
pub mod differential;
pub mod environment;
pub mod image;
pub mod measure;
pub mod names;
pub mod object;
pub mod pod;
pub mod product;
pub mod ps;
pub mod rootfs;
pub mod traffic;
pub mod workload;

mod cgroup;
mod endpoints;
mod network;
mod nodegate;
mod process;
mod state;
mod testbed;

pub use admission::Outcome;
pub use config::{Node, Nodegate};
pub use names::Host;
pub use network::inside;
pub use nix::sys::signal::Signal;
pub use object::ObjectKey;
pub use process::enter_network;
pub use ps::Ps;
pub use state::Binaries;
pub use testbed::{Options, Report, Testbed};
