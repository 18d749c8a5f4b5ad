//! Packets of flows: TCP, UDP and SCTP, whole or in fragments; their ports, and other ports in them.

use aya_ebpf::{
    EbpfContext as _, bindings::BPF_F_RECOMPUTE_CSUM, helpers::generated::bpf_skb_load_bytes,
    programs::TcContext,
};
use gateway_common::{
    Address, SCTP, TCP,
    conntrack::{Ends, Kind, Said},
    crc32c,
    maps::Ports,
};

use crate::{
    headers::{End, Headers, Unhandled, read},
    maps::FRAGMENTS,
};

/// What TCP, UDP and SCTP begin with. Integers as they are on the wire.
#[repr(C)]
#[derive(Clone, Copy)]
struct PortsHeader {
    source: u16,
    destination: u16,
}

/// A TCP header, as far as it is looked at (RFC 9293 §3.1).
#[repr(C)]
#[derive(Clone, Copy)]
struct TcpHead {
    ports: PortsHeader,
    sequence: u32,
    acknowledged: u32,
    data_offset: u8,
    flags: u8,
    window: u16,
}

/// An SCTP header and the head of its first chunk (RFC 9260 §3).
#[repr(C)]
#[derive(Clone, Copy)]
struct SctpHead {
    ports: PortsHeader,
    tag: u32,
    crc: u32,
    chunk: u8,
}

/// Where an SCTP packet's INIT or INIT ACK has its initiate tag (RFC 9260 §3.3.2).
const SCTP_INITIATE_TAG: usize = 16;

/// Length of a TCP header without options.
const TCP_HEADER: usize = 20;
/// The longest options that it may have.
const TCP_OPTIONS: usize = 40;
/// How many options are looked at. Those that there are come to eight.
const MOST_OPTIONS: usize = 10;
/// RFC 9293 §3.2, RFC 7323 §2.2
const END_OF_OPTIONS: u8 = 0;
const NO_OPTION: u8 = 1;
const WINDOW_SCALE: u8 = 3;
/// RFC 7323 §2.3
const LARGEST_SCALE: u8 = 14;

/// Where an SCTP header has its CRC.
const SCTP_CRC: usize = 8;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// RFC 9260 §3.2
const SCTP_INIT: u8 = 1;
const SCTP_INIT_ACK: u8 = 2;
const SCTP_ABORT: u8 = 6;
const SCTP_SHUTDOWN_COMPLETE: u8 = 14;

/// A packet of a flow.
#[repr(C)]
pub(crate) struct Packet {
    pub(crate) headers: Headers,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) said: Said,
    /// Length of a TCP header's options.
    options: usize,
    /// Those of a SYN. Larger than the longest, so that an index of 6 bits is in it.
    option_bytes: [u8; 64],
}

impl Packet {
    /// Reads ports and numbers of a packet whose headers are read. For a fragment, the ports are
    /// those of its packet's first fragment.
    #[inline(always)]
    pub(crate) fn parse(&mut self, ctx: &TcContext) -> Result<(), Unhandled> {
        if self.headers.later {
            // SAFETY: the element stays readable until the program ends (RCU); a racing reuse by
            // the LRU takes the ports of another packet, and the fragment is lost.
            let ports = unsafe { FRAGMENTS.get(&self.headers.fragment_key()) };
            let ports = ports.ok_or(Unhandled::LostFragment)?;
            self.source_port = ports.source;
            self.destination_port = ports.destination;
            self.said.kind = Kind::Fragment;
            return Ok(());
        }
        self.parse_transport(ctx)?;
        if self.headers.more {
            let ports = Ports {
                source: self.source_port,
                destination: self.destination_port,
            };
            // A full LRU map makes room.
            let _ = FRAGMENTS.insert(&self.headers.fragment_key(), &ports, 0);
        }
        Ok(())
    }

    #[inline(always)]
    fn parse_transport(&mut self, ctx: &TcContext) -> Result<(), Unhandled> {
        let at = self.headers.transport;
        let ports = match self.headers.protocol {
            TCP => self.parse_tcp(ctx, at)?,
            SCTP => self.parse_sctp(ctx, at)?,
            // Any datagram may be a flow's first one.
            _ => {
                self.said.kind = Kind::Opens;
                read(ctx, at).map_err(|_| Unhandled::Unparsed)?
            }
        };
        self.source_port = u16::from_be(ports.source);
        self.destination_port = u16::from_be(ports.destination);
        Ok(())
    }

    #[inline(always)]
    fn parse_tcp(&mut self, ctx: &TcContext, at: usize) -> Result<PortsHeader, Unhandled> {
        let head: TcpHead = read(ctx, at).map_err(|_| Unhandled::Unparsed)?;
        let header = usize::from(head.data_offset >> 4) * 4;
        // SYN and FIN count as a byte each (RFC 9293 §3.4).
        let flags = u32::from(head.flags & FIN) + u32::from(head.flags & SYN) / u32::from(SYN);
        let payload = self.headers.end.wrapping_sub(at + header) as u32;
        self.said.sequence = u32::from_be(head.sequence);
        self.said.end = self.said.sequence.wrapping_add(payload).wrapping_add(flags);
        self.said.acknowledged = u32::from_be(head.acknowledged);
        self.said.window = u16::from_be(head.window);
        self.said.kind = tcp_kind(head.flags);
        self.said.scale = 0;
        self.options = header.wrapping_sub(TCP_HEADER);
        Ok(head.ports)
    }

    /// Reads the window scale that a SYN offers: only where a flow's record is to have it.
    #[inline(always)]
    pub(crate) fn read_scale(&mut self, ctx: &TcContext) {
        let length = self.options;
        if self.headers.protocol != TCP || length == 0 || length > TCP_OPTIONS {
            return;
        }
        let bytes = &mut self.option_bytes;
        // SAFETY: there is room for the longest options that there are.
        let read = unsafe {
            bpf_skb_load_bytes(
                ctx.as_ptr(),
                (self.headers.transport + TCP_HEADER) as u32,
                bytes.as_mut_ptr().cast(),
                length as u32,
            )
        };
        if read == 0 {
            self.said.scale = window_scale(bytes, length);
        }
    }

    #[inline(always)]
    fn parse_sctp(&mut self, ctx: &TcContext, at: usize) -> Result<PortsHeader, Unhandled> {
        let head: SctpHead = read(ctx, at).map_err(|_| Unhandled::Unparsed)?;
        let kind = sctp_kind(head.chunk);
        self.said.kind = kind;
        self.said.sequence = u32::from_be(head.tag);
        self.said.end = 0;
        if matches!(kind, Kind::Opens | Kind::Accepts) {
            let tag = ctx.load(at + SCTP_INITIATE_TAG).map_or(0, u32::from_be);
            if matches!(kind, Kind::Opens) {
                self.said.sequence = tag;
            } else {
                self.said.end = tag;
            }
        }
        Ok(head.ports)
    }

    /// Writes the ends of a client's packet.
    #[inline(always)]
    pub(crate) fn from_client(&self, ends: &mut Ends) {
        ends.client = self.headers.source;
        ends.peer = self.headers.destination;
        ends.client_port = self.source_port;
        ends.peer_port = self.destination_port;
        ends.protocol = self.headers.protocol;
    }

    /// Writes the ends of a packet to a client.
    #[inline(always)]
    pub(crate) fn to_client(&self, ends: &mut Ends) {
        ends.client = self.headers.destination;
        ends.peer = self.headers.source;
        ends.client_port = self.destination_port;
        ends.peer_port = self.source_port;
        ends.protocol = self.headers.protocol;
    }

    /// Writes an address over one end and ports over both, and mends the checksums.
    #[inline(always)]
    pub(crate) fn rewrite(
        &self,
        ctx: &TcContext,
        end: End,
        address: &Address,
        ports: &Ports,
    ) -> Result<(), i64> {
        self.headers.set_address(ctx, end, address)?;
        if self.headers.later {
            return Ok(());
        }
        let old = ports_word(self.source_port, self.destination_port);
        let new = ports_word(ports.source, ports.destination);
        if old == new {
            return Ok(());
        }
        if let Some((checksum, flags)) = self.headers.transport_checksum() {
            ctx.l4_csum_replace(checksum, u64::from(old), u64::from(new), flags | 4)?;
            return ctx.store(self.headers.transport, &new, 0);
        }
        self.mend_crc(ctx, old ^ new)?;
        let recompute = u64::from(BPF_F_RECOMPUTE_CSUM);
        ctx.store(self.headers.transport, &new, recompute)
    }

    /// Mends an SCTP packet's CRC after a change of its ports.
    #[inline(always)]
    fn mend_crc(&self, ctx: &TcContext, difference: u32) -> Result<(), i64> {
        let at = self.headers.transport + SCTP_CRC;
        let crc = u32::from_le(ctx.load(at)?);
        if crc == 0 {
            // The network card has yet to compute it, or the ends do without (RFC 9653).
            return Ok(());
        }
        if self.headers.more {
            // The CRC depends on the number of bytes that follow, and later fragments are still to come.
            return Err(-1);
        }
        let ports = self.headers.transport + size_of::<PortsHeader>();
        let following = self.headers.end.wrapping_sub(ports) as u32;
        let crc = changed_crc(crc, u32::from_le(difference), following);
        ctx.store(at, &crc.to_le(), u64::from(BPF_F_RECOMPUTE_CSUM))
    }

    /// Whether it is the first fragment of an SCTP packet: other ports cannot be written into it, but
    /// where there is no checksum.
    #[inline(always)]
    pub(crate) fn is_fragmented_sctp(&self) -> bool {
        self.headers.protocol == SCTP && self.headers.more
    }
}

/// Once in each program, and not wherever it is used.
#[inline(never)]
fn changed_crc(crc: u32, difference: u32, following: u32) -> u32 {
    crc32c::changed(crc, difference, following)
}

/// Two ports as they stand in a header.
#[inline(always)]
fn ports_word(source: u16, destination: u16) -> u32 {
    let [a, b] = source.to_be_bytes();
    let [c, d] = destination.to_be_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

#[inline(always)]
const fn tcp_kind(flags: u8) -> Kind {
    if flags & RST != 0 {
        return Kind::Resets;
    }
    match flags & (SYN | ACK | FIN) {
        SYN => Kind::Opens,
        accepts if accepts == SYN | ACK => Kind::Accepts,
        closes if closes & FIN != 0 => Kind::Closes,
        _ => Kind::Continues,
    }
}

#[inline(always)]
const fn sctp_kind(chunk: u8) -> Kind {
    match chunk {
        SCTP_INIT => Kind::Opens,
        SCTP_INIT_ACK => Kind::Accepts,
        SCTP_ABORT | SCTP_SHUTDOWN_COMPLETE => Kind::Resets,
        _ => Kind::Continues,
    }
}

/// One more than the window scale among a SYN's options, or 0. Once in each program.
#[inline(never)]
fn window_scale(options: &[u8; 64], length: usize) -> u8 {
    let mut at = 0;
    for _ in 0..MOST_OPTIONS {
        if at >= length {
            break;
        }
        let length = match options[at & 63] {
            END_OF_OPTIONS => break,
            NO_OPTION => 1,
            WINDOW_SCALE => return options[(at + 2) & 63].min(LARGEST_SCALE) + 1,
            _ => usize::from(options[(at + 1) & 63]),
        };
        if length == 0 {
            break;
        }
        at += length;
    }
    0
}
