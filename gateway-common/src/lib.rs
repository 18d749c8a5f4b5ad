//! What the kernel programs and userspace agree on.
//!
//! - [`maps`]: keys and values of the pinned maps (the ABI, versioned by [`maps::SCHEMA`]);
//! - [`conntrack`]: the table of translated flows, and how it is searched and changed;
//! - [`crc32c`]: SCTP's checksum after a change of ports;
//! - [`event`]: the record that the kernel emits for a decision when somebody traces;
//! - [`decide`]: the decision core. The function that decides a flow's fate in the kernel is this
//!   source, compiled for BPF; the tests and the explanations on the host call the same function.
//!
//! Rules of the crate: `no_std`, no allocation, no panic (a reachable panic does not pass the
//! verifier), every struct `repr(C)` without implicit padding. Addresses are 16 bytes in network
//! order, IPv4 as `::ffff:a.b.c.d`; ports and all other integers are in host byte order, so that
//! `bpftool map dump` shows them as people write them.
#![no_std]
#![cfg_attr(
    target_arch = "bpf",
    feature(core_intrinsics),
    expect(
        internal_features,
        reason = "the compiler's BPF target has no atomics that read and write, the kernel has"
    )
)]
#![expect(
    clippy::inline_always,
    reason = "BPF passes at most five arguments and no struct by value between functions"
)]

pub mod atomic;
pub mod conntrack;
pub mod crc32c;
pub mod decide;
pub mod event;
pub mod maps;

/// An IPv6 address, or an IPv4 one as `::ffff:a.b.c.d`, in network byte order.
pub type Address = [u8; 16];

/// The address that stands for "none": all zeroes.
pub const UNSPECIFIED: Address = [0; 16];

/// `IPPROTO_TCP` (RFC 9293 §3.1, IANA protocol numbers).
pub const TCP: u8 = 6;

/// `IPPROTO_UDP` (RFC 768).
pub const UDP: u8 = 17;

/// `IPPROTO_SCTP` (RFC 9260 §3).
pub const SCTP: u8 = 132;

/// Maps an IPv4 address into [`Address`] (RFC 4291 §2.5.5.2).
#[inline(always)]
pub const fn mapped(v4: [u8; 4]) -> Address {
    [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3],
    ]
}

/// Whether the address is an IPv4 one.
#[inline(always)]
pub const fn is_v4(address: &Address) -> bool {
    let (head, tail) = halves(address);
    head == 0 && tail >> 32 == 0xffff
}

/// The first 8 bytes as they are, for a comparison with 0; the last 8 as a number.
#[inline(always)]
const fn halves(address: &Address) -> (u64, u64) {
    let (head, tail) = address.split_at(8);
    // Both are 8 bytes long; a copy of one is the array that `from_…_bytes` wants.
    let (mut first, mut second) = ([0; 8], [0; 8]);
    first.copy_from_slice(head);
    second.copy_from_slice(tail);
    (u64::from_ne_bytes(first), u64::from_be_bytes(second))
}

/// Whether the address is in `127.0.0.0/8` (as mapped IPv4) or is `::1`.
#[inline(always)]
pub const fn is_loopback(address: &Address) -> bool {
    let (head, tail) = halves(address);
    head == 0 && (tail == 1 || tail >> 24 == 0x00ff_ff7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_the_whole_of_127_and_nothing_else() {
        assert!(is_loopback(&mapped([127, 0, 0, 1])));
        assert!(is_loopback(&mapped([127, 255, 255, 254])));
        assert!(!is_loopback(&mapped([128, 0, 0, 1])));
        assert!(!is_loopback(&mapped([10, 0, 0, 1])));
        let mut v6 = UNSPECIFIED;
        assert!(!is_loopback(&v6));
        v6[15] = 1;
        assert!(is_loopback(&v6));
        v6[0] = 0xfd;
        assert!(!is_loopback(&v6));
    }

    #[test]
    fn families_are_told_apart() {
        assert!(is_v4(&mapped([10, 0, 0, 1])));
        assert!(is_v4(&mapped([0; 4])));
        assert!(!is_v4(&UNSPECIFIED));
        let mut v6 = mapped([10, 0, 0, 1]);
        v6[0] = 0xfd;
        assert!(!is_v4(&v6));
    }
}
