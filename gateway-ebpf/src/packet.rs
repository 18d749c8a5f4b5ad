//! TCP over IPv4 over Ethernet: what the packet programs read and write.

use core::mem::offset_of;

use aya_ebpf::{bindings::BPF_F_PSEUDO_HDR, programs::TcContext};
use gateway_common::{
    TCP, mapped,
    maps::{FlowKey, Translation},
};

/// Length of an Ethernet header without tags.
const ETHERNET: usize = 14;
/// `ETH_P_IP`, include/uapi/linux/if_ether.h.
const ETH_P_IP: u32 = 0x0800;
/// More-fragments flag and fragment offset (RFC 791 §3.1).
const FRAGMENT: u16 = 0x3fff;

/// RFC 791 §3.1. Integers as they are on the wire.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv4Header {
    version_and_length: u8,
    tos: u8,
    total_length: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: [u8; 4],
    destination: [u8; 4],
}

/// The head of RFC 9293 §3.1. Integers as they are on the wire.
#[repr(C)]
#[derive(Clone, Copy)]
struct TcpHeader {
    source: u16,
    destination: u16,
    sequence: [u8; 4],
    acknowledgement: [u8; 4],
    data_offset: u8,
    flags: u8,
    window: u16,
    checksum: u16,
}

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Why a packet is not handled.
pub(crate) enum Unhandled {
    /// Another protocol than TCP over IPv4.
    Foreign,
    /// TCP over IPv4, but in a form that is not translated.
    Unparsed,
}

/// The parts of a packet that matter.
pub(crate) struct Packet {
    source: [u8; 4],
    destination: [u8; 4],
    /// As on the wire.
    source_port: u16,
    /// As on the wire.
    destination_port: u16,
    flags: u8,
    /// Where the TCP header starts.
    transport: usize,
}

/// Which end of the packet a translation replaces.
#[derive(Clone, Copy)]
pub(crate) enum End {
    Source,
    Destination,
}

impl Packet {
    #[inline(always)]
    pub(crate) fn parse(ctx: &TcContext) -> Result<Self, Unhandled> {
        // SAFETY: the kernel hands the program a valid context; the verifier checks each access.
        if unsafe { (*ctx.skb.skb).protocol } != u32::from((ETH_P_IP as u16).to_be()) {
            return Err(Unhandled::Foreign);
        }
        let ip: Ipv4Header = ctx.load(ETHERNET).map_err(|_| Unhandled::Foreign)?;
        if ip.protocol != TCP {
            return Err(Unhandled::Foreign);
        }
        if u16::from_be(ip.fragment) & FRAGMENT != 0 {
            return Err(Unhandled::Unparsed);
        }
        let words = usize::from(ip.version_and_length & 0x0f);
        if words < 5 {
            return Err(Unhandled::Unparsed);
        }
        let transport = ETHERNET + words * 4;
        let tcp: TcpHeader = ctx.load(transport).map_err(|_| Unhandled::Unparsed)?;
        Ok(Self {
            source: ip.source,
            destination: ip.destination,
            source_port: tcp.source,
            destination_port: tcp.destination,
            flags: tcp.flags,
            transport,
        })
    }

    /// The packet's flow, as a key of `conntrack`.
    #[inline(always)]
    pub(crate) fn flow(&self, direction: u8) -> FlowKey {
        FlowKey {
            source: mapped(self.source),
            destination: mapped(self.destination),
            source_port: u16::from_be(self.source_port),
            destination_port: u16::from_be(self.destination_port),
            protocol: TCP,
            direction,
            reserved: 0,
        }
    }

    /// Whether it asks for a new connection.
    #[inline(always)]
    pub(crate) fn opens(&self) -> bool {
        self.flags & (SYN | ACK) == SYN
    }

    /// Whether the connection ends with it, or begins to.
    #[inline(always)]
    pub(crate) fn closes(&self) -> bool {
        self.flags & (FIN | RST) != 0
    }

    /// Writes the translation's address and port over one end, and mends the checksums.
    #[inline(always)]
    pub(crate) fn rewrite(&self, ctx: &TcContext, end: End, to: &Translation) -> Result<(), i64> {
        let (address_at, port_at, old_address, old_port) = match end {
            End::Source => (
                offset_of!(Ipv4Header, source),
                offset_of!(TcpHeader, source),
                self.source,
                self.source_port,
            ),
            End::Destination => (
                offset_of!(Ipv4Header, destination),
                offset_of!(TcpHeader, destination),
                self.destination,
                self.destination_port,
            ),
        };
        let [.., a, b, c, d] = to.address;
        let new_address = [a, b, c, d];
        let new_port = to.port.to_be();
        let old = u64::from(u32::from_ne_bytes(old_address));
        let new = u64::from(u32::from_ne_bytes(new_address));
        let tcp_checksum = self.transport + offset_of!(TcpHeader, checksum);
        // The address is part of TCP's pseudo header (RFC 9293 §3.1), the port is not.
        ctx.l4_csum_replace(tcp_checksum, old, new, u64::from(BPF_F_PSEUDO_HDR) | 4)?;
        ctx.l4_csum_replace(tcp_checksum, u64::from(old_port), u64::from(new_port), 2)?;
        ctx.l3_csum_replace(ETHERNET + offset_of!(Ipv4Header, checksum), old, new, 4)?;
        ctx.store(ETHERNET + address_at, &new_address, 0)?;
        ctx.store(self.transport + port_at, &new_port, 0)?;
        Ok(())
    }
}
