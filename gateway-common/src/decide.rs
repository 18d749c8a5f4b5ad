//! The decision core: what happens to a flow.
//!
//! One pure function, generic over where the tables are. The kernel programs give it the BPF maps,
//! tests and explanations give it ordinary collections. It models what kube-proxy's chains do with
//! the first packet of a flow:
//!
//! - KUBE-SERVICES: cluster IP, external IP, load balancer IP (KUBE-FW: source ranges), and last
//!   KUBE-NODEPORTS (`--dst-type LOCAL`); the filter table's REJECT and DROP where there is nobody;
//! - KUBE-EXT: the external traffic policy with its short-circuits, and masquerading;
//! - KUBE-SVC and KUBE-SVL: affinity, else one of the endpoints, each as likely as the others;
//! - KUBE-SEP: masquerading of hairpins, DNAT.
//!
//! Source: `syncProxyRules` in Kubernetes' pkg/proxy/iptables/proxier.go.

use crate::{
    Address, TCP, halves, is_loopback, is_v4,
    maps::{
        AddressKey, AffinityKey, Backend, NodeAddress, Service, ServiceKey, Settings, ShareKey,
        Slot, SlotKey,
    },
};

/// Where the core looks things up.
pub trait Tables {
    /// What holds for the whole node.
    fn settings(&self) -> Option<&Settings>;
    /// The frontend, if a Service has it.
    fn service(&self, key: &ServiceKey) -> Option<&Service>;
    /// The backend in a slot.
    fn slot(&self, key: &SlotKey) -> Option<&Slot>;
    /// A backend by id.
    fn backend(&self, id: u32) -> Option<&Backend>;
    /// What an address of this node is good for; none if it is not this node's.
    fn node_address(&self, key: &AddressKey) -> Option<&NodeAddress>;
    /// Whether the address is in one of the networks that pods have addresses from.
    fn is_pod(&self, address: &Address) -> bool;
    /// Whether a client may use the load balancer IPs of a Service that has source ranges.
    fn admits(&self, service: u32, client: &Address) -> bool;
    /// The backend that the client was sent to in the last `seconds`, if it was. Asking keeps it.
    fn affinity(&self, key: &AffinityKey, seconds: u32) -> Option<u32>;
    /// Remembers where the client is sent.
    fn remember(&self, key: &AffinityKey, backend: u32);
    /// A uniformly distributed number.
    fn random(&self) -> u32;
    /// Whose turn it is at a Service whose backends take turns: below `size`, the number of its slots.
    fn turn(&self, service: u32, size: u32) -> u32;
    /// Counts a connection of a destination.
    fn count_share(&self, key: &ShareKey);
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A socket in the node's own network namespace: there, 127.0.0.1 is the node.
    NodeSocket,
    /// A socket in a pod's network namespace.
    PodSocket,
    /// A packet that came in from the network.
    Packet,
    /// A packet that came from a pod on this node.
    PodPacket,
}

impl Origin {
    #[inline(always)]
    const fn is_socket(self) -> bool {
        matches!(self, Self::NodeSocket | Self::PodSocket)
    }
}

/// The first packet of a flow, or the `connect()` before it.
///
/// Aligned, so that addresses are copied in two pieces each: the kernel's compiler must not assume
/// that it may read a word at any address.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who asks: what affinity goes by. A packet's source; for sockets see [`AffinityKey::client`].
    pub client: Address,
    /// Where it is going.
    pub destination: Address,
    /// Host byte order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Who asks.
    pub origin: Origin,
}

/// What becomes of a flow.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not ours: leave it as it is.
    Pass = 0,
    /// Send it to the backend.
    Forward = 1,
    /// Refuse it, so that the client knows at once.
    Reject = 2,
    /// Throw it away.
    Drop = 3,
}

impl Verdict {
    /// The verdict with this number, if there is one.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Pass),
            1 => Some(Self::Forward),
            2 => Some(Self::Reject),
            3 => Some(Self::Drop),
            _ => None,
        }
    }

    /// The word that traces show.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Forward => "forward",
            Self::Reject => "reject",
            Self::Drop => "drop",
        }
    }
}

/// Whether the source becomes this node's (KUBE-MARK-MASQ).
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masquerade {
    /// No: the backend sees the client.
    No = 0,
    /// Yes: the backend sees this node, and its replies come back through it.
    Yes = 1,
    /// kube-proxy would, but here there is no need: the client is a socket on this node, which
    /// connects to the backend itself, or the backend is on this node and the client outside, so
    /// that replies pass here anyway.
    Elided = 2,
}

impl Masquerade {
    /// The value with this number, if there is one.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::No),
            1 => Some(Self::Yes),
            2 => Some(Self::Elided),
            _ => None,
        }
    }

    /// Whether kube-proxy would.
    pub const fn by_kube_proxy(self) -> bool {
        matches!(self, Self::Yes | Self::Elided)
    }
}

/// Why. Also the index of the counter in `counters`.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No Service has this address and port.
    NoService = 0,
    /// A backend was chosen.
    Chosen = 1,
    /// The Service has no endpoints (kube-proxy: `REJECT`, "has no endpoints").
    NoEndpoints = 2,
    /// The address is a cluster IP, but its Service has no such port.
    NoSuchPort = 3,
    /// A slot or backend that must exist does not: a fault of the daemon.
    TableGap = 4,
    /// The headers cannot be parsed or are not translated here.
    Unparsed = 5,
    /// The place for the flow was full: datagrams that were answered lately made way, or the flow was
    /// refused because there are established connections only.
    TableFull = 6,
    /// Another connection of the same client, through another frontend, occupies the same addresses
    /// and ports between client and backend: replies could not be told apart.
    Clash = 7,
    /// The traffic policy is Local and no endpoint is on this node (kube-proxy: `DROP`, "has no
    /// local endpoints").
    NoLocalEndpoints = 8,
    /// The client is in none of the Service's source ranges (kube-proxy: KUBE-PROXY-FIREWALL).
    SourceRange = 9,
    /// The client stays with the backend that it was sent to before.
    Affinity = 10,
    /// Left to the hook on the pod's device, which knows the pod's address.
    ByPacket = 11,
    /// A later fragment of a packet whose first one was not seen.
    LostFragment = 12,
    /// A datagram that stays with the backend of its flow.
    Pinned = 13,
    /// An ICMP error about a translated flow, translated like it.
    IcmpError = 14,
    /// A fragmented SCTP packet whose ports would have to change. Its checksum is a CRC over the whole
    /// packet: what the change makes of it depends on how many bytes follow, which the first fragment does
    /// not say.
    FragmentedSctp = 15,
    /// Another CPU was changing the place of the packet's flow for longer than a packet waits: its
    /// sender has to send it again.
    Busy = 16,
}

impl Reason {
    /// How many reasons there are: the size of `counters`.
    pub const COUNT: u32 = 17;

    /// All of them, in the order of their numbers.
    pub const ALL: [Self; Self::COUNT as usize] = [
        Self::NoService,
        Self::Chosen,
        Self::NoEndpoints,
        Self::NoSuchPort,
        Self::TableGap,
        Self::Unparsed,
        Self::TableFull,
        Self::Clash,
        Self::NoLocalEndpoints,
        Self::SourceRange,
        Self::Affinity,
        Self::ByPacket,
        Self::LostFragment,
        Self::Pinned,
        Self::IcmpError,
        Self::FragmentedSctp,
        Self::Busy,
    ];

    /// The reason with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The name in counters and in `-o json`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoService => "no-service",
            Self::Chosen => "chosen",
            Self::NoEndpoints => "no-endpoints",
            Self::NoSuchPort => "no-such-port",
            Self::TableGap => "table-gap",
            Self::Unparsed => "unparsed",
            Self::TableFull => "table-full",
            Self::Clash => "clash",
            Self::NoLocalEndpoints => "no-local-endpoints",
            Self::SourceRange => "source-range",
            Self::Affinity => "affinity",
            Self::ByPacket => "by-packet",
            Self::LostFragment => "lost-fragment",
            Self::Pinned => "pinned",
            Self::IcmpError => "icmp-error",
            Self::FragmentedSctp => "fragmented-sctp",
            Self::Busy => "busy",
        }
    }

    /// What to tell a person.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NoService => "no Service has this address and port",
            Self::Chosen => "backend chosen",
            Self::NoEndpoints => "the Service has no endpoints",
            Self::NoSuchPort => "a cluster IP, but its Service has no such port",
            Self::TableGap => "the tables are inconsistent",
            Self::Unparsed => "headers not understood",
            Self::TableFull => "the flow's place in the flow table is full",
            Self::Clash => "the client uses this source port for the same backend already",
            Self::NoLocalEndpoints => "traffic policy Local, and no endpoint on this node",
            Self::SourceRange => "the client is in none of the Service's source ranges",
            Self::Affinity => "the client stays with its backend",
            Self::ByPacket => "left to the hook on the pod's device",
            Self::LostFragment => "a fragment whose packet's beginning was not seen",
            Self::Pinned => "the datagram's flow stays with its backend",
            Self::IcmpError => "an ICMP error about a translated flow",
            Self::FragmentedSctp => {
                "a fragmented SCTP packet, whose checksum does not survive another port"
            }
            Self::Busy => "another CPU was changing the flow's place in the table",
        }
    }
}

/// The answer.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of the flow.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// Whether the backend sees this node instead of the client.
    pub masquerade: Masquerade,
    /// The Service; 0 if none was found.
    pub service: u32,
    /// The frontend's flags (`Service::FLAG_…`); 0 if none was found.
    pub flags: u32,
    /// The chosen backend's id; 0 if none was chosen.
    pub backend: u32,
    /// The chosen backend's address; all zeroes if none was chosen.
    pub address: Address,
    /// The chosen backend's port, host byte order.
    pub port: u16,
}

impl Decision {
    const NOT_OURS: Self = Self {
        verdict: Verdict::Pass,
        reason: Reason::NoService,
        masquerade: Masquerade::No,
        service: 0,
        flags: 0,
        backend: 0,
        address: crate::UNSPECIFIED,
        port: 0,
    };

    #[inline(always)]
    const fn without_backend(verdict: Verdict, reason: Reason, service: &Service) -> Self {
        Self {
            verdict,
            reason,
            service: service.id,
            flags: service.flags,
            ..Self::NOT_OURS
        }
    }
}

/// Which of a Service's two sets of backends a flow may use, and whether kube-proxy marks it for
/// masquerading on the way there.
#[derive(Clone, Copy)]
struct Way {
    local: bool,
    masquerade: bool,
    /// Whether a packet's sender is known to be a pod. Looked up once: a trie is not cheap.
    from_pod: bool,
}

/// Decides a new flow.
///
/// Inlined into each kernel program: BPF passes at most five arguments and no struct by value
/// between functions.
#[inline(always)]
pub fn decide<T: Tables>(tables: &T, flow: &Flow) -> Decision {
    decide_with::<T, false>(tables, flow)
}

/// The same for a packet, with a lookup less where the settings say that nothing can be found. Sockets ask
/// too seldom for node ports.
#[inline(always)]
pub fn decide_packet<T: Tables>(tables: &T, flow: &Flow) -> Decision {
    decide_with::<T, true>(tables, flow)
}

#[inline(always)]
fn decide_with<T: Tables, const OF_PACKET: bool>(tables: &T, flow: &Flow) -> Decision {
    let Some(settings) = tables.settings() else {
        return Decision::NOT_OURS;
    };
    let service = if OF_PACKET && has_only_node_ports(settings, &flow.destination) {
        let key = ServiceKey::node_port(&flow.destination, flow.port, flow.protocol);
        tables.service(&key)
    } else {
        frontend(tables, flow, settings)
    };
    let Some(service) = service else {
        return Decision::NOT_OURS;
    };
    if service.flags & Service::FLAG_GUARD != 0 {
        return Decision::without_backend(Verdict::Reject, Reason::NoSuchPort, service);
    }
    if service.flags & Service::FLAG_HAS_ENDPOINTS == 0 {
        return Decision::without_backend(Verdict::Reject, Reason::NoEndpoints, service);
    }
    if service.flags & Service::FLAG_SOURCE_RANGES != 0 {
        let client = match flow.origin {
            Origin::Packet | Origin::PodPacket => &flow.client,
            // A process of the node comes from the node's address.
            Origin::NodeSocket => node_source(settings, &flow.destination),
            // A pod's address is not known before its socket is bound.
            Origin::PodSocket => {
                return Decision::without_backend(Verdict::Pass, Reason::ByPacket, service);
            }
        };
        if !tables.admits(service.id, client) {
            return Decision::without_backend(Verdict::Drop, Reason::SourceRange, service);
        }
    }
    let way = way(tables, flow, settings, service);
    let (first, size) = if way.local {
        (service.cluster, service.local)
    } else {
        (0, service.cluster)
    };
    if size == 0 {
        return Decision::without_backend(Verdict::Drop, Reason::NoLocalEndpoints, service);
    }
    choose(tables, flow, settings, service, way, first, size)
}

/// Whether a datagram that leaves this node comes from where a Service is reached, so that its answers
/// look like a client's datagrams.
#[inline(always)]
pub fn is_frontend<T: Tables>(tables: &T, flow: &Flow) -> bool {
    tables
        .settings()
        .is_some_and(|settings| frontend(tables, flow, settings).is_some())
}

/// Finds the frontend that a flow is for: an address of a Service first (KUBE-SERVICES), a node
/// port last ("NOTE: this must be the last rule in this chain").
#[inline(always)]
fn frontend<'t, T: Tables>(tables: &'t T, flow: &Flow, settings: &Settings) -> Option<&'t Service> {
    let key = ServiceKey::address(flow.destination, flow.port, flow.protocol);
    if let Some(service) = tables.service(&key) {
        return Some(service);
    }
    if serves_node_ports(tables, flow, settings) {
        return tables.service(&ServiceKey::node_port(
            &flow.destination,
            flow.port,
            flow.protocol,
        ));
    }
    // Only a socket can be told "refused" from here; packets to unknown ports of a cluster IP
    // are left to the routing, as kube-proxy leaves them.
    if flow.origin.is_socket() {
        return tables.service(&ServiceKey::guard(flow.destination));
    }
    None
}

/// `-m addrtype --dst-type LOCAL`: whether the destination is this node. 127.0.0.1 is, but only for
/// the node's own processes: in a pod it is the pod. `::1` never is (`! -d ::1/128`).
#[inline(always)]
fn serves_node_ports<T: Tables>(tables: &T, flow: &Flow, settings: &Settings) -> bool {
    if is_loopback(&flow.destination) {
        return matches!(flow.origin, Origin::NodeSocket)
            && is_v4(&flow.destination)
            && settings.flags & Settings::FLAG_LOCALHOST_NODE_PORTS != 0;
    }
    if is_main_address(settings, &flow.destination) {
        return true;
    }
    let key = AddressKey {
        address: flow.destination,
    };
    match tables.node_address(&key) {
        Some(address) => address.flags & NodeAddress::FLAG_NODE_PORTS != 0,
        None => false,
    }
}

/// Whether it is the address of the node's that most node ports are asked for on.
#[inline(always)]
fn is_main_address(settings: &Settings, address: &Address) -> bool {
    let flag = if is_v4(address) {
        Settings::FLAG_NODE_PORTS_V4
    } else {
        Settings::FLAG_NODE_PORTS_V6
    };
    settings.flags & flag != 0 && halves(node_source(settings, address)) == halves(address)
}

/// Whether it is that address, and no Service has it as its own.
#[inline(always)]
fn has_only_node_ports(settings: &Settings, address: &Address) -> bool {
    // Not by a reference to either, which would be read byte by byte: an address alone is not aligned.
    if is_v4(address) {
        let (_, own) = halves(&settings.node_v4);
        let (_, asked) = halves(address);
        settings.flags & Settings::FLAG_ONLY_NODE_PORTS_V4 != 0 && own == asked
    } else {
        settings.flags & Settings::FLAG_ONLY_NODE_PORTS_V6 != 0
            && halves(&settings.node_v6) == halves(address)
    }
}

/// The node's own address in the family of the destination.
#[inline(always)]
const fn node_source<'s>(settings: &'s Settings, destination: &Address) -> &'s Address {
    if is_v4(destination) {
        &settings.node_v4
    } else {
        &settings.node_v6
    }
}

/// The policies: the chain that KUBE-SERVICES jumps to for a cluster IP, and KUBE-EXT for the rest.
#[inline(always)]
fn way<T: Tables>(tables: &T, flow: &Flow, settings: &Settings, service: &Service) -> Way {
    let from_pod = matches!(flow.origin, Origin::Packet)
        && may_matter(settings, service)
        && tables.is_pod(&flow.client);
    let (local, masquerade) = policy(flow, settings, service, from_pod);
    Way {
        local,
        masquerade,
        from_pod,
    }
}

/// Whether it makes a difference if the sender is a pod. Not for what is masqueraded everywhere, nor
/// for a cluster IP as long as nobody knows pods.
#[inline(always)]
const fn may_matter(settings: &Settings, service: &Service) -> bool {
    let flags = settings.flags;
    if service.flags & Service::FLAG_EXTERNAL == 0 {
        flags & (Settings::FLAG_MASQUERADE_ALL | Settings::FLAG_KNOWS_PODS)
            == Settings::FLAG_KNOWS_PODS
    } else {
        service.flags & Service::FLAG_LOCAL != 0 || flags & EVERYWHERE == 0
    }
}

/// Masquerade wherever kube-proxy does.
const EVERYWHERE: u32 = Settings::FLAG_MASQUERADE_ALL | Settings::FLAG_MASQUERADE_AS_KUBE_PROXY;

/// Whether only endpoints on this node, and whether kube-proxy masquerades.
#[inline(always)]
const fn policy(
    flow: &Flow,
    settings: &Settings,
    service: &Service,
    from_pod: bool,
) -> (bool, bool) {
    let knows_pods = settings.flags & Settings::FLAG_KNOWS_PODS != 0;
    let from_pod = knows_pods
        && match flow.origin {
            Origin::PodSocket | Origin::PodPacket => true,
            Origin::NodeSocket => false,
            Origin::Packet => from_pod,
        };
    let policy_local = service.flags & Service::FLAG_LOCAL != 0;
    if service.flags & Service::FLAG_EXTERNAL == 0 {
        let all = settings.flags & Settings::FLAG_MASQUERADE_ALL != 0;
        return (policy_local, all || (knows_pods && !from_pod));
    }
    if !policy_local {
        return (false, true);
    }
    if from_pod {
        // "pod traffic for … external destinations"
        return (false, false);
    }
    if matches!(flow.origin, Origin::NodeSocket) {
        // "route LOCAL traffic for … external destinations"
        return (false, true);
    }
    (true, false)
}

/// KUBE-SVC or KUBE-SVL, and KUBE-SEP: affinity or chance.
#[inline(always)]
fn choose<T: Tables>(
    tables: &T,
    flow: &Flow,
    settings: &Settings,
    service: &Service,
    way: Way,
    first: u32,
    size: u32,
) -> Decision {
    let affinity = AffinityKey {
        service: service.id,
        reserved: 0,
        client: flow.client,
    };
    let known = if service.affinity == 0 {
        None
    } else {
        stays(tables, &affinity, service, way)
    };
    let (reason, choice) = if let Some(choice) = known {
        (Reason::Affinity, choice)
    } else {
        // The programs for datagrams know the protocol, and do without.
        let in_turn = flow.protocol == TCP && service.flags & Service::FLAG_IN_TURN != 0;
        let slot = SlotKey {
            service: service.id,
            generation: service.generation,
            index: first
                + if in_turn {
                    tables.turn(service.id, size)
                } else {
                    scale(tables.random(), size)
                },
        };
        let Some(slot) = tables.slot(&slot) else {
            return Decision::without_backend(Verdict::Drop, Reason::TableGap, service);
        };
        if in_turn && slot.share != 0 {
            tables.count_share(&ShareKey {
                service: service.id,
                share: slot.share.into(),
            });
        }
        (Reason::Chosen, *slot)
    };
    if service.affinity != 0 {
        tables.remember(&affinity, choice.backend);
    }
    Decision {
        verdict: Verdict::Forward,
        reason,
        masquerade: masquerade(flow, settings, way, &choice),
        service: service.id,
        flags: service.flags,
        backend: choice.backend,
        address: choice.address,
        port: choice.port,
    }
}

/// The backend that the client was sent to lately, if it is one of the set still.
#[inline(always)]
fn stays<T: Tables>(
    tables: &T,
    affinity: &AffinityKey,
    service: &Service,
    way: Way,
) -> Option<Slot> {
    let id = tables.affinity(affinity, service.affinity)?;
    let backend = tables.backend(id)?;
    // Numbers of backends that went are given to new ones, of other Services too.
    let same = backend.service == service.id && backend.flags & set_flag(way) != 0;
    same.then(|| Slot::new(id, backend))
}

#[inline(always)]
const fn set_flag(way: Way) -> u8 {
    if way.local {
        Backend::FLAG_IN_LOCAL_SET
    } else {
        Backend::FLAG_IN_CLUSTER_SET
    }
}

/// What becomes of kube-proxy's mark.
#[inline(always)]
fn masquerade(flow: &Flow, settings: &Settings, way: Way, choice: &Slot) -> Masquerade {
    // "-s EP -j KUBE-MARK-MASQ": a pod that reaches itself must see another source than itself.
    let hairpin = !flow.origin.is_socket() && flow.client == choice.address;
    if !way.masquerade && !hairpin {
        return Masquerade::No;
    }
    if flow.origin.is_socket() {
        return Masquerade::Elided;
    }
    let passes_here = choice.local != 0
        && matches!(flow.origin, Origin::Packet)
        && !hairpin
        // A pod's reply to another node's pod may take another device than the uplink.
        && !way.from_pod;
    if passes_here && settings.flags & EVERYWHERE == 0 {
        return Masquerade::Elided;
    }
    Masquerade::Yes
}

/// Maps a uniform 32-bit number onto `0..n` without a division; off from uniform by less than
/// n / 2^32.
#[inline(always)]
pub const fn scale(random: u32, n: u32) -> u32 {
    ((random as u64 * n as u64) >> 32) as u32
}

#[cfg(test)]
mod tests;
