//! Packets of which each begins a flow.
//!
//! The kernel repeats a test run with one packet, whose flow is known from the second run on. A small
//! program in front of the one that is measured prevents that each time, and jumps there.

use std::{
    io,
    mem::offset_of,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use gateway_common::maps::Bucket;

/// `struct bpf_insn` (include/uapi/linux/bpf.h); the registers are nibbles, the destination's is low.
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, registers: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers,
        offset,
        immediate,
    }
}

/// Commands of `bpf(2)`.
const MAP_CREATE: u32 = 0;
const MAP_UPDATE_ELEM: u32 = 2;
const PROG_LOAD: u32 = 5;
const PROG_TEST_RUN: u32 = 10;
/// `BPF_MAP_TYPE_PROG_ARRAY`
const PROG_ARRAY: u32 = 3;
/// `BPF_PROG_TYPE_SCHED_CLS`
const SCHED_CLS: u32 = 3;

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
    program: OwnedFd,
    _jump: OwnedFd,
}

impl Fresh {
    pub(crate) fn before(program: BorrowedFd<'_>, by: By<'_>) -> io::Result<Self> {
        let jump = open(MAP_CREATE, &[PROG_ARRAY, 4, 4, 1])?;
        let (key, value) = (0u32, program.as_raw_fd());
        let mut update = Attributes::default();
        update.put(0, number(&jump), 4);
        update.put(8, &raw const key as u64, 8);
        update.put(16, &raw const value as u64, 8);
        bpf(MAP_UPDATE_ELEM, &mut update)?;
        let mut code = match by {
            By::AnotherClient => another_client(),
            By::Forgetting(conntrack, bucket) => forgetting(conntrack.as_raw_fd(), bucket),
        };
        code.extend(jumping(jump.as_raw_fd()));
        let mut load = Attributes::default();
        load.put(0, SCHED_CLS.into(), 4);
        load.put(4, code.len() as u64, 4);
        load.put(8, code.as_ptr() as u64, 8);
        load.put(16, c"GPL".as_ptr() as u64, 8);
        let loaded = bpf(PROG_LOAD, &mut load)?;
        Ok(Self {
            // SAFETY: a new descriptor that nobody else has.
            program: unsafe { OwnedFd::from_raw_fd(loaded) },
            _jump: jump,
        })
    }

    /// Nanoseconds of one run, the average of so many.
    pub(crate) fn run(&self, packet: &[u8], repeat: u32) -> io::Result<u32> {
        let mut run = Attributes::default();
        run.put(0, number(&self.program), 4);
        run.put(8, packet.len() as u64, 4);
        run.put(16, packet.as_ptr() as u64, 8);
        run.put(32, repeat.into(), 4);
        bpf(PROG_TEST_RUN, &mut run)?;
        let [.., a, b, c, d] = run.0[..40] else {
            unreachable!("40 bytes")
        };
        Ok(u32::from_ne_bytes([a, b, c, d]))
    }
}

/// `union bpf_attr`, as far as it is used.
struct Attributes([u8; 128]);

impl Default for Attributes {
    fn default() -> Self {
        Self([0; 128])
    }
}

impl Attributes {
    fn put(&mut self, offset: usize, value: u64, size: usize) {
        self.0[offset..offset + size].copy_from_slice(&value.to_le_bytes()[..size]);
    }
}

/// A descriptor as an attribute.
fn number(fd: &OwnedFd) -> u64 {
    fd.as_raw_fd().unsigned_abs().into()
}

fn open(command: u32, words: &[u32]) -> io::Result<OwnedFd> {
    let mut attributes = Attributes::default();
    for (index, word) in words.iter().enumerate() {
        attributes.put(index * 4, (*word).into(), 4);
    }
    let fd = bpf(command, &mut attributes)?;
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf(command: u32, attributes: &mut Attributes) -> io::Result<i32> {
    // SAFETY: the kernel reads and writes the attributes, which are as long as it is told, and what
    // they point to, which outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.0.as_mut_ptr(),
            attributes.0.len(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as i32)
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
