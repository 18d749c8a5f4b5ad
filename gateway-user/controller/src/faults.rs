//! What is wrong with each object of the API server.

use std::collections::{BTreeMap, BTreeSet};

use nodegate_compile::check;
use nodegate_resources::Resources;
use nodegate_values::diagnostic::{Diagnostic, ObjectKey, Severity};

/// What is wrong with each object, worst first.
pub(crate) type Faults = BTreeMap<ObjectKey, Vec<Diagnostic>>;

/// What is wrong with objects of the API server, but for what is only worth knowing.
///
/// It is what `nodegate check` and `nodegate status` say; `ours` are the labels of nodegate's own gateway pods.
pub(crate) fn faults(resources: &Resources, ours: &BTreeMap<String, String>) -> Faults {
    let mut faults = Faults::new();
    for diagnostic in &check(resources, ours) {
        if diagnostic.severity == Severity::Info || diagnostic.location.is_some() {
            continue;
        }
        // The controller reads no Secrets: what they lack, gateways say.
        let field = diagnostic.field.as_deref().unwrap_or_default();
        if field.ends_with(".credentialName") && diagnostic.message.starts_with("Secret ") {
            continue;
        }
        if let Some(key) = &diagnostic.object {
            let all = faults.entry(key.clone()).or_default();
            all.push(diagnostic.clone());
        }
    }
    for all in faults.values_mut() {
        all.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.cmp(b)));
    }
    faults
}

/// The objects of which something else is wrong than before; with what is wrong now, if anything.
pub(crate) fn changed<'f>(
    before: &'f Faults,
    now: &'f Faults,
) -> impl Iterator<Item = (&'f ObjectKey, Option<&'f [Diagnostic]>)> {
    let keys: BTreeSet<_> = now.keys().chain(before.keys()).collect();
    let keys = keys
        .into_iter()
        .filter(|key| before.get(*key) != now.get(*key));
    keys.map(|key| (key, now.get(key).map(Vec::as_slice)))
}

/// Whether the object is refused, and not only questionable. Nothing wrong is no refusal.
pub(crate) fn is_refused(wrong: &[Diagnostic]) -> bool {
    let worst = wrong.first();
    worst.is_some_and(|diagnostic| diagnostic.severity == Severity::Error)
}

/// All messages in at most `limit` bytes, without the object's name, which stands beside it.
pub(crate) fn text(wrong: &[Diagnostic], limit: usize) -> String {
    let texts = wrong
        .iter()
        .map(|diagnostic| diagnostic.nameless().to_string());
    let mut text = texts.collect::<Vec<_>>().join("; ");
    if text.len() > limit {
        text.truncate(text.floor_char_boundary(limit - '…'.len_utf8()));
        text.push('…');
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use nodegate_resources::{ResourceKind, admission::Store, manifest::Manifest};

    use super::*;

    pub(crate) fn resources(route: &str) -> Arc<Resources> {
        let text = format!(
            "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: web, namespace: shop, uid: u1}}, spec: {{hosts: [a.example], http: [{route}]}}}}"
        );
        let value = serde_yaml::from_str(&text).unwrap();
        let manifest = Manifest::of_value(ResourceKind::VirtualService, "shop", "web", value);
        Store::default().admit([&manifest], Vec::new())
    }

    #[test]
    fn a_text_is_no_longer_than_it_may_be() {
        let resources = resources("{redirect: {uri: /x, redirectCode: 200}}");
        let wrong = faults(&resources, &BTreeMap::new())
            .into_values()
            .next()
            .unwrap();
        assert!(is_refused(&wrong));
        let many: Vec<_> = std::iter::repeat_n(wrong[0].clone(), 40).collect();
        let text = text(&many, 1024);
        assert!(text.len() <= 1024 && text.ends_with('…'), "{}", text.len());
    }

    #[test]
    fn what_is_in_a_file_is_no_object_to_write_on() {
        let manifest = Manifest::parse(
            "a.yaml".into(),
            "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 70000}]}}",
        );
        let resources = Store::default().admit([&manifest], Vec::new());
        assert_eq!(resources.diagnostics.len(), 1);
        assert!(faults(&resources, &BTreeMap::new()).is_empty());
    }
}
