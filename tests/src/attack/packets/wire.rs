//! Packets as they stand on the wire, true or not.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::socket::{
    self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn,
};

/// Flags of TCP (RFC 9293, section 3.1).
pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const ACK: u8 = 0x10;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Sends whole packets from the network namespace that its thread is in.
pub(super) struct Sender(OwnedFd);

/// A segment of TCP.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment<'d> {
    pub(super) from: SocketAddrV4,
    pub(super) to: SocketAddrV4,
    pub(super) flags: u8,
    pub(super) sequence: u32,
    pub(super) acknowledged: u32,
    pub(super) data: &'d [u8],
}

// === impl Sender ===

impl Sender {
    pub(super) fn new() -> anyhow::Result<Self> {
        let socket = socket::socket(
            AddressFamily::Inet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::Raw,
        )?;
        Ok(Self(socket))
    }

    /// Sends a packet to the host that it names. One that the kernel does not send at all, such as one that
    /// nothing leads to, is lost as on any way.
    pub(super) fn send(&self, packet: &[u8]) {
        let Some(address) = packet.get(16..20) else {
            return;
        };
        let to = SockaddrIn::new(address[0], address[1], address[2], address[3], 0);
        let _ = socket::sendto(self.0.as_raw_fd(), packet, &to, MsgFlags::empty());
    }
}

/// An IPv4 packet (RFC 791, section 3.1) that may be a fragment: its offset in units of 8 bytes, and whether more
/// of them come. The kernel puts its checksum in.
pub(super) fn packet(
    (from, to): (Ipv4Addr, Ipv4Addr),
    protocol: u8,
    (offset, more): (u16, bool),
    payload: &[u8],
) -> Vec<u8> {
    let length = (20 + payload.len()) as u16;
    let fragment = offset | if more { 0x2000 } else { 0 };
    let mut bytes = vec![0x45, 0];
    bytes.extend(length.to_be_bytes());
    bytes.extend(0x4e47u16.to_be_bytes());
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    bytes.extend(payload);
    bytes
}

pub(super) fn tcp(segment: Segment<'_>) -> Vec<u8> {
    let addresses = (*segment.from.ip(), *segment.to.ip());
    packet(addresses, TCP, (0, false), &tcp_payload(segment))
}

/// What a segment is without the IP header.
pub(super) fn tcp_payload(segment: Segment<'_>) -> Vec<u8> {
    let mut bytes = segment.from.port().to_be_bytes().to_vec();
    bytes.extend(segment.to.port().to_be_bytes());
    bytes.extend(segment.sequence.to_be_bytes());
    bytes.extend(segment.acknowledged.to_be_bytes());
    bytes.extend([5 << 4, segment.flags]);
    bytes.extend(u16::MAX.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(segment.data);
    checked(bytes, 16, (*segment.from.ip(), *segment.to.ip()), TCP)
}

pub(super) fn udp(from: SocketAddrV4, to: SocketAddrV4, data: &[u8]) -> Vec<u8> {
    let mut bytes = from.port().to_be_bytes().to_vec();
    bytes.extend(to.port().to_be_bytes());
    bytes.extend((8 + data.len() as u16).to_be_bytes());
    bytes.extend([0; 2]);
    bytes.extend(data);
    let bytes = checked(bytes, 6, (*from.ip(), *to.ip()), UDP);
    packet((*from.ip(), *to.ip()), UDP, (0, false), &bytes)
}

/// An error about a packet (RFC 792), with four bytes of its own.
pub(super) fn icmp(
    addresses: (Ipv4Addr, Ipv4Addr),
    (kind, code): (u8, u8),
    rest: [u8; 4],
    about: &[u8],
) -> Vec<u8> {
    let mut bytes = vec![kind, code, 0, 0];
    bytes.extend(rest);
    bytes.extend(&about[..about.len().min(28)]);
    let sum = checksum(&bytes);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    packet(addresses, ICMP, (0, false), &bytes)
}

/// Puts the checksum in, which is over the addresses, too.
fn checked(
    mut bytes: Vec<u8>,
    at: usize,
    (from, to): (Ipv4Addr, Ipv4Addr),
    protocol: u8,
) -> Vec<u8> {
    let mut all = [from.octets(), to.octets()].concat();
    all.extend([0, protocol]);
    all.extend((bytes.len() as u16).to_be_bytes());
    all.extend(&bytes);
    let sum = checksum(&all);
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_with_its_checksum_is_nothing() {
        let from = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 1000);
        let to = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 2), 80);
        let packet = tcp(Segment {
            from,
            to,
            flags: SYN | ACK,
            sequence: 7,
            acknowledged: 8,
            data: b"odd",
        });
        assert_eq!(packet.len(), 43);
        let mut all = packet[12..20].to_vec();
        all.extend([0, TCP, 0, 23]);
        all.extend(&packet[20..]);
        assert_eq!(checksum(&all), 0);
        let error = icmp((*from.ip(), *to.ip()), (3, 4), [0, 0, 0, 68], &packet);
        assert_eq!(checksum(&error[20..]), 0);
        // RFC 1071, section 3.
        assert_eq!(
            checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            !0xddf2
        );
    }
}
