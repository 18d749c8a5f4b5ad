//! What would come of one object, if it were applied.

use std::{collections::BTreeMap, sync::Arc};

use nodegate_values::diagnostic::{self, ObjectKey};

use super::{Exceptions, Proposal, Round};
use crate::{Resources, manifest::Manifest};

impl Resources {
    /// What would be in force, and what would be wrong, if `manifest` were applied to this. What is wrong
    /// with the rest is not told again, but for what objects do to each other.
    pub fn rehearse(&self, manifest: &Manifest) -> Arc<Self> {
        let mut round = Round {
            proposals: self.proposals(),
            exceptions: Exceptions::default(),
            diagnostics: Vec::new(),
        };
        let manifests = [manifest];
        for object in &manifest.objects {
            // The candidate takes the place of what is there, which is what it falls back on.
            round.proposals.remove(&object.key);
        }
        round.propose(&manifests, &self.objects);
        round.keep(&manifests, &self.objects);
        for object in &manifest.objects {
            if let Some(proposal) = round.proposals.get_mut(&object.key) {
                round.diagnostics.extend(proposal.validate());
            }
        }
        round.settle_conflicts();
        round.check_destinations();
        let Round {
            proposals,
            mut diagnostics,
            ..
        } = round;
        diagnostic::sort(&mut diagnostics);
        let accepted = proposals.into_iter();
        Arc::new(Self {
            version: self.version + 1,
            objects: accepted
                .filter_map(|(key, proposal)| Some((key, proposal.chosen?)))
                .collect(),
            diagnostics: diagnostics.into(),
        })
    }

    fn proposals(&self) -> BTreeMap<ObjectKey, Proposal> {
        let objects = self.objects.iter();
        let proposals = objects.map(|(key, object)| {
            let proposal = Proposal {
                last: None,
                chosen: Some(Arc::clone(object)),
                refused: false,
            };
            (key.clone(), proposal)
        });
        proposals.collect()
    }
}

#[cfg(test)]
mod tests {
    use nodegate_values::diagnostic::Severity;

    use super::*;
    use crate::{ResourceKind, admission::Store};

    fn virtual_service(name: &str, spec: &str) -> Manifest {
        let text = format!(
            "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: {name}, namespace: shop}}, spec: {spec}}}"
        );
        let value = serde_yaml::from_str(&text).unwrap();
        Manifest::of_value(ResourceKind::VirtualService, "shop", name, value)
    }

    fn told(resources: &Resources) -> Vec<(Severity, String)> {
        let diagnostics = resources.diagnostics.iter();
        diagnostics
            .map(|diagnostic| (diagnostic.severity, diagnostic.to_string()))
            .collect()
    }

    const GOOD: &str =
        "{hosts: [a.example], gateways: [edge], http: [{route: [{destination: {host: web}}]}]}";
    const BAD: &str = "{hosts: [a.example], http: [{redirect: {redirectCode: 200}}]}";

    #[test]
    fn it_says_what_admission_would_say_and_changes_nothing() {
        let mut store = Store::default();
        let current = store.admit([&virtual_service("web", GOOD)], Vec::new());
        let bad = virtual_service("web", BAD);
        let rehearsed = current.rehearse(&bad);
        let admitted = store.admit([&bad], Vec::new());
        assert_eq!(told(&rehearsed), told(&admitted));
        assert!(
            told(&rehearsed)
                .iter()
                .any(|(severity, _)| *severity == Severity::Error),
            "{:?}",
            told(&rehearsed)
        );
        // What was there stays, in both.
        assert!(rehearsed.objects.iter().eq(admitted.objects.iter()));
    }

    #[test]
    fn what_is_wrong_with_others_is_not_told() {
        let mut store = Store::default();
        let other = virtual_service("other", &GOOD.replace("a.example", "b.example"));
        let current = store.admit(
            [&other, &virtual_service("web", &BAD.replace("200", "201"))],
            Vec::new(),
        );
        let alone = current.rehearse(&virtual_service(
            "third",
            &GOOD.replace("a.example", "c.example"),
        ));
        let keys = alone.diagnostics.iter().filter_map(|it| it.object.clone());
        assert!(keys.into_iter().all(|key| key.name != "web"));
        let names: Vec<_> = alone.objects.iter().map(|(key, _)| &key.name).collect();
        assert_eq!(names, ["other", "third"]);
    }

    #[test]
    fn one_that_is_new_and_bad_is_not_there_afterwards() {
        let current = Store::default().admit([], Vec::new());
        let rehearsed = current.rehearse(&virtual_service("web", BAD));
        assert_eq!(rehearsed.objects.iter().count(), 0);
        assert!(!rehearsed.diagnostics.is_empty());
    }
}
