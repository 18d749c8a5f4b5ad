//! Manifests: a file's text → objects whose fields know their line.

mod accepted;
mod api;
mod decode;
pub(crate) mod fields;
mod foreign;
pub mod lines;
mod mismatch;
mod nulls;
mod split;
pub(crate) mod steps;

use std::{path::PathBuf, sync::Arc};

use nodegate_values::diagnostic::{Diagnostic, Location, ObjectKey, Severity};
use serde::de::DeserializeOwned;
use serde_yaml::Value;

use decode::Decoded;
use lines::{BadDocument, Lines};
use mismatch::Mismatch;

pub use accepted::LastAccepted;

use crate::kind::ResourceKind;
use crate::object::{Body, ManifestPlace, Object};
use crate::pod_maker::PodMaker;

/// Where a document was read. The order is that of their weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Provenance {
    /// The API server gave it: an object, and no text.
    ApiServer,
    /// A file.
    File,
}

/// What a file holds, or an object of the API server.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Where it was read.
    pub provenance: Provenance,
    /// The file, as it was named to us; of an object of the API server, a name of our own.
    pub file: Arc<PathBuf>,
    /// In the order of the file.
    pub objects: Vec<Arc<Object>>,
    /// Objects that the file names, but that could not be read.
    pub unreadable: Vec<ObjectKey>,
    /// A version of the one object that counts while this one is refused and none is in force.
    pub last_accepted: Option<Arc<Object>>,
    /// Whether something could not be read that does not even say which object it is.
    pub broken: bool,
    /// What is wrong with the text.
    pub diagnostics: Vec<Diagnostic>,
}

// === impl Manifest ===

/// What to do about text that is no YAML, and what holds until then.
const SYNTAX_FIX: &str = "correct the syntax there or just above; until then what this file defined \
                          before stays in force";

impl Manifest {
    /// Reads the text of `file`: YAML documents or JSON.
    pub fn parse(file: PathBuf, text: &str) -> Self {
        let mut manifest = Self::empty(Provenance::File, file);
        for document in split::documents(text) {
            manifest.document(document);
        }
        manifest
    }

    /// A file that could not be read: what it held before is unknown now, not gone.
    pub fn unreadable(file: PathBuf, error: &std::io::Error) -> Self {
        let mut manifest = Self::empty(Provenance::File, file);
        manifest.broken = true;
        manifest.diagnostics.push(Diagnostic {
            severity: Severity::Error,
            location: manifest.location(1),
            object: None,
            field: None,
            message: format!("cannot read the file: {error}"),
            fix: None,
        });
        manifest
    }

    /// Whether another reading of the document has come to the same.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let same = |one: &[Arc<Object>], other: &[Arc<Object>]| {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|(one, other)| one.is_the_same(other))
        };
        self.provenance == other.provenance
            && self.file == other.file
            && same(&self.objects, &other.objects)
            && self.unreadable == other.unreadable
            && same(
                self.last_accepted.as_slice(),
                other.last_accepted.as_slice(),
            )
            && self.broken == other.broken
            && self.diagnostics == other.diagnostics
    }

    fn empty(provenance: Provenance, file: PathBuf) -> Self {
        Self {
            provenance,
            file: Arc::new(file),
            objects: Vec::new(),
            unreadable: Vec::new(),
            last_accepted: None,
            broken: false,
            diagnostics: Vec::new(),
        }
    }

    fn document(&mut self, document: split::Document<'_>) {
        let lines = match Lines::of(document.text, document.line) {
            Ok(lines) => lines,
            Err(BadDocument { line, message, fix }) => {
                return self.broken(line.min(document.last()), String::new(), message, fix);
            }
        };
        let value = serde_yaml::from_str(document.text).and_then(|mut value: Value| {
            value.apply_merge()?;
            Ok(value)
        });
        match value {
            Ok(Value::Null) => {}
            Ok(value) => self.object(value, lines),
            Err(error) => {
                let line = error.location().map_or(1, |location| location.line());
                let message = format!("not YAML: {error}");
                self.broken(
                    (document.line + line - 1).min(document.last()),
                    String::new(),
                    message,
                    Some(SYNTAX_FIX.into()),
                );
            }
        }
    }

    fn object(&mut self, value: Value, lines: Lines) {
        if !value.is_mapping() {
            let message = "not a Kubernetes object: it has no fields";
            return self.broken(lines.line(""), String::new(), message.into(), None);
        }
        if let Some(message) = foreign::route_rule(&value) {
            let fix = foreign::ROUTE_RULE_FIX.into();
            return self.broken(lines.line("type"), "type".into(), message, Some(fix));
        }
        for field in ["apiVersion", "kind"] {
            if text(&value, &[field]).is_none_or(str::is_empty) {
                let fix = format!(
                    "add `{field}`, such as {}",
                    match field {
                        "kind" => "`kind: Service`",
                        _ => "`apiVersion: v1` or `apiVersion: networking.istio.io/v1`",
                    }
                );
                let message = "missing: what kind of object is this?".into();
                return self.broken(lines.line(field), field.into(), message, Some(fix));
            }
        }
        let api_version = text(&value, &["apiVersion"]).unwrap_or_default().to_owned();
        let kind = text(&value, &["kind"]).unwrap_or_default().to_owned();
        if (api_version.as_str(), kind.as_str()) == ("v1", "List") {
            return self.list(value, &lines);
        }
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", &api_version));
        let Some(known) = ResourceKind::of(group, &kind) else {
            return self.foreign(group, &kind, &value, &lines);
        };
        if known.makes_pods() {
            // Also one without a name, or of an older API: nobody else's objects suffer by it.
            return self.pod_maker(known, &value, lines);
        }
        let namespace = text(&value, &["metadata", "namespace"])
            .filter(|namespace| !namespace.is_empty())
            .unwrap_or("default");
        let namespace = if known.is_cluster_wide() {
            ""
        } else {
            namespace
        };
        let name = text(&value, &["metadata", "name"]).unwrap_or_default();
        let key = known.key(namespace, name);
        if key.name.is_empty() {
            let message = format!("this {} has no name", key.kind);
            let fix = Some("give it a name of lower-case letters, digits and `-`".into());
            return self.broken(
                lines.line("metadata.name"),
                "metadata.name".into(),
                message,
                fix,
            );
        }
        if !known.versions().contains(&version) {
            let message = format!("{} has no version `{version}`", group_name(group));
            let fix = format!("one of {}", known.versions().join(", "));
            return self.refuse(
                key,
                lines.line("apiVersion"),
                "apiVersion",
                message,
                Some(fix),
            );
        }
        self.typed(known, key, value, lines);
    }

    fn pod_maker(&mut self, kind: ResourceKind, value: &Value, lines: Lines) {
        let Some(maker) = PodMaker::of(kind, value) else {
            return;
        };
        let namespace = maker.metadata.namespace.as_deref();
        let namespace = namespace.filter(|namespace| !namespace.is_empty());
        let Some(name) = maker.metadata.name.clone() else {
            return;
        };
        self.objects.push(Arc::new(Object {
            key: kind.key(namespace.unwrap_or("default"), &name),
            body: Body::PodMaker(Box::new(maker)),
            origin: ManifestPlace {
                file: self.file.clone(),
                lines,
            },
        }));
    }

    /// A kind that nodegate does not read: no business of ours, or a slip of the pen.
    fn foreign(&mut self, group: &str, kind: &str, value: &Value, lines: &Lines) {
        if let Some((severity, message, fix)) =
            foreign::left_out(group, kind).or_else(|| foreign::mesh_config(group, kind, value))
        {
            return self.diagnostics.push(Diagnostic {
                severity,
                location: self.location(lines.line("kind")),
                object: Some(ObjectKey {
                    kind: kind.to_owned().into(),
                    group: group.to_owned().into(),
                    namespace: text(value, &["metadata", "namespace"])
                        .unwrap_or("default")
                        .to_owned(),
                    name: text(value, &["metadata", "name"])
                        .unwrap_or_default()
                        .to_owned(),
                }),
                field: None,
                message: message.into(),
                fix: fix.map(Into::into),
            });
        }
        let (field, fix) = if let Some(nearest) = ResourceKind::misspelled(group, kind) {
            ("kind", format!("did you mean `{nearest}`?"))
        } else if let Some(group) = ResourceKind::misplaced(group, kind) {
            ("apiVersion", format!("{kind} is of {}", group_name(group)))
        } else {
            return;
        };
        // No API server has it, and nobody reads it.
        self.diagnostics.push(Diagnostic {
            severity: Severity::Error,
            location: self.location(lines.line(field)),
            object: None,
            field: Some(field.into()),
            message: format!(
                "{} has no kind `{kind}`; the object is ignored",
                group_name(group)
            ),
            fix: Some(fix),
        });
    }

    fn list(&mut self, value: Value, lines: &Lines) {
        let Value::Mapping(mut mapping) = value else {
            return;
        };
        if let Some(Value::Sequence(items)) = mapping.remove("items") {
            for (index, item) in items.into_iter().enumerate() {
                self.object(item, lines.within(&format!("items[{index}]")));
            }
        }
    }

    fn typed(&mut self, kind: ResourceKind, key: ObjectKey, value: Value, lines: Lines) {
        let custom = kind.is_custom();
        let decoded = match kind {
            ResourceKind::Service => decode(value, custom, Body::Service),
            ResourceKind::Pod => decode(value, custom, Body::Pod),
            ResourceKind::Node => decode(value, custom, Body::Node),
            ResourceKind::Namespace => decode(value, custom, Body::Namespace),
            ResourceKind::Secret => decode(value, custom, Body::Secret),
            ResourceKind::EndpointSlice => decode(value, custom, Body::EndpointSlice),
            ResourceKind::Deployment | ResourceKind::StatefulSet | ResourceKind::DaemonSet => {
                return self.pod_maker(kind, &value, lines);
            }
            ResourceKind::Gateway => decode(value, custom, Body::Gateway),
            ResourceKind::VirtualService => decode(value, custom, Body::VirtualService),
            ResourceKind::DestinationRule => decode(value, custom, Body::DestinationRule),
            ResourceKind::ServiceEntry => decode(value, custom, Body::ServiceEntry),
            ResourceKind::WorkloadEntry => decode(value, custom, Body::WorkloadEntry),
            ResourceKind::AuthorizationPolicy => decode(value, custom, Body::AuthorizationPolicy),
            ResourceKind::RequestAuthentication => {
                decode(value, custom, Body::RequestAuthentication)
            }
        };
        match decoded {
            Ok(Decoded {
                value: body,
                unknown,
                null_conditions,
            }) => {
                let origin = ManifestPlace {
                    file: self.file.clone(),
                    lines,
                };
                let object = Object { key, body, origin };
                for decode::Unknown { path, nearest } in unknown {
                    let fix = nearest.map(|nearest| format!("did you mean `{nearest}`?"));
                    let message = "unknown field; it is ignored";
                    let warning = object.report(Severity::Warning, path, message, fix);
                    self.diagnostics.push(warning);
                }
                for path in null_conditions {
                    let message = "null says nothing: it is as if this were not there";
                    let fix = "remove it, or say what it wants".to_owned();
                    let warning = object.report(Severity::Warning, path, message, fix);
                    self.diagnostics.push(warning);
                }
                self.objects.push(Arc::new(object));
            }
            Err(mismatches) => {
                for Mismatch { path, message, fix } in mismatches {
                    self.refuse(key.clone(), lines.line(&path), &path, message, fix);
                }
            }
        }
    }

    /// Notes that an object cannot be read.
    fn refuse(
        &mut self,
        key: ObjectKey,
        line: usize,
        field: &str,
        message: String,
        fix: Option<String>,
    ) {
        if !self.unreadable.contains(&key) {
            self.unreadable.push(key.clone());
        }
        self.diagnostics.push(Diagnostic {
            severity: Severity::Error,
            location: self.location(line),
            object: Some(key),
            field: (!field.is_empty()).then(|| field.to_owned()),
            message,
            fix,
        });
    }

    /// Notes that a document cannot be read, whichever object it is.
    fn broken(&mut self, line: usize, field: String, message: String, fix: Option<String>) {
        self.broken = true;
        self.diagnostics.push(Diagnostic {
            severity: Severity::Error,
            location: self.location(line),
            object: None,
            field: (!field.is_empty()).then_some(field),
            message,
            fix,
        });
    }

    /// None where there is no text.
    fn location(&self, line: usize) -> Option<Location> {
        (line > 0).then(|| Location {
            file: self.file.clone(),
            line,
        })
    }
}

fn decode<T: DeserializeOwned>(
    value: Value,
    custom: bool,
    body: impl FnOnce(Box<T>) -> Body,
) -> Result<Decoded<Body>, Vec<Mismatch>> {
    let decoded = decode::decode(value, custom)?;
    Ok(Decoded {
        value: body(Box::new(decoded.value)),
        unknown: decoded.unknown,
        null_conditions: decoded.null_conditions,
    })
}

fn text<'v>(value: &'v Value, path: &[&str]) -> Option<&'v str> {
    path.iter()
        .try_fold(value, |value, key| value.get(key))?
        .as_str()
}

fn group_name(group: &str) -> &str {
    if group.is_empty() { "v1" } else { group }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_at_the_end_is_told_of_the_last_line() {
        let line = |text| {
            parse(text)
                .diagnostics
                .last()
                .unwrap()
                .location
                .as_ref()
                .unwrap()
                .line
        };
        assert_eq!(line("kind: Gateway\nme "), 2);
        assert_eq!(line("kind: Gateway\na: [\n"), 2);
        assert_eq!(line("a: 1\n---\nkind: Gateway\nme "), 4);
    }

    fn parse(text: &str) -> Manifest {
        Manifest::parse("web.yaml".into(), text)
    }

    fn messages(manifest: &Manifest) -> Vec<String> {
        manifest
            .diagnostics
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    fn keys(manifest: &Manifest) -> Vec<String> {
        manifest
            .objects
            .iter()
            .map(|object| object.key.to_string())
            .collect()
    }

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: nginx, namespace: simple}\nspec:\n  ports:\n  - port: 80\n";

    #[test]
    fn a_broken_document_leaves_the_others() {
        let text = format!("a: b: c\n---\n{SERVICE}---\nkind: Service\n---\nkind: [\n");
        let manifest = parse(&text);
        assert_eq!(keys(&manifest), ["Service simple/nginx"]);
        assert!(manifest.broken);
        assert_eq!(
            messages(&manifest)[..2],
            [
                "error: web.yaml:1: not YAML: mapping values are not allowed in this context (fix: correct the syntax there or just above; until then what this file defined before stays in force)",
                "error: web.yaml:10: apiVersion: missing: what kind of object is this? (fix: add `apiVersion`, such as `apiVersion: v1` or `apiVersion: networking.istio.io/v1`)",
            ]
        );
        assert!(
            messages(&manifest)[2].starts_with("error: web.yaml:1"),
            "{manifest:?}"
        );
        assert_eq!(manifest.diagnostics.len(), 3);
    }

    #[test]
    fn a_type_error_has_its_line_and_names_the_object() {
        let manifest = parse(&SERVICE.replace("80", "http"));
        assert_eq!(
            messages(&manifest),
            [
                "error: web.yaml:6: Service simple/nginx: spec.ports[0].port: the text \"http\" stands where a number belongs"
            ]
        );
        assert_eq!(manifest.unreadable[0].to_string(), "Service simple/nginx");
        assert!(!manifest.broken);
    }

    #[test]
    fn a_misspelled_field_is_a_warning() {
        let text = "apiVersion: networking.istio.io/v1alpha3\nkind: VirtualService\nmetadata:\n  name: web\nspec:\n  hosts: ['*']\n  http:\n  - rout:\n    - destination: {host: web}\n";
        let manifest = parse(text);
        assert_eq!(keys(&manifest), ["VirtualService default/web"]);
        assert_eq!(
            messages(&manifest),
            [
                "warning: web.yaml:8: VirtualService default/web: spec.http[0].rout: unknown field; it is ignored (fix: did you mean `route`?)"
            ]
        );
    }

    #[test]
    fn lists_are_opened_and_keep_their_lines() {
        let json = r#"{"apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "simple"}},
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "nginx"},
             "spec": {"ports": [{"port": "x"}]}}]}"#;
        let manifest = parse(json);
        assert_eq!(keys(&manifest), ["Namespace simple"]);
        assert_eq!(
            messages(&manifest),
            [
                "error: web.yaml:4: Service default/nginx: spec.ports[0].port: the text \"x\" stands where a number belongs"
            ]
        );
    }

    #[test]
    fn other_kinds_are_no_business_of_ours() {
        let text = "apiVersion: batch/v1\nkind: Job\n---\napiVersion: apps/v1\nkind: Deployment\n---\napiVersion: v1\nkind: ConfigMap\n---\napiVersion: cert-manager.io/v1\nkind: Certificate\n";
        let manifest = parse(text);
        assert_eq!((keys(&manifest), messages(&manifest)), (vec![], vec![]));
    }

    #[test]
    fn a_misspelled_kind_or_version_is_not() {
        let text = "apiVersion: networking.istio.io/v1\nkind: VirtualServce\nmetadata: {name: x}\n---\napiVersion: networking.istio.io/v1alpha1\nkind: Gateway\nmetadata: {name: x}\n---\napiVersion: networking.istio/v1\nkind: Gateway\n---\napiVersion: apps/v1\nkind: Service\n";
        assert_eq!(
            messages(&parse(text)),
            [
                "error: web.yaml:2: kind: networking.istio.io has no kind `VirtualServce`; the object is ignored (fix: did you mean `VirtualService`?)",
                "error: web.yaml:5: Gateway default/x: apiVersion: networking.istio.io has no version `v1alpha1` (fix: one of v1, v1beta1, v1alpha3)",
                "error: web.yaml:9: apiVersion: networking.istio has no kind `Gateway`; the object is ignored (fix: Gateway is of networking.istio.io)",
                "error: web.yaml:12: apiVersion: apps has no kind `Service`; the object is ignored (fix: Service is of v1)",
            ]
        );
    }

    #[test]
    fn what_routes_or_guards_requests_and_is_not_applied_is_told() {
        let text = "apiVersion: networking.istio.io/v1\nkind: EnvoyFilter\nmetadata: {name: lua, namespace: istio-system}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g}\n---\ntype: route-rule\nname: helloworld-default\nspec: {destination: a}\n";
        let manifest = parse(text);
        assert_eq!(
            messages(&manifest),
            [
                "warning: web.yaml:2: EnvoyFilter istio-system/lua: is not applied: there is no Envoy here",
                "info: web.yaml:6: Gateway default/g: is of the Gateway API, which this version does not read (fix: Istio's Gateway and VirtualService)",
                "error: web.yaml:9: type: `helloworld-default` is a route-rule of Istio 0.1 to 0.7, which is not read (fix: a VirtualService, with the tags as subsets of a DestinationRule)",
            ]
        );
    }

    #[test]
    fn merge_keys_and_anchors_work() {
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a, labels: &l {app: x}}\nspec:\n  selector: *l\n  ports:\n  - &p {name: a, port: 80}\n  - {<<: *p, name: b}\n";
        let manifest = parse(text);
        let Body::Service(service) = &manifest.objects[0].body else {
            panic!("{manifest:?}");
        };
        let spec = service.spec.as_ref().unwrap();
        assert_eq!(spec.selector.as_ref().unwrap()["app"], "x");
        assert_eq!(spec.ports.as_ref().unwrap()[1].port, 80);
    }

    /// As in a sample of Istio's, which kubectl takes.
    #[test]
    fn a_closing_bracket_may_stand_below_its_key() {
        let manifest =
            parse(&SERVICE.replace("spec:\n", "spec:\n  externalIPs: [\n    10.0.0.1,\n  ]\n"));
        assert_eq!(messages(&manifest), [""; 0]);
        assert_eq!(keys(&manifest), ["Service simple/nginx"]);
        // The decoder says what is none.
        let manifest =
            parse(&SERVICE.replace("spec:\n", "spec:\n  externalIPs: [\n    10.0.0.1,\n"));
        assert!(manifest.broken, "{:?}", messages(&manifest));
    }

    /// Nothing that a file may hold makes the reader panic.
    #[test]
    fn damaged_text_is_refused_politely() {
        let mut random = fastrand::Rng::with_seed(7);
        let damage: Vec<char> = "{}[]:-\n &*!|>%#\t\"'ä\0?,".chars().collect();
        let whole = format!(
            "%YAML 1.2\n---\n{SERVICE}---\n# c\napiVersion: v1\nkind: List\nitems: [{{apiVersion: v1, kind: Pod, metadata: {{name: &a x}}}}]\n---\nx: |\n  *a\n...\n"
        );
        for _ in 0..3000 {
            let mut text: Vec<char> = whole.chars().collect();
            for _ in 0..random.usize(1..6) {
                let place = random.usize(..text.len());
                match random.u8(..3) {
                    0 => drop(text.remove(place)),
                    1 => text[place] = *random.choice(&damage).unwrap(),
                    _ => text.truncate(place.max(10)),
                }
            }
            let text: String = text.into_iter().collect();
            let manifest = parse(&text);
            let lines = text.lines().count().max(1);
            for diagnostic in &manifest.diagnostics {
                let line = diagnostic.location.as_ref().unwrap().line;
                assert!((1..=lines + 1).contains(&line), "{diagnostic}\n{text}");
            }
            for object in &manifest.objects {
                crate::validate::validate(object);
            }
        }
    }
}
