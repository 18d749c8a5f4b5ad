//! The record of one decision, as the kernel hands it to whoever traces, and what they ask for.

use crate::Address;

/// Where in the kernel a decision was made.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A process on the node or in one of its pods called `connect()` (cgroup/connect4).
    Connect4 = 1,
    /// A packet came in on an uplink (tcx or tc ingress).
    Ingress = 2,
    /// As [`Self::Connect4`], to an IPv6 address (cgroup/connect6).
    Connect6 = 3,
    /// A process sends a datagram on a socket that is not connected (cgroup/sendmsg4).
    Sendmsg4 = 4,
    /// As [`Self::Sendmsg4`], to an IPv6 address (cgroup/sendmsg6).
    Sendmsg6 = 5,
    /// A packet came from a pod (tcx or tc ingress of the pod's device on the node).
    Pod = 6,
    /// No decision: the socket of an earlier one sends its SYN, from an address and port that are
    /// known now (sockops). Reported only while somebody traces.
    Connected = 7,
    /// No decision: an answer that cannot be given to the client (tcx or tc egress).
    Egress = 8,
}

impl Hook {
    /// The hook with this number, if there is one.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Connect4),
            2 => Some(Self::Ingress),
            3 => Some(Self::Connect6),
            4 => Some(Self::Sendmsg4),
            5 => Some(Self::Sendmsg6),
            6 => Some(Self::Pod),
            7 => Some(Self::Connected),
            8 => Some(Self::Egress),
            _ => None,
        }
    }

    /// The name that traces show.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect4 => "connect4",
            Self::Ingress => "ingress",
            Self::Connect6 => "connect6",
            Self::Sendmsg4 => "sendmsg4",
            Self::Sendmsg6 => "sendmsg6",
            Self::Pod => "pod",
            Self::Connected => "connected",
            Self::Egress => "egress",
        }
    }
}

/// One decision about one new flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When: `CLOCK_MONOTONIC`, nanoseconds.
    pub time: u64,
    /// Cookie of the network namespace of the process (the socket hooks), else 0.
    pub netns: u64,
    /// The socket's cookie (the socket hooks), else 0.
    pub cookie: u64,
    /// The client, where the hook knows it (packets do, sockets are not bound yet).
    pub source: Address,
    /// What the client asked for.
    pub destination: Address,
    /// The chosen backend; all zeroes if there is none.
    pub backend_address: Address,
    /// Host byte order.
    pub source_port: u16,
    /// Host byte order.
    pub destination_port: u16,
    /// Host byte order.
    pub backend_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// [`Hook`] as a number.
    pub hook: u8,
    /// [`Verdict`](crate::decide::Verdict) as a number.
    pub verdict: u8,
    /// [`Reason`](crate::decide::Reason) as a number.
    pub reason: u8,
    /// [`Masquerade`](crate::decide::Masquerade) as a number.
    pub masquerade: u8,
    /// Zero.
    pub reserved: u8,
    /// The frontend's flags (`Service::FLAG_…`).
    pub flags: u32,
    /// Service id, 0 if no Service was found.
    pub service: u32,
    /// Key of the backend in `backends`, 0 if none was chosen.
    pub backend: u32,
    /// Process that connects or sends (the socket hooks), else 0.
    pub pid: u32,
    /// Interface index (the packet hooks), else 0.
    pub interface: u32,
}

/// What whoever traces wants to see: all of it must hold. The kernel programs evaluate it, so that
/// nobody is woken for what nobody wants. Of several who trace, what covers all they want.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceFilter {
    /// Cookie of the node's own network namespace, for [`Self::sockets`].
    pub host_netns: u64,
    /// The bits of a packet's source that [`Self::source_mask`] has. Sockets have no source yet.
    pub source: Address,
    /// Of a mapped IPv4 network 96 bits longer than its own prefix; all zero: any source.
    pub source_mask: Address,
    /// The bits of the destination or the backend that [`Self::target_mask`] has.
    pub target: Address,
    /// As [`Self::source_mask`].
    pub target_mask: Address,
    /// Not 0: only those Service ports that `trace_services` has.
    pub by_service: u32,
    /// A bit for each [`Verdict`](crate::decide::Verdict), by number; 0: any.
    pub verdicts: u32,
    /// A bit for each [`Hook`], by number; 0: any.
    pub hooks: u32,
    /// Whose sockets: [`Self::ANY_SOCKET`], [`Self::NODE_SOCKETS`] or [`Self::POD_SOCKETS`].
    pub sockets: u32,
    /// Port of the destination or the backend, host byte order; 0: any.
    pub target_port: u16,
    /// IP protocol number; 0: any.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

impl TraceFilter {
    /// Everything.
    pub const ALL: Self = Self {
        host_netns: 0,
        source: [0; 16],
        source_mask: [0; 16],
        target: [0; 16],
        target_mask: [0; 16],
        by_service: 0,
        verdicts: 0,
        hooks: 0,
        sockets: Self::ANY_SOCKET,
        target_port: 0,
        protocol: 0,
        reserved: [0; 5],
    };
    /// Sockets of processes anywhere.
    pub const ANY_SOCKET: u32 = 0;
    /// Sockets in the node's own network namespace.
    pub const NODE_SOCKETS: u32 = 1;
    /// Sockets in other network namespaces.
    pub const POD_SOCKETS: u32 = 2;

    /// Whether an event is wanted; `of_service` says whether its Service port is one that
    /// is asked for.
    #[inline(always)]
    pub fn matches(&self, event: &Event, of_service: bool) -> bool {
        let has = |set: u32, number: u8| set == 0 || set & (1 << (number & 31)) != 0;
        // A connection's second report has the verdict of its first, and is wanted with it.
        let is_decision = event.hook != Hook::Connected as u8;
        if (is_decision && !has(self.hooks, event.hook)) || !has(self.verdicts, event.verdict) {
            return false;
        }
        if self.protocol != 0 && self.protocol != event.protocol {
            return false;
        }
        (self.by_service == 0 || of_service) && self.is_from(event) && self.is_to(event)
    }

    #[inline(always)]
    fn is_from(&self, event: &Event) -> bool {
        if event.netns == 0 {
            return is_in(&event.source, &self.source, &self.source_mask);
        }
        match self.sockets {
            Self::NODE_SOCKETS => event.netns == self.host_netns,
            Self::POD_SOCKETS => event.netns != self.host_netns,
            _ => true,
        }
    }

    #[inline(always)]
    fn is_to(&self, event: &Event) -> bool {
        let is_it = |address: &Address, port: u16| {
            is_in(address, &self.target, &self.target_mask)
                && (self.target_port == 0 || self.target_port == port)
        };
        is_it(&event.destination, event.destination_port)
            || (event.backend != 0 && is_it(&event.backend_address, event.backend_port))
    }
}

#[inline(always)]
fn is_in(address: &Address, network: &Address, mask: &Address) -> bool {
    let bits = |address: &Address| u128::from_ne_bytes(*address);
    (bits(address) ^ bits(network)) & bits(mask) == 0
}

/// Marks the filter as plain data for aya's typed maps.
#[cfg(feature = "user")]
mod user {
    // SAFETY: `repr(C)`, `Copy`, made of integers and byte arrays only, with every padding byte
    // named (checked by the size assertion in the tests below).
    unsafe impl aya::Pod for super::TraceFilter {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TCP, UDP, decide::Verdict, mapped};

    #[test]
    fn no_implicit_padding() {
        assert_eq!(size_of::<Event>(), 3 * 8 + 3 * 16 + 3 * 2 + 4 + 2 + 5 * 4);
        assert_eq!(size_of::<TraceFilter>(), 8 + 4 * 16 + 4 * 4 + 2 + 1 + 5);
    }

    #[test]
    fn hooks_survive_the_trip() {
        for number in 1..=8 {
            let hook = Hook::from_number(number).unwrap();
            assert_eq!(hook as u8, number);
        }
        assert_eq!(Hook::from_number(0), None);
        assert_eq!(Hook::from_number(9), None);
    }

    const NODE: u64 = 1;

    fn event() -> Event {
        Event {
            time: 0,
            netns: 0,
            cookie: 0,
            source: mapped([192, 168, 170, 1]),
            destination: mapped([192, 168, 170, 137]),
            backend_address: mapped([10, 10, 1, 4]),
            source_port: 40_000,
            destination_port: 31_373,
            backend_port: 8080,
            protocol: TCP,
            hook: Hook::Ingress as u8,
            verdict: Verdict::Forward as u8,
            reason: 0,
            masquerade: 0,
            reserved: 0,
            flags: 0,
            service: 7,
            backend: 100,
            pid: 0,
            interface: 2,
        }
    }

    fn network(address: [u8; 4], length: usize) -> (Address, Address) {
        let mut mask = [0; 16];
        for bit in 0..96 + length {
            mask[bit / 8] |= 128 >> (bit % 8);
        }
        (mapped(address), mask)
    }

    #[test]
    fn what_is_not_asked_for_does_not_matter() {
        assert!(TraceFilter::ALL.matches(&event(), true));
        let nowhere = Event {
            backend: 0,
            verdict: Verdict::Drop as u8,
            service: 0,
            netns: 5,
            ..event()
        };
        assert!(TraceFilter::ALL.matches(&nowhere, true));
    }

    #[test]
    fn all_that_is_asked_for_must_hold() {
        let (source, source_mask) = network([192, 168, 170, 0], 24);
        let (target, target_mask) = network([192, 168, 170, 137], 32);
        let filter = TraceFilter {
            source,
            source_mask,
            target,
            target_mask,
            target_port: 31_373,
            by_service: 1,
            verdicts: 1 << Verdict::Forward as u8,
            hooks: 1 << Hook::Ingress as u8,
            protocol: TCP,
            ..TraceFilter::ALL
        };
        assert!(filter.matches(&event(), true));
        assert!(!filter.matches(&event(), false), "another Service");
        #[rustfmt::skip]
        let others = [
            Event { source: mapped([192, 168, 171, 1]), ..event() },
            Event { destination: mapped([192, 168, 170, 138]), ..event() },
            Event { destination_port: 80, ..event() },
            Event { verdict: Verdict::Drop as u8, ..event() },
            Event { hook: Hook::Pod as u8, ..event() },
            Event { protocol: UDP, ..event() },
        ];
        for other in others {
            assert!(!filter.matches(&other, true), "{other:?}");
        }
    }

    #[test]
    fn the_backend_is_a_target_too_if_there_is_one() {
        let (target, target_mask) = network([10, 10, 1, 4], 32);
        let filter = TraceFilter {
            target,
            target_mask,
            target_port: 8080,
            ..TraceFilter::ALL
        };
        assert!(filter.matches(&event(), true));
        let none = Event {
            backend: 0,
            ..event()
        };
        assert!(!filter.matches(&none, true));
    }

    #[test]
    fn sockets_are_told_apart_by_their_namespace() {
        let (source, source_mask) = network([192, 168, 170, 137], 32);
        let filter = |sockets| TraceFilter {
            host_netns: NODE,
            source,
            source_mask,
            sockets,
            ..TraceFilter::ALL
        };
        let socket = |netns| Event {
            netns,
            source: crate::UNSPECIFIED,
            ..event()
        };
        for (sockets, node, pod) in [
            (TraceFilter::ANY_SOCKET, true, true),
            (TraceFilter::NODE_SOCKETS, true, false),
            (TraceFilter::POD_SOCKETS, false, true),
        ] {
            assert_eq!(filter(sockets).matches(&socket(NODE), true), node);
            assert_eq!(filter(sockets).matches(&socket(2), true), pod);
        }
    }

    #[test]
    fn a_connection_is_reported_with_its_decision() {
        let filter = TraceFilter {
            hooks: 1 << Hook::Connect4 as u8,
            ..TraceFilter::ALL
        };
        let connected = Event {
            hook: Hook::Connected as u8,
            ..event()
        };
        assert!(filter.matches(&connected, true));
        assert!(!filter.matches(&event(), true));
    }
}
