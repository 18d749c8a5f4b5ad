//! The code of header blocks (RFC 7541, appendix B). It is canonical: lengths are enough to know it.

use std::{collections::BTreeMap, sync::LazyLock};

/// How many bits each byte's code has.
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/// Bytes by the length of their code and the code.
static CODES: LazyLock<BTreeMap<(u8, u32), u8>> = LazyLock::new(|| {
    let mut order: Vec<u8> = (0..=255).collect();
    order.sort_by_key(|&byte| (LENGTHS[usize::from(byte)], byte));
    let (mut code, mut length) = (0, 0);
    let codes = order.into_iter().map(|byte| {
        let own = LENGTHS[usize::from(byte)];
        code <<= own - length;
        length = own;
        code += 1;
        ((length, code - 1), byte)
    });
    codes.collect()
});

/// The bytes that a text stands for; none if it is broken.
pub(super) fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut code, mut length) = (0, 0);
    for byte in packed {
        for bit in (0..8).rev() {
            code = code << 1 | u32::from(byte >> bit & 1);
            length += 1;
            if let Some(byte) = CODES.get(&(length, code)) {
                bytes.push(*byte);
                (code, length) = (0, 0);
            } else if length > 30 {
                return None;
            }
        }
    }
    // What is left is the beginning of the end, which is all ones (section 5.2).
    let is_padding = length < 8 && code == (1 << length) - 1;
    is_padding.then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7541, appendix C.4.1.
    #[test]
    fn texts_are_unpacked_to_the_end() {
        let packed = [
            0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
        ];
        assert_eq!(unpack(&packed).as_deref(), Some(&b"www.example.com"[..]));
        // More than what fills a byte, and what is not all ones.
        assert_eq!(unpack(&[0xff, 0xff]), None);
        assert_eq!(unpack(&[0b0001_1000]), None);
    }
}
