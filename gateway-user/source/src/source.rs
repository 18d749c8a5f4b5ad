//! What a source is.

use std::{fmt, path::PathBuf, pin::Pin, sync::Arc};

use nodegate_resources::manifest::Manifest;
use nodegate_values::diagnostic::Diagnostic;

use crate::{error::SourceError, rules::Rules};

/// Somewhere to read from, before anything has been read.
pub trait Source: fmt::Debug + Send {
    /// Reads what there is, and tells `changes` of it before it returns; and of every change from then on.
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
    /// What kind of source it is: `manifests` or `rules`.
    pub kind: &'static str,
    /// What is read: paths, or names of programs.
    pub read: Vec<String>,
    /// How many Service ports it has that are read from something else than objects.
    pub services: Option<usize>,
}
