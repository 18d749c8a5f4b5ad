//! The record of one decision, as the kernel hands it to whoever traces.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_implicit_padding() {
        assert_eq!(size_of::<Event>(), 8 + 8 + 3 * 16 + 3 * 2 + 4 + 2 + 5 * 4);
    }

    #[test]
    fn hooks_survive_the_trip() {
        for number in 1..=6 {
            let hook = Hook::from_number(number).unwrap();
            assert_eq!(hook as u8, number);
        }
        assert_eq!(Hook::from_number(0), None);
        assert_eq!(Hook::from_number(7), None);
    }
}
