//! What a testbed remembers between commands, and the lock that keeps them apart.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use nix::fcntl::{Flock, FlockArg};
use patience::Deadline;
use serde::{Deserialize, Serialize};

use crate::{
    admission::Store,
    config::Layout,
    names::Names,
    network::OutsideIps,
    object::{self, Object},
    workload::Pod,
};

/// The programs that a testbed runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binaries {
    /// `nodegate`, on nodes and in gateway pods.
    pub nodegate: PathBuf,
    /// `testbed-pod`, in all other pods.
    pub pod: PathBuf,
}

/// A testbed between commands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) binaries: Binaries,
    pub(crate) layout: Layout,
    /// Whether `up` has come to its end.
    pub(crate) complete: bool,
    pub(crate) pods: Vec<Pod>,
    pub(crate) outside_ips: OutsideIps,
    /// Creation time of the newest objects, in seconds since the epoch.
    pub(crate) last_created: i64,
}

const STATE: &str = "state.json";
const OBJECTS: &str = "objects";

impl State {
    /// Reads the state; an error that says what to do when there is none.
    pub(crate) fn load(names: &Names) -> anyhow::Result<Self> {
        let file = names.state().join(STATE);
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
                "there is no testbed `{0}`: cargo xtask testbed up -f PATH --name {0}",
                names.testbed()
            ),
            Err(error) => return Err(error).with_context(|| format!("reading {}", file.display())),
        };
        serde_json::from_slice(&text).with_context(|| {
            format!(
                "{} is of another version: cargo xtask testbed down --name {}",
                file.display(),
                names.testbed()
            )
        })
    }

    /// Reads the state of a testbed that is up.
    pub(crate) fn load_complete(names: &Names) -> anyhow::Result<Self> {
        let state = Self::load(names)?;
        if !state.complete {
            bail!(
                "testbed `{0}` is not (or only half) up: cargo xtask testbed down --name {0}",
                names.testbed()
            );
        }
        Ok(state)
    }

    pub(crate) fn save(&self, names: &Names) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        replace(names, &names.state().join(STATE), &text)
    }

    /// The creation time of objects that come now: later than all before, so that their order is
    /// known although Kubernetes counts in seconds.
    pub(crate) fn next_created(&mut self) -> anyhow::Result<String> {
        let now = jiff::Timestamp::now().as_second();
        self.last_created = now.max(self.last_created + 1);
        Ok(jiff::Timestamp::from_second(self.last_created)?.to_string())
    }
}

/// The objects that users have applied.
pub(crate) fn load_store(names: &Names) -> anyhow::Result<Store> {
    let directory = names.state().join(OBJECTS);
    let mut store = Store::new();
    for document in object::documents(&[directory])? {
        for object in object::read(&document, "default")? {
            store.insert(object.key.clone(), object);
        }
    }
    Ok(store)
}

pub(crate) fn save_store(names: &Names, store: &Store) -> anyhow::Result<()> {
    let files = store
        .values()
        .map(|object: &Object| (object.key.file_name(), object.text.as_str()));
    mirror(names, &names.state().join(OBJECTS), files)
}

/// Makes a directory hold exactly these files. Each changes at once, and those that are the same
/// aren't touched.
pub(crate) fn mirror(
    names: &Names,
    directory: &Path,
    files: impl IntoIterator<Item = (String, impl AsRef<str>)>,
) -> anyhow::Result<()> {
    let mut wanted = BTreeSet::new();
    for (name, text) in files {
        let file = directory.join(&name);
        if fs::read(&file).ok().as_deref() != Some(text.as_ref().as_bytes()) {
            replace(names, &file, text.as_ref())?;
        }
        wanted.insert(name);
    }
    for entry in
        fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?
    {
        let entry = entry?;
        if !entry
            .file_name()
            .to_str()
            .is_some_and(|name| wanted.contains(name))
        {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Writes a file at once, by renaming: from the state directory, so that who watches `file`'s
/// directory sees one event.
pub(crate) fn replace(names: &Names, file: &Path, text: &str) -> anyhow::Result<()> {
    let temporary = names.state().join(format!(".new-{}", std::process::id()));
    let write = || -> io::Result<()> {
        File::create(&temporary)?.write_all(text.as_bytes())?;
        fs::rename(&temporary, file)
    };
    write().with_context(|| format!("writing {}", file.display()))
}

/// Makes the state's directories.
pub(crate) fn create(names: &Names) -> anyhow::Result<()> {
    for directory in [OBJECTS, "manifests", "logs", "admin", "pods", "pids", "bin"] {
        let directory = names.state().join(directory);
        fs::create_dir_all(&directory)
            .with_context(|| format!("making {}", directory.display()))?;
    }
    Ok(())
}

/// Holds a testbed while a command changes it.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    _file: Flock<File>,
}

impl Lock {
    /// Waits for other commands to end, for a while.
    pub(crate) fn take(names: &Names) -> anyhow::Result<Self> {
        let path = names.lock();
        let deadline = Deadline::new();
        loop {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)
                    .with_context(|| format!("making {}", parent.display()))?;
            }
            let file = match File::create(&path) {
                // The last command removed the directory between our two calls.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file.with_context(|| format!("opening {}", path.display()))?,
            };
            let inode = file.metadata()?.ino();
            if let Ok(file) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                // `down` removes the file: what we hold must be what others will open.
                if fs::metadata(&path).is_ok_and(|now| now.ino() == inode) {
                    return Ok(Self { path, _file: file });
                }
                continue;
            }
            if deadline.passed() {
                bail!(
                    "another command has been working on {} `{}` for {:?}: end it first",
                    names.kind().word(),
                    names.testbed(),
                    patience::limit()
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Removes the lock's file, and the directory if it was the last testbed's.
    pub(crate) fn remove(self) -> anyhow::Result<()> {
        fs::remove_file(&self.path).with_context(|| format!("removing {}", self.path.display()))?;
        if let Some(parent) = self.path.parent() {
            // Others may have their state there.
            let _ = fs::remove_dir(parent);
        }
        Ok(())
    }
}
