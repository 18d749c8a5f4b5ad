//! What is known of all kinds that are watched, and what of it is new for the other rooms.
//!
//! Nothing is told before all kinds have been listed, or are known not to be had: half of the objects are
//! no state to act on. A list that is made again is compared with what was there: only what it lacks when
//! it is complete is gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use nodegate_resources::{
    istio::{own_secret, secret_names},
    manifest::Manifest,
    object::Body,
};
use nodegate_values::diagnostic::Diagnostic;

use super::{
    interest::{Interest, Wanted, WantedKind},
    trouble::Trouble,
    watch::{Found, News, Report},
};
use crate::source::Change;

/// An outage that is shorter is not worth a word: an API server that is restarted, a connection that breaks.
const SHORT: Duration = Duration::from_secs(5);

/// What is known.
#[derive(Debug)]
pub(super) struct Ledger {
    kinds: BTreeMap<Wanted, Known>,
    /// What the other rooms have not been told: the last word about each document.
    untold: BTreeMap<Arc<PathBuf>, Change>,
    /// What is wrong, as they were told; none before they were told anything.
    told: Option<Vec<Diagnostic>>,
}

/// What is known of one kind.
#[derive(Debug, Default)]
struct Known {
    objects: BTreeMap<Name, Mentions>,
    /// Those that a list in progress has named.
    listed: Option<BTreeSet<Name>>,
    /// Whether a list has been complete since somebody asked.
    is_complete: bool,
    trouble: Option<Told>,
    /// The highest of the objects' versions.
    version: Option<u64>,
}

/// Namespace and name.
pub(super) type Name = (String, String);

/// What an object says about others that are to be watched.
#[derive(Debug, Default)]
struct Mentions {
    /// The credentials that it names: Secrets.
    credentials: BTreeSet<String>,
    /// Whether it is a Gateway with a server of plain TCP.
    serves_tcp: bool,
}

/// A trouble, and since when.
#[derive(Debug)]
struct Told {
    trouble: Trouble,
    since: Instant,
}

/// How a kind stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) what: String,
    pub(super) objects: usize,
    pub(super) version: Option<u64>,
    pub(super) is_complete: bool,
}

// === impl Ledger ===

impl Ledger {
    pub(super) fn new(wanted: impl IntoIterator<Item = Wanted>) -> Self {
        let kinds = wanted.into_iter().map(|wanted| (wanted, Known::default()));
        Self {
            kinds: kinds.collect(),
            untold: BTreeMap::new(),
            told: None,
        }
    }

    /// Takes an object as it was when this node last heard of it, unless more is known by now.
    pub(super) fn remember(&mut self, found: Found) {
        let mut kinds = self.kinds.iter_mut();
        let Some((_, known)) = kinds.find(|(wanted, _)| wanted.kind == found.kind) else {
            return;
        };
        let name = (found.namespace.clone(), found.name.clone());
        if !known.is_complete && !known.objects.contains_key(&name) {
            known.objects.insert(name, mentions(&found.manifest));
            self.say(found.manifest);
        }
    }

    /// Takes what a watch tells; gives the objects that are gone by it.
    pub(super) fn take(&mut self, report: Report) -> Vec<Name> {
        let Report { wanted, news, .. } = report;
        let Some(known) = self.kinds.get_mut(&wanted) else {
            // What is not wanted any more, such as a Secret that nothing names.
            return Vec::new();
        };
        let mut gone = Vec::new();
        match news {
            News::Begins => known.listed = Some(BTreeSet::new()),
            News::Object(found) => {
                known.trouble = None;
                let manifest = known.put(*found);
                self.say(manifest);
            }
            News::Gone {
                namespace,
                name,
                version,
            } => {
                known.trouble = None;
                known.version = known.version.max(version);
                let name = (namespace, name);
                if known.objects.remove(&name).is_some() {
                    gone.push(name);
                }
            }
            News::Complete => {
                known.trouble = None;
                known.is_complete = true;
                gone = known.unlisted();
            }
            News::Trouble(trouble) => {
                let since = known.trouble.as_ref().map(|told| told.since);
                let since = since.unwrap_or_else(Instant::now);
                known.trouble = Some(Told { trouble, since });
            }
        }
        for name in &gone {
            self.unsay(wanted.kind, name);
        }
        gone
    }

    fn say(&mut self, manifest: Manifest) {
        let document = Arc::new(manifest);
        let name = Arc::clone(&document.file);
        self.untold.insert(name, Change::Document(document));
    }

    fn unsay(&mut self, kind: WantedKind, (namespace, name): &Name) {
        let name = Arc::new(Manifest::name_of(kind.resource(), namespace, name));
        self.untold.insert(Arc::clone(&name), Change::Gone(name));
    }

    /// Whether all kinds have been listed, or are known not to be had.
    pub(super) fn is_settled(&self) -> bool {
        self.kinds.values().all(|known| {
            let trouble = known.trouble.as_ref().map(|told| &told.trouble);
            known.is_complete || trouble.is_some_and(Trouble::is_settled)
        })
    }

    /// Waits for all lists anew.
    pub(super) fn unsettle(&mut self) {
        for known in self.kinds.values_mut() {
            known.is_complete = false;
            known.trouble = None;
        }
    }

    /// Whether some kind has not been heard of for longer than a moment.
    pub(super) fn is_out(&self) -> bool {
        self.kinds.values().any(Known::is_out)
    }

    /// What the other rooms have not been told: changes, and what is wrong if that has changed. The first
    /// time it is never empty.
    pub(super) fn news(&mut self) -> Vec<Change> {
        let mut news: Vec<_> = mem::take(&mut self.untold).into_values().collect();
        let troubles = self.troubles();
        if self.told.as_ref() != Some(&troubles) {
            self.told = Some(troubles.clone());
            news.push(Change::Troubles(troubles));
        }
        news
    }

    /// Wants what the objects say is to be watched besides, and nothing else; gives what was not wanted before,
    /// and what is not any more.
    pub(super) fn want_others(&mut self, interest: &Interest) -> (Vec<Wanted>, Vec<Wanted>) {
        let mut wanted: BTreeSet<_> = interest.wanted().into_iter().collect();
        if self.mentions().any(|mentions| mentions.serves_tcp) {
            wanted.extend(interest.wanted_of_tcp_routes());
        }
        if let Some(namespace) = &interest.secrets {
            wanted.extend(self.named_secrets(namespace));
        }
        let held: BTreeSet<_> = self.kinds.keys().cloned().collect();
        let new: Vec<_> = wanted.difference(&held).cloned().collect();
        let old: Vec<_> = held.difference(&wanted).cloned().collect();
        for wanted in &new {
            self.kinds.insert(wanted.clone(), Known::default());
        }
        for wanted in &old {
            let known = self.kinds.remove(wanted);
            for name in known.unwrap_or_default().objects.into_keys() {
                self.unsay(wanted.kind, &name);
            }
        }
        (new, old)
    }

    fn mentions(&self) -> impl Iterator<Item = &Mentions> {
        let kinds = self.kinds.iter();
        let kinds = kinds.filter(|(wanted, _)| wanted.kind.mentions_others());
        kinds.flat_map(|(_, known)| known.objects.values())
    }

    /// The Secrets of a namespace that objects name.
    fn named_secrets(&self, namespace: &str) -> BTreeSet<Wanted> {
        let credentials = self.mentions().flat_map(|mentions| &mentions.credentials);
        let secrets = credentials.filter_map(|credential| own_secret(credential, namespace));
        let names = secrets.flat_map(secret_names);
        names.map(|name| Wanted::secret(namespace, &name)).collect()
    }

    /// How each kind stands.
    pub(super) fn standings(&self) -> Vec<Standing> {
        let kinds = self.kinds.iter();
        kinds
            .map(|(wanted, known)| Standing {
                what: wanted.to_string(),
                objects: known.objects.len(),
                version: known.version,
                is_complete: known.is_complete,
            })
            .collect()
    }

    /// One word about an outage, whatever it keeps from being heard of, and one about each kind with a
    /// trouble of its own.
    pub(super) fn troubles(&self) -> Vec<Diagnostic> {
        let mut troubles = Vec::new();
        let mut is_out = false;
        for (wanted, known) in &self.kinds {
            let Some(Told { trouble, .. }) = &known.trouble else {
                continue;
            };
            if trouble.is_outage() {
                if is_out || !known.is_out() {
                    continue;
                }
                is_out = true;
            }
            troubles.push(trouble.report(wanted, known.objects.len()));
        }
        troubles.dedup();
        troubles
    }
}

// === impl Known ===

impl Known {
    fn put(&mut self, found: Found) -> Manifest {
        let Found {
            namespace,
            name,
            manifest,
            version,
            ..
        } = found;
        self.version = self.version.max(version);
        let name = (namespace, name);
        if let Some(listed) = &mut self.listed {
            listed.insert(name.clone());
        }
        self.objects.insert(name, mentions(&manifest));
        manifest
    }

    /// Ends a list: forgets what it lacks, and names that.
    fn unlisted(&mut self) -> Vec<Name> {
        let Some(listed) = self.listed.take() else {
            return Vec::new();
        };
        let unlisted = self
            .objects
            .extract_if(.., |name, _| !listed.contains(name));
        unlisted.map(|(name, _)| name).collect()
    }

    fn is_out(&self) -> bool {
        let trouble = self.trouble.as_ref();
        trouble.is_some_and(|told| told.trouble.is_outage() && told.since.elapsed() >= SHORT)
    }
}

/// What a Gateway or a DestinationRule says: the credentials are those that the compiler looks for.
fn mentions(manifest: &Manifest) -> Mentions {
    let mut mentions = Mentions::default();
    for object in &manifest.objects {
        let credentials: Vec<&str> = match &object.body {
            Body::Gateway(gateway) => {
                mentions.serves_tcp |= gateway.spec.serves_tcp();
                gateway.spec.credentials().collect()
            }
            Body::DestinationRule(rule) => rule.spec.credentials().collect(),
            _ => Vec::new(),
        };
        let credentials = credentials.into_iter().map(ToOwned::to_owned);
        mentions.credentials.extend(credentials);
    }
    mentions
}
