//! Faults of Istio's objects in their status: a condition, where `kubectl get -o yaml` and GitOps tools look,
//! and the last version that was accepted, so that a nodegate that starts later serves what the others do.
//!
//! Only objects that something is wrong with get one, and keep it when that is mended. Others' conditions, such
//! as istiod's, stay.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DynamicObject, ListParams, PostParams},
};
use nodegate_resources::{ResourceKind, Resources, manifest::LastAccepted};
use nodegate_source::kubernetes::{custom, trouble::Trouble};
use nodegate_values::diagnostic::{Diagnostic, ObjectKey};
use serde_json::{Map, Value, json};
use tracing::warn;

use crate::faults::{self, Faults};

/// The condition's type.
const ACCEPTED: &str = "nodegate.io/Accepted";

/// As many bytes as a condition's message may have (`metav1.Condition`).
const MESSAGE: usize = 32_768;

/// As many objects as one page of a list has, as `kubectl get` asks.
const PAGE: u32 = 500;

/// How often a write is tried that others are in the way of.
const ATTEMPTS: usize = 4;

const KINDS: [ResourceKind; 5] = [
    ResourceKind::Gateway,
    ResourceKind::VirtualService,
    ResourceKind::DestinationRule,
    ResourceKind::ServiceEntry,
    ResourceKind::WorkloadEntry,
];

/// Who writes conditions.
pub(crate) struct Conditions {
    client: Client,
    /// The kinds that the cluster has, as far as somebody asked.
    served: BTreeMap<&'static str, ApiResource>,
}

/// What is to be said of an object.
struct Word<'w> {
    wrong: &'w [Diagnostic],
    /// The version that is in force, where it is another one than the newest.
    accepted: Option<LastAccepted>,
}

// === impl Conditions ===

impl Conditions {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            served: BTreeMap::new(),
        }
    }

    /// The objects whose condition says that something is wrong, as somebody wrote it who led before; what
    /// that was is not known.
    pub(crate) async fn faulty(&mut self) -> BTreeSet<ObjectKey> {
        let mut faulty = BTreeSet::new();
        for kind in KINDS {
            if let Err(error) = self.faulty_of(kind, &mut faulty).await {
                let told = Trouble::of_client(&error);
                warn!(
                    "the status of {} cannot be read: {}",
                    kind.plural(),
                    told.told()
                );
            }
        }
        faulty
    }

    async fn faulty_of(
        &mut self,
        kind: ResourceKind,
        faulty: &mut BTreeSet<ObjectKey>,
    ) -> Result<(), kube::Error> {
        let Some(resource) = self.served(kind).await? else {
            return Ok(());
        };
        let api = Api::<DynamicObject>::all_with(self.client.clone(), &resource);
        let mut parameters = ListParams::default().limit(PAGE);
        loop {
            let page = api.list(&parameters).await?;
            let marked = page.items.iter().filter(|object| {
                let condition = ours(&object.data["status"]);
                condition.is_some_and(|condition| condition["reason"] != "Accepted")
            });
            let keys = marked.map(|object| {
                let namespace = object.namespace().unwrap_or_default();
                kind.key(&namespace, &object.name_any())
            });
            faulty.extend(keys);
            match page.metadata.continue_ {
                Some(next) if !next.is_empty() => {
                    parameters = ListParams::default().limit(PAGE).continue_token(&next);
                }
                _ => return Ok(()),
            }
        }
    }

    async fn served(&mut self, kind: ResourceKind) -> Result<Option<ApiResource>, kube::Error> {
        if let Some(resource) = self.served.get(kind.plural()) {
            return Ok(Some(resource.clone()));
        }
        let resource = custom::served(&self.client, kind).await?;
        if let Some(resource) = &resource {
            self.served.insert(kind.plural(), resource.clone());
        }
        Ok(resource)
    }

    /// Writes on each of Istio's objects of which something else is wrong than before.
    pub(crate) async fn tell(&mut self, resources: &Resources, before: &Faults, now: &Faults) {
        for (key, wrong) in faults::changed(before, now) {
            let Some(kind) = KINDS
                .into_iter()
                .find(|kind| kind.key(&key.namespace, &key.name) == *key)
            else {
                continue;
            };
            let word = Word::of(resources, key, wrong.unwrap_or_default());
            if let Err(error) = self.write(kind, key, &word).await {
                complain(key, kind, &error);
            }
        }
    }

    async fn write(
        &mut self,
        kind: ResourceKind,
        key: &ObjectKey,
        word: &Word<'_>,
    ) -> Result<(), kube::Error> {
        let Some(resource) = self.served(kind).await? else {
            return Ok(());
        };
        let api =
            Api::<DynamicObject>::namespaced_with(self.client.clone(), &key.namespace, &resource);
        for _ in 0..ATTEMPTS {
            let Some(mut object) = api.get_opt(&key.name).await? else {
                return Ok(());
            };
            let generation = object.metadata.generation;
            let Some(status) = word.status(&object.data["status"], generation) else {
                return Ok(());
            };
            object.data["status"] = status;
            let parameters = PostParams::default();
            let written = api.replace_status(&key.name, &parameters, &object).await;
            match written {
                // With the version that was read: somebody else has changed it meanwhile.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                written => return written.map(drop),
            }
        }
        Ok(())
    }
}

// === impl Word ===

impl<'w> Word<'w> {
    fn of(resources: &Resources, key: &ObjectKey, wrong: &'w [Diagnostic]) -> Self {
        let in_force = resources.objects.get(key);
        let accepted = in_force
            .filter(|_| faults::is_refused(wrong))
            .and_then(|object| LastAccepted::of(object));
        Self { wrong, accepted }
    }

    /// The status with this in it; none where it says so already.
    fn status(&self, status: &Value, generation: Option<i64>) -> Option<Value> {
        let before = ours(status);
        if self.wrong.is_empty() && before.is_none() {
            return None;
        }
        let mut new = status.as_object().cloned().unwrap_or_default();
        put_condition(&mut new, self.condition(before, generation));
        // What is in force cannot be the version that is refused.
        let accepted = self.accepted.as_ref();
        let accepted = accepted.filter(|accepted| accepted.generation != generation);
        match accepted.and_then(|accepted| serde_json::to_value(accepted).ok()) {
            Some(accepted) => {
                new.insert(LastAccepted::FIELD.to_owned(), accepted);
            }
            // A leader that has seen nothing but the refused version knows no better.
            None if faults::is_refused(self.wrong) => {}
            None => {
                new.remove(LastAccepted::FIELD);
            }
        }
        let new = Value::Object(new);
        (new != *status).then_some(new)
    }

    fn condition(&self, before: Option<&Value>, generation: Option<i64>) -> Value {
        let in_force = self.accepted.as_ref().map(|accepted| accepted.generation);
        let (status, reason) = if faults::is_refused(self.wrong) && in_force == Some(generation) {
            // What is wrong is left out, and the rest is served.
            ("True", "PartlyServed")
        } else if faults::is_refused(self.wrong) {
            ("False", "Refused")
        } else if self.wrong.is_empty() {
            ("True", "Accepted")
        } else {
            ("True", "Questionable")
        };
        let same = before.filter(|before| before["status"] == status);
        let since = same.and_then(|before| before["lastTransitionTime"].as_str());
        let since = since.map_or_else(now, str::to_owned);
        let mut condition = json!({
            "type": ACCEPTED,
            "status": status,
            "reason": reason,
            "message": faults::text(self.wrong, MESSAGE),
            "lastTransitionTime": since,
        });
        if let Some(generation) = generation {
            // A string in Istio's own definitions, as protobuf has 64-bit numbers in JSON.
            condition["observedGeneration"] = generation.to_string().into();
        }
        condition
    }
}

/// Our condition in a status.
fn ours(status: &Value) -> Option<&Value> {
    let conditions = status["conditions"].as_array()?;
    conditions
        .iter()
        .find(|condition| condition["type"] == ACCEPTED)
}

/// Puts our condition into its place among others'.
fn put_condition(status: &mut Map<String, Value>, condition: Value) {
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    if let Some(conditions) = conditions.as_array_mut() {
        match conditions.iter_mut().find(|it| it["type"] == ACCEPTED) {
            Some(place) => *place = condition,
            None => conditions.push(condition),
        }
    }
}

fn now() -> String {
    // metav1.Time has whole seconds.
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn complain(key: &ObjectKey, kind: ResourceKind, error: &kube::Error) {
    let trouble = Trouble::of_client(error);
    let fix = match trouble {
        Trouble::Forbidden(_) => format!(
            " (fix: add the rules {{apiGroups: [{0}], resources: [{1}], verbs: [get]}} and {{apiGroups: [{0}], \
             resources: [{1}/status], verbs: [update]}} to its role)",
            kind.group(),
            kind.plural()
        ),
        _ => String::new(),
    };
    warn!("no condition for {key}: {}{fix}", trouble.told());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::{faults, tests::resources};

    const BAD: &str = "{redirect: {uri: /x, redirectCode: 200}}";

    fn wrong(route: &str) -> Vec<Diagnostic> {
        let all = faults(&resources(route), &BTreeMap::new());
        all.into_values().next().unwrap_or_default()
    }

    fn word(wrong: &[Diagnostic]) -> Word<'_> {
        Word {
            wrong,
            accepted: None,
        }
    }

    #[test]
    fn it_says_what_is_wrong_beside_what_others_say() {
        let wrong = wrong(BAD);
        let istiod = json!({"type": "Reconciled", "status": "True"});
        let status = json!({"conditions": [istiod], "observedGeneration": "3"});
        let new = word(&wrong).status(&status, Some(4)).unwrap();
        assert_eq!(new["conditions"][0], istiod);
        assert_eq!(new["observedGeneration"], "3");
        let condition = &new["conditions"][1];
        assert_eq!(condition["status"], "False");
        assert_eq!(condition["reason"], "Refused");
        assert_eq!(condition["observedGeneration"], "4");
        let message = condition["message"].as_str().unwrap();
        assert!(message.contains("spec.http[0].redirect"), "{message}");
        // Nothing to write twice.
        assert_eq!(word(&wrong).status(&new, Some(4)), None);
    }

    #[test]
    fn what_is_mended_says_so_and_what_was_fine_says_nothing() {
        assert_eq!(word(&[]).status(&Value::Null, Some(1)), None);
        let wrong = wrong(BAD);
        let refused = word(&wrong).status(&Value::Null, Some(1)).unwrap();
        let mended = word(&[]).status(&refused, Some(2)).unwrap();
        assert_eq!(mended["conditions"][0]["status"], "True");
        assert_eq!(mended["conditions"][0]["reason"], "Accepted");
        assert_eq!(mended["conditions"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn what_is_in_force_in_place_of_what_is_refused_is_there_for_others() {
        let wrong = wrong(BAD);
        let spec = json!({"hosts": ["a.example"]});
        let accepted = || LastAccepted {
            generation: Some(3),
            spec: serde_yaml::to_value(&spec).unwrap(),
        };
        let with = |accepted| Word {
            wrong: &wrong,
            accepted,
        };
        let new = with(Some(accepted()))
            .status(&Value::Null, Some(4))
            .unwrap();
        assert_eq!(
            new["nodegateLastAccepted"],
            json!({"generation": 3, "spec": spec})
        );
        // One that has seen the refused version alone does not take it away.
        assert_eq!(with(None).status(&new, Some(4)), None);
        // It goes with the fault.
        let mended = word(&[]).status(&new, Some(5)).unwrap();
        assert_eq!(mended["nodegateLastAccepted"], Value::Null);
    }

    #[test]
    fn what_is_in_force_without_what_is_wrong_says_so() {
        let wrong = wrong(BAD);
        let in_force = Word {
            wrong: &wrong,
            accepted: Some(LastAccepted {
                generation: Some(4),
                spec: serde_yaml::Value::Null,
            }),
        };
        let new = in_force.status(&Value::Null, Some(4)).unwrap();
        assert_eq!(new["conditions"][0]["status"], "True");
        assert_eq!(new["conditions"][0]["reason"], "PartlyServed");
        assert_eq!(new["nodegateLastAccepted"], Value::Null);
    }

    #[test]
    fn a_status_of_another_shape_is_no_obstacle() {
        let wrong = wrong(BAD);
        let new = word(&wrong)
            .status(&json!({"conditions": 7}), None)
            .unwrap();
        assert_eq!(new["conditions"].as_array().unwrap().len(), 1);
    }
}
