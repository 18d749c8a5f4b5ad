//! From maps of an older layout to this nodegate's, while traffic flows.
//!
//! The programs in the kernel go on working on the old maps until the new ones are complete:
//!
//! 1. New maps are made and pinned in a directory beside the old ones. What only the kernel programs
//!    write, such as flows, and is laid out as before is not made anew: old and new programs work on
//!    the same map, so that no packet between them is lost on either. The numbers of Services and
//!    endpoints, by which flows go, are copied.
//! 2. The first Snapshot is written into the new maps.
//! 3. The links get the new programs, each at once (`BPF_LINK_UPDATE`).
//! 4. The new pins take the old ones' places, `settings` first: it says which layout it is. A daemon
//!    that dies before that leaves the old maps as they were, and the next daemon begins anew; after a
//!    daemon that dies later, the next one finishes the job.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use aya::maps::{Array, HashMap, Map, MapData, MapInfo};
use gateway_common::maps::{Backend, Bucket, SCHEMA, ServiceName, Settings};
use tracing::{debug, info, warn};

use super::{
    error::Error,
    layout::{self, Carry, MAPS, Pinned},
    links,
    maps::Maps,
    sys,
};

mod flows;

/// Maps on the way to this layout are pinned in the directory of this name, and a number.
const DIRECTORY: &str = "layout_";

/// An upgrade under way.
#[derive(Debug)]
pub struct Upgrade {
    pin_dir: PathBuf,
    /// Where the new maps are until the old ones' places are free.
    directory: PathBuf,
    /// The old layout.
    from: u32,
}

/// Ends what an earlier daemon began: an upgrade that was decided is finished, others are dropped.
pub(crate) fn tidy(pin_dir: &Path) -> Result<(), Error> {
    let Ok(entries) = fs::read_dir(pin_dir) else {
        return Ok(());
    };
    let decided = layout::version(pin_dir)? == Some(SCHEMA);
    for entry in entries.flatten() {
        let path = entry.path();
        if !is_directory(&path) {
            continue;
        }
        if decided && path == own_directory(pin_dir) {
            info!(directory = %path.display(), "finishing an upgrade that was interrupted");
            take_places(pin_dir, &path)?;
        } else {
            debug!(directory = %path.display(), "dropping an upgrade that was interrupted");
            remove(&path)?;
        }
    }
    Ok(())
}

/// Whether it is where maps are pinned during an upgrade.
pub(crate) fn is_directory(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(DIRECTORY.as_bytes())
}

/// Removes such a directory and what is pinned there.
pub(crate) fn remove(directory: &Path) -> Result<(), Error> {
    let failed = |source| unusable(directory, source);
    for entry in fs::read_dir(directory).map_err(failed)? {
        fs::remove_file(entry.map_err(failed)?.path()).map_err(failed)?;
    }
    fs::remove_dir(directory).map_err(failed)
}

fn own_directory(pin_dir: &Path) -> PathBuf {
    pin_dir.join(format!("{DIRECTORY}{SCHEMA}"))
}

fn unusable(path: &Path, source: io::Error) -> Error {
    Error::PinDir {
        path: path.to_owned(),
        source,
    }
}

impl Upgrade {
    /// Makes the directory for the new maps, and pins the maps there that are to be kept.
    pub(crate) fn begin(pin_dir: &Path, from: u32) -> Result<Self, Error> {
        let upgrade = Self {
            pin_dir: pin_dir.to_owned(),
            directory: own_directory(pin_dir),
            from,
        };
        fs::create_dir(&upgrade.directory)
            .map_err(|source| unusable(&upgrade.directory, source))?;
        for map in MAPS.iter().filter(|map| upgrade.shares(map)) {
            let (old, new) = (upgrade.old(map), upgrade.directory.join(map.pin));
            let shared = sys::open(&old).and_then(|map| sys::pin(&map, &new));
            // Without it, the map is made anew: flows are lost, not the node.
            if let Err(error) = shared {
                warn!(map = map.pin, %error, "not carried over into the new layout");
            }
        }
        Ok(upgrade)
    }

    /// Where the new maps are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn old(&self, map: &Pinned) -> PathBuf {
        self.pin_dir.join(map.pin)
    }

    /// Whether the map was laid out then as it is now. Of flows, their size tells.
    fn is_as_before(&self, map: &Pinned) -> bool {
        if map.pin == "conntrack" {
            let old = MapInfo::from_pin(self.old(map)).map(|info| info.value_size());
            return old.is_ok_and(|size| size as usize == size_of::<Bucket>());
        }
        map.since <= self.from
    }

    fn named(&self, pin: &str) -> Option<&'static Pinned> {
        let mut maps = MAPS.iter();
        maps.find(|map| map.pin == pin && self.is_as_before(map))
    }

    /// Whether Services and endpoints keep their numbers.
    fn keeps_numbers(&self) -> bool {
        self.named("backends").is_some() && self.named("service_names").is_some()
    }

    fn shares(&self, map: &Pinned) -> bool {
        let may = match map.upgrade {
            Carry::Shared => true,
            Carry::SharedByNumber => self.keeps_numbers(),
            Carry::Anew => false,
        };
        may && self.is_as_before(map)
    }

    /// Copies what is to be found again by its number, and what flows are found by.
    pub(crate) fn copy(&self, maps: &mut Maps) -> Result<(), Error> {
        if let Some(map) = self.named("settings") {
            let old: Array<MapData, Settings> = open(&self.old(map), "settings")?;
            let wrap = |source| Error::Map {
                name: "settings",
                source,
            };
            let old = old.get(&0, 0).map_err(wrap)?;
            let settings = Settings { schema: 0, ..old };
            maps.set_settings(&settings)?;
        }
        if !self.keeps_numbers() {
            return Ok(());
        }
        let backends: HashMap<MapData, u32, Backend> =
            open(&self.pin_dir.join("backends"), "backends")?;
        let names: HashMap<MapData, u32, ServiceName> =
            open(&self.pin_dir.join("service_names"), "service_names")?;
        maps.number(
            backends.iter().filter_map(Result::ok),
            names.iter().filter_map(Result::ok),
        )
    }

    /// Copies the flows of an older layout that the new table has not; it has them all where it is the same
    /// map.
    pub(crate) fn copy_flows(&self, maps: &mut Maps) -> Result<usize, Error> {
        flows::copy(&self.pin_dir.join("conntrack"), maps)
    }

    /// Leaves the old maps as they are.
    pub(crate) fn abandon(self) {
        if let Err(error) = remove(&self.directory) {
            // The next daemon does.
            warn!(%error, "the new maps stay beside the old ones");
        }
    }

    /// Puts the new pins into the old ones' places, after the links have got the new programs.
    ///
    /// # Errors
    /// Fails if a pin cannot be moved; the next daemon finishes it then.
    pub fn finish(&self) -> Result<(), Error> {
        take_places(&self.pin_dir, &self.directory)?;
        info!(from = self.from, to = SCHEMA, "the maps have a new layout");
        Ok(())
    }
}

fn open<M>(pin: &Path, name: &'static str) -> Result<M, Error>
where
    M: TryFrom<Map, Error = aya::maps::MapError>,
{
    let wrap = |source| Error::Map { name, source };
    let data = MapData::from_pin(pin).map_err(wrap)?;
    let map = Map::from_map_data(data).map_err(wrap)?;
    map.try_into().map_err(wrap)
}

/// Moves the pins, `settings` first; and removes those of maps that there are none of any more.
fn take_places(pin_dir: &Path, directory: &Path) -> Result<(), Error> {
    let failed = |source| unusable(pin_dir, source);
    let settings = MAPS.iter().filter(|map| map.pin == "settings");
    let others = MAPS.iter().filter(|map| map.pin != "settings");
    for map in settings.chain(others) {
        match fs::rename(directory.join(map.pin), pin_dir.join(map.pin)) {
            // An earlier daemon, which was interrupted, has moved it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            moved => moved.map_err(failed)?,
        }
    }
    remove(directory)?;
    let known: BTreeSet<PathBuf> = MAPS.iter().map(|map| pin_dir.join(map.pin)).collect();
    for entry in fs::read_dir(pin_dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        // Directories are other people's.
        if !links::is_link(&path) && !path.is_dir() && !known.contains(&path) {
            fs::remove_file(&path).map_err(failed)?;
        }
    }
    Ok(())
}
