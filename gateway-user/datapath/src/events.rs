//! The rings that the kernel programs write to: what they decide, and what they log.

use std::{io, os::fd::AsFd as _};

use aya::maps::{MapData, RingBuf};
use gateway_common::event::Event;
use tokio::io::unix::AsyncFd;

use super::maps::Logger;

/// The ring that the kernel writes to.
#[expect(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Ring {
    ring: RingBuf<MapData>,
}

impl Ring {
    pub(crate) fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring }
    }

    /// Hands every event to `handle`, for as long as the future is polled. Each time that the ring has been
    /// emptied, `emptied` is called.
    ///
    /// # Errors
    /// Fails when the ring cannot be waited on.
    pub async fn read(
        mut self,
        mut handle: impl FnMut(&Event),
        mut emptied: impl FnMut(),
    ) -> io::Result<()> {
        // The ring's own descriptor cannot be borrowed while it is read.
        let descriptor = self.ring.as_fd().try_clone_to_owned()?;
        // SAFETY: an `OwnedFd` gives the same descriptor until it is dropped.
        let readiness = unsafe { AsyncFd::register(descriptor) }?;
        loop {
            let mut ready = readiness.readable().await?;
            while let Some(item) = self.ring.next() {
                if item.len() >= size_of::<Event>() {
                    // SAFETY: the kernel wrote an `Event`, which any bytes are.
                    handle(&unsafe { item.as_ptr().cast::<Event>().read_unaligned() });
                }
            }
            ready.clear_ready();
            emptied();
        }
    }
}

/// Logs what the kernel programs log, for as long as the future is polled.
///
/// # Errors
/// Fails when the ring cannot be waited on.
pub async fn log(mut logger: Logger) -> io::Result<()> {
    // The ring's own descriptor cannot be borrowed while it is read.
    let descriptor = logger.as_fd().try_clone_to_owned()?;
    // SAFETY: an `OwnedFd` gives the same descriptor until it is dropped.
    let readiness = unsafe { AsyncFd::register(descriptor) }?;
    loop {
        let mut ready = readiness.readable().await?;
        logger.flush();
        ready.clear_ready();
    }
}
