//! `bpf(2)`, for what aya has no words for: programs written down instruction by instruction, their
//! test runs, and elements of any map as bytes.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

/// `BPF_MAP_TYPE_HASH`
pub(crate) const HASH: u32 = 1;
/// `BPF_MAP_TYPE_ARRAY`
pub(crate) const ARRAY: u32 = 2;
/// `BPF_MAP_TYPE_PROG_ARRAY`
pub(crate) const PROG_ARRAY: u32 = 3;

/// Commands of `bpf(2)`.
const MAP_CREATE: u32 = 0;
const MAP_LOOKUP_ELEM: u32 = 1;
const MAP_UPDATE_ELEM: u32 = 2;
const PROG_LOAD: u32 = 5;
const PROG_TEST_RUN: u32 = 10;
/// `BPF_PROG_TYPE_SCHED_CLS`
const SCHED_CLS: u32 = 3;

/// `struct bpf_insn` (include/uapi/linux/bpf.h); the registers are nibbles, the destination's is low.
#[repr(C)]
pub(crate) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

pub(crate) const fn instruction(
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
) -> Instruction {
    Instruction {
        code,
        registers,
        offset,
        immediate,
    }
}

/// A classifier.
pub(crate) struct Program(OwnedFd);

impl Program {
    pub(crate) fn load(code: &[Instruction]) -> io::Result<Self> {
        let mut load = Attributes::default();
        load.put(0, SCHED_CLS.into(), 4);
        load.put(4, code.len() as u64, 4);
        load.put(8, code.as_ptr() as u64, 8);
        load.put(16, c"GPL".as_ptr() as u64, 8);
        let loaded = call(PROG_LOAD, &mut load)?;
        // SAFETY: a new descriptor that nobody else has.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(loaded) }))
    }

    /// Nanoseconds of one run, the average of so many.
    pub(crate) fn run(&self, packet: &[u8], repeat: u32) -> io::Result<u32> {
        let mut run = Attributes::default();
        run.put(0, number(&self.0), 4);
        run.put(8, packet.len() as u64, 4);
        run.put(16, packet.as_ptr() as u64, 8);
        run.put(32, repeat.into(), 4);
        call(PROG_TEST_RUN, &mut run)?;
        let [.., a, b, c, d] = run.0[..40] else {
            unreachable!("40 bytes")
        };
        Ok(u32::from_ne_bytes([a, b, c, d]))
    }
}

/// A map of this kind; sizes in bytes.
pub(crate) fn map(kind: u32, key: u32, value: u32, entries: u32) -> io::Result<OwnedFd> {
    let mut attributes = Attributes::default();
    for (index, word) in [kind, key, value, entries].into_iter().enumerate() {
        attributes.put(index * 4, word.into(), 4);
    }
    let fd = call(MAP_CREATE, &mut attributes)?;
    // SAFETY: a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn update(map: &OwnedFd, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut update = Attributes::default();
    update.put(0, number(map), 4);
    update.put(8, key.as_ptr() as u64, 8);
    update.put(16, value.as_ptr() as u64, 8);
    call(MAP_UPDATE_ELEM, &mut update)?;
    Ok(())
}

/// What a map has under a key; `size` is that of its values.
pub(crate) fn element(map: BorrowedFd<'_>, key: &[u8], size: usize) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; size];
    let mut look = Attributes::default();
    look.put(0, map.as_raw_fd().unsigned_abs().into(), 4);
    look.put(8, key.as_ptr() as u64, 8);
    look.put(16, value.as_mut_ptr() as u64, 8);
    match call(MAP_LOOKUP_ELEM, &mut look) {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
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

fn call(command: u32, attributes: &mut Attributes) -> io::Result<i32> {
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
