//! What a source is.

use std::{fmt, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use nodegate_resources::manifest::Manifest;
use nodegate_values::diagnostic::Diagnostic;

use crate::{error::SourceError, rules::Rules};

/// Somewhere to read from, before anything has been read.
pub trait Source: fmt::Debug + Send {
    /// Reads what there is, and tells `changes` of it, before it returns if that takes no other machine; and
    /// of every change from then on. What is told first is a whole state.
    ///
    /// # Errors
    /// Fails if there is nothing to read from.
    fn follow(self: Box<Self>, changes: Box<dyn Changes>)
    -> Result<Box<dyn Followed>, SourceError>;
}

/// A source that is followed, until this is dropped.
pub trait Followed: fmt::Debug + Send + Sync {
    /// Reads all changes that were made before this call; when it is ready, they have been told of.
    fn reload(&self) -> Reload<'_>;

    /// What is read, and how it stands.
    fn status(&self) -> Status;
}

/// What [`Followed::reload`] waits for. Fails if the source has stopped.
pub type Reload<'s> = Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send + 's>>;

/// The receiver of a source's changes.
pub trait Changes: Send {
    /// Takes what has changed at one moment.
    fn tell(&self, changes: Vec<Change>);
}

/// A part of what a source holds, in place of what it held before.
#[derive(Clone, Debug)]
pub enum Change {
    /// A document that is new, or says something else; [`Manifest::file`] is its name.
    Document(Arc<Manifest>),
    /// There is no document of this name any more.
    Gone(Arc<PathBuf>),
    /// All Services, read from something else than objects.
    Services(Arc<Rules>),
    /// What is wrong with the source itself, and with none of its documents.
    Troubles(Vec<Diagnostic>),
}

/// How a source stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What kind of source it is: `manifests`, `rules` or `kubernetes`.
    pub kind: &'static str,
    /// What is read: paths, names of programs, or who we are to the API server.
    pub read: Vec<String>,
    /// How many Service ports it has that are read from something else than objects.
    pub services: Option<usize>,
    /// Of an API server alone.
    pub api_server: Option<ApiServerStatus>,
}

/// How an API server stands as a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiServerStatus {
    /// The server that was reached last, if any was.
    pub server: Option<String>,
    /// Whether what is in force is what it says.
    pub is_heard: bool,
    /// How old what is in force is, where it was read from disk and the API server has not been heard since.
    pub remembered: Option<Duration>,
    /// The kinds that are watched.
    pub kinds: Vec<KindStatus>,
    /// What is wrong.
    pub troubles: Vec<Diagnostic>,
}

/// How a kind stands that is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindStatus {
    /// Its name, in plural; with the name of the object where it is one.
    pub kind: String,
    /// How many objects of it are known.
    pub objects: usize,
    /// The highest resourceVersion among them and those that are gone; none where it is no number.
    pub resource_version: Option<u64>,
    /// Whether all of them have been heard of.
    pub is_known: bool,
}

// === impl Status ===

impl Status {
    pub(crate) fn of_api_server(identity: String) -> Self {
        Self {
            kind: "kubernetes",
            read: vec![identity],
            services: None,
            api_server: Some(ApiServerStatus::default()),
        }
    }
}
