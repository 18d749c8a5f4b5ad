//! Looks after what is pinned: anybody with enough rights can remove pins, detach links and write into maps.
//!
//! What is missing is put back, and told. Filters on clsact qdiscs have no pins, and are not looked at.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use aya::maps::MapInfo;
use tracing::{error, warn};

use super::{
    layout::{MAPS, Pinned},
    sys,
};

/// How often is looked. Whoever asks does so every two seconds: so something is noticed within five.
const LOOK: Duration = Duration::from_secs(3);
/// Looking takes at most this part of the time: the maps may hold a hundred thousand elements.
const SHARE: u32 = 50;
/// The longest pause.
const LOOK_AT_LEAST: Duration = Duration::from_secs(30);

/// The maps that are pinned, held open.
#[derive(Debug)]
pub(crate) struct Upkeep {
    pin_dir: PathBuf,
    maps: Vec<Held>,
    /// When to look again.
    due: Instant,
}

#[derive(Debug)]
struct Held {
    pinned: &'static Pinned,
    id: u32,
    map: OwnedFd,
}

impl Upkeep {
    /// Takes hold of what is pinned now.
    pub(crate) fn new(pin_dir: &Path) -> Self {
        let held = |pinned: &'static Pinned| {
            let pin = pin_dir.join(pinned.pin);
            Some(Held {
                pinned,
                id: MapInfo::from_pin(&pin).ok()?.id(),
                map: sys::open(&pin).ok()?,
            })
        };
        Self {
            pin_dir: pin_dir.to_owned(),
            maps: MAPS.iter().filter_map(held).collect(),
            due: Instant::now() + LOOK,
        }
    }

    /// Whether it is time to look.
    pub(crate) fn is_due(&self) -> bool {
        Instant::now() >= self.due
    }

    /// Notes that a look has begun then, and has ended.
    pub(crate) fn looked(&mut self, begun: Instant) {
        let pause = (begun.elapsed() * SHARE).clamp(LOOK, LOOK_AT_LEAST);
        self.due = Instant::now() + pause;
    }

    /// Pins again what somebody has removed, or put something else in the place of.
    pub(crate) fn mend_pins(&self) {
        for held in &self.maps {
            let pin = self.pin_dir.join(held.pinned.pin);
            let found = MapInfo::from_pin(&pin).map(|info| info.id());
            if found.is_ok_and(|id| id == held.id) {
                continue;
            }
            match self.pin(held, &pin) {
                Ok(()) => warn!(
                    pin = %pin.display(),
                    "somebody else has removed or replaced the pin: it is set again"
                ),
                Err(error) => error!(
                    pin = %pin.display(),
                    %error,
                    "somebody else has removed or replaced the pin, and it cannot be set again: the next \
                     nodegate will not find these maps (fix: start nodegate again)"
                ),
            }
        }
    }

    fn pin(&self, held: &Held, pin: &Path) -> io::Result<()> {
        fs::create_dir_all(&self.pin_dir)?;
        match fs::remove_file(pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        sys::pin(&held.map, pin)
    }
}
