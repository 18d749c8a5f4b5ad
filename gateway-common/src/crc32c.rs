//! SCTP's checksum (RFC 9260 §6.8, appendix A) after a change of a few bytes.
//!
//! A CRC is linear: the CRCs of two messages of one length differ by the CRC of their difference. That is
//! zero but for the bytes that changed, and zeroes that follow multiply by a power of x, which takes as
//! many steps as the length has bits. So no byte of the packet is read.

/// Castagnoli's polynomial, lowest bit first.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// For k from 0: what 2^k bytes of zeroes multiply by.
const POWERS: [u32; 16] = powers();

const fn powers() -> [u32; 16] {
    let mut powers = [0; 16];
    // x^8: 1 is the highest bit.
    powers[0] = 1 << (31 - 8);
    let mut k = 1;
    while k < powers.len() {
        powers[k] = product(powers[k - 1], powers[k - 1]);
        k += 1;
    }
    powers
}

/// The product of two polynomials, modulo [`POLYNOMIAL`].
#[inline(always)]
const fn product(one: u32, other: u32) -> u32 {
    let (mut one, mut other, mut product) = (one, other, 0);
    let mut step = 0;
    while step < 32 {
        // All ones, or none: without a branch there is one way through for the verifier.
        product ^= other & (one >> 31).wrapping_neg();
        one <<= 1;
        other = (other >> 1) ^ (POLYNOMIAL & (other & 1).wrapping_neg());
        step += 1;
    }
    product
}

/// The CRC of a message of which four bytes changed: `difference` is the exclusive or of what they were
/// and are, `following` is how many bytes come after them, at most 65,535. The CRC and the bytes are
/// numbers whose lowest byte comes first, as SCTP's CRC is sent.
#[inline(always)]
pub const fn changed(crc: u32, difference: u32, following: u32) -> u32 {
    // The four bytes themselves, as a polynomial, are followed by their own CRC's worth of zeroes.
    let mut rest = product(difference, POWERS[2]);
    let mut k = 0;
    while k < POWERS.len() {
        let multiplied = product(rest, POWERS[k]);
        let wanted = (following >> k & 1).wrapping_neg();
        rest = multiplied & wanted | rest & !wanted;
        k += 1;
    }
    crc ^ rest
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    fn crc(message: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in message {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg());
            }
        }
        !crc
    }

    #[test]
    fn the_reference_is_the_well_known_function() {
        // The check value of CRC-32C in every catalogue.
        assert_eq!(crc(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_change_is_as_a_computation_anew() {
        for length in [
            4usize, 5, 12, 16, 20, 63, 64, 1000, 1500, 9000, 65_515, 65_535,
        ] {
            let old: Vec<u8> = (0..length).map(|i| (i * 7 + 3) as u8).collect();
            for change in [[0, 0, 0x1f, 0x90], [0xff, 1, 0, 0], [1, 2, 3, 4], [0; 4]] {
                let mut new = old.clone();
                for (byte, change) in new.iter_mut().zip(change) {
                    *byte ^= change;
                }
                let difference = u32::from_le_bytes(change);
                let got = changed(crc(&old), difference, length as u32 - 4);
                assert_eq!(got, crc(&new), "{length} {change:?}");
            }
        }
    }
}
