//! Packets, and what socket programs are called with.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpHeaders, IpNumber, Ipv4Header, PacketBuilder, PacketBuilderStep};
use gateway_common::SCTP;

/// Something that a program is run for.
pub(crate) type Bytes = Vec<u8>;

/// The destination is the loopback device's, on which the kernel runs tests.
const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [0; 6]);
/// Length of an Ethernet header.
const ETHERNET: usize = 14;
/// Length of an IPv4 header without options.
const IPV4: usize = 20;

/// A TCP segment: a client's, or the backend's answer. Their numbers are those of a first exchange.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flag {
    Syn,
    SynAck,
    Ack,
    Answer,
}

/// The options of Linux's SYNs: largest segment, selective acknowledgements, a time stamp, window scale.
const OPTIONS: [u8; 20] = [
    2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 3, 3, 3, 0, 0, 0, 1, 3, 3, 7,
];

pub(crate) fn tcp(from: SocketAddr, to: SocketAddr, flag: Flag) -> Bytes {
    let sequence = match flag {
        Flag::Syn => 1000,
        Flag::Ack => 1001,
        Flag::SynAck => 2000,
        Flag::Answer => 2001,
    };
    let segment = ip(from, to).tcp(from.port(), to.port(), sequence, 65_535);
    let segment = match flag {
        Flag::Syn => segment.syn(),
        Flag::SynAck => segment.syn().ack(1001),
        Flag::Ack => segment.ack(2001),
        Flag::Answer => segment.ack(1001),
    };
    let segment = match flag {
        Flag::Syn | Flag::SynAck => segment.options_raw(&OPTIONS),
        Flag::Ack | Flag::Answer => Ok(segment),
    };
    let segment = segment.expect("short options in whole words");
    let mut bytes = Vec::new();
    segment.write(&mut bytes, b"").expect("writing to memory");
    bytes
}

/// A client ends its connection at once.
pub(crate) fn reset(from: SocketAddr, to: SocketAddr) -> Bytes {
    let segment = ip(from, to).tcp(from.port(), to.port(), 1001, 0).rst();
    let mut bytes = Vec::new();
    segment.write(&mut bytes, b"").expect("writing to memory");
    bytes
}

pub(crate) fn udp(from: SocketAddr, to: SocketAddr) -> Bytes {
    let mut bytes = Vec::new();
    ip(from, to)
        .udp(from.port(), to.port())
        .write(&mut bytes, b"question")
        .expect("writing to memory");
    bytes
}

/// A chunk INIT (RFC 9260 §3.3.2), as far as it matters, with some CRC.
pub(crate) fn sctp(from: SocketAddr, to: SocketAddr) -> Bytes {
    let mut bytes = vec![0; 32];
    bytes[..2].copy_from_slice(&from.port().to_be_bytes());
    bytes[2..4].copy_from_slice(&to.port().to_be_bytes());
    bytes[8..12].copy_from_slice(&0x1234_5678u32.to_be_bytes());
    bytes[12..16].copy_from_slice(&[1, 0, 0, 20]);
    ipv4(from.ip(), to.ip(), IpNumber(SCTP), &bytes)
}

/// "Fragmentation needed" (RFC 792) of a router, about a packet.
pub(crate) fn too_big(router: IpAddr, to: IpAddr, packet: &[u8]) -> Bytes {
    let quoted = &packet[ETHERNET..ETHERNET + IPV4 + 8];
    let bytes = [&[3, 4, 0x12, 0x34, 0, 0, 5, 0], quoted].concat();
    ipv4(router, to, IpNumber::ICMP, &bytes)
}

/// Which is of no protocol that Services have, nor IP.
pub(crate) fn arp(packet: &[u8]) -> Bytes {
    let mut arp = packet.to_vec();
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    arp
}

fn ip(from: SocketAddr, to: SocketAddr) -> PacketBuilderStep<IpHeaders> {
    let ethernet = PacketBuilder::ethernet2(MACS.0, MACS.1);
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("{from} and {to} are of two families"),
    }
}

fn ipv4(from: IpAddr, to: IpAddr, protocol: IpNumber, payload: &[u8]) -> Bytes {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else {
        panic!("{from} and {to} are not both IPv4");
    };
    let length = u16::try_from(payload.len()).expect("a short packet");
    let mut header =
        Ipv4Header::new(length, 64, protocol, from.octets(), to.octets()).expect("a short packet");
    header.header_checksum = header.calc_header_checksum();
    let mut bytes = [&MACS.1[..], &MACS.0, &[0x08, 0x00]].concat();
    header.write(&mut bytes).expect("writing to memory");
    bytes.extend(payload);
    bytes
}

/// `struct bpf_sock_addr` (include/uapi/linux/bpf.h) of a call about this peer.
pub(crate) fn socket(peer: SocketAddr, protocol: u8) -> Bytes {
    let mut context = vec![0; 72];
    let mut put = |offset: usize, bytes: &[u8]| {
        context[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    match peer.ip() {
        IpAddr::V4(address) => {
            put(0, &2u32.to_ne_bytes());
            put(4, &address.octets());
        }
        IpAddr::V6(address) => {
            put(0, &10u32.to_ne_bytes());
            put(8, &address.octets());
        }
    }
    put(24, &peer.port().to_be_bytes());
    put(36, &u32::from(protocol).to_ne_bytes());
    context
}
