//! Snapshot → BPF maps, and the programs that read them.
//!
//! | file | what it does |
//! |---|---|
//! | [`mod@datapath`] | the programs in the kernel and the maps they read, in step with Snapshots |
//! | [`redirector`] | keeps the maps in step with the Snapshots, and hands out the kernel's reports |
//! | [`options`], [`error`] | what is wanted, and why it cannot be |
//! | [`load`] | programs and maps: those that are there, or new ones |
//! | [`upgrade`] | from maps of an older layout to ours, while traffic flows |
//! | [`verifier`] | programs through the kernel's verifier |
//! | [`maps`] | the pinned maps, and a mirror of their content |
//! | `layout`, `links` | the names of pins |
//! | [`object`] | the kernel programs, compiled; the commit and the profile |
//! | `attach` | programs to hooks: pinned links, adopted after a restart |
//! | [`mod@cleanup`] | the end of the redirection |
//! | [`contents`] | what the pinned maps hold, for people |
//! | [`events`], [`report`] | decisions as they are made, with names |
//! | [`netfilter`] | masquerading and refusing, which netfilter does for marked packets |
//! | [`node`] | what the datapath must know of the node: its addresses, its network namespace |
//! | [`features`] | what only some kernels can do |
//! | `heartbeat` | the daemon's sign of life, which outlives it |
//! | [`health`] | the health check node ports |
//! | `listeners` | processes on node ports, which wait there in vain |
//! | [`probe`] | what this kernel and machine can do |
//! | [`rejection`] | a program that the kernel does not take, and why that may be |
//! | `sockets` | the end of connected datagram sockets whose backend is gone |
//!
//! The maps and links are pinned, so traffic flows on while the daemon is away. A daemon that
//! starts takes over what it finds: it reads the maps, compares, and writes the difference.

mod attach;
mod capabilities;
pub mod cleanup;
pub mod clock;
pub mod contents;
pub mod datapath;
pub mod error;
pub mod events;
pub mod features;
mod flow_table;
pub mod health;
mod heartbeat;
mod layout;
mod links;
mod listeners;
pub mod load;
mod localnet;
pub mod lock;
pub mod maps;
pub mod netfilter;
pub mod node;
pub mod object;
pub mod options;
pub mod probe;
mod process;
pub mod redirector;
pub mod rejection;
pub mod report;
mod sockets;
mod sys;
pub mod upgrade;
mod upkeep;
pub mod uplinks;
mod verifier;

pub use datapath::Datapath;
pub use error::{Error, Failure};
pub use options::Options;
