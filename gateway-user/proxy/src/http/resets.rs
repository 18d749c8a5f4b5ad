//! Requests over HTTP/2 that clients reset before they are answered (CVE-2023-44487).
//!
//! As Envoy has it (`maybeDrainDueToPrematureResets` of its source/common/http/conn_manager_impl.cc): a
//! connection is ended once it can't be but that half of its first 500 requests were reset early, or later once half
//! of all were.

use std::{cell::Cell, rc::Rc};

use crate::clock::Tick;

/// `overload.premature_reset_total_stream_count`
const REQUESTS: u32 = 500;

/// Who resets later than this many whole seconds has waited (`overload.premature_reset_min_stream_lifetime_seconds`).
const EARLY: Tick = 1;

/// The requests of a connection.
#[derive(Debug, Default)]
pub(super) struct Resets {
    ended: Cell<u32>,
    early: Cell<u32>,
}

/// A request that has not been answered. Dropped before it is, it was reset.
#[derive(Debug)]
pub(super) struct Unanswered<N: Fn() -> Tick> {
    resets: Rc<Resets>,
    began: Tick,
    now: N,
    is_answered: bool,
}

// === impl Resets ===

impl Resets {
    /// Whether the connection should end.
    pub(super) fn are_too_many(&self) -> bool {
        let of = self.ended.get().max(REQUESTS);
        self.early.get().saturating_mul(2) >= of
    }
}

// === impl Unanswered ===

impl<N: Fn() -> Tick> Unanswered<N> {
    pub(super) fn new(resets: &Rc<Resets>, now: N) -> Self {
        Self {
            resets: Rc::clone(resets),
            began: now(),
            now,
            is_answered: false,
        }
    }

    /// It is answered.
    pub(super) fn answered(mut self) {
        self.is_answered = true;
    }
}

impl<N: Fn() -> Tick> Drop for Unanswered<N> {
    fn drop(&mut self) {
        let Resets { ended, early } = &*self.resets;
        ended.set(ended.get().saturating_add(1));
        if !self.is_answered && (self.now)().wrapping_sub(self.began) <= EARLY {
            early.set(early.get() + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(resets: &Rc<Resets>, count: u32, answered: bool, takes: Tick) {
        let now = Cell::new(7);
        for _ in 0..count {
            let request = Unanswered::new(resets, || now.get());
            now.set(now.get() + takes);
            if answered {
                request.answered();
            }
        }
    }

    #[test]
    fn two_hundred_and_fifty_early_resets_are_too_many() {
        let resets = Rc::default();
        requests(&resets, 249, false, 0);
        assert!(!resets.are_too_many());
        requests(&resets, 1, false, 1);
        assert!(resets.are_too_many());
    }

    #[test]
    fn later_it_is_half_of_all() {
        let resets = Rc::default();
        requests(&resets, 1_000, true, 0);
        requests(&resets, 999, false, 0);
        assert!(!resets.are_too_many());
        requests(&resets, 1, false, 0);
        assert!(resets.are_too_many());
    }

    #[test]
    fn who_has_waited_may_give_up() {
        let resets = Rc::default();
        requests(&resets, 1_000, false, 2);
        assert!(!resets.are_too_many());
    }
}
