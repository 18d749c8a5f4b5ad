//! One daemon for a directory of pins: two would write into each other's maps.

use std::{
    fs::{self, File},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use tracing::info;

use super::{contents::Pins, error::Error, layout};

/// How often is asked whether the other one has ended.
const LOOK: Duration = Duration::from_millis(50);

/// The right to write what is pinned in a directory, for as long as this lives. The kernel takes it back
/// when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "it is held")] Flock<File>);

impl Lock {
    /// Takes it. Waits for a daemon that is about to end, for so long at most: that is a hand-over.
    ///
    /// # Errors
    /// Fails if another daemon goes on, and where the directory cannot be made.
    pub fn take(pin_dir: &Path, patience: Duration) -> Result<Self, Error> {
        let unusable = |source| Error::PinDir {
            path: pin_dir.to_owned(),
            source,
        };
        layout::on_bpf_file_system(pin_dir).map_err(unusable)?;
        fs::create_dir_all(pin_dir).map_err(unusable)?;
        let deadline = Instant::now() + patience;
        let mut told = false;
        let mut directory = File::open(pin_dir).map_err(unusable)?;
        loop {
            match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(Self(lock)),
                Err((given_back, Errno::EWOULDBLOCK)) => directory = given_back,
                Err((_, error)) => return Err(unusable(error.into())),
            }
            let pid = Pins::open(pin_dir).and_then(|pins| pins.daemon());
            let pid = pid.ok().flatten().map(|daemon| daemon.pid);
            if Instant::now() >= deadline {
                return Err(Error::Taken {
                    path: pin_dir.to_owned(),
                    pid,
                });
            }
            if !told {
                info!(?pid, pins = %pin_dir.display(), "waiting for another nodegate to end");
                told = true;
            }
            thread::sleep(LOOK);
        }
    }
}
