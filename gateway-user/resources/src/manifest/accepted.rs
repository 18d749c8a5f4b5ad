//! The last version of an object that was accepted, as its status has it while a newer one is refused.
//!
//! Who has seen the good version goes on by it; who starts later would serve nothing, and each pod something
//! else. So one writes it down where all read it.

use serde::{Deserialize, Serialize};
use serde_yaml::Value;

use super::{Manifest, lines::Lines};
use crate::object::Object;

/// The last version that was accepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastAccepted {
    /// `metadata.generation` of that version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// What it said.
    pub spec: Value,
}

// === impl LastAccepted ===

impl LastAccepted {
    /// The field of `status`.
    pub const FIELD: &str = "nodegateLastAccepted";

    /// What an object says; none where that cannot be written as YAML, or has no `spec`.
    pub fn of(object: &Object) -> Option<Self> {
        let mut body = serde_yaml::to_value(&object.body).ok()?;
        Some(Self {
            generation: object.metadata().generation,
            spec: body.as_mapping_mut()?.remove("spec")?,
        })
    }
}

impl Manifest {
    /// The same, and `accepted` for the case that the object of this document is refused: with its name and
    /// labels, and as well looked at as any other.
    #[must_use]
    pub fn falling_back_on(mut self, accepted: LastAccepted, mut object: Value) -> Self {
        let Some(fields) = object.as_mapping_mut() else {
            return self;
        };
        fields.insert("spec".into(), accepted.spec);
        let metadata = fields.get_mut("metadata").and_then(Value::as_mapping_mut);
        if let (Some(metadata), Some(generation)) = (metadata, accepted.generation) {
            metadata.insert("generation".into(), generation.into());
        }
        let mut before = Self::empty(self.provenance, self.file.to_path_buf());
        before.object(object, Lines::default());
        self.last_accepted = before.objects.pop();
        self
    }
}

#[cfg(test)]
mod tests {
    use nodegate_values::diagnostic;

    use super::*;
    use crate::{ResourceKind, admission::Store, object::Body};

    fn value(spec: &str) -> Value {
        let text = format!(
            "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: web, namespace: shop, generation: 4}}, spec: {spec}}}"
        );
        serde_yaml::from_str(&text).unwrap()
    }

    fn manifest(spec: &str, accepted: Option<&str>) -> Manifest {
        let manifest = Manifest::of_value(ResourceKind::VirtualService, "shop", "web", value(spec));
        let Some(accepted) = accepted else {
            return manifest;
        };
        let accepted = LastAccepted {
            generation: Some(3),
            spec: serde_yaml::from_str(accepted).unwrap(),
        };
        manifest.falling_back_on(accepted, value(spec))
    }

    fn hosts(store: &mut Store, manifest: &Manifest) -> Option<Vec<String>> {
        let resources = store.admit([manifest], Vec::new());
        let mut objects = resources.virtual_services();
        objects
            .next()
            .map(|(_, service)| service.spec.hosts.clone())
    }

    const GOOD: &str = "{hosts: [good.example], http: [{route: [{destination: {host: web}}]}]}";
    const NEWER: &str = "{hosts: [newer.example], http: [{route: [{destination: {host: web}}]}]}";
    const REFUSED: &str = "{hosts: [bad.example], http: [{redirect: {redirectCode: 200}}]}";
    const UNREADABLE: &str = "{hosts: 7}";

    #[test]
    fn who_starts_later_goes_on_by_it() {
        for bad in [REFUSED, UNREADABLE] {
            let mut store = Store::default();
            let found = hosts(&mut store, &manifest(bad, Some(GOOD)));
            assert_eq!(found, Some(vec!["good.example".to_owned()]), "{bad}");
            assert!(diagnostic::has_errors(&store.current().diagnostics));
            // As soon as it is mended, it does not count any more.
            let found = hosts(&mut store, &manifest(NEWER, Some(GOOD)));
            assert_eq!(found, Some(vec!["newer.example".to_owned()]));
        }
    }

    #[test]
    fn what_was_seen_here_counts_more() {
        let mut store = Store::default();
        hosts(&mut store, &manifest(NEWER, None));
        let found = hosts(&mut store, &manifest(REFUSED, Some(GOOD)));
        assert_eq!(found, Some(vec!["newer.example".to_owned()]));
    }

    #[test]
    fn what_is_no_good_either_is_not_taken() {
        for bad in [REFUSED, UNREADABLE, "7"] {
            let mut store = Store::default();
            assert_eq!(
                hosts(&mut store, &manifest(REFUSED, Some(bad))),
                None,
                "{bad}"
            );
        }
    }

    #[test]
    fn it_is_what_the_object_says() {
        let mut store = Store::default();
        let resources = store.admit([&manifest(GOOD, None)], Vec::new());
        let object = resources.objects.values().next().unwrap();
        assert!(matches!(object.body, Body::VirtualService(_)));
        let accepted = LastAccepted::of(object).unwrap();
        assert_eq!(accepted.generation, Some(4));
        assert_eq!(accepted.spec["hosts"][0], "good.example");
    }
}
