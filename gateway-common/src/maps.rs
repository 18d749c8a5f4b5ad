//! Keys and values of the pinned maps.
//!
//! | map | key | value | who writes |
//! |---|---|---|---|
//! | `settings` | 0 | [`Settings`] | daemon |
//! | `services` | [`ServiceKey`] | [`Service`] | daemon |
//! | `slots` | [`SlotKey`] | [`Slot`] | daemon |
//! | `backends` | id: u32 | [`Backend`] | daemon |
//! | `node_addresses` | [`AddressKey`] | [`NodeAddress`] | daemon |
//! | `service_names` | service id: u32 | [`ServiceName`] | daemon |
//! | `conntrack` | [`FlowKey`] | [`Translation`] | kernel |
//! | `sockets` | [`SocketKey`] | [`SocketOrigin`] | kernel |
//! | `counters` | [`Reason`](crate::decide::Reason) | u64 per CPU | kernel |
//! | `events` | – | [`Event`](crate::event::Event) ring | kernel |
//!
//! A change of any layout here changes [`SCHEMA`].

use crate::Address;

/// Version of the layouts in this file. A daemon refuses to touch pinned maps of a newer one.
pub const SCHEMA: u32 = 1;

/// Capacity of `services` (frontends), and of `node_addresses`-independent tables sized by it.
pub const MAX_SERVICES: u32 = 65_536;
/// Capacity of `slots`: one per (service port, generation, endpoint).
pub const MAX_SLOTS: u32 = 262_144;
/// Capacity of `backends`: distinct (address, port, protocol).
pub const MAX_BACKENDS: u32 = 65_536;
/// Capacity of `node_addresses`.
pub const MAX_NODE_ADDRESSES: u32 = 256;
/// Capacity of `conntrack`; an LRU map: the least recently used flow goes first. Two per flow.
pub const MAX_FLOWS: u32 = 262_144;
/// Capacity of `sockets`; an LRU map.
pub const MAX_SOCKETS: u32 = 65_536;
/// Size of the event ring in bytes; a power of two and a multiple of the page size.
pub const EVENT_RING_BYTES: u32 = 1 << 20;

/// The packet mark that asks KUBE-POSTROUTING to masquerade: bit 14, kube-proxy's default
/// (`--iptables-masquerade-bit`).
pub const MASQUERADE_MARK: u32 = 1 << 14;

/// What holds for the whole node. One element.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// [`SCHEMA`] of the daemon that wrote the maps.
    pub schema: u32,
    /// Not 0: emit events (somebody traces).
    pub trace: u32,
    /// Cookie of the node's own network namespace: only there is 127.0.0.1 the node.
    pub host_netns: u64,
    /// Generation of the Snapshot that the maps hold.
    pub generation: u64,
}

/// A frontend: what clients connect to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The frontend's address; all zeroes when `scope` is [`ServiceKey::NODE_PORT`].
    pub address: Address,
    /// Host byte order; 0 in the guard of a cluster IP (see [`ServiceKey::guard`]).
    pub port: u16,
    /// IP protocol number; 0 in the guard of a cluster IP.
    pub protocol: u8,
    /// [`ServiceKey::ADDRESS`] or [`ServiceKey::NODE_PORT`].
    pub scope: u8,
}

impl ServiceKey {
    /// The frontend has an address of its own: cluster IP, external IP, load balancer IP.
    pub const ADDRESS: u8 = 0;
    /// The frontend is a port on every address in `node_addresses`.
    pub const NODE_PORT: u8 = 1;

    /// The key of a frontend with an address of its own.
    #[inline(always)]
    pub const fn address(address: Address, port: u16, protocol: u8) -> Self {
        Self {
            address,
            port,
            protocol,
            scope: Self::ADDRESS,
        }
    }

    /// The key of a node port.
    #[inline(always)]
    pub const fn node_port(port: u16, protocol: u8) -> Self {
        Self {
            address: crate::UNSPECIFIED,
            port,
            protocol,
            scope: Self::NODE_PORT,
        }
    }

    /// The key that says "this is a cluster IP", whatever the port: a connection to a port that
    /// its Service does not have is refused at once instead of timing out.
    #[inline(always)]
    pub const fn guard(address: Address) -> Self {
        Self::address(address, 0, 0)
    }
}

/// A frontend's set of backends: `backends` slots under (`id`, `generation`).
///
/// Replacing this one element moves the frontend from one whole set to another: a reader sees the
/// old generation or the new one, never a mixture.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Identifies the Service port (namespace, name, port name, protocol); see `service_names`.
    pub id: u32,
    /// Which of the slot generations is live.
    pub generation: u32,
    /// Number of slots. The first `local` of them are on this node.
    pub backends: u32,
    /// How many backends are on this node.
    pub local: u32,
    /// A set of the `FLAG_…` bits.
    pub flags: u32,
}

impl Service {
    /// The frontend is reached from outside the cluster (node port, external IP).
    pub const FLAG_EXTERNAL: u32 = 1;
    /// Not a frontend: a cluster IP without regard to port (see [`ServiceKey::guard`]).
    pub const FLAG_GUARD: u32 = 2;
    /// The frontend is a node port.
    pub const FLAG_NODE_PORT: u32 = 4;
}

/// A place in a Service's set of backends.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotKey {
    /// [`Service::id`].
    pub service: u32,
    /// [`Service::generation`].
    pub generation: u32,
    /// 0-based.
    pub index: u32,
}

/// The backend in a slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Key of the `backends` map.
    pub backend: u32,
}

/// An endpoint: where connections are sent.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    /// The pod's address.
    pub address: Address,
    /// Host byte order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// A set of the `FLAG_…` bits.
    pub flags: u8,
}

impl Backend {
    /// The pod runs on this node.
    pub const FLAG_LOCAL: u8 = 1;
}

/// An address, as a map key.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressKey {
    /// See [`Address`].
    pub address: Address,
}

/// What an address of this node is good for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// A set of the `FLAG_…` bits.
    pub flags: u32,
}

impl NodeAddress {
    /// Node ports are served on it.
    pub const FLAG_NODE_PORTS: u32 = 1;
}

/// Bytes for a DNS label (RFC 1123: at most 63) and a terminating zero.
pub const LABEL_BYTES: usize = 64;

/// A Service port's name, for whoever reads the maps. Zero-terminated UTF-8.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceName {
    /// Namespace of the Service.
    pub namespace: [u8; LABEL_BYTES],
    /// Name of the Service.
    pub name: [u8; LABEL_BYTES],
    /// Name of the port; empty when the Service's only port has none.
    pub port: [u8; LABEL_BYTES],
    /// IP protocol number.
    pub protocol: u32,
}

/// A flow as one side of a translation sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Source address of the packet.
    pub source: Address,
    /// Destination address of the packet.
    pub destination: Address,
    /// Host byte order.
    pub source_port: u16,
    /// Host byte order.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// [`FlowKey::ORIGINAL`] or [`FlowKey::REPLY`].
    pub direction: u8,
    /// Zero.
    pub reserved: u16,
}

impl FlowKey {
    /// From the client, before translation.
    pub const ORIGINAL: u8 = 0;
    /// From the backend, before reverse translation.
    pub const REPLY: u8 = 1;
}

/// What to do with the packets of a flow.
///
/// Under an [`FlowKey::ORIGINAL`] key: the new destination (the backend). Under a
/// [`FlowKey::REPLY`] key: the new source (the frontend that the client knows).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The address to write.
    pub address: Address,
    /// The port to write, host byte order.
    pub port: u16,
    /// A set of the `FLAG_…` bits.
    pub flags: u16,
    /// [`Service::id`] of the Service that made it.
    pub service: u32,
    /// Key of the backend in `backends`.
    pub backend: u32,
    /// Zero.
    pub reserved: u32,
    /// When a packet last used it: `CLOCK_MONOTONIC`, nanoseconds.
    pub last_seen: u64,
}

impl Translation {
    /// A FIN or RST went by: the next SYN on the same addresses and ports is a new connection.
    pub const FLAG_CLOSING: u16 = 1;
}

/// A socket and the backend it was connected to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketKey {
    /// The socket's cookie: unique on the machine until it reboots.
    pub cookie: u64,
    /// Address of the backend.
    pub address: Address,
    /// Port of the backend, host byte order.
    pub port: u16,
    /// Zero.
    pub reserved: [u16; 3],
}

/// What the application connected to, and believes it talks to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOrigin {
    /// Address of the frontend.
    pub address: Address,
    /// Port of the frontend, host byte order.
    pub port: u16,
    /// Zero.
    pub reserved: u16,
    /// [`Service::id`].
    pub service: u32,
}

/// Marks the types as plain data for aya's typed maps.
#[cfg(feature = "user")]
mod user {
    macro_rules! pod {
        ($($type:ty),+ $(,)?) => {$(
            // SAFETY: `repr(C)`, `Copy`, made of integers and byte arrays only, with every padding
            // byte named (checked by the size assertions in the tests below).
            unsafe impl aya::Pod for $type {}
        )+};
    }
    pod!(
        super::Settings,
        super::ServiceKey,
        super::Service,
        super::SlotKey,
        super::Slot,
        super::Backend,
        super::AddressKey,
        super::NodeAddress,
        super::ServiceName,
        super::FlowKey,
        super::Translation,
        super::SocketKey,
        super::SocketOrigin,
    );
}

#[cfg(test)]
mod tests {
    use core::mem::size_of;

    use super::*;

    /// The sum of the fields' sizes is the struct's size: no hidden padding, whose bytes the
    /// kernel would compare in keys and leak from the stack in values.
    #[test]
    fn no_implicit_padding() {
        assert_eq!(size_of::<Settings>(), 4 + 4 + 8 + 8);
        assert_eq!(size_of::<ServiceKey>(), 16 + 2 + 1 + 1);
        assert_eq!(size_of::<Service>(), 5 * 4);
        assert_eq!(size_of::<SlotKey>(), 3 * 4);
        assert_eq!(size_of::<Slot>(), 4);
        assert_eq!(size_of::<Backend>(), 16 + 2 + 1 + 1);
        assert_eq!(size_of::<AddressKey>(), 16);
        assert_eq!(size_of::<NodeAddress>(), 4);
        assert_eq!(size_of::<ServiceName>(), 3 * LABEL_BYTES + 4);
        assert_eq!(size_of::<FlowKey>(), 16 + 16 + 2 + 2 + 1 + 1 + 2);
        assert_eq!(size_of::<Translation>(), 16 + 2 + 2 + 4 + 4 + 4 + 8);
        assert_eq!(size_of::<SocketKey>(), 8 + 16 + 2 + 6);
        assert_eq!(size_of::<SocketOrigin>(), 16 + 2 + 2 + 4);
    }

    #[test]
    fn a_guard_is_no_frontend() {
        let address = crate::mapped([10, 96, 0, 1]);
        assert_ne!(
            ServiceKey::guard(address),
            ServiceKey::address(address, 443, crate::TCP)
        );
    }
}
