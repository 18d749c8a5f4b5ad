//! Why a kind cannot be watched, and what to do about it.

use kube::{core::Status, runtime::watcher};
use nodegate_values::diagnostic::{Diagnostic, Severity};

use super::{access::told, interest::Wanted};

/// Why a kind cannot be watched now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The API server does not answer.
    Unreachable(String),
    /// It does not know who we are.
    Unknown(String),
    /// It knows, and does not allow it.
    Forbidden(String),
    /// It has no such kind.
    NoSuchKind,
    /// It answers with something else.
    Refused(String),
}

// === impl Trouble ===

impl Trouble {
    pub(super) fn of(error: &watcher::Error) -> Self {
        match error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => Self::of_client(error),
            watcher::Error::WatchError(status) => Self::of_status(status),
            watcher::Error::NoResourceVersion => Self::Refused(error.to_string()),
        }
    }

    /// What a request's failure means.
    pub fn of_client(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(status),
            error => Self::Unreachable(told(error)),
        }
    }

    fn of_status(status: &Status) -> Self {
        let message = match status.message.trim() {
            "" => format!("status {} {}", status.code, status.reason),
            message => message.to_owned(),
        };
        match status.code {
            401 => Self::Unknown(message),
            403 => Self::Forbidden(message),
            404 => Self::NoSuchKind,
            // It is overloaded, starting or ending.
            429 | 500..=599 => Self::Unreachable(message),
            _ => Self::Refused(message),
        }
    }

    /// What the API server, or the system, says.
    pub fn told(&self) -> &str {
        match self {
            Self::Unreachable(told)
            | Self::Unknown(told)
            | Self::Forbidden(told)
            | Self::Refused(told) => told,
            Self::NoSuchKind => "there is no such thing",
        }
    }

    /// Whether it is over as soon as the API server answers again.
    pub(super) fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }

    /// Whether nothing is to be had for as long as nobody changes something in the cluster.
    pub(super) fn is_settled(&self) -> bool {
        matches!(
            self,
            Self::Forbidden(_) | Self::NoSuchKind | Self::Refused(_)
        )
    }

    /// What to say about it, and how many objects of it stay.
    pub(super) fn report(&self, wanted: &Wanted, objects: usize) -> Diagnostic {
        let stays = match objects {
            0 => String::new(),
            1 => "; the one that was seen stays in force".to_owned(),
            many => format!("; the {many} that were seen stay in force"),
        };
        let (severity, message, fix) = match self {
            Self::Unreachable(told) => (
                Severity::Warning,
                format!("the API server does not answer: {told}"),
                None,
            ),
            Self::Unknown(told) => (
                Severity::Error,
                format!("the API server does not accept this identity: {told}"),
                Some(
                    "a token or certificate of this cluster that has not expired; a pod's own is renewed by \
                     kubelet"
                        .to_owned(),
                ),
            ),
            Self::Forbidden(told) => (
                Severity::Error,
                format!("{wanted} may not be read{stays}: {told}"),
                Some(format!("add the rule {} to its role", wanted.rule())),
            ),
            Self::NoSuchKind => (
                Severity::Info,
                format!("the cluster has no {wanted}{stays}: the kind is not defined"),
                Some(
                    "kubectl apply the definitions that `nodegate crds` prints, if you want them"
                        .to_owned(),
                ),
            ),
            Self::Refused(told) => (
                Severity::Error,
                format!("{wanted} cannot be read{stays}: {told}"),
                None,
            ),
        };
        Diagnostic {
            severity,
            location: None,
            object: None,
            field: None,
            message,
            fix,
        }
    }
}
