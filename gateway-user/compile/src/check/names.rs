//! What Istio reads out of names and addresses for sidecars, and a gateway does not need: told where manifests are
//! checked, and not of a running cluster, whose Services may have nothing to do with Istio.

use k8s_openapi::api::core::v1::ServicePort;
use nodegate_resources::{Resources, istio::words::is_protocol_name};
use nodegate_values::diagnostic::{Diagnostic, Severity};

use crate::ports::ports;

/// Configures the proxy of a pod.
const PROXY_CONFIG: &str = "proxy.istio.io/config";

pub(super) fn report(resources: &Resources) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (object, service) in resources.services() {
        // Istio's own, and Kubernetes'.
        if matches!(&*object.key.namespace, "istio-system" | "kube-system") {
            continue;
        }
        let spec = service.spec.as_ref();
        let is_alias = spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName");
        for (index, port) in ports(service).iter().enumerate() {
            let is_bare = is_alias && port.name.as_deref() == Some("tcp");
            if says_a_protocol(port) && !is_bare {
                continue;
            }
            let message = if is_alias {
                "the name says no protocol, and for an ExternalName sidecars may then keep connections of others"
            } else {
                "the name says no protocol: gateways speak HTTP/1.1 to it, and sidecars look at what comes"
            };
            let fix =
                "begin the name with the protocol, as `http-web`, or set appProtocol".to_owned();
            let path = format!("spec.ports[{index}].name");
            found.push(object.report(Severity::Info, path, message, fix));
        }
    }
    for (object, _) in resources.pods() {
        let annotations = object.metadata().annotations.as_ref();
        if annotations.is_some_and(|annotations| annotations.contains_key(PROXY_CONFIG)) {
            let message = "has no effect: there is no Envoy here";
            let path = format!("metadata.annotations.{PROXY_CONFIG}");
            found.push(object.report(Severity::Info, path, message, None));
        }
    }
    for (object, entry) in resources.service_entries() {
        let allocated = entry
            .status
            .as_ref()
            .and_then(|status| status.get("addresses"));
        if !entry.spec.addresses.is_empty() || allocated.is_some() {
            continue;
        }
        for (index, port) in entry.spec.ports.iter().enumerate() {
            if !matches!(&*port.protocol.to_ascii_uppercase(), "" | "TCP") {
                continue;
            }
            let message = "TCP without `addresses`: gateways don't mind, and sidecars take it for every address";
            let path = format!("spec.ports[{index}]");
            found.push(object.report(Severity::Info, path, message, None));
        }
    }
    found
}

fn says_a_protocol(port: &ServicePort) -> bool {
    if port
        .protocol
        .as_deref()
        .is_some_and(|transport| transport != "TCP")
    {
        return true;
    }
    if port.app_protocol.is_some() {
        return true;
    }
    let name = port
        .name
        .as_deref()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let first = name.split('-').next().unwrap_or_default();
    name.starts_with("grpc-web") || is_protocol_name(first)
}
