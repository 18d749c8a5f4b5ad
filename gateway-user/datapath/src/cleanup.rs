//! The end of the redirection.
//!
//! Connections that were redirected at connect() go on by themselves. Those that are translated packet
//! by packet need the packet programs to their end: in the hands of the stack, or of kube-proxy,
//! their next packet would be one of no connection, and be answered with a reset. So cleaning up
//! has two phases: first nothing new is taken, and when what was taken is over, the programs go.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use gateway_common::maps::Settings;

use super::{attach, error::Error, layout, links, load, localnet, netfilter, upgrade};

/// How often the flows are looked at.
const LOOK: Duration = Duration::from_millis(200);

/// The pin that tells that a directory is nodegate's: other maps have names that others give, too.
const SIGN: &str = "settings";

/// What was done.
#[derive(Debug, Default)]
pub struct Cleaned {
    /// The pins that were removed; none if there was nothing.
    pub removed: Vec<PathBuf>,
    /// Flows that were not over in time.
    pub broken: usize,
    /// Why flows could not be waited for: maps of another version, or half of them.
    pub not_drained: Option<Error>,
    /// Other pins in the directory: their names are none of nodegate's, so another program has made them.
    pub left: Vec<PathBuf>,
}

/// Removes pinned links and maps, filters, and netfilter's rules, after giving flows the time to
/// end that `drain` is; if there are some to wait for, `waiting` hears of how many. Fine if there are none.
///
/// nodegate must not run: it would not notice.
///
/// # Errors
/// Fails, and touches nothing, if the directory is on no BPF file system: there are no pins, but there
/// may be files. Fails if something cannot be removed.
pub fn cleanup(
    pin_dir: &Path,
    drain: Duration,
    waiting: impl FnOnce(usize),
) -> Result<Cleaned, Error> {
    let mut cleaned = Cleaned::default();
    if !pin_dir.exists() {
        return Ok(cleaned);
    }
    layout::on_bpf_file_system(pin_dir).map_err(|source| unusable(pin_dir, source))?;
    if !is_ours(pin_dir)? {
        cleaned.left = pins(pin_dir)?;
        return Ok(cleaned);
    }
    if !drain.is_zero() {
        match wait_for_flows(pin_dir, drain, waiting, &mut cleaned.removed) {
            Ok(broken) => cleaned.broken = broken,
            Err(error) => cleaned.not_drained = Some(error),
        }
    }
    let routes_localhost = layout::settings(pin_dir)
        .is_some_and(|settings| settings.flags & Settings::FLAG_SET_ROUTE_LOCALNET != 0);
    // Links first: no program runs on maps that people no longer see. And first those without which
    // nothing needs an answer that is translated.
    remove_pins(pin_dir, links::is_forward_link, &mut cleaned.removed)?;
    remove_pins(pin_dir, links::is_link, &mut cleaned.removed)?;
    attach::remove_filters();
    remove_upgrades(pin_dir, &mut cleaned.removed)?;
    // The pin by which the directory is known as nodegate's goes last: a clean-up that is interrupted
    // can be begun again.
    let is_sign = |pin: &Path| pin.ends_with(SIGN);
    let is_other = |pin: &Path| layout::is_pin(pin) && !is_sign(pin);
    remove_pins(pin_dir, is_other, &mut cleaned.removed)?;
    remove_pins(pin_dir, is_sign, &mut cleaned.removed)?;
    cleaned.left = remove_directory(pin_dir)?;
    for tools in [netfilter::V4, netfilter::V6] {
        netfilter::remove(tools);
    }
    if routes_localhost && let Err(error) = localnet::forbid() {
        tracing::warn!(%error, "net.ipv4.conf.all.route_localnet stays 1");
    }
    Ok(cleaned)
}

/// Lets nothing new in, and waits until the flows that are translated packet by packet are over.
/// Gives how many are not.
fn wait_for_flows(
    pin_dir: &Path,
    drain: Duration,
    waiting: impl FnOnce(usize),
    removed: &mut Vec<PathBuf>,
) -> Result<usize, Error> {
    let deadline = Instant::now() + drain;
    let (_programs, mut maps) = load::load(pin_dir)?;
    remove_pins(pin_dir, links::is_socket_link, removed)?;
    maps.remove_frontends()?;
    let mut waiting = Some(waiting);
    loop {
        let alive = maps.flows_alive()?;
        if alive == 0 || Instant::now() >= deadline {
            return Ok(alive);
        }
        if let Some(waiting) = waiting.take() {
            waiting(alive);
        }
        thread::sleep(LOOK);
    }
}

/// Of a daemon that died on the way to another layout.
fn remove_upgrades(pin_dir: &Path, removed: &mut Vec<PathBuf>) -> Result<(), Error> {
    let failed = |source| unusable(pin_dir, source);
    for entry in fs::read_dir(pin_dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if upgrade::is_directory(&path) {
            upgrade::remove(&path)?;
            removed.push(path);
        }
    }
    Ok(())
}

fn remove_pins(
    pin_dir: &Path,
    which: impl Fn(&Path) -> bool,
    removed: &mut Vec<PathBuf>,
) -> Result<(), Error> {
    let failed = |source| unusable(pin_dir, source);
    for entry in fs::read_dir(pin_dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        // Directories that are left are other people's.
        if which(&path) && !path.is_dir() {
            fs::remove_file(&path).map_err(failed)?;
            removed.push(path);
        }
    }
    Ok(())
}

/// Whether nodegate has pinned something there.
fn is_ours(pin_dir: &Path) -> Result<bool, Error> {
    Ok(pins(pin_dir)?
        .iter()
        .any(|pin| pin.ends_with(SIGN) || links::is_link(pin)))
}

/// All pins that are there.
fn pins(pin_dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| unusable(pin_dir, source);
    let entries = fs::read_dir(pin_dir).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let paths = entries.map_err(failed)?.into_iter();
    let paths = paths.map(|entry| entry.path());
    Ok(paths.filter(|path| !path.is_dir()).collect())
}

/// Removes the directory of the pins, unless other people have something there. Gives their pins.
fn remove_directory(pin_dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| unusable(pin_dir, source);
    match fs::remove_dir(pin_dir) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => pins(pin_dir),
        removed => removed.map(|()| Vec::new()).map_err(failed),
    }
}

fn unusable(pin_dir: &Path, source: io::Error) -> Error {
    Error::PinDir {
        path: pin_dir.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_other_people_s_stays() {
        let directory = tempfile::tempdir().unwrap();
        let pins = directory.path().join("nodegate");
        fs::create_dir_all(pins.join("others")).unwrap();
        for pin in ["services", "cilium_calls"] {
            fs::write(pins.join(pin), "").unwrap();
        }
        let mut removed = Vec::new();
        remove_pins(&pins, layout::is_pin, &mut removed).unwrap();
        assert_eq!(removed, [pins.join("services")]);
        assert_eq!(
            remove_directory(&pins).unwrap(),
            [pins.join("cilium_calls")]
        );
        assert!(pins.join("others").is_dir());
        fs::remove_dir(pins.join("others")).unwrap();
        fs::remove_file(pins.join("cilium_calls")).unwrap();
        assert_eq!(remove_directory(&pins).unwrap(), Vec::<PathBuf>::new());
        assert!(!pins.exists());
    }

    #[test]
    fn a_directory_is_ours_by_its_settings_or_links() {
        let directory = tempfile::tempdir().unwrap();
        // Others call theirs so, too.
        fs::write(directory.path().join("events"), "").unwrap();
        assert!(!is_ours(directory.path()).unwrap());
        for pin in ["settings", "link_cgroup_connect4"] {
            fs::write(directory.path().join(pin), "").unwrap();
            assert!(is_ours(directory.path()).unwrap(), "{pin}");
            fs::remove_file(directory.path().join(pin)).unwrap();
        }
    }

    /// `--pin-dir` with a typo must not cost anybody's files.
    #[test]
    fn files_are_no_pins() {
        let directory = tempfile::tempdir().unwrap();
        let files = ["services", "link_cgroup_connect4", "letter.txt"];
        for file in files {
            fs::write(directory.path().join(file), "").unwrap();
        }
        let error = cleanup(directory.path(), Duration::ZERO, |_| ()).unwrap_err();
        assert!(error.to_string().contains("BPF file system"), "{error}");
        for file in files {
            assert!(directory.path().join(file).exists(), "{file} is gone");
        }
    }
}
