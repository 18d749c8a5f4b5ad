//! The programs and maps that are there already, of an older layout, or new.

use std::{fs, path::Path};

use aya::Ebpf;
use gateway_common::{conntrack::BUCKETS, maps::SCHEMA};

use super::{
    error::Error,
    features::Features,
    layout,
    maps::Maps,
    upgrade::{self, Upgrade},
};

/// Creates the maps and pins them, or takes over those that are pinned, and reads what they hold.
///
/// # Errors
/// Fails if they have another layout.
pub fn load(pin_dir: &Path) -> Result<(Ebpf, Maps), Error> {
    load_for(Features::probe(), pin_dir)
}

/// As [`load`], for a kernel that can do this.
///
/// # Errors
/// As for [`load`].
pub fn load_for(features: Features, pin_dir: &Path) -> Result<(Ebpf, Maps), Error> {
    prepare(pin_dir)?;
    match layout::version(pin_dir)? {
        None | Some(0 | SCHEMA) => Maps::open(features, pin_dir, BUCKETS),
        Some(found) => Err(Error::Schema {
            path: pin_dir.to_owned(),
            found,
        }),
    }
}

/// As [`load`]; beside maps of an older layout, makes new ones, which take their places when the upgrade
/// is finished. A table of flows that has to be made gets so many buckets (a power of two).
///
/// # Errors
/// Fails if they have a newer layout, and touches nothing then.
pub fn load_or_upgrade(
    pin_dir: &Path,
    buckets: u32,
) -> Result<(Ebpf, Maps, Option<Upgrade>), Error> {
    let features = Features::probe();
    prepare(pin_dir)?;
    match layout::version(pin_dir)? {
        Some(found) if (1..SCHEMA).contains(&found) => {
            upgrade::tidy(pin_dir)?;
            let upgrade = Upgrade::begin(pin_dir, found)?;
            let (ebpf, mut maps) = Maps::open(features, upgrade.directory(), buckets)?;
            upgrade.copy(&mut maps)?;
            Ok((ebpf, maps, Some(upgrade)))
        }
        Some(found) if found > SCHEMA => Err(Error::Schema {
            path: pin_dir.to_owned(),
            found,
        }),
        _ => {
            upgrade::tidy(pin_dir)?;
            let (ebpf, maps) = Maps::open(features, pin_dir, buckets)?;
            Ok((ebpf, maps, None))
        }
    }
}

fn prepare(pin_dir: &Path) -> Result<(), Error> {
    let unusable = |source| Error::PinDir {
        path: pin_dir.to_owned(),
        source,
    };
    layout::on_bpf_file_system(pin_dir).map_err(unusable)?;
    fs::create_dir_all(pin_dir).map_err(unusable)
}
