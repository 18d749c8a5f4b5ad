//! EndpointSlices that somebody has written, and that nothing comes of.

use std::{collections::BTreeMap, net::IpAddr};

use nodegate_resources::Resources;
use nodegate_values::diagnostic::{Diagnostic, ObjectKey, Severity};

use crate::endpoints::service_of;

pub(super) fn report(resources: &Resources) -> Vec<Diagnostic> {
    let mut cluster_ips: BTreeMap<IpAddr, &ObjectKey> = BTreeMap::new();
    for (object, service) in resources.services() {
        let address = service
            .spec
            .as_ref()
            .and_then(|spec| spec.cluster_ip.as_ref());
        if let Some(address) = address.and_then(|address| address.parse().ok()) {
            cluster_ips.insert(address, &object.key);
        }
    }
    let mut found = Vec::new();
    for (object, slice) in resources.endpoint_slices() {
        let namespace = object.key.namespace.as_str();
        match service_of(slice) {
            None => {
                let message = "is no Service's: its endpoints are nobody's";
                let fix = "the label kubernetes.io/service-name".to_owned();
                found.push(object.report(Severity::Warning, "metadata.labels", message, fix));
            }
            Some(name) if resources.service(namespace, name).is_none() => {
                let message =
                    format!("there is no Service {namespace}/{name}: its endpoints are nobody's");
                let path = "metadata.labels.kubernetes.io/service-name";
                found.push(object.report(Severity::Info, path, message, None));
            }
            Some(_) => {}
        }
        for (index, endpoint) in slice.endpoints.iter().enumerate() {
            let address = endpoint.addresses.first().and_then(|it| it.parse().ok());
            let Some(key) = address.and_then(|address: IpAddr| cluster_ips.get(&address)) else {
                continue;
            };
            let message = format!(
                "is the cluster IP of {key}: what comes from a client outside is not translated twice"
            );
            let path = format!("endpoints[{index}].addresses[0]");
            let fix = "the addresses of the pods".to_owned();
            found.push(object.report(Severity::Warning, path, message, fix));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use nodegate_resources::{admission::Store, manifest::Manifest};

    use super::*;

    #[test]
    fn slices_of_nobody_and_cluster_ips_as_endpoints_are_told() {
        let slice = |name: &str, labels: &str, address: &str| {
            format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, labels: {{{labels}}}}}\naddressType: IPv4\nports: [{{port: 80}}]\nendpoints: [{{addresses: [{address}]}}]\n"
            )
        };
        let text = [
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}\n".to_owned(),
            slice("one", "kubernetes.io/service-name: a", "10.0.0.1"),
            slice("two", "app: a", "10.0.0.1"),
            slice("three", "kubernetes.io/service-name: b", "10.0.0.1"),
            slice("four", "kubernetes.io/service-name: a", "10.96.0.1"),
        ];
        let manifest = Manifest::parse("a.yaml".into(), &text.concat());
        let resources = Store::default().admit([&manifest], Vec::new());
        let told: Vec<_> = report(&resources)
            .into_iter()
            .map(|it| {
                format!(
                    "{}: {}",
                    it.object.map(|key| key.name).unwrap_or_default(),
                    it.message
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                "four: is the cluster IP of Service default/a: what comes from a client outside is not translated twice",
                "three: there is no Service default/b: its endpoints are nobody's",
                "two: is no Service's: its endpoints are nobody's",
            ]
        );
    }
}
