//! What is wrong with a manifest: one message that names the place, the object and the fix.

use std::{borrow::Cow, collections::BTreeSet, fmt, ops::Deref, path::PathBuf, slice, sync::Arc};

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing is wrong.
    Info,
    /// Accepted, but probably not what the author wants.
    Warning,
    /// Refused: the object's last good state stays in force, or what is named as left out is left out.
    Error,
}

/// A place in a manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Location {
    /// The file, as it was named to us.
    pub file: Arc<PathBuf>,
    /// 1-based.
    pub line: usize,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// Names an object. It is written without its group: `Service istio-system/istio-ingressgateway`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectKey {
    /// `Service`, `VirtualService`, …
    pub kind: Cow<'static, str>,
    /// The group of the API that has the kind, empty for Kubernetes' core: two APIs have a Gateway.
    pub group: Cow<'static, str>,
    /// Empty for objects without a namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// One message to the author of a manifest.
///
/// Its text form is one line:
/// `error: web.yaml:12: Service simple/nginx: spec.ports[0].port: 70000 is not a port (fix: 1 to 65535)`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Where; none for what has no place (a directory that is missing).
    pub location: Option<Location>,
    /// Which object; none when the text could not be read as one.
    pub object: Option<ObjectKey>,
    /// Which field, as a path: `spec.ports[0].port`.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub fix: Option<String>,
}

/// Messages that are shared for as long as they are the same: a copy costs a pointer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnostics(Arc<[Diagnostic]>);

/// The version of what `check`, `explain` and `status` print as JSON. It rises when a field goes or means something
/// else; new fields may come at any time. `docs/json.md` has all of them.
pub const JSON_SCHEMA: u32 = 1;

// === impl Diagnostic ===

impl Diagnostic {
    /// The same without the object's name, for who sees it beside the object.
    #[must_use]
    pub fn nameless(&self) -> Self {
        Self {
            object: None,
            ..self.clone()
        }
    }
}

// === impl Diagnostics ===

impl Diagnostics {
    /// Whether both are one in memory, and so the same without a look at any message.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Deref for Diagnostics {
    type Target = [Diagnostic];

    fn deref(&self) -> &[Diagnostic] {
        &self.0
    }
}

impl From<Vec<Diagnostic>> for Diagnostics {
    fn from(diagnostics: Vec<Diagnostic>) -> Self {
        Self(diagnostics.into())
    }
}

impl<'d> IntoIterator for &'d Diagnostics {
    type Item = &'d Diagnostic;
    type IntoIter = slice::Iter<'d, Diagnostic>;

    fn into_iter(self) -> slice::Iter<'d, Diagnostic> {
        self.iter()
    }
}

impl<const N: usize> PartialEq<[Diagnostic; N]> for Diagnostics {
    fn eq(&self, other: &[Diagnostic; N]) -> bool {
        **self == *other
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `{:#}`: without the severity, for callers that print it themselves.
        if !f.alternate() {
            f.write_str(match self.severity {
                Severity::Info => "info: ",
                Severity::Warning => "warning: ",
                Severity::Error => "error: ",
            })?;
        }
        if let Some(location) = &self.location {
            write!(f, "{location}: ")?;
        }
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(fix) = &self.fix {
            write!(f, " (fix: {fix})")?;
        }
        Ok(())
    }
}

/// Whether something was refused.
pub fn has_errors(diagnostics: &[Diagnostic]) -> bool {
    diagnostics
        .iter()
        .any(|diagnostic| diagnostic.severity == Severity::Error)
}

/// Sorts by place; what has no place comes first.
pub fn sort(diagnostics: &mut [Diagnostic]) {
    diagnostics.sort_by(|a, b| {
        let place = a.location.cmp(&b.location);
        place
            .then(b.severity.cmp(&a.severity))
            .then_with(|| a.cmp(b))
    });
}

/// Which of `after` say something that `before` did not say. That a message has moved to another
/// line is no news.
pub fn news<'d>(before: &[Diagnostic], after: &'d [Diagnostic]) -> Vec<&'d Diagnostic> {
    let said = |diagnostic: &Diagnostic| Diagnostic {
        location: diagnostic.location.as_ref().map(|location| Location {
            line: 0,
            ..location.clone()
        }),
        ..diagnostic.clone()
    };
    let before: BTreeSet<_> = before.iter().map(said).collect();
    after
        .iter()
        .filter(|diagnostic| !before.contains(&said(diagnostic)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_moved_is_no_news() {
        let at = |line, message: &str| Diagnostic {
            severity: Severity::Error,
            location: Some(Location {
                file: Arc::new("web.yaml".into()),
                line,
            }),
            object: None,
            field: None,
            message: message.into(),
            fix: None,
        };
        let (old, moved, new) = (at(3, "old"), at(4, "old"), at(3, "new"));
        assert_eq!(news(slice::from_ref(&old), &[moved, new.clone()]), [&new]);
        assert_eq!(news(&[old], &[]), Vec::<&Diagnostic>::new());
    }
}
