//! Ethernet and IP headers: where the parts of a packet are, and other addresses in them.
//!
//! Headers are read in place where they can be, else with a helper, which copes with packets in several
//! pieces. Transport checksums are mended with helpers, which cope with those that the network card
//! has yet to finish.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::generated::bpf_csum_diff,
    programs::TcContext,
};
use gateway_common::{Address, SCTP, TCP, UDP, mapped, maps::FragmentKey};

/// Length of an Ethernet header without tags.
pub(crate) const ETHERNET: usize = 14;
/// include/uapi/linux/if_ether.h
const ETH_P_IP: u16 = 0x0800;
/// include/uapi/linux/if_ether.h
const ETH_P_IPV6: u16 = 0x86dd;
/// RFC 792
pub(crate) const ICMP: u8 = 1;
/// RFC 4443
pub(crate) const ICMPV6: u8 = 58;
/// The fragment header (RFC 8200 §4.5).
const IPV6_FRAGMENT: u8 = 44;

/// RFC 791 §3.1. Integers as they are on the wire.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Ipv4Header {
    version_and_length: u8,
    tos: u8,
    total_length: u16,
    identification: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    pub(crate) checksum: u16,
    source: [u8; 4],
    destination: [u8; 4],
}

/// The end of an [`Ipv4Header`].
#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv4Tail {
    checksum: u16,
    source: [u8; 4],
    destination: [u8; 4],
}

/// RFC 8200 §3. Integers as they are on the wire.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Ipv6Header {
    version_and_class: u32,
    payload_length: u16,
    next_header: u8,
    hop_limit: u8,
    source: Address,
    destination: Address,
}

/// RFC 8200 §4.5. Integers as they are on the wire.
#[repr(C)]
#[derive(Clone, Copy)]
struct FragmentHeader {
    next_header: u8,
    reserved: u8,
    offset_and_more: u16,
    identification: u32,
}

/// Where the transport protocols have their checksums, from the beginning of their headers.
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// Where headers stand in nearly all packets: IP after Ethernet, and what comes after IPv4 without
/// options, or after IPv6 without extensions.
const USUAL: [usize; 3] = [
    ETHERNET,
    ETHERNET + size_of::<Ipv4Header>(),
    ETHERNET + size_of::<Ipv6Header>(),
];

/// Reads a part of the packet: in place at one of the usual offsets, for which the verifier can
/// follow the bounds, else with a helper.
#[inline(always)]
pub(crate) fn read<T: Copy>(ctx: &TcContext, offset: usize) -> Result<T, i64> {
    let [network, after_v4, after_v6] = USUAL;
    let usual = if offset == network {
        network
    } else if offset == after_v4 {
        after_v4
    } else if offset == after_v6 {
        after_v6
    } else {
        return ctx.load(offset);
    };
    let start = ctx.data() + usual;
    if start + size_of::<T>() <= ctx.data_end() {
        // SAFETY: the bytes are within the packet, as the verifier sees too; any bytes are a `T`,
        // which is made of integers.
        return Ok(unsafe { core::ptr::read_unaligned(start as *const T) });
    }
    ctx.load(offset)
}

/// Why a packet is not handled.
pub(crate) enum Unhandled {
    /// Of another protocol.
    Foreign,
    /// Of one of the protocols, but in a form that is not translated.
    Unparsed,
    /// A later fragment of a packet whose first one was not seen.
    LostFragment,
}

/// Which end of a packet a translation replaces.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Source,
    Destination,
}

/// Where the parts of a packet are, and between which addresses it goes.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Headers {
    // First, so that they are aligned and copied in two pieces each.
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) v6: bool,
    pub(crate) protocol: u8,
    /// Where the IP header starts.
    pub(crate) network: usize,
    /// Where the header after it starts.
    pub(crate) transport: usize,
    /// The identification of a fragmented packet.
    identification: u32,
    /// Where the packet ends, by its own account.
    pub(crate) end: usize,
    /// An IPv4 header's checksum, as on the wire.
    checksum: u16,
    /// Whether more fragments follow.
    pub(crate) more: bool,
    /// Whether it is a fragment without the transport header.
    pub(crate) later: bool,
}

impl Headers {
    /// Reads the IP header at an offset.
    #[inline(always)]
    pub(crate) fn parse(
        &mut self,
        ctx: &TcContext,
        network: usize,
        v6: bool,
    ) -> Result<(), Unhandled> {
        self.v6 = v6;
        self.network = network;
        if v6 {
            self.parse_v6(ctx)
        } else {
            self.parse_v4(ctx)
        }
    }

    /// The family of the packet, if it is IP.
    #[inline(always)]
    pub(crate) fn is_v6(ctx: &TcContext) -> Result<bool, Unhandled> {
        // SAFETY: the kernel hands the program a valid context; the verifier checks each access.
        let protocol = unsafe { (*ctx.skb.skb).protocol };
        if protocol == u32::from(ETH_P_IP.to_be()) {
            Ok(false)
        } else if protocol == u32::from(ETH_P_IPV6.to_be()) {
            Ok(true)
        } else {
            Err(Unhandled::Foreign)
        }
    }

    #[inline(always)]
    fn parse_v4(&mut self, ctx: &TcContext) -> Result<(), Unhandled> {
        let ip: Ipv4Header = read(ctx, self.network).map_err(|_| Unhandled::Foreign)?;
        let words = usize::from(ip.version_and_length & 0x0f);
        if words < 5 {
            return Err(Unhandled::Unparsed);
        }
        // Flags and offset (RFC 791 §3.1): 0x2000 is "more fragments".
        let fragment = u16::from_be(ip.fragment);
        self.source = mapped(ip.source);
        self.destination = mapped(ip.destination);
        self.protocol = ip.protocol;
        self.transport = self.network + words * 4;
        self.end = match ip.total_length {
            // Longer than the number can say: segments that the kernel has put together (Linux 6.3).
            0 => ctx.len() as usize,
            length => self.network + usize::from(u16::from_be(length)),
        };
        self.identification = u32::from(ip.identification);
        self.checksum = ip.checksum;
        self.more = fragment & 0x2000 != 0;
        self.later = fragment & 0x1fff != 0;
        Ok(())
    }

    /// Other extension headers than the fragment header are rare, and left alone.
    #[inline(always)]
    fn parse_v6(&mut self, ctx: &TcContext) -> Result<(), Unhandled> {
        let ip: Ipv6Header = read(ctx, self.network).map_err(|_| Unhandled::Foreign)?;
        self.source = ip.source;
        self.destination = ip.destination;
        self.protocol = ip.next_header;
        self.transport = self.network + size_of::<Ipv6Header>();
        self.end = self.transport + usize::from(u16::from_be(ip.payload_length));
        self.identification = 0;
        self.more = false;
        self.later = false;
        if ip.next_header == IPV6_FRAGMENT {
            let fragment: FragmentHeader =
                ctx.load(self.transport).map_err(|_| Unhandled::Unparsed)?;
            let offset_and_more = u16::from_be(fragment.offset_and_more);
            self.protocol = fragment.next_header;
            self.identification = fragment.identification;
            self.more = offset_and_more & 1 != 0;
            self.later = offset_and_more & 0xfff8 != 0;
            self.transport += size_of::<FragmentHeader>();
        }
        Ok(())
    }

    /// Whether the transport protocol is one of those that Services have.
    #[inline(always)]
    pub(crate) fn is_translatable(&self) -> bool {
        matches!(self.protocol, TCP | UDP | SCTP)
    }

    #[inline(always)]
    pub(crate) fn fragment_key(&self) -> FragmentKey {
        FragmentKey {
            source: self.source,
            destination: self.destination,
            identification: self.identification,
            protocol: u32::from(self.protocol),
        }
    }

    /// Where the transport checksum is that covers addresses and ports; none for SCTP, whose CRC
    /// covers ports only and is no sum, and for fragments without the transport header.
    #[inline(always)]
    pub(crate) fn transport_checksum(&self) -> Option<(usize, u64)> {
        match self.protocol {
            _ if self.later => None,
            TCP => Some((self.transport + TCP_CHECKSUM, 0)),
            // 0 means "no checksum" and stays (RFC 768).
            UDP => Some((
                self.transport + UDP_CHECKSUM,
                u64::from(BPF_F_MARK_MANGLED_0),
            )),
            _ => None,
        }
    }

    /// Writes an address over one end, and mends the checksums that cover it.
    #[inline(always)]
    pub(crate) fn set_address(
        &self,
        ctx: &TcContext,
        end: End,
        address: &Address,
    ) -> Result<(), i64> {
        if self.v6 {
            self.set_address_v6(ctx, end, address)
        } else {
            self.set_address_v4(ctx, end, address)
        }
    }

    #[inline(always)]
    fn set_address_v4(&self, ctx: &TcContext, end: End, address: &Address) -> Result<(), i64> {
        let old = match end {
            End::Source => word(&self.source),
            End::Destination => word(&self.destination),
        };
        let new = word(address);
        if let Some((checksum, flags)) = self.transport_checksum() {
            // The address is part of the pseudo header (RFC 9293 §3.1, RFC 768).
            let (old, new) = (u64::from(old), u64::from(new));
            ctx.l4_csum_replace(checksum, old, new, u64::from(BPF_F_PSEUDO_HDR) | flags | 4)?;
        }
        // Checksum, source and destination are neighbours: one write.
        let tail = match end {
            End::Source => (self.mended(old, new), new, word(&self.destination)),
            End::Destination => (self.mended(old, new), word(&self.source), new),
        };
        let tail = Ipv4Tail {
            checksum: tail.0,
            source: tail.1.to_ne_bytes(),
            destination: tail.2.to_ne_bytes(),
        };
        ctx.store(self.network + offset_of!(Ipv4Header, checksum), &tail, 0)
    }

    /// The header's checksum after a word of it has changed (RFC 1624 §3, equation 3). One's
    /// complement sums don't care about byte order.
    #[inline(always)]
    fn mended(&self, old: u32, new: u32) -> u16 {
        let mut sum = u32::from(!self.checksum)
            + (!old & 0xffff)
            + (!old >> 16)
            + (new & 0xffff)
            + (new >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        !(sum as u16)
    }

    #[inline(always)]
    fn set_address_v6(&self, ctx: &TcContext, end: End, address: &Address) -> Result<(), i64> {
        let (at, old) = match end {
            End::Source => (offset_of!(Ipv6Header, source), &self.source),
            End::Destination => (offset_of!(Ipv6Header, destination), &self.destination),
        };
        let checksum = match self.protocol {
            // ICMPv6 has the pseudo header too (RFC 4443 §2.3).
            ICMPV6 => Some((self.transport + 2, 0)),
            _ => self.transport_checksum(),
        };
        if let Some((checksum, flags)) = checksum {
            let diff = address_diff(old, address);
            ctx.l4_csum_replace(checksum, 0, diff, u64::from(BPF_F_PSEUDO_HDR) | flags)?;
        }
        ctx.store(self.network + at, address, 0)
    }
}

/// The IPv4 address in a mapped one, as on the wire.
#[inline(always)]
pub(crate) fn word(address: &Address) -> u32 {
    let [.., a, b, c, d] = *address;
    u32::from_ne_bytes([a, b, c, d])
}

/// The difference that another address makes in a checksum.
#[inline(always)]
pub(crate) fn address_diff(old: &Address, new: &Address) -> u64 {
    // SAFETY: both are 16 bytes, a multiple of 4 as the helper wants.
    let diff = unsafe {
        bpf_csum_diff(
            old.as_ptr().cast_mut().cast(),
            16,
            new.as_ptr().cast_mut().cast(),
            16,
            0,
        )
    };
    diff as u64
}
