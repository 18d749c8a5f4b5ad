//! Faults of objects as Events on them, where their authors look: `kubectl describe`.

use std::sync::Arc;

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use nodegate_resources::{Resources, object::Object};
use nodegate_source::kubernetes::trouble::Trouble;
use nodegate_values::diagnostic::{Diagnostic, ObjectKey};

use crate::faults::{self, Faults};

/// Who says it.
const CONTROLLER: &str = "nodegate.io/controller";

/// As many bytes as an Event's note may have (`NoteLengthLimit` of kubernetes pkg/apis/core/validation).
const NOTE: usize = 1024;

/// Who writes Events.
pub(crate) struct Reporter {
    pub(crate) client: Client,
    /// Name of this process among the controllers.
    pub(crate) identity: String,
}

// === impl Reporter ===

impl Reporter {
    /// Writes an Event for each object of which something else is wrong than before.
    pub(crate) async fn tell(&self, resources: &Resources, before: &Faults, now: &Faults) {
        for (key, wrong) in faults::changed(before, now) {
            // One that is refused and was never accepted is known by its name alone.
            let object = resources.objects.get(key);
            let event = event(&self.identity, key, object, wrong);
            let namespace = event.metadata.namespace.clone().unwrap_or_default();
            let events = Api::<Event>::namespaced(self.client.clone(), &namespace);
            if let Err(error) = events.create(&PostParams::default(), &event).await {
                complain(key, &error);
            }
        }
    }
}

fn event(
    identity: &str,
    key: &ObjectKey,
    object: Option<&Arc<Object>>,
    wrong: Option<&[Diagnostic]>,
) -> Event {
    let (kind, reason, note) = match wrong {
        None => (
            "Normal",
            "Accepted",
            "nothing is wrong with it any more".into(),
        ),
        Some(wrong) => {
            let refused = faults::is_refused(wrong);
            let reason = if refused { "Refused" } else { "Questionable" };
            ("Warning", reason, faults::text(wrong, NOTE))
        }
    };
    let namespace = match &*key.namespace {
        "" => "default",
        namespace => namespace,
    };
    Event {
        metadata: ObjectMeta {
            name: Some(event_name(&key.name)),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        action: Some("Admit".into()),
        event_time: Some(MicroTime(Timestamp::now())),
        note: Some(note),
        reason: Some(reason.into()),
        regarding: Some(ObjectReference {
            api_version: Some(api_version(key)),
            kind: Some(key.kind.clone().into_owned()),
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()).filter(|namespace| !namespace.is_empty()),
            uid: object.and_then(|object| object.metadata().uid.clone()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some(CONTROLLER.into()),
        reporting_instance: Some(identity.to_owned()),
        type_: Some(kind.into()),
        ..Event::default()
    }
}

/// A name that no other Event of the object has, as client-go makes them.
fn event_name(object: &str) -> String {
    // Names have 253 bytes at most, and letters of one byte.
    let object = object.get(..230).unwrap_or(object);
    format!("{object}.{:x}", Timestamp::now().as_nanosecond())
}

fn api_version(key: &ObjectKey) -> String {
    match &*key.group {
        "" => "v1".to_owned(),
        group => format!("{group}/v1"),
    }
}

fn complain(key: &ObjectKey, error: &kube::Error) {
    let trouble = Trouble::of_client(error);
    let fix = match trouble {
        Trouble::Forbidden(_) => {
            " (fix: add the rule {apiGroups: [events.k8s.io], resources: [events], verbs: [create]} to its role)"
        }
        _ => "",
    };
    tracing::warn!("no Event for {key}: {}{fix}", trouble.told());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{faults, tests::resources};

    #[test]
    fn an_event_says_what_is_wrong_and_with_which_object() {
        let resources = resources("{redirect: {uri: /x, redirectCode: 200}, rout: 1}");
        let faults = faults(&resources, &std::collections::BTreeMap::new());
        let (key, wrong) = faults.first_key_value().unwrap();
        let event_of = |wrong| event("pod-1", key, None, wrong);
        let told = event_of(Some(wrong));
        let regarding = told.regarding.unwrap();
        assert_eq!(regarding.kind.as_deref(), Some("VirtualService"));
        assert_eq!(regarding.namespace.as_deref(), Some("shop"));
        assert_eq!(told.reason.as_deref(), Some("Refused"));
        let note = told.note.unwrap();
        assert!(note.starts_with("error: spec.http[0].redirect"), "{note}");
        assert!(
            note.contains("; warning: spec.http[0].rout: unknown field"),
            "{note}"
        );
        assert_eq!(event_of(None).type_.as_deref(), Some("Normal"));
    }
}
