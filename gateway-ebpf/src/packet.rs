//! Packets of flows: TCP, UDP and SCTP, whole or in fragments; their ports, and other ports in them.

use aya_ebpf::{bindings::BPF_F_RECOMPUTE_CSUM, programs::TcContext};
use gateway_common::{
    Address, SCTP, TCP,
    conntrack::Ends,
    crc32c,
    maps::{Ports, Record},
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

/// The head of a TCP header, as far as it is looked at (RFC 9293 §3.1).
#[repr(C)]
#[derive(Clone, Copy)]
struct TcpHead {
    ports: PortsHeader,
    numbers: [u8; 8],
    data_offset: u8,
    flags: u8,
}

/// An SCTP header and the type of its first chunk (RFC 9260 §3).
#[repr(C)]
#[derive(Clone, Copy)]
struct SctpHead {
    ports: PortsHeader,
    tag_and_crc: [u8; 8],
    chunk: u8,
}

/// Where an SCTP header has its CRC.
const SCTP_CRC: usize = 8;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// RFC 9260 §3.2
const SCTP_INIT: u8 = 1;
const SCTP_ABORT: u8 = 6;
const SCTP_SHUTDOWN_COMPLETE: u8 = 14;

/// What the packet is to its flow.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It may begin a flow.
    Opens,
    /// It belongs to one that exists.
    Continues,
    /// It ends one direction of one.
    Closes,
    /// It ends one at once.
    Resets,
}

impl Stage {
    /// What a flow's record keeps of it, for the side that has sent it.
    #[inline(always)]
    pub(crate) fn state(self) -> u8 {
        match self {
            Self::Opens | Self::Continues => 0,
            Self::Closes => Record::CLOSED,
            Self::Resets => Record::CLOSED | Record::RESET,
        }
    }
}

/// A packet of a flow.
#[repr(C)]
pub(crate) struct Packet {
    pub(crate) headers: Headers,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) stage: Stage,
}

impl Packet {
    /// Reads ports and stage of a packet whose headers are read. For a fragment, the ports are
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
            self.stage = Stage::Continues;
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
        let (ports, stage) = match self.headers.protocol {
            TCP => {
                let head: TcpHead = read(ctx, at).map_err(|_| Unhandled::Unparsed)?;
                (head.ports, tcp_stage(head.flags))
            }
            SCTP => {
                let head: SctpHead = read(ctx, at).map_err(|_| Unhandled::Unparsed)?;
                (head.ports, sctp_stage(head.chunk))
            }
            // Any datagram may be a flow's first one.
            _ => (
                read(ctx, at).map_err(|_| Unhandled::Unparsed)?,
                Stage::Opens,
            ),
        };
        self.source_port = u16::from_be(ports.source);
        self.destination_port = u16::from_be(ports.destination);
        self.stage = stage;
        Ok(())
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
const fn tcp_stage(flags: u8) -> Stage {
    if flags & RST != 0 {
        Stage::Resets
    } else if flags & FIN != 0 {
        Stage::Closes
    } else if flags & (SYN | ACK) == SYN {
        Stage::Opens
    } else {
        Stage::Continues
    }
}

#[inline(always)]
const fn sctp_stage(chunk: u8) -> Stage {
    match chunk {
        SCTP_INIT => Stage::Opens,
        SCTP_ABORT | SCTP_SHUTDOWN_COMPLETE => Stage::Resets,
        _ => Stage::Continues,
    }
}
