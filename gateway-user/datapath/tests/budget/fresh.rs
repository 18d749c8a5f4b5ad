//! Packets of which each begins a flow.
//!
//! The kernel repeats a test run with one packet, whose flow is known from the second run on. A small
//! program in front of the one that is measured prevents that each time, and jumps there.

use std::{
    io,
    mem::offset_of,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use gateway_common::maps::Bucket;

use crate::bpf::{self, Instruction, Program, instruction};

/// Where an IPv4 header after Ethernet has the source address.
const SOURCE: i16 = 26;

/// Where a bucket of `conntrack` says what it holds.
const TAGS: usize = offset_of!(Bucket, tags);

/// What a program in front does to make the packet a flow's first.
#[derive(Clone, Copy)]
pub(crate) enum By<'m> {
    /// Adds one to the source address. The client's part of `conntrack` is another each time, which no
    /// cache holds.
    AnotherClient,
    /// Empties the client's bucket of `conntrack` (the map, the index).
    Forgetting(BorrowedFd<'m>, u32),
}

/// A classifier behind such a program.
pub(crate) struct Fresh {
    program: Program,
    _jump: OwnedFd,
}

impl Fresh {
    pub(crate) fn before(program: BorrowedFd<'_>, by: By<'_>) -> io::Result<Self> {
        let jump = bpf::map(bpf::PROG_ARRAY, 4, 4, 1)?;
        let behind = program.as_raw_fd().to_ne_bytes();
        bpf::update(&jump, &0u32.to_ne_bytes(), &behind)?;
        let mut code = match by {
            By::AnotherClient => another_client(),
            By::Forgetting(conntrack, bucket) => forgetting(conntrack.as_raw_fd(), bucket),
        };
        code.extend(jumping(jump.as_raw_fd()));
        Ok(Self {
            program: Program::load(&code)?,
            _jump: jump,
        })
    }

    /// Nanoseconds of one run, the average of so many.
    pub(crate) fn run(&self, packet: &[u8], repeat: u32) -> io::Result<u32> {
        self.program.run(packet, repeat)
    }
}

/// Adds one to the source address; r6 is the context from then on.
fn another_client() -> Vec<Instruction> {
    vec![
        // r6 = context; r2 = data; r3 = its end (offsets in `struct __sk_buff`)
        instruction(0xbf, 0x16, 0, 0),
        instruction(0x61, 0x12, 76, 0),
        instruction(0x61, 0x13, 80, 0),
        // if data + 34 > end, leave it
        instruction(0xbf, 0x24, 0, 0),
        instruction(0x07, 0x04, 0, 34),
        instruction(0x2d, 0x34, 3, 0),
        // the source address += 1
        instruction(0x61, 0x25, SOURCE, 0),
        instruction(0x04, 0x05, 0, 1),
        instruction(0x63, 0x52, SOURCE, 0),
    ]
}

/// Empties a bucket; r6 is the context from then on.
fn forgetting(conntrack: i32, bucket: u32) -> Vec<Instruction> {
    vec![
        // r6 = context
        instruction(0xbf, 0x16, 0, 0),
        // look the bucket up: r1 = map, r2 = the index on the stack
        instruction(0x62, 0x0a, -4, bucket.cast_signed()),
        instruction(0xbf, 0xa2, 0, 0),
        instruction(0x07, 0x02, 0, -4),
        instruction(0x18, 0x11, 0, conntrack),
        instruction(0x00, 0x00, 0, 0),
        instruction(0x85, 0x00, 0, 1),
        // if there is one, its tags = 0
        instruction(0x15, 0x00, 1, 0),
        instruction(0x7a, 0x00, i16::try_from(TAGS).unwrap_or_default(), 0),
    ]
}

/// Jumps to the program in the map.
fn jumping(jump: i32) -> [Instruction; 7] {
    [
        // tail call: r1 = context, r2 = map, r3 = index
        instruction(0xbf, 0x61, 0, 0),
        instruction(0x18, 0x12, 0, jump),
        instruction(0x00, 0x00, 0, 0),
        instruction(0xb7, 0x03, 0, 0),
        instruction(0x85, 0x00, 0, 12),
        // return 0
        instruction(0xb7, 0x00, 0, 0),
        instruction(0x95, 0x00, 0, 0),
    ]
}
