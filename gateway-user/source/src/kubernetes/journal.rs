//! The last state on disk: what this node last heard of each object, for a start without the API server.
//!
//! A file that is only ever appended to, a record on each line: a checksum and JSON. What a crash cuts off
//! is the last line at most. When most of it is history, it is written anew, beside itself, and put in its
//! place. Secrets are not in it.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::fcntl::{Flock, FlockArg};
use nodegate_resources::{manifest::Manifest, object::Body};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};
use xxhash_rust::xxh64::xxh64;

use super::{interest::WantedKind, watch::Found};

/// The first line of a file of this layout. One of another layout is not read, and replaced.
const HEADER: &str = "nodegate: objects of the API server, layout 1";

/// So much history is kept before the file is written anew, beside as many records as there are objects.
const HISTORY: usize = 10_000;

/// A journal that is written to. Only one process may have it.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: Flock<File>,
    /// Records not yet written.
    buffer: Vec<u8>,
    /// Lines in the file and in the buffer.
    lines: usize,
}

/// Why a journal is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum JournalError {
    #[error("the last state of the API server cannot be kept in {path}: {error}", path = path.display())]
    Write { path: PathBuf, error: io::Error },
    #[error("the last state in {path} is not used: {told}", path = path.display())]
    Read { path: PathBuf, told: String },
}

/// A line; of an object, `O` is what it says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Record<O> {
    Object {
        kind: WantedKind,
        namespace: String,
        name: String,
        object: O,
    },
    Gone {
        kind: WantedKind,
        namespace: String,
        name: String,
    },
    /// From here on it is a whole state; the API server was heard at this time (seconds since 1970).
    Heard(u64),
}

/// What a file holds, without the objects themselves: those of a large cluster are read one by one.
#[derive(Debug, Default)]
struct Index {
    /// Where the last word about each object begins, in bytes.
    objects: BTreeMap<Key, u64>,
    heard: Option<u64>,
    lines: usize,
    /// The bytes of whole lines; a crash may have left a piece of one behind them.
    length: u64,
}

type Key = (WantedKind, String, String);

// === impl Journal ===

impl Journal {
    /// Takes hold of the file, which is made if it is not there.
    pub(super) fn open(path: &Path) -> Result<Self, JournalError> {
        let failed = |error| JournalError::Write {
            path: path.to_owned(),
            error,
        };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let file = writable(path).map_err(failed)?;
        let lines = match Index::of(path) {
            Ok(index) => {
                file.set_len(index.length).map_err(failed)?;
                index.lines
            }
            Err(error) => {
                if file.metadata().map_err(failed)?.len() > 0 {
                    tracing::warn!("{error}; it is begun anew");
                }
                file.set_len(0).map_err(failed)?;
                (&*file)
                    .write_all(format!("{HEADER}\n").as_bytes())
                    .map_err(failed)?;
                1
            }
        };
        Ok(Self {
            path: path.to_owned(),
            file,
            buffer: Vec::new(),
            lines,
        })
    }

    /// Notes an object, unless it is one that must not be on a disk.
    pub(super) fn object(&mut self, found: &Found) {
        let kind = found.kind;
        if kind == WantedKind::Secret {
            return;
        }
        let object = match &found.json {
            Some(json) => Some(json.clone()),
            None => found
                .manifest
                .objects
                .first()
                .and_then(|object| json(&object.body)),
        };
        if let Some(object) = object {
            self.push(&Record::Object {
                kind,
                namespace: found.namespace.clone(),
                name: found.name.clone(),
                object,
            });
        }
    }

    /// Notes that an object is gone.
    pub(super) fn gone(&mut self, kind: WantedKind, namespace: &str, name: &str) {
        if kind != WantedKind::Secret {
            self.push(&Record::Gone {
                kind,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            });
        }
    }

    /// Notes that all before is a whole state, and that the API server is heard now.
    pub(super) fn heard(&mut self) {
        self.push(&Record::Heard(now()));
    }

    fn push(&mut self, record: &Record<Value>) {
        self.buffer.extend_from_slice(line(record).as_bytes());
        self.lines += 1;
    }

    /// Writes what has been noted; `objects` is how many objects there are.
    pub(super) fn write(&mut self, objects: usize) -> Result<(), JournalError> {
        if !self.buffer.is_empty() {
            let written = (&*self.file).write_all(&self.buffer);
            self.buffer.clear();
            written.map_err(|error| self.failed(error))?;
        }
        if self.lines > 2 * objects + HISTORY {
            self.rewrite().map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    fn failed(&self, error: io::Error) -> JournalError {
        JournalError::Write {
            path: self.path.clone(),
            error,
        }
    }

    /// Leaves history out.
    fn rewrite(&mut self) -> io::Result<()> {
        let index = Index::of(&self.path).map_err(|error| io::Error::other(error.to_string()))?;
        let beside = self.path.with_extension("new");
        let file = writable(&beside)?;
        file.set_len(0)?;
        let mut writer = BufWriter::new(&*file);
        writeln!(writer, "{HEADER}")?;
        let mut lines = 1;
        for text in index.texts(&self.path)? {
            writer.write_all(text?.as_bytes())?;
            lines += 1;
        }
        if let Some(heard) = index.heard {
            writer.write_all(line(&Record::<Value>::Heard(heard)).as_bytes())?;
            lines += 1;
        }
        writer.flush()?;
        drop(writer);
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        self.file = file;
        self.lines = lines;
        Ok(())
    }
}

/// What the journal at `path` holds, object by object to `take`, and how long ago the API server was last
/// heard; none if there is no journal.
pub(super) fn remembered(
    path: &Path,
    mut take: impl FnMut(Found),
) -> Result<Option<Duration>, JournalError> {
    if matches!(path.try_exists(), Ok(false)) {
        return Ok(None);
    }
    let useless = |told: String| JournalError::Read {
        path: path.to_owned(),
        told,
    };
    let index = Index::of(path)?;
    if index.heard.is_none() && index.objects.is_empty() {
        // It has just been begun.
        return Ok(None);
    }
    let heard = index
        .heard
        .ok_or_else(|| useless("it was never complete".into()))?;
    let texts = index
        .texts(path)
        .map_err(|error| useless(error.to_string()))?;
    for text in texts {
        let text = text.map_err(|error| useless(error.to_string()))?;
        let Some(Record::Object {
            kind,
            namespace,
            name,
            object,
        }) = record::<Value>(&text)
        else {
            return Err(useless("it changes while it is read".into()));
        };
        let what = format!("{}/{namespace}/{name}", kind.plural());
        let found = found(kind, namespace, name, object);
        take(found.ok_or_else(|| useless(format!("{what} in it cannot be read")))?);
    }
    Ok(Some(Duration::from_secs(now().saturating_sub(heard))))
}

// === impl Index ===

impl Index {
    fn of(path: &Path) -> Result<Self, JournalError> {
        let useless = |told: String| JournalError::Read {
            path: path.to_owned(),
            told,
        };
        let broken = |error: io::Error| useless(error.to_string());
        let mut reader = BufReader::new(File::open(path).map_err(broken)?);
        let mut index = Self::default();
        let mut damaged = None;
        let mut text = String::new();
        loop {
            text.clear();
            let read = reader.read_line(&mut text).map_err(broken)?;
            if read == 0 {
                break;
            }
            // With a hole, an object that is gone would be back, or the other way around.
            if let Some(line) = damaged {
                return Err(useless(format!("line {line} is damaged")));
            }
            if !index.take(&text) {
                if index.lines == 0 {
                    return Err(useless("it is of another version".into()));
                }
                damaged = Some(index.lines + 1);
                continue;
            }
            index.lines += 1;
            index.length += read as u64;
        }
        if index.lines == 0 {
            return Err(useless("it is empty".into()));
        }
        Ok(index)
    }

    /// Takes a line; false if it is none.
    fn take(&mut self, text: &str) -> bool {
        if self.lines == 0 {
            return text.strip_suffix('\n') == Some(HEADER);
        }
        match record::<&RawValue>(text) {
            Some(Record::Object {
                kind,
                namespace,
                name,
                ..
            }) => {
                self.objects.insert((kind, namespace, name), self.length);
            }
            Some(Record::Gone {
                kind,
                namespace,
                name,
            }) => {
                self.objects.remove(&(kind, namespace, name));
            }
            Some(Record::Heard(when)) => self.heard = Some(when),
            None => return false,
        }
        true
    }

    /// The lines of the objects that there are.
    fn texts(&self, path: &Path) -> io::Result<impl Iterator<Item = io::Result<String>>> {
        let mut places: Vec<u64> = self.objects.values().copied().collect();
        places.sort_unstable();
        let mut reader = BufReader::new(File::open(path)?);
        let mut at = 0;
        Ok(places.into_iter().map(move |place| {
            let ahead = i64::try_from(place - at).map_err(io::Error::other)?;
            reader.seek_relative(ahead)?;
            let mut text = String::new();
            at = place + reader.read_line(&mut text)? as u64;
            Ok(text)
        }))
    }
}

fn writable(path: &Path) -> io::Result<Flock<File>> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error.into())
}

fn line(record: &Record<Value>) -> String {
    // Strings, numbers and values that were JSON before.
    let json = serde_json::to_string(record).unwrap_or_default();
    format!("{:016x} {json}\n", xxh64(json.as_bytes(), 0))
}

/// A line's record; none if it is not whole.
fn record<'t, O: Deserialize<'t>>(line: &'t str) -> Option<Record<O>> {
    let (sum, json) = line.strip_suffix('\n')?.split_once(' ')?;
    let sum = u64::from_str_radix(sum, 16).ok()?;
    if sum != xxh64(json.as_bytes(), 0) {
        return None;
    }
    serde_json::from_str(json).ok()
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// An object of Kubernetes itself as the API server would write it.
fn json(body: &Body) -> Option<Value> {
    let value = match body {
        Body::Service(body) => serde_json::to_value(body),
        Body::EndpointSlice(body) => serde_json::to_value(body),
        Body::Node(body) => serde_json::to_value(body),
        Body::Pod(body) => serde_json::to_value(body),
        _ => return None,
    };
    value.ok()
}

/// The object that was noted as `object`.
fn found(kind: WantedKind, namespace: String, name: String, object: Value) -> Option<Found> {
    let body = match kind {
        WantedKind::Service => Body::Service(serde_json::from_value(object).ok()?),
        WantedKind::EndpointSlice => Body::EndpointSlice(serde_json::from_value(object).ok()?),
        WantedKind::Node => Body::Node(serde_json::from_value(object).ok()?),
        WantedKind::Pod => Body::Pod(serde_json::from_value(object).ok()?),
        WantedKind::Secret => return None,
        WantedKind::Gateway
        | WantedKind::VirtualService
        | WantedKind::DestinationRule
        | WantedKind::ServiceEntry
        | WantedKind::WorkloadEntry
        | WantedKind::AuthorizationPolicy
        | WantedKind::RequestAuthentication => {
            let value = serde_yaml::to_value(&object).ok()?;
            let manifest = Manifest::of_value(kind.resource(), &namespace, &name, value);
            return Some(Found {
                kind,
                namespace,
                name,
                manifest,
                version: None,
                json: Some(object),
            });
        }
    };
    Some(Found {
        kind,
        namespace,
        name,
        manifest: Manifest::of_body(body),
        version: None,
        json: None,
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;

    use super::{super::tests::service, *};

    fn read(path: &Path) -> Result<Option<Vec<String>>, JournalError> {
        let mut names = Vec::new();
        let age = remembered(path, |found| names.push(found.name))?;
        Ok(age.map(|_| names))
    }

    fn directory() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state/kubernetes.journal");
        (directory, path)
    }

    #[test]
    fn what_was_heard_last_is_remembered() {
        let (_directory, path) = directory();
        assert_eq!(read(&path).unwrap(), None);
        let mut journal = Journal::open(&path).unwrap();
        journal.object(&service("one"));
        journal.object(&service("two"));
        journal.write(2).unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.to_string().ends_with("never complete"), "{error}");
        journal.heard();
        journal.gone(WantedKind::Service, "shop", "one");
        journal.object(&service("three"));
        journal.write(2).unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), ["two", "three"]);
        let error = Journal::open(&path).unwrap_err();
        assert!(matches!(error, JournalError::Write { .. }), "{error}");
    }

    #[test]
    fn a_line_that_was_cut_off_is_left_out_and_a_damaged_one_makes_it_useless() {
        let (_directory, path) = directory();
        let mut journal = Journal::open(&path).unwrap();
        journal.object(&service("one"));
        journal.heard();
        journal.object(&service("two"));
        journal.write(2).unwrap();
        drop(journal);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), ["one"]);
        let mut journal = Journal::open(&path).unwrap();
        journal.object(&service("three"));
        journal.write(2).unwrap();
        drop(journal);
        assert_eq!(read(&path).unwrap().unwrap(), ["one", "three"]);

        let mut damaged = whole.clone();
        let second = whole.iter().position(|byte| *byte == b'\n').unwrap() + 30;
        damaged[second] ^= 1;
        fs::write(&path, &damaged).unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.to_string().ends_with("line 2 is damaged"), "{error}");

        fs::write(&path, "nodegate: objects of the API server, layout 0\n{}\n").unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.to_string().contains("another version"), "{error}");
    }

    #[test]
    fn history_is_left_out_when_it_outweighs_the_state() {
        let (_directory, path) = directory();
        let mut journal = Journal::open(&path).unwrap();
        journal.object(&service("other"));
        for _ in 0..HISTORY {
            journal.object(&service("one"));
        }
        journal.heard();
        journal.write(2).unwrap();
        assert!(journal.lines > HISTORY);
        journal.object(&service("one"));
        journal.object(&service("one"));
        journal.object(&service("one"));
        journal.write(2).unwrap();
        assert_eq!(journal.lines, 4);
        journal.object(&service("two"));
        journal.write(3).unwrap();
        let mut names = read(&path).unwrap().unwrap();
        names.sort();
        assert_eq!(names, ["one", "other", "two"]);
    }

    #[test]
    fn no_secret_is_written() {
        let (_directory, path) = directory();
        let mut journal = Journal::open(&path).unwrap();
        let mut secret = Secret::default();
        secret.metadata.name = Some("key".into());
        journal.object(&Found {
            kind: WantedKind::Secret,
            manifest: Manifest::of_body(Body::Secret(Box::new(secret))),
            ..service("key")
        });
        journal.heard();
        journal.write(0).unwrap();
        assert_eq!(read(&path).unwrap().unwrap(), Vec::<String>::new());
    }
}
