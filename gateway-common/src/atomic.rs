//! Atomic operations in kernel programs and on the host alike.
//!
//! The kernel has them in the third version of its instruction set (Linux 5.12), as full barriers
//! (Documentation/bpf/standardization/instruction-set.rst); the compiler's target does not know that.

#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Adds and gives what was there before. Nothing passes it, in either direction.
///
/// # Safety
/// The pointer must be valid and aligned, and nobody may write the number but by this module.
#[inline(always)]
pub unsafe fn fetch_add(number: *mut u64, addend: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's.
    unsafe {
        core::intrinsics::atomic_xadd::<_, _, { core::intrinsics::AtomicOrdering::SeqCst }>(
            number, addend,
        )
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's.
    unsafe {
        AtomicU64::from_ptr(number).fetch_add(addend, SeqCst)
    }
}

/// Adds 1 to a number that is even, and says whether it was and has been done.
///
/// # Safety
/// The pointer must be valid and aligned.
#[inline(always)]
pub(crate) unsafe fn make_odd(number: *mut u64) -> bool {
    // SAFETY: the caller's.
    let even = unsafe { number.read_volatile() } & !1;
    #[cfg(target_arch = "bpf")]
    // SAFETY: the caller's.
    unsafe {
        use core::intrinsics::{AtomicOrdering::SeqCst, atomic_cxchg};
        atomic_cxchg::<_, { SeqCst }, { SeqCst }>(number, even, even + 1).1
    }
    #[cfg(not(target_arch = "bpf"))]
    // SAFETY: the caller's.
    unsafe {
        AtomicU64::from_ptr(number)
            .compare_exchange(even, even + 1, SeqCst, SeqCst)
            .is_ok()
    }
}
