//! A program of fixed work, to measure time in: what slows a machine slows it as well.
//!
//! It is written down instruction by instruction, so that no compiler changes it, and does what the
//! measured programs do, in about their proportions: it looks elements up, copies addresses about, mends
//! checksums, writes into the packet.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use crate::bpf::{self, Instruction, Program, instruction};

/// Elements of the hash map, more than one cache line's.
const ELEMENTS: u32 = 1024;
/// The size of its keys, as those of `services`.
const KEY: u32 = 24;
/// How often words are copied about.
const COPIES: i32 = 120;

/// Helpers (`enum bpf_func_id`).
const LOOK_UP: i32 = 1;
const RANDOM: i32 = 7;
const STORE_BYTES: i32 = 9;
const L4_CSUM_REPLACE: i32 = 11;
const COARSE_TIME: i32 = 160;

/// Where an IPv4 header after Ethernet has the addresses, and TCP after that the checksum.
const ADDRESSES: i32 = 26;
const CHECKSUM: i32 = 50;

pub(crate) struct Reference {
    program: Program,
    _maps: [OwnedFd; 2],
}

impl Reference {
    pub(crate) fn new() -> io::Result<Self> {
        let hash = bpf::map(bpf::HASH, KEY, 16, ELEMENTS)?;
        for number in 0..ELEMENTS {
            let mut key = [0; KEY as usize];
            key[..4].copy_from_slice(&number.to_ne_bytes());
            bpf::update(&hash, &key, &[1; 16])?;
        }
        let array = bpf::map(bpf::ARRAY, 4, 64, 16)?;
        Ok(Self {
            program: Program::load(&code(&hash, &array))?,
            _maps: [hash, array],
        })
    }

    /// Nanoseconds of one run, the average of so many.
    pub(crate) fn run(&self, packet: &[u8], repeat: u32) -> io::Result<u32> {
        self.program.run(packet, repeat)
    }
}

/// r6 is the context, r7 a sum, r8 an element of the array.
fn code(hash: &OwnedFd, array: &OwnedFd) -> Vec<Instruction> {
    let mut code = vec![instruction(0xbf, 0x16, 0, 0), instruction(0xb7, 0x07, 0, 1)];
    // The stack, from -64 on, is what is copied about.
    for slot in 1..=8 {
        code.push(instruction(0x7a, 0x0a, -8 * slot, slot.into()));
    }
    for number in [7, 600] {
        code.extend(in_hash(hash, number));
    }
    for number in [3, 11] {
        code.extend(in_array(array, number));
    }
    code.extend((0..COPIES).flat_map(copy));
    code.extend([
        instruction(0x85, 0, 0, COARSE_TIME),
        instruction(0x0f, 0x07, 0, 0),
        instruction(0x85, 0, 0, RANDOM),
        instruction(0x0f, 0x07, 0, 0),
    ]);
    for _ in 0..2 {
        code.extend(mend());
        code.extend(write());
    }
    // return 0
    code.extend([instruction(0xb7, 0, 0, 0), instruction(0x95, 0, 0, 0)]);
    code
}

/// r0 = the map's element under the key at r10 + `key`.
fn look_up(map: &OwnedFd, key: i32) -> [Instruction; 5] {
    [
        instruction(0xbf, 0xa2, 0, 0),
        instruction(0x07, 0x02, 0, key),
        instruction(0x18, 0x11, 0, map.as_raw_fd()),
        instruction(0x00, 0x00, 0, 0),
        instruction(0x85, 0x00, 0, LOOK_UP),
    ]
}

/// Adds what the hash map has to the sum.
fn in_hash(map: &OwnedFd, number: i32) -> Vec<Instruction> {
    let mut code = vec![
        instruction(0x7a, 0x0a, -96, number),
        instruction(0x7a, 0x0a, -88, 0),
        instruction(0x7a, 0x0a, -80, 0),
    ];
    code.extend(look_up(map, -96));
    code.extend([
        // if there is one: r0 = its first word, the sum += r0
        instruction(0x15, 0x00, 2, 0),
        instruction(0x79, 0x00, 0, 0),
        instruction(0x0f, 0x07, 0, 0),
    ]);
    code
}

/// Writes the sum into an element of the array, in an atomic operation.
fn in_array(map: &OwnedFd, number: i32) -> Vec<Instruction> {
    let mut code = vec![instruction(0x62, 0x0a, -100, number)];
    code.extend(look_up(map, -100));
    code.extend([
        // if there is one: lock *r0 += the sum
        instruction(0x15, 0x00, 1, 0),
        instruction(0xdb, 0x70, 0, 0),
    ]);
    code
}

/// Copies a word of the stack to another, and mixes it into the sum.
fn copy(number: i32) -> [Instruction; 5] {
    let slot = |number: i32| -8 - 8 * (number % 8) as i16;
    [
        instruction(0x79, 0xa1, slot(number), 0),
        instruction(0x0f, 0x17, 0, 0),
        instruction(0xa7, 0x07, 0, 0x55 + number),
        instruction(0x77, 0x01, 0, 3),
        instruction(0x7b, 0x1a, slot(number * 3 + 1), 0),
    ]
}

/// Mends the packet's checksum after a change that is none.
fn mend() -> [Instruction; 6] {
    [
        instruction(0xbf, 0x61, 0, 0),
        instruction(0xb7, 0x02, 0, CHECKSUM),
        instruction(0xb7, 0x03, 0, 0x1234),
        instruction(0xb7, 0x04, 0, 0x1234),
        instruction(0xb7, 0x05, 0, 4),
        instruction(0x85, 0x00, 0, L4_CSUM_REPLACE),
    ]
}

/// Writes eight bytes into the packet.
fn write() -> [Instruction; 7] {
    [
        instruction(0xbf, 0x61, 0, 0),
        instruction(0xb7, 0x02, 0, ADDRESSES),
        instruction(0xbf, 0xa3, 0, 0),
        instruction(0x07, 0x03, 0, -8),
        instruction(0xb7, 0x04, 0, 8),
        instruction(0xb7, 0x05, 0, 0),
        instruction(0x85, 0x00, 0, STORE_BYTES),
    ]
}
