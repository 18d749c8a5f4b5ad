//! Which maps are pinned, where, and since when each is laid out as it is.

use std::{collections::BTreeSet, io, path::Path};

use aya::maps::{Array, Map, MapData, MapInfo};
use gateway_common::maps::{SCHEMA, Settings};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{error::Error, sys};

/// A map that is pinned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pinned {
    /// Its name in the object.
    pub(crate) name: &'static str,
    /// Its pin.
    pub(crate) pin: &'static str,
    /// The version since which it is laid out as it is.
    pub(crate) since: u32,
    /// What becomes of it when another map's layout changes.
    pub(crate) upgrade: Carry,
}

/// What a new layout does to a map that is laid out as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carry {
    /// It is made anew, and written by the daemon.
    Anew,
    /// The old programs and the new ones work on the same map.
    Shared,
    /// The same, if Services and endpoints keep their numbers.
    SharedByNumber,
}

/// Every map that is pinned. `scratch` is not: nothing in it outlives a packet. A change of a map's
/// layout is a change of `SCHEMA` in gateway-common, and of `since` here.
pub(crate) const MAPS: [Pinned; 21] = [
    pinned_as("settings", 3, Carry::Anew),
    pinned_as("services", 2, Carry::Anew),
    pinned_as("slots", 4, Carry::Anew),
    pinned_as("backends", 2, Carry::Anew),
    pinned_as("turns", 6, Carry::SharedByNumber),
    pinned_as("shares", 6, Carry::SharedByNumber),
    pinned_as("source_ranges", 2, Carry::Anew),
    pinned_as("pod_networks", 2, Carry::Anew),
    pinned_as("node_addresses", 2, Carry::Anew),
    pinned_as("service_names", 2, Carry::Anew),
    pinned_as("heartbeat", 4, Carry::Anew),
    pinned_as("affinity", 2, Carry::SharedByNumber),
    pinned_as("conntrack", 7, Carry::SharedByNumber),
    pinned_as("fragments", 2, Carry::Shared),
    pinned_as("sockets", 2, Carry::SharedByNumber),
    pinned_as("counters", 5, Carry::Shared),
    pinned_as("events", 3, Carry::Anew),
    pinned_as("events_lost", 7, Carry::Anew),
    pinned_as("trace_filter", 3, Carry::Anew),
    pinned_as("trace_services", 3, Carry::Anew),
    // The name that aya-log gives its ring. Adopted programs go on writing to it.
    Pinned {
        name: "AYA_LOGS",
        ..pinned_as("log", 1, Carry::Anew)
    },
];

const fn pinned_as(name: &'static str, since: u32, upgrade: Carry) -> Pinned {
    Pinned {
        name,
        pin: name,
        since,
        upgrade,
    }
}

/// Whether a pin has the name of one of our maps.
pub(crate) fn is_pin(pin: &Path) -> bool {
    pin.file_name()
        .is_some_and(|name| MAPS.iter().any(|map| name == map.pin))
}

/// The directory itself may not be there yet.
pub(crate) fn on_bpf_file_system(directory: &Path) -> io::Result<()> {
    let existing = directory.ancestors().find(|path| path.exists());
    match statfs(existing.unwrap_or(directory))?.filesystem_type() {
        BPF_FS_MAGIC => Ok(()),
        _ => Err(io::Error::other("it is on no BPF file system")),
    }
}

/// Ids of the maps that are pinned. One that cannot be read is left out: links that use it are not
/// taken for current then.
pub(crate) fn pinned(pin_dir: &Path) -> BTreeSet<u32> {
    MAPS.iter()
        .filter_map(|map| MapInfo::from_pin(pin_dir.join(map.pin)).ok())
        .map(|info| info.id())
        .collect()
}

/// The settings that are pinned, if they are laid out as here.
pub(crate) fn settings(pin_dir: &Path) -> Option<Settings> {
    if version(pin_dir).ok()?? != SCHEMA {
        return None;
    }
    let map = Map::from_map_data(MapData::from_pin(pin_dir.join("settings")).ok()?).ok()?;
    let map: Array<MapData, Settings> = map.try_into().ok()?;
    map.get(&0, 0).ok()
}

/// The version of the layout of the maps that are pinned; none if there are none. 0: made, but their
/// daemon died before it wrote anything.
pub(crate) fn version(pin_dir: &Path) -> Result<Option<u32>, Error> {
    let pin = pin_dir.join("settings");
    if !pin.exists() {
        return Ok(None);
    }
    // In all layouts, the version is what `settings` begins with.
    let failed = |source| Error::Link {
        path: pin.clone(),
        source: Box::new(source),
    };
    let map = sys::open(&pin).map_err(failed)?;
    let info = MapInfo::from_pin(&pin).map_err(|source| Error::Map {
        name: "settings",
        source,
    })?;
    let value = sys::first_element(&map, info.value_size() as usize).map_err(failed)?;
    let version = value.first_chunk().copied().unwrap_or_default();
    Ok(Some(u32::from_ne_bytes(version)))
}
