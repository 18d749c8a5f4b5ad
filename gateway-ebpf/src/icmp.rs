//! ICMP errors about translated flows: "fragmentation needed" and the like.
//!
//! An error quotes the packet that it is about, as it looked where the error was made. For the host
//! that gets it to know its own packet again, the quoted addresses have to be translated back, and the
//! error's own address with them (RFC 5508 §4; net/netfilter/nf_nat_proto.c). Path MTU discovery
//! through a translator depends on it.

use core::mem::offset_of;

use aya_ebpf::programs::TcContext;
use gateway_common::{
    Address,
    conntrack::{Ends, Record, Search, Sender},
    decide::Reason,
};

use crate::{
    forward::{DROP, NEXT},
    maps::{Scratch, bucket, count, place},
    packet::{End, Headers, ICMP, ICMPV6, Ipv4Header, Unhandled, word},
};

/// Length of an ICMP header before the quoted packet, in both families.
const ICMP_HEADER: usize = 8;
/// Offset of the checksum in an ICMP header.
const ICMP_CHECKSUM: usize = 2;

/// The quoted packet.
#[repr(C)]
pub(crate) struct Quoted {
    headers: Headers,
    /// As on the wire.
    source_port: u16,
    /// As on the wire.
    destination_port: u16,
}

/// Whose packets an error quotes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum About {
    /// The backend's, which left here with the frontend's address.
    Replies,
    /// The client's, which arrived at the backend with that one's address.
    Requests,
}

/// On the way to a backend: about its replies.
#[inline(always)]
pub(crate) fn forward(ctx: &TcContext, scratch: &mut Scratch) -> Result<i32, Unhandled> {
    translate(ctx, scratch, About::Replies)
}

/// On the way to a client: about its packets.
#[inline(always)]
pub(crate) fn reverse(ctx: &TcContext, scratch: &mut Scratch) -> Result<i32, Unhandled> {
    translate(ctx, scratch, About::Requests)
}

#[inline(always)]
fn translate(ctx: &TcContext, scratch: &mut Scratch, about: About) -> Result<i32, Unhandled> {
    let outer = &scratch.packet.headers;
    scratch.quoted.read(ctx, outer)?;
    scratch.quoted.ends(about, &mut scratch.ends);
    let place = place(&scratch.ends).ok_or(Unhandled::Foreign)?;
    let bucket = bucket(&place).ok_or(Unhandled::Foreign)?;
    let (ends, record) = (&scratch.ends, &mut scratch.record);
    let sender = match about {
        About::Replies => Sender::Client,
        About::Requests => Sender::Backend,
    };
    if !matches!(bucket.peek(place.tag, ends, sender, record), Search::Way(_)) {
        return Ok(NEXT);
    }
    Ok(match rewrite(ctx, outer, &scratch.quoted, about, record) {
        Ok(()) => {
            count(Reason::IcmpError);
            NEXT
        }
        Err(_) => DROP,
    })
}

impl Quoted {
    /// Reads the packet that an ICMP error quotes; other ICMP is not ours.
    #[inline(always)]
    fn read(&mut self, ctx: &TcContext, outer: &Headers) -> Result<(), Unhandled> {
        let kind: u8 = ctx.load(outer.transport).map_err(|_| Unhandled::Foreign)?;
        let is_error = match outer.protocol {
            // Destination unreachable, time exceeded, parameter problem (RFC 792).
            ICMP if !outer.v6 => matches!(kind, 3 | 11 | 12),
            // Errors have the high bit clear (RFC 4443 §2.1).
            ICMPV6 if outer.v6 => matches!(kind, 1..=4),
            _ => false,
        };
        if !is_error {
            return Err(Unhandled::Foreign);
        }
        self.headers
            .parse(ctx, outer.transport + ICMP_HEADER, outer.v6)?;
        if !self.headers.is_translatable() {
            return Err(Unhandled::Foreign);
        }
        let ports: [u16; 2] = ctx
            .load(self.headers.transport)
            .map_err(|_| Unhandled::Unparsed)?;
        self.source_port = ports[0];
        self.destination_port = ports[1];
        Ok(())
    }

    /// Writes the ends of the quoted packet.
    #[inline(always)]
    fn ends(&self, about: About, ends: &mut Ends) {
        let (source, destination) = (
            u16::from_be(self.source_port),
            u16::from_be(self.destination_port),
        );
        match about {
            About::Replies => {
                ends.client = self.headers.destination;
                ends.peer = self.headers.source;
                ends.client_port = destination;
                ends.peer_port = source;
            }
            About::Requests => {
                ends.client = self.headers.source;
                ends.peer = self.headers.destination;
                ends.client_port = source;
                ends.peer_port = destination;
            }
        }
        ends.protocol = self.headers.protocol;
    }
}

/// Translates the quoted packet back, and the address of the error itself.
#[inline(always)]
fn rewrite(
    ctx: &TcContext,
    outer: &Headers,
    quoted: &Quoted,
    about: About,
    record: &Record,
) -> Result<(), i64> {
    let checksum = outer.transport + ICMP_CHECKSUM;
    match about {
        About::Replies => {
            let (to, port) = (&record.backend, record.backend_port);
            quoted_address(ctx, checksum, &quoted.headers, End::Source, to)?;
            quoted_port(ctx, checksum, quoted, End::Source, port)?;
            quoted_port(ctx, checksum, quoted, End::Destination, record.source_port)?;
            outer.set_address(ctx, End::Destination, to)
        }
        About::Requests => {
            let (to, port) = (&record.frontend, record.frontend_port);
            quoted_address(ctx, checksum, &quoted.headers, End::Destination, to)?;
            quoted_port(ctx, checksum, quoted, End::Destination, port)?;
            quoted_port(ctx, checksum, quoted, End::Source, record.client_port)?;
            outer.set_address(ctx, End::Source, to)
        }
    }
}

/// The ICMP checksum covers every quoted byte, so each change is mended there.
#[inline(always)]
fn quoted_address(
    ctx: &TcContext,
    checksum: usize,
    inner: &Headers,
    end: End,
    address: &Address,
) -> Result<(), i64> {
    let old = match end {
        End::Source => &inner.source,
        End::Destination => &inner.destination,
    };
    if inner.v6 {
        // 8 and 24: source and destination in an IPv6 header (RFC 8200 §3).
        let at = inner.network + if end == End::Source { 8 } else { 24 };
        let diff = crate::packet::address_diff(old, address);
        ctx.l4_csum_replace(checksum, 0, diff, 0)?;
        return ctx.store(at, address, 0);
    }
    // 12 and 16: source and destination in an IPv4 header (RFC 791 §3.1). Its own checksum changes
    // by as much as the address, the other way: for the ICMP checksum the two cancel out.
    let at = inner.network + if end == End::Source { 12 } else { 16 };
    let (old, new) = (word(old), word(address));
    let header_checksum = inner.network + offset_of!(Ipv4Header, checksum);
    ctx.l3_csum_replace(header_checksum, u64::from(old), u64::from(new), 4)?;
    ctx.store(at, &new, 0)
}

#[inline(always)]
fn quoted_port(
    ctx: &TcContext,
    checksum: usize,
    quoted: &Quoted,
    end: End,
    port: u16,
) -> Result<(), i64> {
    let (at, old) = match end {
        End::Source => (0, quoted.source_port),
        End::Destination => (2, quoted.destination_port),
    };
    let new = port.to_be();
    if old == new {
        return Ok(());
    }
    ctx.l4_csum_replace(checksum, u64::from(old), u64::from(new), 2)?;
    ctx.store(quoted.headers.transport + at, &new, 0)
}
