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
    conntrack::{Record, Search, Sender},
    decide::Reason,
};

use crate::{
    action::{DROP, NEXT},
    headers::{End, Headers, Ipv4Header, Unhandled, address_diff, word},
    maps::{bucket, count, place},
    quoted::{About, Quoted},
    scratch::Scratch,
};

/// Offset of the checksum in an ICMP header.
const ICMP_CHECKSUM: usize = 2;

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
        let diff = address_diff(old, address);
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
