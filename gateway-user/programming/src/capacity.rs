//! How much the maps hold, and how much of that is taken.

use gateway_common::maps::{MAX_BACKENDS, MAX_SERVICES, MAX_SLOTS};

/// A number of elements in each of the maps that may be too small.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// `services`
    pub services: usize,
    /// `slots`
    pub slots: usize,
    /// `backends`
    pub backends: usize,
}

impl Capacity {
    /// The maps' own.
    pub const MAPS: Self = Self {
        services: MAX_SERVICES as usize,
        slots: MAX_SLOTS as usize,
        backends: MAX_BACKENDS as usize,
    };

    /// The name of a map that has not so much room, if there is one.
    pub(crate) fn exceeded(self, limit: Self) -> Option<&'static str> {
        if self.services > limit.services {
            Some("services")
        } else if self.slots > limit.slots {
            Some("slots")
        } else if self.backends > limit.backends {
            Some("backends")
        } else {
            None
        }
    }

    /// Takes more, or says which map has not enough left.
    pub(crate) fn take(&mut self, more: Self, limit: Self) -> Result<(), &'static str> {
        let sum = self.plus(more);
        if let Some(map) = sum.exceeded(limit) {
            return Err(map);
        }
        *self = sum;
        Ok(())
    }

    pub(crate) fn plus(self, more: Self) -> Self {
        Self {
            services: self.services + more.services,
            slots: self.slots + more.slots,
            backends: self.backends + more.backends,
        }
    }

    pub(crate) fn minus(self, less: Self) -> Self {
        Self {
            services: self.services - less.services,
            slots: self.slots - less.slots,
            backends: self.backends - less.backends,
        }
    }
}
