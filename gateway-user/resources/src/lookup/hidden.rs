//! Why a proxy does not get to what is there: it is not exported to its namespace, or is looked for elsewhere.

use super::{
    Destinations, NoDestination, ROOT_NAMESPACE, RuleUser, exports, full_host, is_exported,
    is_host_within, selects, service_of,
};
use crate::{
    istio::{Destination, DestinationRule},
    object::Object,
};

// === impl Destinations ===

impl Destinations<'_> {
    /// Why a proxy does not get to a destination of a VirtualService in `namespace` that is there; none if it
    /// does, or if there is no such destination.
    pub fn hidden(
        &self,
        destination: &Destination,
        namespace: &str,
        client: RuleUser<'_>,
    ) -> Option<NoDestination> {
        let host = self.meant(full_host(&destination.host, namespace));
        let from = client.namespace;
        if let Some(service) = self.service(&host)
            && self.service_for(&host, from).is_none()
        {
            let (own, name) = service_of(&host)?;
            return Some(NoDestination {
                field: "host",
                message: format!(
                    "Service {own}/{name} is exported to {} alone, and the gateway is in {from}",
                    in_words(&exports(service), own)
                ),
                fix: format!("add `{from}` to its annotation {}", super::EXPORT_TO),
            });
        }
        let entries = self.entries.get(&host);
        if self.service(&host).is_none()
            && let Some((object, entry)) = entries.and_then(|entries| entries.first())
            && self.entries(&host, from).together.is_empty()
        {
            return Some(NoDestination {
                field: "host",
                message: format!(
                    "{} is exported to {} alone, and the gateway is in {from}",
                    object.key,
                    in_words(&entry.spec.export_to, &object.key.namespace)
                ),
                fix: format!("add `{from}` to its exportTo"),
            });
        }
        self.hidden_subset(&destination.subset, &host, client)
    }

    fn hidden_subset(
        &self,
        subset: &str,
        host: &str,
        client: RuleUser<'_>,
    ) -> Option<NoDestination> {
        let seen = self.rule(host, client);
        if subset.is_empty() || seen.is_some_and(|rule| rule.subset(subset).is_some()) {
            return None;
        }
        let mut about = self.rules.values().flatten();
        let (object, rule) = about.find_map(|(pattern, rules)| {
            let mut rules = rules.iter().filter(|_| is_host_within(host, pattern));
            rules.find(|(_, rule)| rule.spec.subsets.iter().any(|it| it.name == subset))
        })?;
        Some(NoDestination {
            field: "subset",
            message: format!(
                "`{subset}` is a subset of {}, which does not count at the gateway in {}: {}",
                object.key,
                client.namespace,
                self.why_unseen(object, rule, host, client)
            ),
            fix: "export that DestinationRule, or say so in the one that counts".to_owned(),
        })
    }

    /// Why a DestinationRule does not count for `host` at a proxy that does not go by it.
    pub fn why_unseen(
        &self,
        object: &Object,
        rule: &DestinationRule,
        host: &str,
        client: RuleUser<'_>,
    ) -> String {
        let own = object.key.namespace.as_str();
        let from = client.namespace;
        let to = &rule.spec.export_to;
        if !is_exported(to, own, from) {
            return format!("it is exported to {} alone", in_words(to, own));
        }
        let of_host = service_of(host).map(|(namespace, _)| namespace);
        let of_entry = self.entries.get(host).and_then(|entries| entries.first());
        let of_host = of_host.or(of_entry.map(|(object, _)| object.key.namespace.as_str()));
        let places = [Some(from), of_host, Some(ROOT_NAMESPACE)];
        if !places.contains(&Some(own)) {
            let of_host = of_host.filter(|of_host| *of_host != from);
            let of_host = of_host.map(|of_host| format!("in {of_host}, that of the destination, "));
            return format!(
                "it is in {own}, and the gateway looks in {from}, its own, {}and in {ROOT_NAMESPACE}",
                of_host.unwrap_or_default()
            );
        }
        if let Some(selector) = &rule.spec.workload_selector
            && (own != from || !selects(&selector.match_labels, Some(client.labels)))
        {
            return "its workloadSelector selects other pods".to_owned();
        }
        match self.rule(host, client) {
            Some(other) => format!("{} stands before it for `{host}`", other.object.key),
            None => "it is for other proxies".to_owned(),
        }
    }

    /// The numbers of the ports of what a destination of a VirtualService in `namespace` means.
    pub fn ports(&self, destination: &Destination, namespace: &str) -> Vec<i64> {
        let host = self.meant(full_host(&destination.host, namespace));
        if let Some(service) = self.service(&host) {
            let ports = service
                .spec
                .iter()
                .flat_map(|spec| spec.ports.iter().flatten());
            return ports.map(|port| i64::from(port.port)).collect();
        }
        let entry = self.entries.get(&host).and_then(|entries| entries.first());
        let ports = entry
            .into_iter()
            .flat_map(|(_, entry)| entry.spec.read_ports());
        ports.map(|port| port.number).collect()
    }
}

/// The namespaces of an `exportTo`; `own` is that of the object.
fn in_words(to: &[String], own: &str) -> String {
    let names = to.iter().map(|name| match name.as_str() {
        "." => own,
        "~" => "none",
        name => name,
    });
    names.collect::<Vec<_>>().join(", ")
}
