//! What is kept of an object: what some room reads.
//!
//! The rest is the greater part of most objects, stays in memory for each of them, and would make a change
//! of every report that a kubelet writes.

use k8s_openapi::{
    api::{
        core::v1::{Container, Node, NodeStatus, Pod, PodSpec, PodStatus, Secret, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

/// What `kubectl apply` keeps of the last manifest.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Written by the endpoints controller with every change.
const LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";

pub(super) fn metadata(mut metadata: ObjectMeta) -> ObjectMeta {
    metadata.managed_fields = None;
    metadata.owner_references = None;
    metadata.resource_version = None;
    metadata.finalizers = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(LAST_APPLIED);
        annotations.remove(LAST_CHANGE);
        if annotations.is_empty() {
            metadata.annotations = None;
        }
    }
    metadata
}

pub(super) fn service(mut service: Service) -> Service {
    service.metadata = metadata(service.metadata);
    if let Some(status) = &mut service.status {
        status.conditions = None;
    }
    service
}

pub(super) fn endpoint_slice(mut slice: EndpointSlice) -> EndpointSlice {
    slice.metadata = metadata(slice.metadata);
    for endpoint in &mut slice.endpoints {
        if let Some(target) = &mut endpoint.target_ref {
            target.uid = None;
            target.resource_version = None;
        }
    }
    slice
}

pub(super) fn node(mut node: Node) -> Node {
    node.metadata = metadata(node.metadata);
    node.metadata.annotations = None;
    node.status = node.status.map(|status| NodeStatus {
        addresses: status.addresses,
        ..NodeStatus::default()
    });
    node
}

/// What is of use of a pod for those who look at a cluster from outside: neither its environment nor its
/// volumes, which may hold what nobody else should see.
pub(super) fn pod(pod: Pod) -> Pod {
    let spec = pod.spec.map(|spec| PodSpec {
        containers: spec.containers.into_iter().map(container).collect(),
        host_network: spec.host_network,
        node_name: spec.node_name,
        ..PodSpec::default()
    });
    let status = pod.status.map(|status| PodStatus {
        conditions: status.conditions,
        host_ip: status.host_ip,
        host_ips: status.host_ips,
        phase: status.phase,
        pod_ip: status.pod_ip,
        pod_ips: status.pod_ips,
        ..PodStatus::default()
    });
    Pod {
        metadata: metadata(pod.metadata),
        spec,
        status,
    }
}

fn container(container: Container) -> Container {
    Container {
        image: container.image,
        name: container.name,
        ports: container.ports,
        ..Container::default()
    }
}

pub(super) fn secret(mut secret: Secret) -> Secret {
    secret.metadata = metadata(secret.metadata);
    secret
}
