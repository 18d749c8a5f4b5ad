//! What would come of an object that somebody applies, as the API server asks it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use kube::{
    ResourceExt as _,
    core::{
        DynamicObject,
        admission::{AdmissionRequest, AdmissionResponse, Operation},
    },
};
use nodegate_compile::check;
use nodegate_resources::{ResourceKind, Resources, manifest::Manifest};
use nodegate_values::diagnostic::{Diagnostic, ObjectKey, Severity};

/// As many messages about other objects as one answer has.
const OTHERS: usize = 5;

/// What happens to an object that nodegate would not serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refusal {
    /// It is not let into the cluster.
    #[default]
    Deny,
    /// It is, with a warning: another gateway in the cluster may well serve it.
    Warn,
}

/// Who answers.
#[derive(Debug)]
pub struct Reviewer {
    /// Labels of nodegate's own gateway pods.
    pub gateway_labels: BTreeMap<String, String>,
    /// What happens to what nodegate would not serve.
    pub refusal: Refusal,
    /// What is wrong with the objects in force, and with which version of them: most questions are asked
    /// about the same.
    known: Mutex<Option<(u64, BTreeSet<Diagnostic>)>>,
}

// === impl Reviewer ===

impl Reviewer {
    /// Answers for gateways with these labels.
    pub fn new(gateway_labels: BTreeMap<String, String>, refusal: Refusal) -> Self {
        Self {
            gateway_labels,
            refusal,
            known: Mutex::default(),
        }
    }

    /// Answers for an object that is to be created or changed beside those that are in force. Others are let
    /// pass.
    pub fn review(
        &self,
        resources: &Resources,
        request: &AdmissionRequest<DynamicObject>,
    ) -> AdmissionResponse {
        let response = AdmissionResponse::from(request);
        let Some(object) = subject(request) else {
            return response;
        };
        if resources.version == 0 {
            return warned(
                response,
                vec!["nodegate has not read the cluster yet, and has not checked this".to_owned()],
            );
        }
        let Some(candidate) = Candidate::of(request, object) else {
            return response;
        };
        let found = self.findings(resources, &candidate);
        self.answer(response, found)
    }

    fn findings(&self, resources: &Resources, candidate: &Candidate) -> Findings {
        let rehearsed = resources.rehearse(&candidate.manifest);
        // What another object may mend is no reason to keep this one out: people apply them in any order.
        let alone = Resources::default().rehearse(&candidate.manifest);
        let mut findings = Findings::default();
        for diagnostic in check(&rehearsed, &self.gateway_labels) {
            let is_its_own = diagnostic.object.as_ref() == Some(&candidate.key);
            match (diagnostic.severity, is_its_own) {
                (Severity::Info, _) => {}
                (_, false) => findings.others.push(diagnostic),
                (Severity::Error, true) if alone.diagnostics.contains(&diagnostic) => {
                    findings.errors.push(text(&diagnostic));
                }
                (Severity::Error | Severity::Warning, true) => {
                    findings.warnings.push(text(&diagnostic));
                }
            }
        }
        if !findings.others.is_empty() {
            self.leave_out_known(resources, &mut findings.others);
        }
        findings
    }

    /// Leaves out what is wrong already.
    fn leave_out_known(&self, resources: &Resources, others: &mut Vec<Diagnostic>) {
        // A thread that panicked while it held the lock has left what was there before.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_current = matches!(&*known, Some((version, _)) if *version == resources.version);
        if !is_current {
            let now = check(resources, &self.gateway_labels);
            *known = Some((resources.version, now.into_iter().collect()));
        }
        if let Some((_, known)) = &*known {
            others.retain(|diagnostic| !known.contains(diagnostic));
        }
    }

    fn answer(&self, response: AdmissionResponse, found: Findings) -> AdmissionResponse {
        let Findings {
            errors,
            mut warnings,
            others,
        } = found;
        let more = others.len().saturating_sub(OTHERS);
        let told = others.into_iter().take(OTHERS);
        warnings.extend(told.map(|diagnostic| format!("with this, {diagnostic}")));
        if more > 0 {
            warnings.push(format!(
                "with this, {more} more messages about other objects"
            ));
        }
        if errors.is_empty() {
            return warned(response, warnings);
        }
        match self.refusal {
            Refusal::Deny => warned(response, warnings).deny(errors.join("; ")),
            Refusal::Warn => {
                let refused = errors.into_iter();
                let refused = refused.map(|error| format!("nodegate does not serve this: {error}"));
                warned(response, refused.chain(warnings).collect())
            }
        }
    }
}

/// What is wrong, but for what is only worth knowing.
#[derive(Debug, Default)]
struct Findings {
    /// Of the object.
    errors: Vec<String>,
    /// Of the object.
    warnings: Vec<String>,
    /// Of other objects, because of it.
    others: Vec<Diagnostic>,
}

/// The object, and the name that messages about it have.
struct Candidate {
    key: ObjectKey,
    manifest: Manifest,
}

impl Candidate {
    /// None of a kind that nodegate does not read.
    fn of(request: &AdmissionRequest<DynamicObject>, object: &DynamicObject) -> Option<Self> {
        let kind = ResourceKind::of(&request.kind.group, &request.kind.kind)?;
        let mut object = object.clone();
        object.metadata.managed_fields = None;
        let namespace = request.namespace.clone().unwrap_or_default();
        let name = object.name_any();
        if let Some(fields) = object.data.as_object_mut() {
            fields.remove("status");
        }
        let value = serde_json::to_value(&object).ok()?;
        let value = serde_yaml::to_value(value).ok()?;
        Some(Self {
            key: kind.key(&namespace, &name),
            manifest: Manifest::of_value(kind, &namespace, &name, value),
        })
    }
}

/// What is to be looked at: not what goes away, nor a status, which somebody else writes.
fn subject(request: &AdmissionRequest<DynamicObject>) -> Option<&DynamicObject> {
    let is_whole = request.sub_resource.as_deref().is_none_or(str::is_empty);
    let is_written = matches!(request.operation, Operation::Create | Operation::Update);
    request.object.as_ref().filter(|_| is_whole && is_written)
}

/// The message without its severity and the object's name, which the API server and kubectl say.
fn text(diagnostic: &Diagnostic) -> String {
    let text = diagnostic.nameless().to_string();
    let words = text.split_once(": ");
    words.map_or(text.clone(), |(_, words)| words.to_owned())
}

fn warned(mut response: AdmissionResponse, warnings: Vec<String>) -> AdmissionResponse {
    response.warnings = Some(warnings).filter(|warnings| !warnings.is_empty());
    response
}

#[cfg(test)]
mod tests {
    use nodegate_resources::admission::Store;
    use serde_json::{Value, json};

    use super::*;

    const EDGE: &str = "{selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}";
    const WEB: &str =
        "{hosts: [a.example], gateways: [edge], http: [{route: [{destination: {host: web}}]}]}";

    fn manifest(kind: ResourceKind, name: &str, spec: &str) -> Manifest {
        let (group, name_of_kind) = (kind.group(), kind.key("", "").kind);
        let text = format!(
            "{{apiVersion: {group}/v1, kind: {name_of_kind}, metadata: {{name: {name}, namespace: shop}}, spec: {spec}}}"
        );
        let value = serde_yaml::from_str(&text).unwrap();
        Manifest::of_value(kind, "shop", name, value)
    }

    fn service() -> Manifest {
        let text = "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.9, ports: [{port: 80, name: http}]}}";
        Manifest::parse("s.yaml".into(), text)
    }

    fn cluster() -> std::sync::Arc<Resources> {
        let edge = manifest(ResourceKind::Gateway, "edge", EDGE);
        let web = manifest(ResourceKind::VirtualService, "web", WEB);
        Store::default().admit([&edge, &web, &service()], Vec::new())
    }

    fn request(
        operation: &str,
        kind: &str,
        name: &str,
        spec: &str,
    ) -> AdmissionRequest<DynamicObject> {
        let spec: Value = serde_yaml::from_str(spec).unwrap();
        let kind = json!({"group": "networking.istio.io", "version": "v1", "kind": kind});
        let object = json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": kind["kind"],
            "metadata": {"name": name, "namespace": "shop", "managedFields": [{"manager": "kubectl"}]},
            "spec": spec,
            "status": {"conditions": 7},
        });
        serde_json::from_value(json!({
            "uid": "u1",
            "kind": kind,
            "resource": {"group": "networking.istio.io", "version": "v1", "resource": "x"},
            "name": name,
            "namespace": "shop",
            "operation": operation,
            "userInfo": {},
            "object": object,
            "oldObject": null,
        }))
        .unwrap()
    }

    fn ask(
        refusal: Refusal,
        request: &AdmissionRequest<DynamicObject>,
    ) -> (bool, String, Vec<String>) {
        let labels = [("istio", "ingressgateway"), ("app", "istio-ingressgateway")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let reviewer = Reviewer::new(labels.into(), refusal);
        let answer = reviewer.review(&cluster(), request);
        assert_eq!(answer.uid, "u1");
        (
            answer.allowed,
            answer.result.message,
            answer.warnings.unwrap_or_default(),
        )
    }

    #[test]
    fn what_is_fine_is_let_in_without_a_word() {
        let good = WEB.replace("a.example", "b.example");
        let asked = request("CREATE", "VirtualService", "other", &good);
        assert_eq!(ask(Refusal::Deny, &asked), (true, String::new(), vec![]));
        // The same again.
        let asked = request("UPDATE", "VirtualService", "web", WEB);
        assert_eq!(ask(Refusal::Deny, &asked), (true, String::new(), vec![]));
    }

    #[test]
    fn what_check_calls_an_error_is_denied_in_its_words() {
        let bad = "{hosts: [a.example], http: [{redirect: {redirectCode: 200}}]}";
        let asked = request("UPDATE", "VirtualService", "web", bad);
        let (allowed, message, _) = ask(Refusal::Deny, &asked);
        assert!(!allowed);
        assert!(message.starts_with("spec.http[0].redirect"), "{message}");
        assert!(message.contains("(fix: "), "{message}");

        let (allowed, message, warnings) = ask(Refusal::Warn, &asked);
        assert!(allowed && message.is_empty());
        let refused = "nodegate does not serve this: spec.http[0].redirect";
        assert!(warnings[0].starts_with(refused), "{warnings:?}");
    }

    #[test]
    fn what_another_object_may_mend_is_a_warning() {
        let elsewhere = WEB.replace("host: web", "host: wbe");
        for (operation, name, consequence) in [
            // The Service may come with the next command.
            ("CREATE", "other", "requests to it are answered with 503"),
            ("UPDATE", "web", "the last accepted version stays in force"),
        ] {
            let asked = request(operation, "VirtualService", name, &elsewhere);
            let (allowed, _, warnings) = ask(Refusal::Deny, &asked);
            assert!(allowed);
            let found = warnings.iter();
            let mut found = found.filter(|it| it.contains("wbe") && it.contains(consequence));
            assert!(found.next().is_some(), "{warnings:?}");
        }
    }

    #[test]
    fn what_would_be_served_in_part_is_denied() {
        let part = EDGE.replace("hosts: ['*']", "hosts: ['*', 'a b']");
        let asked = request("UPDATE", "Gateway", "edge", &part);
        let (allowed, said, warnings) = ask(Refusal::Deny, &asked);
        assert!(!allowed && warnings.is_empty(), "{warnings:?}");
        assert!(said.starts_with("spec.servers[0].hosts[1]: "), "{said}");
    }

    #[test]
    fn what_check_warns_of_is_a_warning() {
        let unknown = WEB.replace("hosts:", "hots: [x], hosts:");
        let asked = request("UPDATE", "VirtualService", "web", &unknown);
        let (allowed, _, warnings) = ask(Refusal::Deny, &asked);
        assert!(allowed);
        assert_eq!(
            warnings,
            ["spec.hots: unknown field; it is ignored (fix: did you mean `hosts`?)"]
        );
    }

    #[test]
    fn what_it_does_to_others_is_told() {
        let elsewhere = EDGE.replace("hosts: ['*']", "hosts: [b.example]");
        let asked = request("UPDATE", "Gateway", "edge", &elsewhere);
        let (allowed, _, warnings) = ask(Refusal::Deny, &asked);
        assert!(allowed);
        let about_web = warnings
            .iter()
            .filter(|warning| warning.contains("VirtualService shop/web"));
        assert_eq!(about_web.count(), 1, "{warnings:?}");
    }

    #[test]
    fn what_goes_and_what_nobody_reads_is_let_pass() {
        let bad = "{hosts: 7}";
        for (operation, kind) in [("DELETE", "VirtualService"), ("CREATE", "Sidecar")] {
            let asked = request(operation, kind, "web", bad);
            assert_eq!(ask(Refusal::Deny, &asked), (true, String::new(), vec![]));
        }
        let mut status = request("UPDATE", "VirtualService", "web", bad);
        status.sub_resource = Some("status".into());
        assert_eq!(ask(Refusal::Deny, &status), (true, String::new(), vec![]));
        // One that cannot be read at all.
        let asked = request("CREATE", "VirtualService", "web", bad);
        assert!(!ask(Refusal::Deny, &asked).0);
    }

    #[test]
    fn before_the_cluster_is_known_nothing_is_refused() {
        let reviewer = Reviewer::new(BTreeMap::new(), Refusal::Deny);
        let asked = request("CREATE", "VirtualService", "web", "{hosts: 7}");
        let answer = reviewer.review(&Resources::default(), &asked);
        assert!(answer.allowed);
        assert!(answer.warnings.unwrap()[0].contains("has not checked this"));
    }
}
