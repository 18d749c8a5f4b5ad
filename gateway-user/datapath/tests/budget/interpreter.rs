//! Executes the kernel programs' instructions one by one and counts them.
//!
//! The instruction set is RFC 9669's up to its third version (without what Linux 6.6 added), which the
//! programs are compiled for. What the interpreter makes of a packet is compared with what the kernel
//! makes of it, so that it can't count something else.

use anyhow::{Context as _, bail, ensure};
use aya_obj::generated::bpf_insn;

use crate::{helpers::Helpers, memory::Memory};

/// More than any packet takes; a program that goes on is lost.
const MOST: u64 = 1_000_000;
/// `MAX_BPF_STACK`
const STACK: usize = 512;

/// What a pseudo instruction loads (RFC 9669 §5.4): a map, or an address in a map's value.
const MAP: u8 = 1;
const MAP_VALUE: u8 = 2;
/// A call's source register where it is one of the program's own functions.
const LOCAL: u8 = 1;

/// Fetches what was there before; part of an atomic operation's immediate.
const FETCH: i32 = 1;
const EXCHANGE: i32 = 0xe1;
const COMPARE_AND_EXCHANGE: i32 = 0xf1;

/// Where a function goes on after a call.
struct Frame {
    next: usize,
    saved: [u64; 4],
    stack: u64,
}

/// A program that runs.
pub(crate) struct Interpreter<'a> {
    code: &'a [bpf_insn],
    memory: &'a mut Memory,
    helpers: &'a mut Helpers,
    registers: [u64; 11],
    frames: Vec<Frame>,
    at: usize,
}

/// What has been executed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Executed {
    pub(crate) result: u32,
    pub(crate) instructions: u64,
    /// Those that lock the memory bus.
    pub(crate) atomics: u64,
}

impl<'a> Interpreter<'a> {
    pub(crate) fn new(
        code: &'a [bpf_insn],
        memory: &'a mut Memory,
        helpers: &'a mut Helpers,
    ) -> Self {
        let mut registers = [0; 11];
        registers[1] = helpers.context;
        registers[10] = memory.add(vec![0; STACK]) + STACK as u64;
        Self {
            code,
            memory,
            helpers,
            registers,
            frames: Vec::new(),
            at: 0,
        }
    }

    pub(crate) fn run(mut self) -> anyhow::Result<Executed> {
        let mut executed = Executed::default();
        loop {
            let at = self.at;
            let instruction = *self.code.get(at).context("the program has no end")?;
            executed.instructions += 1;
            executed.atomics += u64::from(instruction.code & 0xe7 == 0xc3);
            ensure!(executed.instructions < MOST, "the program doesn't end");
            self.at += 1;
            let over = self
                .step(instruction)
                .with_context(|| format!("instruction {at}, code {:#04x}", instruction.code))?;
            if over {
                executed.result = self.registers[0] as u32;
                return Ok(executed);
            }
        }
    }

    /// Whether the program is over.
    fn step(&mut self, instruction: bpf_insn) -> anyhow::Result<bool> {
        // The instruction class (RFC 9669 §3.2).
        match instruction.code & 7 {
            0 => self.load_immediate(instruction)?,
            1 => self.load(instruction)?,
            2 | 3 => self.store(instruction)?,
            4 | 7 => self.calculate(instruction)?,
            _ => return self.jump(instruction),
        }
        Ok(false)
    }

    /// The second operand: a register, or the immediate.
    fn operand(&self, instruction: bpf_insn) -> u64 {
        if instruction.code & 8 == 0 {
            i64::from(instruction.imm).cast_unsigned()
        } else {
            self.registers[usize::from(instruction.src_reg())]
        }
    }

    fn load_immediate(&mut self, instruction: bpf_insn) -> anyhow::Result<()> {
        ensure!(instruction.code == 0x18, "is not known");
        let second = self.code.get(self.at).context("is cut off")?;
        self.at += 1;
        let (low, high) = (instruction.imm.cast_unsigned(), second.imm.cast_unsigned());
        self.registers[usize::from(instruction.dst_reg())] = match instruction.src_reg() {
            0 => u64::from(low) | u64::from(high) << 32,
            MAP => u64::from(low),
            MAP_VALUE => self.helpers.value(low)? + u64::from(high),
            kind => bail!("loads something of kind {kind}"),
        };
        Ok(())
    }

    fn load(&mut self, instruction: bpf_insn) -> anyhow::Result<()> {
        ensure!(instruction.code & 0xe0 == 0x60, "is not known");
        let address = place(
            self.registers[usize::from(instruction.src_reg())],
            instruction,
        );
        let value = match self.helpers.pointer(address) {
            Some(pointer) => pointer,
            None => self.memory.number(address, size(instruction.code))?,
        };
        self.registers[usize::from(instruction.dst_reg())] = value;
        Ok(())
    }

    fn store(&mut self, instruction: bpf_insn) -> anyhow::Result<()> {
        let size = size(instruction.code);
        let address = place(
            self.registers[usize::from(instruction.dst_reg())],
            instruction,
        );
        let source = usize::from(instruction.src_reg());
        match (instruction.code & 0xe0, instruction.code & 7) {
            (0x60, 2) => {
                let value = i64::from(instruction.imm).cast_unsigned();
                self.memory.set_number(address, size, value)
            }
            (0x60, _) => self
                .memory
                .set_number(address, size, self.registers[source]),
            (0xc0, 3) => self.atomic(instruction.imm, address, size, source),
            _ => bail!("is not known"),
        }
    }

    fn atomic(
        &mut self,
        operation: i32,
        address: u64,
        size: usize,
        source: usize,
    ) -> anyhow::Result<()> {
        let (old, operand) = (self.memory.number(address, size)?, self.registers[source]);
        if operation == COMPARE_AND_EXCHANGE {
            let expected = truncated(self.registers[0], size);
            if old == expected {
                self.memory.set_number(address, size, operand)?;
            }
            self.registers[0] = old;
            return Ok(());
        }
        let new = match operation & !FETCH {
            0x00 => old.wrapping_add(operand),
            0x40 => old | operand,
            0x50 => old & operand,
            0xa0 => old ^ operand,
            _ if operation == EXCHANGE => operand,
            _ => bail!("is an unknown atomic operation"),
        };
        self.memory.set_number(address, size, new)?;
        if operation & FETCH != 0 {
            self.registers[source] = old;
        }
        Ok(())
    }

    fn calculate(&mut self, instruction: bpf_insn) -> anyhow::Result<()> {
        // With an offset these are others, of the fourth version.
        ensure!(instruction.off == 0, "is not known");
        let bits = if instruction.code & 7 == 7 { 64 } else { 32 };
        let target = usize::from(instruction.dst_reg());
        let value = self.registers[target];
        self.registers[target] = if instruction.code & 0xf0 == 0xd0 {
            swapped(instruction, value)?
        } else {
            let operand = self.operand(instruction);
            calculated(instruction.code & 0xf0, bits, value, operand).context("is not known")?
        };
        Ok(())
    }

    fn jump(&mut self, instruction: bpf_insn) -> anyhow::Result<bool> {
        match instruction.code {
            0x85 => self.call(instruction)?,
            0x95 => return Ok(self.leave()),
            0x05 => self.go(instruction.off.into())?,
            code => {
                let one = self.registers[usize::from(instruction.dst_reg())];
                let other = self.operand(instruction);
                let bits = if code & 7 == 5 { 64 } else { 32 };
                if holds(code & 0xf0, bits, one, other).context("is not known")? {
                    self.go(instruction.off.into())?;
                }
            }
        }
        Ok(false)
    }

    fn go(&mut self, distance: i32) -> anyhow::Result<()> {
        self.at = self
            .at
            .checked_add_signed(distance as isize)
            .context("jumps before the beginning")?;
        Ok(())
    }

    fn call(&mut self, instruction: bpf_insn) -> anyhow::Result<()> {
        if instruction.src_reg() == LOCAL {
            let [.., a, b, c, d, stack] = self.registers;
            self.frames.push(Frame {
                next: self.at,
                saved: [a, b, c, d],
                stack,
            });
            self.registers[10] = self.memory.add(vec![0; STACK]) + STACK as u64;
            return self.go(instruction.imm);
        }
        let [_, first, second, third, fourth, fifth, ..] = self.registers;
        let arguments = [first, second, third, fourth, fifth];
        let helper = instruction.imm.cast_unsigned();
        self.registers[0] = self.helpers.call(helper, arguments, self.memory)?;
        Ok(())
    }

    fn leave(&mut self) -> bool {
        let Some(frame) = self.frames.pop() else {
            return true;
        };
        self.at = frame.next;
        self.registers[6..10].copy_from_slice(&frame.saved);
        self.registers[10] = frame.stack;
        false
    }
}

/// How many bytes an instruction loads or stores (RFC 9669 §5).
const fn size(code: u8) -> usize {
    match code & 0x18 {
        0x00 => 4,
        0x08 => 2,
        0x10 => 1,
        _ => 8,
    }
}

fn place(base: u64, instruction: bpf_insn) -> u64 {
    base.wrapping_add_signed(instruction.off.into())
}

const fn truncated(value: u64, size: usize) -> u64 {
    if size == 4 {
        value as u32 as u64
    } else {
        value
    }
}

/// The value of the lowest bits, with its sign.
const fn signed(value: u64, bits: u32) -> i64 {
    (value << (64 - bits)).cast_signed() >> (64 - bits)
}

/// RFC 9669 §4.1. None if there is no such operation.
fn calculated(operation: u8, bits: u32, value: u64, operand: u64) -> Option<u64> {
    let mask = u64::MAX >> (64 - bits);
    let (value, operand) = (value & mask, operand & mask);
    let shift = operand as u32 & (bits - 1);
    let result = match operation {
        0x00 => value.wrapping_add(operand),
        0x10 => value.wrapping_sub(operand),
        0x20 => value.wrapping_mul(operand),
        0x30 => value.checked_div(operand).unwrap_or(0),
        0x40 => value | operand,
        0x50 => value & operand,
        0x60 => value << shift,
        0x70 => value >> shift,
        0x80 => value.wrapping_neg(),
        0x90 => value.checked_rem(operand).unwrap_or(value),
        0xa0 => value ^ operand,
        0xb0 => operand,
        0xc0 => (signed(value, bits) >> shift).cast_unsigned(),
        _ => return None,
    };
    Some(result & mask)
}

/// RFC 9669 §4.2
fn swapped(instruction: bpf_insn, value: u64) -> anyhow::Result<u64> {
    ensure!(instruction.code & 7 == 4, "is not known");
    let big = instruction.code & 8 != 0;
    Ok(match (instruction.imm, big) {
        (16, true) => (value as u16).swap_bytes().into(),
        (32, true) => (value as u32).swap_bytes().into(),
        (64, true) => value.swap_bytes(),
        (16, false) => u64::from(value as u16),
        (32, false) => u64::from(value as u32),
        (64, false) => value,
        (width, _) => bail!("swaps {width} bits"),
    })
}

/// RFC 9669 §4.3. None if there is no such condition.
fn holds(condition: u8, bits: u32, one: u64, other: u64) -> Option<bool> {
    let mask = u64::MAX >> (64 - bits);
    let (a, b) = (one & mask, other & mask);
    let (signed_a, signed_b) = (signed(one, bits), signed(other, bits));
    Some(match condition {
        0x10 => a == b,
        0x20 => a > b,
        0x30 => a >= b,
        0x40 => a & b != 0,
        0x50 => a != b,
        0x60 => signed_a > signed_b,
        0x70 => signed_a >= signed_b,
        0xa0 => a < b,
        0xb0 => a <= b,
        0xc0 => signed_a < signed_b,
        0xd0 => signed_a <= signed_b,
        _ => return None,
    })
}
