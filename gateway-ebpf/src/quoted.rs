//! The packet that an ICMP error quotes.

use aya_ebpf::programs::TcContext;
use gateway_common::conntrack::Ends;

use crate::headers::{Headers, ICMP, ICMPV6, Unhandled};

/// Length of an ICMP header before the quoted packet, in both families.
const ICMP_HEADER: usize = 8;

/// The quoted packet.
#[repr(C)]
pub(crate) struct Quoted {
    pub(crate) headers: Headers,
    /// As on the wire.
    pub(crate) source_port: u16,
    /// As on the wire.
    pub(crate) destination_port: u16,
}

/// Whose packets an error quotes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    /// The backend's, which left here with the frontend's address.
    Replies,
    /// The client's, which arrived at the backend with that one's address.
    Requests,
}

impl Quoted {
    /// Reads the packet that an ICMP error quotes; other ICMP is not ours.
    #[inline(always)]
    pub(crate) fn read(&mut self, ctx: &TcContext, outer: &Headers) -> Result<(), Unhandled> {
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
    pub(crate) fn ends(&self, about: About, ends: &mut Ends) {
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
