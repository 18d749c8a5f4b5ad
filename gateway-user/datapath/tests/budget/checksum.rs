//! Internet checksums (RFC 1071) as the kernel's helpers mend them (net/core/filter.c).

/// The size of what is replaced: the lowest bits of the flags; 0: what comes is a difference already.
const SIZE: u64 = 0xf;
/// `BPF_F_MARK_MANGLED_0`: 0 stands for "no checksum".
const MARK_MANGLED_0: u64 = 0x20;

/// A checksum after a part of what it covers was replaced.
pub(crate) fn replaced(sum: u16, from: u64, to: u64, flags: u64) -> u16 {
    let may_be_none = flags & MARK_MANGLED_0 != 0;
    if may_be_none && sum == 0 {
        return 0;
    }
    let old = match flags & SIZE {
        0 => 0,
        2 => u64::from(!(from as u16)),
        _ => u64::from(!(from as u32)),
    };
    let mended = !folded(u64::from(!sum) + old + u64::from(to as u32));
    if may_be_none && mended == 0 {
        return 0xffff;
    }
    mended
}

/// The difference that one text makes in place of another.
pub(crate) fn difference(old: &[u8], new: &[u8], seed: u32) -> u16 {
    let sum = |bytes: &[u8]| {
        let words = bytes.chunks(2).map(|word| match *word {
            [low, high] => u64::from(u16::from_le_bytes([low, high])),
            [last] => u64::from(last),
            _ => 0,
        });
        words.sum::<u64>()
    };
    folded(u64::from(seed) + sum(new) + u64::from(!folded(sum(old))))
}

/// Adds what has been carried.
fn folded(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
