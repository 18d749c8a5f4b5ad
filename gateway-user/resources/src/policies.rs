//! Whose requests policies of `security.istio.io` are about, and whether they keep any out.

use std::collections::BTreeMap;

use crate::{
    istio::{AuthorizationPolicy, Opaque, PolicySelector, RequestAuthentication},
    lookup::{ROOT_NAMESPACE, selects},
};

/// Whose requests a policy is about.
#[derive(Clone, Copy, Debug)]
pub struct PolicyScope<'p> {
    namespace: &'p str,
    selector: Option<&'p PolicySelector>,
    is_targeted: bool,
}

// === impl PolicyScope ===

impl PolicyScope<'_> {
    /// Whether it is about a pod: all of the mesh from the root namespace, else those of its own
    /// (`GetAuthorizationPolicies` of istio's pilot/pkg/model). One with target references is about no pod that
    /// is chosen by labels.
    pub fn has(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        let is_near = self.namespace == ROOT_NAMESPACE || self.namespace == namespace;
        let wanted = self.selector.map(|selector| &selector.match_labels);
        !self.is_targeted && is_near && wanted.is_none_or(|wanted| selects(wanted, Some(labels)))
    }
}

// === impl AuthorizationPolicy ===

impl AuthorizationPolicy {
    /// Whose requests it is about.
    pub fn scope(&self) -> PolicyScope<'_> {
        scope(
            self.metadata.namespace.as_deref(),
            self.spec.selector.as_ref(),
            self.spec.target_ref.is_some() || is_any(self.spec.target_refs.as_ref()),
        )
    }

    /// Whether there are requests that it keeps out. `ALLOW` without rules allows none; an empty rule matches
    /// every request (istio.io/docs/reference/config/security/authorization-policy).
    pub fn restricts(&self) -> bool {
        let mut rules = self.spec.rules.iter().flatten();
        match self.spec.action.as_str() {
            "DENY" | "CUSTOM" => rules.next().is_some(),
            "AUDIT" => false,
            _ => !rules.any(|rule| rule.as_mapping().is_none_or(serde_yaml::Mapping::is_empty)),
        }
    }
}

// === impl RequestAuthentication ===

impl RequestAuthentication {
    /// Whose requests it is about.
    pub fn scope(&self) -> PolicyScope<'_> {
        scope(
            self.metadata.namespace.as_deref(),
            self.spec.selector.as_ref(),
            self.spec.target_ref.is_some() || is_any(self.spec.target_refs.as_ref()),
        )
    }

    /// Whether there are tokens that it refuses.
    pub fn restricts(&self) -> bool {
        is_any(self.spec.jwt_rules.as_ref())
    }
}

fn scope<'p>(
    namespace: Option<&'p str>,
    selector: Option<&'p PolicySelector>,
    is_targeted: bool,
) -> PolicyScope<'p> {
    PolicyScope {
        namespace: namespace.filter(|it| !it.is_empty()).unwrap_or("default"),
        selector,
        is_targeted,
    }
}

fn is_any(list: Option<&Vec<Opaque>>) -> bool {
    list.is_some_and(|list| !list.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(namespace: &str, spec: &str) -> AuthorizationPolicy {
        let text = format!(
            "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p, namespace: {namespace}}}, spec: {spec}}}"
        );
        serde_yaml::from_str(&text).unwrap()
    }

    #[test]
    fn a_policy_is_about_pods_of_its_namespace_or_from_the_root_about_all() {
        let labels = BTreeMap::from([("istio".to_owned(), "ingressgateway".to_owned())]);
        for (namespace, spec, expected) in [
            ("edge", "{}", true),
            ("istio-system", "{}", true),
            ("shop", "{}", false),
            (
                "edge",
                "{selector: {matchLabels: {istio: ingressgateway}}}",
                true,
            ),
            ("edge", "{selector: {matchLabels: {app: web}}}", false),
            ("edge", "{targetRefs: [{kind: Gateway, name: g}]}", false),
        ] {
            let scope = policy(namespace, spec);
            assert_eq!(scope.scope().has("edge", &labels), expected, "{spec}");
        }
    }

    #[test]
    fn a_policy_restricts_unless_it_allows_all_or_denies_none() {
        for (spec, expected) in [
            ("{}", true),
            ("{rules: [{}]}", false),
            ("{rules: [{from: [{source: {namespaces: [a]}}]}]}", true),
            ("{action: DENY}", false),
            ("{action: DENY, rules: [{}]}", true),
            ("{action: AUDIT, rules: [{}]}", false),
            ("{action: CUSTOM, rules: [{}]}", true),
        ] {
            assert_eq!(policy("a", spec).restricts(), expected, "{spec}");
        }
    }
}
