//! Maps of an older layout, real ones, on the way to this nodegate's.
//!
//! An older nodegate's maps are made of this one's: another version is stamped onto them, and `slots` is
//! replaced by a map with the elements that it had in version 3. Programs are not attached; the end-to-end
//! tests upgrade under load.
//!
//! Needs root and a BPF file system; without, the tests are reported as ignored.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use aya::maps::{HashMap, MapData, MapInfo};
use gateway_common::{
    conntrack::BUCKETS,
    maps::{MAX_SLOTS, SCHEMA, Settings, SlotKey},
};
use libtest_mimic::{Arguments, Failed, Trial};
use nodegate_datapath::{contents::Pins, load, maps::Maps};
use nodegate_model::{
    selection::NodeTopology,
    service::{Endpoint, Protocol, ServicePort, ServicePortName},
};
use nodegate_programming::{
    capacity::Capacity,
    desired::{Desired, Policy},
    node::NodeFacts,
    plan::plan,
};

const BPF: &str = "/sys/fs/bpf";
/// The one in which `slots` was otherwise.
const OLDER: u32 = 3;

/// What is the same map before and after.
const SHARED: [&str; 4] = ["affinity", "conntrack", "fragments", "sockets"];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let possible = nix::unistd::geteuid().is_root()
        && nix::sys::statfs::statfs(BPF)
            .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC);
    if !possible {
        eprintln!("skipped: needs root and a BPF file system in {BPF}");
    }
    let trials = [
        Trial::test("an older layout gives way when it is replaced", upgraded),
        Trial::test("an upgrade that was interrupted begins anew", begins_anew),
        Trial::test("an upgrade that was decided is finished", finished),
        Trial::test("a newer layout is not touched", newer),
    ];
    let trials = trials.map(|trial| trial.with_ignored_flag(!possible));
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}

/// A directory for pins that goes away.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let name = format!("nodegate-upgrade-{name}-{}", std::process::id());
        Self(Path::new(BPF).join(name))
    }

    /// Ids of the pinned maps.
    fn maps(&self) -> Result<BTreeMap<String, u32>, Failed> {
        ids(&self.0)
    }

    fn upgrades(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
            .collect()
    }
}

fn ids(directory: &Path) -> Result<BTreeMap<String, u32>, Failed> {
    let mut ids = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_file() {
            let name = path.file_name().unwrap_or_default();
            let id = MapInfo::from_pin(&path)?.id();
            ids.insert(name.to_string_lossy().into_owned(), id);
        }
    }
    Ok(ids)
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Nothing is done about what is left: the test has failed by then.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn service(name: &str, last: u8, endpoints: &[u8]) -> ServicePort {
    let name = ServicePortName {
        namespace: "default".into(),
        name: name.into(),
        port: String::new(),
    };
    let endpoint = |last: &u8| Endpoint::ready([10, 10, 1, *last].into(), 8080, true);
    ServicePort {
        cluster_ips: vec![[10, 96, 0, last].into()],
        endpoints: endpoints.iter().map(endpoint).collect(),
        ..ServicePort::new(name, Protocol::Tcp, 80)
    }
}

fn apply(maps: &mut Maps, services: &[ServicePort]) {
    let desired = Desired::new(
        services,
        &NodeTopology::default(),
        &NodeFacts::default(),
        &Policy::default(),
    );
    let failures = maps.execute(plan(maps.mirror(), &desired, Capacity::MAPS));
    assert_eq!(failures, []);
}

fn stamp(maps: &mut Maps, schema: u32) -> Result<(), Failed> {
    let settings = Settings {
        schema,
        seed: 4711,
        ..maps.settings()?
    };
    Ok(maps.set_settings(&settings)?)
}

fn services() -> [ServicePort; 2] {
    [service("web", 1, &[4, 5]), service("api", 2, &[6])]
}

/// Makes maps as an older nodegate leaves them.
fn older(directory: &Directory) -> Result<(), Failed> {
    let (_ebpf, mut maps) = load::load(&directory.0)?;
    // It has come to other numbers than one that begins with these.
    apply(
        &mut maps,
        &[service("first", 9, &[9]), service("api", 2, &[6])],
    );
    apply(&mut maps, &services());
    stamp(&mut maps, OLDER)?;
    let pin = directory.0.join("slots");
    fs::remove_file(&pin)?;
    // BPF_F_NO_PREALLOC
    let slots = HashMap::<MapData, SlotKey, u32>::create(MAX_SLOTS, 1)?;
    slots.pin(&pin)?;
    Ok(())
}

fn upgraded() -> Result<(), Failed> {
    let directory = Directory::new("whole");
    older(&directory)?;
    let before = directory.maps()?;
    let refused = load::load(&directory.0)
        .err()
        .map(|error| error.to_string());
    let refused = refused.unwrap_or_default();
    assert!(
        refused.contains("`nodegate run` upgrades them"),
        "{refused}"
    );

    let (_ebpf, mut maps, upgrade) = load::load_or_upgrade(&directory.0, BUCKETS)?;
    let upgrade = upgrade.ok_or("no upgrade")?;
    assert_eq!(directory.maps()?, before, "the old maps stay until then");
    let new = ids(upgrade.directory())?;
    for name in SHARED {
        assert_eq!(new[name], before[name], "{name}");
    }
    for name in ["services", "slots", "backends", "settings"] {
        assert_ne!(new[name], before[name], "{name}");
    }
    assert_eq!(maps.settings()?.seed, 4711, "flows are found by it");
    let mirror = maps.mirror();
    assert!(mirror.services.is_empty() && mirror.slots.is_empty());
    let numbers = |maps: &Maps| {
        let names = maps.mirror().names.iter();
        let names: BTreeMap<_, _> = names
            .map(|(id, (name, ..))| (name.to_string(), *id))
            .collect();
        let backends = maps.mirror().backends.iter();
        let backends: BTreeMap<_, _> = backends.map(|(id, b)| (b.address[15], *id)).collect();
        (names, backends)
    };
    let copied = numbers(&maps);
    apply(&mut maps, &services());
    assert_eq!(numbers(&maps), copied, "flows go by these numbers");
    assert_eq!(copied.0["default/web"], 3);
    stamp(&mut maps, SCHEMA)?;
    upgrade.finish()?;

    assert_eq!(directory.maps()?, new);
    assert_eq!(directory.upgrades(), Vec::<PathBuf>::new());
    let (_ebpf, maps) = load::load(&directory.0)?;
    assert_eq!(maps.mirror().slots.len(), 3);
    assert_eq!(Pins::open(&directory.0)?.services()?.len(), 4);
    Ok(())
}

fn begins_anew() -> Result<(), Failed> {
    let directory = Directory::new("anew");
    older(&directory)?;
    let before = directory.maps()?;
    for _ in 0..2 {
        let (_ebpf, mut maps, upgrade) = load::load_or_upgrade(&directory.0, BUCKETS)?;
        assert!(upgrade.is_some());
        assert!(maps.mirror().services.is_empty(), "what another one began");
        apply(&mut maps, &services());
        assert_eq!(directory.maps()?, before);
        assert_eq!(directory.upgrades().len(), 1);
        // It dies.
    }
    Ok(())
}

fn finished() -> Result<(), Failed> {
    let directory = Directory::new("finished");
    older(&directory)?;
    // A map that there is none of any more.
    let gone = HashMap::<MapData, u32, u32>::create(1, 0)?;
    gone.pin(directory.0.join("gone"))?;
    let (_ebpf, mut maps, upgrade) = load::load_or_upgrade(&directory.0, BUCKETS)?;
    let upgrade = upgrade.ok_or("no upgrade")?;
    apply(&mut maps, &services());
    stamp(&mut maps, SCHEMA)?;
    let new = ids(upgrade.directory())?;
    // It dies right after it has decided.
    fs::rename(
        upgrade.directory().join("settings"),
        directory.0.join("settings"),
    )?;
    drop(maps);
    let (_ebpf, maps, upgrade) = load::load_or_upgrade(&directory.0, BUCKETS)?;
    assert!(upgrade.is_none());
    assert_eq!(directory.maps()?, new);
    assert_eq!(directory.upgrades(), Vec::<PathBuf>::new());
    assert_eq!(maps.mirror().slots.len(), 3);
    Ok(())
}

fn newer() -> Result<(), Failed> {
    let directory = Directory::new("newer");
    let (_ebpf, mut maps) = load::load(&directory.0)?;
    apply(&mut maps, &services());
    stamp(&mut maps, SCHEMA + 1)?;
    // The newer one's, on its way to a layout that this one cannot know.
    let another = directory.0.join(format!("layout_{}", SCHEMA + 2));
    fs::create_dir(&another)?;
    let before = directory.maps()?;
    let refused = load::load_or_upgrade(&directory.0, BUCKETS).err();
    let refused = refused.ok_or("not refused")?.to_string();
    assert!(refused.contains("run the newer one"), "{refused}");
    assert_eq!(directory.maps()?, before);
    assert_eq!(directory.upgrades(), [another]);
    Ok(())
}
