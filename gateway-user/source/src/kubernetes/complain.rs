//! Faults of objects as Events on them, where their authors look: `kubectl describe`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

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
use nodegate_values::diagnostic::{Diagnostic, ObjectKey, Severity};
use tokio::sync::watch;

use super::{access::Access, leader::Candidate, trouble::Trouble};
use crate::{combined::Inputs, error::SourceError};

/// Who says it.
const CONTROLLER: &str = "nodegate.io/controller";

/// The Lease of the one that may write.
const LEASE: &str = "nodegate-controller";

/// As many bytes as an Event's note may have (`NoteLengthLimit` of kubernetes pkg/apis/core/validation).
const NOTE: usize = 1024;

/// Who writes Events.
#[derive(Clone, Debug)]
pub struct Complainer {
    /// How the API server is reached.
    pub access: Access,
    /// Where the Lease is by which one of several is chosen.
    pub namespace: String,
    /// Name of this process among them.
    pub identity: String,
}

/// What is wrong with each object, worst first.
type Complaints = BTreeMap<ObjectKey, Vec<Diagnostic>>;

// === impl Complainer ===

impl Complainer {
    /// Writes an Event for each object of which something else is wrong than before, for as long as this
    /// process leads and there are inputs.
    ///
    /// # Errors
    /// Fails if it is not known how to reach the API server.
    pub async fn run(self, mut inputs: watch::Receiver<Arc<Inputs>>) -> Result<(), SourceError> {
        let client = self.access.client().await?.client;
        let candidate = Candidate {
            leases: Api::namespaced(client.clone(), &self.namespace),
            lease: LEASE.into(),
            identity: self.identity.clone(),
        };
        let (sender, mut leads) = watch::channel(false);
        tokio::spawn(candidate.run(sender));
        let mut told = Complaints::new();
        loop {
            if *leads.borrow_and_update() {
                let current = inputs.borrow_and_update().clone();
                self.tell(&client, &current.resources, &mut told).await;
            } else {
                // The one who leads may say other things meanwhile.
                told.clear();
            }
            tokio::select! {
                changed = inputs.changed() => if changed.is_err() { return Ok(()) },
                changed = leads.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    }

    async fn tell(&self, client: &Client, resources: &Resources, told: &mut Complaints) {
        let wrong = complaints(resources);
        let keys: BTreeSet<_> = wrong.keys().chain(told.keys()).cloned().collect();
        for key in keys {
            let (before, now) = (told.get(&key), wrong.get(&key));
            if before == now {
                continue;
            }
            // One that is refused and was never accepted is known by its name alone.
            let object = resources.objects.get(&key);
            let event = self.event(&key, object, now.map(Vec::as_slice));
            let namespace = event.metadata.namespace.clone().unwrap_or_default();
            let events = Api::<Event>::namespaced(client.clone(), &namespace);
            if let Err(error) = events.create(&PostParams::default(), &event).await {
                complain(&key, &error);
            }
        }
        *told = wrong;
    }

    fn event(
        &self,
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
            Some(wrong) if wrong[0].severity == Severity::Error => {
                ("Warning", "Refused", note(wrong))
            }
            Some(wrong) => ("Warning", "Questionable", note(wrong)),
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
            reporting_instance: Some(self.identity.clone()),
            type_: Some(kind.into()),
            ..Event::default()
        }
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

/// What is wrong with objects of the API server, but for what is only worth knowing.
fn complaints(resources: &Resources) -> Complaints {
    let mut complaints = Complaints::new();
    for diagnostic in &resources.diagnostics {
        if diagnostic.severity == Severity::Info || diagnostic.location.is_some() {
            continue;
        }
        if let Some(key) = &diagnostic.object {
            let all = complaints.entry(key.clone()).or_default();
            all.push(diagnostic.clone());
        }
    }
    for all in complaints.values_mut() {
        all.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.cmp(b)));
    }
    complaints
}

/// All messages, without the object's name, which stands beside it.
fn note(wrong: &[Diagnostic]) -> String {
    let texts = wrong.iter().map(|diagnostic| {
        let nameless = Diagnostic {
            object: None,
            ..diagnostic.clone()
        };
        nameless.to_string()
    });
    let mut text = texts.collect::<Vec<_>>().join("; ");
    if text.len() > NOTE {
        text.truncate(text.floor_char_boundary(NOTE - '…'.len_utf8()));
        text.push('…');
    }
    text
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
    use nodegate_resources::{ResourceKind, admission::Store, manifest::Manifest};

    use super::*;

    fn resources(route: &str) -> Arc<Resources> {
        let text = format!(
            "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: web, namespace: shop, uid: u1}}, spec: {{hosts: [a.example], http: [{route}]}}}}"
        );
        let value = serde_yaml::from_str(&text).unwrap();
        let manifest = Manifest::of_value(ResourceKind::VirtualService, "shop", "web", value);
        Store::default().admit([&manifest], Vec::new())
    }

    #[test]
    fn an_event_says_what_is_wrong_and_with_which_object() {
        let resources = resources("{redirect: {uri: /x, redirectCode: 200}, rout: 1}");
        let complaints = complaints(&resources);
        let (key, wrong) = complaints.first_key_value().unwrap();
        let complainer = Complainer {
            access: Access::default(),
            namespace: "nodegate-system".into(),
            identity: "pod-1".into(),
        };
        let event = complainer.event(key, None, Some(wrong));
        let regarding = event.regarding.unwrap();
        assert_eq!(regarding.kind.as_deref(), Some("VirtualService"));
        assert_eq!(regarding.namespace.as_deref(), Some("shop"));
        assert_eq!(event.reason.as_deref(), Some("Refused"));
        let note = event.note.unwrap();
        assert!(note.starts_with("error: spec.http[0].redirect"), "{note}");
        assert!(
            note.contains("; warning: spec.http[0].rout: unknown field"),
            "{note}"
        );

        let event = complainer.event(key, None, None);
        assert_eq!(event.type_.as_deref(), Some("Normal"));
    }

    #[test]
    fn a_note_is_no_longer_than_an_event_lets_it_be() {
        let resources = resources("{redirect: {uri: /x, redirectCode: 200}}");
        let wrong = complaints(&resources).into_values().next().unwrap();
        let many: Vec<_> = std::iter::repeat_n(wrong[0].clone(), 40).collect();
        let note = note(&many);
        assert!(note.len() <= NOTE && note.ends_with('…'), "{}", note.len());
    }

    #[test]
    fn what_is_in_a_file_is_no_object_to_write_an_event_for() {
        let manifest = Manifest::parse(
            "a.yaml".into(),
            "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 70000}]}}",
        );
        let resources = Store::default().admit([&manifest], Vec::new());
        assert_eq!(resources.diagnostics.len(), 1);
        assert!(complaints(&resources).is_empty());
    }
}
