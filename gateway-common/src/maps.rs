//! Keys and values of the pinned maps.
//!
//! | map | key | value | who writes |
//! |---|---|---|---|
//! | `settings` | 0 | [`Settings`] | daemon |
//! | `services` | [`ServiceKey`] | [`Service`] | daemon |
//! | `slots` | [`SlotKey`] | [`Slot`] | daemon |
//! | `backends` | id: u32 | [`Backend`] | daemon |
//! | `turns` | service id: u32 | u64 | both |
//! | `shares` | [`ShareKey`] | [`Share`] | daemon, and its count the kernel |
//! | `source_ranges` | prefix length, [`SourceRange`] | 1: u32 | daemon |
//! | `pod_networks` | prefix length, [`AddressKey`] | 1: u32 | daemon |
//! | `node_addresses` | [`AddressKey`] | [`NodeAddress`] | daemon |
//! | `service_names` | service id: u32 | [`ServiceName`] | daemon |
//! | `affinity` | [`AffinityKey`] | [`Affinity`] | kernel |
//! | `conntrack` | 0 to [`Settings::buckets`] − 1 | [`Bucket`] | kernel |
//! | `fragments` | [`FragmentKey`] | [`Ports`] | kernel |
//! | `sockets` | [`SocketKey`] | [`SocketPeer`] | kernel |
//! | `counters` | [`Reason`](crate::decide::Reason) | u64 per CPU | kernel |
//! | `events` | – | [`Event`](crate::event::Event) ring | kernel |
//! | `events_lost` | 0 | u64 per CPU | kernel |
//! | `heartbeat` | 0 | [`Heartbeat`] | daemon |
//! | `trace_filter` | 0 | [`TraceFilter`](crate::event::TraceFilter) | daemon |
//! | `trace_services` | service id: u32 | 1: u32 | daemon |
//!
//! A change of any layout here changes [`SCHEMA`].

use crate::Address;
pub use crate::conntrack::{BUCKETS, Bucket, Record};

/// Version of the layouts in this file. A daemon refuses to touch pinned maps of a newer one.
pub const SCHEMA: u32 = 7;

/// Capacity of `services`: frontends, and one guard for each cluster IP.
pub const MAX_SERVICES: u32 = 131_072;
/// Capacity of `slots`: one per (Service port, generation, set, endpoint).
pub const MAX_SLOTS: u32 = 524_288;
/// Capacity of `backends`: one per (Service port, endpoint).
pub const MAX_BACKENDS: u32 = 262_144;
/// Capacity of `turns`: one per Service port whose backends take turns.
pub const MAX_TURNS: u32 = 16_384;
/// Capacity of `shares`: one per destination of such a Service port.
pub const MAX_SHARES: u32 = 65_536;
/// Capacity of `source_ranges`.
pub const MAX_SOURCE_RANGES: u32 = 16_384;
/// Capacity of `pod_networks`.
pub const MAX_POD_NETWORKS: u32 = 64;
/// Capacity of `node_addresses`.
pub const MAX_NODE_ADDRESSES: u32 = 1_024;
/// Capacity of `affinity`; an LRU map: the client that was not seen for longest goes first.
pub const MAX_AFFINITIES: u32 = 65_536;
/// Capacity of `fragments`; an LRU map. One per fragmented packet under way.
pub const MAX_FRAGMENTS: u32 = 8_192;
/// Capacity of `sockets`; an LRU map.
pub const MAX_SOCKETS: u32 = 65_536;
/// Capacity of `trace_services`.
pub const MAX_TRACE_SERVICES: u32 = 16_384;
/// Size of the event ring in bytes; a power of two and a multiple of the page size.
pub const EVENT_RING_BYTES: u32 = 1 << 20;

/// The packet mark that asks to masquerade: bit 14, kube-proxy's default
/// (`--iptables-masquerade-bit`), so that its KUBE-FORWARD lets the packet pass.
pub const MASQUERADE_MARK: u32 = 1 << 14;

/// The packet mark of a packet that was translated: our chain in FORWARD lets it pass, as KUBE-FORWARD
/// lets pass what is marked for masquerading. With [`MASQUERADE_MARK`] it says that the mark is ours, and
/// our chain in POSTROUTING masquerades.
pub const ACCEPT_MARK: u32 = 1 << 13;

/// The packet mark that asks our chains in INPUT and FORWARD to refuse: netfilter's REJECT sends the
/// ICMP error that kube-proxy's rules send.
pub const REJECT_MARK: u32 = 1 << 12;

/// What holds for the whole node. One element.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// [`SCHEMA`] of the daemon that wrote the maps.
    pub schema: u32,
    /// Not 0: emit the events that `trace_filter` wants (somebody traces).
    pub trace: u32,
    /// A set of the `FLAG_…` bits.
    pub flags: u32,
    /// How many buckets `conntrack` has: a power of two.
    pub buckets: u32,
    /// Cookie of the node's own network namespace: only there is 127.0.0.1 the node.
    pub host_netns: u64,
    /// Generation of the Snapshot that the maps hold.
    pub generation: u64,
    /// The node's IPv4 address: the source of its own processes' connections.
    pub node_v4: Address,
    /// The node's IPv6 address.
    pub node_v6: Address,
    /// Random, and the same for as long as the maps live: see [`crate::conntrack::Ends::place`].
    pub seed: u64,
}

impl Settings {
    /// Masquerade all traffic to cluster IPs (`--masquerade-all`).
    pub const FLAG_MASQUERADE_ALL: u32 = 1;
    /// It is known which sources are pods (`--cluster-cidr` and the like): without, traffic to
    /// cluster IPs is not masqueraded, and pods count as outside for external traffic policy Local.
    pub const FLAG_KNOWS_PODS: u32 = 2;
    /// Masquerade wherever kube-proxy does, also where replies come back through this node anyway.
    pub const FLAG_MASQUERADE_AS_KUBE_PROXY: u32 = 4;
    /// Serve node ports on 127.0.0.1 (`--iptables-localhost-nodeports`).
    pub const FLAG_LOCALHOST_NODE_PORTS: u32 = 8;
    /// Sockets in pods are left to the hooks on the pods' devices.
    pub const FLAG_PODS_BY_PACKET: u32 = 16;
    /// Node ports are served on [`Settings::node_v4`]: most packets to node ports need not ask
    /// `node_addresses`.
    pub const FLAG_NODE_PORTS_V4: u32 = 32;
    /// The same for [`Settings::node_v6`].
    pub const FLAG_NODE_PORTS_V6: u32 = 64;
    /// Frames for other addresses than the uplink's may be for this node: it is a bridge's port, say.
    pub const FLAG_ANY_FRAMES: u32 = 256;
    /// On [`Settings::node_v4`] there are node ports only: no Service has it as an address of its own, and
    /// packets to it need not ask for one.
    pub const FLAG_ONLY_NODE_PORTS_V4: u32 = 512;
    /// The same for [`Settings::node_v6`].
    pub const FLAG_ONLY_NODE_PORTS_V6: u32 = 1024;
    /// The daemon has set `route_localnet`, which was not set before. No program reads it.
    pub const FLAG_SET_ROUTE_LOCALNET: u32 = 128;
}

/// The daemon's sign of life, for who comes when it is gone. One element; no program reads it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// When it was last alive: `CLOCK_BOOTTIME`, nanoseconds; 0: never.
    pub seen: u64,
    /// When it was started, by the same clock.
    pub started: u64,
    /// Its process id, in its own namespace.
    pub pid: u32,
    /// Zero.
    pub reserved: u32,
}

/// A frontend: what clients connect to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The frontend's address; when `scope` is [`ServiceKey::NODE_PORT`], `::ffff:0.0.0.0` or `::`,
    /// for the family.
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

    /// The key of a node port, for destinations of the family of `like`.
    #[inline(always)]
    pub const fn node_port(like: &Address, port: u16, protocol: u8) -> Self {
        Self {
            address: if crate::is_v4(like) {
                crate::mapped([0; 4])
            } else {
                crate::UNSPECIFIED
            },
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

/// A frontend's sets of backends, in the slots under (`id`, `generation`).
///
/// Replacing this one element moves the frontend from one pair of sets to another: a reader sees the
/// old generation or the new one, never a mixture.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// Identifies the Service port (namespace, name, port name, protocol); see `service_names`.
    pub id: u32,
    /// Which of the slot generations is live.
    pub generation: u32,
    /// Size of the set for traffic policy Cluster: slots 0 and on.
    pub cluster: u32,
    /// Size of the set for traffic policy Local: the slots after those.
    pub local: u32,
    /// For how long a client stays with its backend, in seconds; 0: no affinity.
    pub affinity: u32,
    /// A set of the `FLAG_…` bits.
    pub flags: u32,
}

impl Service {
    /// The frontend is reached from outside the cluster: node port, external IP, load balancer IP.
    pub const FLAG_EXTERNAL: u32 = 1;
    /// Not a frontend: a cluster IP without regard to port (see [`ServiceKey::guard`]).
    pub const FLAG_GUARD: u32 = 2;
    /// The frontend is a node port.
    pub const FLAG_NODE_PORT: u32 = 4;
    /// The traffic policy for this frontend is Local.
    pub const FLAG_LOCAL: u32 = 8;
    /// Only clients in `source_ranges` are let in.
    pub const FLAG_SOURCE_RANGES: u32 = 16;
    /// There is an endpoint, here or elsewhere. Without, the answer is a refusal; with, but none in
    /// the set for the policy, there is no answer.
    pub const FLAG_HAS_ENDPOINTS: u32 = 32;
    /// The frontend is a load balancer IP (or an external IP: without this flag).
    pub const FLAG_LOAD_BALANCER: u32 = 64;
    /// Backends take turns in the order of the slots, instead of by chance: see `turns`. A backend may have
    /// several slots.
    pub const FLAG_IN_TURN: u32 = 128;
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

/// The backend in a slot, with what a choice needs to know of it: a lookup less for each new flow.
///
/// Aligned as it is in the map, so that the address is read in two pieces.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// [`Backend::address`].
    pub address: Address,
    /// Key of the `backends` map.
    pub backend: u32,
    /// [`Backend::port`], host byte order.
    pub port: u16,
    /// 1 if the pod runs on this node ([`Backend::FLAG_LOCAL`]), else 0.
    pub local: u8,
    /// [`ShareKey::share`] of the destination whose turn it is; 0: none.
    pub share: u8,
}

/// A destination among those that share a Service port's connections.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShareKey {
    /// [`Service::id`].
    pub service: u32,
    /// 1 to 255, as slots say it.
    pub share: u32,
}

/// Bytes for the name of a destination and a terminating zero. A longer name is cut.
pub const SHARE_NAME_BYTES: usize = 256;

/// What a destination has got.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Connections that it was chosen for.
    pub connections: u64,
    /// Its name, such as `outbound|9000|v1|tcp-echo.default.svc.cluster.local`. Zero-terminated UTF-8.
    pub name: [u8; SHARE_NAME_BYTES],
}

impl Slot {
    /// The slot of a backend that is no destination's.
    pub const fn new(id: u32, backend: &Backend) -> Self {
        Self {
            address: backend.address,
            backend: id,
            port: backend.port,
            local: backend.flags & Backend::FLAG_LOCAL,
            share: 0,
        }
    }
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
    /// [`Service::id`] of the Service port that it belongs to. An endpoint of two Service ports is
    /// two backends: when it leaves one of them, that one's flows know.
    pub service: u32,
}

impl Backend {
    /// The pod runs on this node.
    pub const FLAG_LOCAL: u8 = 1;
    /// It is in the set for traffic policy Cluster.
    pub const FLAG_IN_CLUSTER_SET: u8 = 2;
    /// It is in the set for traffic policy Local.
    pub const FLAG_IN_LOCAL_SET: u8 = 4;
}

/// Clients of a Service's load balancer IPs, as the data of a longest-prefix-match key: the prefix
/// is 32 bits longer than the network's.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceRange {
    /// [`Service::id`].
    pub service: u32,
    /// The network's address.
    pub address: Address,
}

/// A client and a Service port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AffinityKey {
    /// [`Service::id`].
    pub service: u32,
    /// Zero.
    pub reserved: u32,
    /// The client's address; for sockets, which have none yet, the cookie of their network
    /// namespace in the first 8 bytes.
    pub client: Address,
}

/// The backend that a client stays with.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// Key of `backends`.
    pub backend: u32,
    /// Zero.
    pub reserved: u32,
    /// When the client last connected: `CLOCK_MONOTONIC`, nanoseconds.
    pub last_seen: u64,
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
    pub protocol: u16,
    /// 4 or 6: the families of a dual-stack Service have endpoints of their own.
    pub family: u16,
}

/// A packet that comes in fragments (RFC 791 §2.3, RFC 8200 §4.5).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Source address of the packet.
    pub source: Address,
    /// Destination address of the packet.
    pub destination: Address,
    /// The packet's identification.
    pub identification: u32,
    /// IP protocol number.
    pub protocol: u32,
}

/// The ports of a fragmented packet, which only its first fragment has.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Host byte order.
    pub source: u16,
    /// Host byte order.
    pub destination: u16,
}

/// A socket and an address that it sends to or receives from.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketKey {
    /// The socket's cookie: unique on the machine until it reboots.
    pub cookie: u64,
    /// Address of the frontend ([`SocketKey::ORIGINAL`]) or of the backend ([`SocketKey::REPLY`]).
    pub address: Address,
    /// Its port, host byte order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// [`SocketKey::ORIGINAL`] or [`SocketKey::REPLY`].
    pub direction: u8,
    /// Zero.
    pub reserved: u32,
}

impl SocketKey {
    /// What the application sends.
    pub const ORIGINAL: u8 = 0;
    /// What it receives.
    pub const REPLY: u8 = 1;
}

/// The other end of a socket's translation: for [`SocketKey::ORIGINAL`] the backend that datagrams go
/// to, for [`SocketKey::REPLY`] the frontend that the application believes it talks to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketPeer {
    /// Its address.
    pub address: Address,
    /// Its port, host byte order.
    pub port: u16,
    /// Zero.
    pub reserved: u16,
    /// [`Service::id`].
    pub service: u32,
    /// Key of `backends`.
    pub backend: u32,
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
        super::Heartbeat,
        super::ServiceKey,
        super::Service,
        super::SlotKey,
        super::Slot,
        super::ShareKey,
        super::Share,
        super::Backend,
        super::SourceRange,
        super::AddressKey,
        super::NodeAddress,
        super::ServiceName,
        super::AffinityKey,
        super::Affinity,
        super::Bucket,
        super::FragmentKey,
        super::Ports,
        super::SocketKey,
        super::SocketPeer,
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
        assert_eq!(size_of::<Settings>(), 4 * 4 + 3 * 8 + 2 * 16);
        assert_eq!(size_of::<Heartbeat>(), 2 * 8 + 2 * 4);
        assert_eq!(size_of::<ServiceKey>(), 16 + 2 + 1 + 1);
        assert_eq!(size_of::<Service>(), 6 * 4);
        assert_eq!(size_of::<SlotKey>(), 3 * 4);
        assert_eq!(size_of::<Slot>(), 16 + 4 + 2 + 1 + 1);
        assert_eq!(size_of::<ShareKey>(), 2 * 4);
        assert_eq!(size_of::<Share>(), 8 + SHARE_NAME_BYTES);
        assert_eq!(size_of::<Backend>(), 16 + 2 + 1 + 1 + 4);
        assert_eq!(size_of::<SourceRange>(), 4 + 16);
        assert_eq!(size_of::<AffinityKey>(), 4 + 4 + 16);
        assert_eq!(size_of::<Affinity>(), 4 + 4 + 8);
        assert_eq!(size_of::<FragmentKey>(), 16 + 16 + 4 + 4);
        assert_eq!(size_of::<Ports>(), 2 + 2);
        assert_eq!(size_of::<AddressKey>(), 16);
        assert_eq!(size_of::<NodeAddress>(), 4);
        assert_eq!(size_of::<ServiceName>(), 3 * LABEL_BYTES + 4);
        assert_eq!(size_of::<Record>(), 3 * 16 + 4 * 2 + 4 + 5 * 4 + 2 * 16);
        assert_eq!(
            size_of::<Bucket>(),
            8 + crate::conntrack::WAYS * (1 + size_of::<Record>())
        );
        assert_eq!(size_of::<SocketKey>(), 8 + 16 + 2 + 1 + 1 + 4);
        assert_eq!(size_of::<SocketPeer>(), 16 + 2 + 2 + 4 + 4);
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
